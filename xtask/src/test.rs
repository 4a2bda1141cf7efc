//! `test`: on the host, fuzz targets and packages included, then in one guest a kernel. Ends with a line of the counts.

use std::{
    io::{self, Write},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{build, command, fuzz, guest::Guest, kernels, package, setup, vm};

/// A boot where BPF LSM programs load and never run; it also lacks IPv6.
const WITHOUT_BPF: &str = "lsm=lockdown,yama,apparmor ipv6.disable=1";
/// What scenarios need beyond the image; one that a kernel lacks is left out, and its scenarios skip.
const MODULES: [&str; 4] = ["overlay", "vsock_loopback", "algif_hash", "sctp"];
/// For each fuzz target.
const FUZZ_SECONDS: u32 = 10;

/// `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel line; can be given more than once.
    #[arg(long = "kernel", value_parser = kernels::LINES)]
    kernels: Vec<String>,
    /// Every kernel of the matrix.
    #[arg(long, conflicts_with = "kernels")]
    all_kernels: bool,
    /// Only what needs no guest.
    #[arg(long)]
    host_only: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Runs everything asked for.
pub fn run(args: &Args) -> Result<u8> {
    let mut total = host(args.filter.as_deref())?;
    total.add(fuzz(args.filter.as_deref())?);
    if !args.host_only {
        // They need the BPF toolchain, which `--host-only` does not.
        let (passed, failed, skipped) = package::check::all(args.filter.as_deref())?;
        total.add(Counts { passed, failed, skipped });
        setup::ensure_guest()?;
        let lines: Vec<&str> = match (args.all_kernels, args.kernels.is_empty()) {
            (true, _) => kernels::LINES.to_vec(),
            (false, true) => vec!["6.1", "6.12"],
            (false, false) => args.kernels.iter().map(String::as_str).collect(),
        };
        guests(&lines, args.filter.as_deref(), &mut total)?;
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok(u8::from(total.failed > 0 || total.passed == 0))
}

/// Unit, snapshot and property tests: no BPF toolchain, no root.
fn host(filter: Option<&str>) -> Result<Counts> {
    let mut cargo = command::cargo();
    cargo.args(["test", "--quiet", "--locked", "--workspace", "--no-fail-fast"]);
    cargo.args(filter);
    let output =
        cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("starting cargo test")?;
    io::stdout().write_all(&output.stdout)?;
    let mut counts = Counts::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        counts.add(cargo_line(line).unwrap_or_default());
    }
    if !output.status.success() && counts.failed == 0 {
        println!("FAIL host: cargo test ended with {}", output.status);
        counts.failed = 1;
    }
    Ok(counts)
}

/// Fuzz targets as tests named `fuzz_TARGET`.
fn fuzz(filter: Option<&str>) -> Result<Counts> {
    let mut targets = fuzz::targets()?;
    targets.retain(|target| filter.is_none_or(|filter| format!("fuzz_{target}").contains(filter)));
    let (passed, failed) = fuzz::fuzz(&targets, FUZZ_SECONDS)?;
    Ok(Counts { passed, failed, skipped: 0 })
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
fn cargo_line(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        rest.split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
            .unwrap_or(0)
    };
    Some(Counts { passed: number("passed"), failed: number("failed"), skipped: number("ignored") })
}

/// `3 passed, 0 failed, 1 skipped`
fn scenarios_line(line: &str) -> Option<Counts> {
    let mut numbers = line
        .trim()
        .split(", ")
        .zip(["passed", "failed", "skipped"])
        .map(|(part, word)| part.strip_suffix(word)?.trim().parse().ok());
    let counts = Counts { passed: numbers.next()??, failed: numbers.next()??, skipped: numbers.next()?? };
    Some(counts)
}

fn guests(lines: &[&str], filter: Option<&str>, total: &mut Counts) -> Result<()> {
    build::all()?;
    build::release(&["--package", "stockade-tests"])?;
    let payload = tempfile::tempdir()?;
    for program in ["scenarios", "attempt"] {
        let from = command::root().join("target/release").join(program);
        std::fs::copy(&from, payload.path().join(program))
            .with_context(|| format!("copying {}", from.display()))?;
    }
    let mut words = vec!["scenarios".to_owned()];
    words.extend(filter.map(str::to_owned));
    for line in lines {
        total.add(guest(line, payload.path(), &words, "")?);
        if filter.is_none() {
            let words = ["env", "SCENARIO_NO_BPF_LSM=1", "scenarios"].map(str::to_owned);
            total.add(guest(line, payload.path(), &words, WITHOUT_BPF)?);
        }
    }
    Ok(())
}

fn guest(line: &str, payload: &Path, words: &[String], append: &str) -> Result<Counts> {
    let kernel = kernels::find(line, false)?;
    println!("== scenarios on {} {append}", kernel.version);
    let modules: Vec<&str> = MODULES.into_iter().filter(|name| has_module(&kernel.root, name)).collect();
    let guest = Guest {
        kernel: &kernel,
        payload: &[payload.to_path_buf()],
        programs: &[build::agent()],
        modules: &modules,
        append,
        timeout: Duration::from_secs(900),
        icount: false,
        command: words,
    };
    let mut output = Tee(Vec::new());
    let status = vm::report(guest.run(&mut output)?, &kernel.version);
    let text = String::from_utf8_lossy(&output.0).into_owned();
    let mut counts = text.lines().rev().find_map(scenarios_line).unwrap_or_default();
    if counts.failed == 0 && (status != 0 || counts.passed == 0) {
        println!("FAIL {}: the scenarios ended with {status} after {} passed", kernel.version, counts.passed);
        counts.failed += 1;
    }
    Ok(counts)
}

/// A module's file is somewhere below its kernel's root.
fn has_module(folder: &Path, name: &str) -> bool {
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return has_module(&entry.path(), name);
        }
        let file = entry.file_name();
        file.to_string_lossy().strip_prefix(name).is_some_and(|rest| rest == ".ko" || rest == ".ko.xz")
    })
}

/// Prints what it keeps, but for the guest's own line of counts: there is one such line, at the end.
struct Tee(Vec<u8>);

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut seen = self.0.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        self.0.extend_from_slice(bytes);
        while let Some(length) = self.0[seen..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.0[seen..seen + length]).into_owned();
            match scenarios_line(&line) {
                Some(_) => println!("in this guest: {line}"),
                None => println!("{line}"),
            }
            seen += length + 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(cargo_line(line), Some(Counts { passed: 3, failed: 1, skipped: 2 }));
        assert_eq!(
            scenarios_line("12 passed, 0 failed, 3 skipped"),
            Some(Counts { passed: 12, failed: 0, skipped: 3 })
        );
        assert_eq!(scenarios_line("ok 12 passed"), None);
    }
}
