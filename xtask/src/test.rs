//! `test`: on the host, fuzz targets and packages included, then in one guest a kernel; or, with `--systemd` and `--programs`, in
//! guests that boot systemd on a Debian root. Ends with a line of the counts.

use std::{
    io::{self, Write as _},
    path::Path,
    process::Stdio,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build, command,
    counts::{Counts, Tee, cargo_line, note_cargo_line, repeat_failures},
    fuzz,
    guest::Guest,
    kernels::{self, Kernel},
    package, setup, systemd, vm,
};

/// A boot where BPF LSM programs load and never run; it also lacks IPv6.
const WITHOUT_BPF: &str = "lsm=lockdown,yama,apparmor ipv6.disable=1";
/// What scenarios need beyond the image; one that a kernel lacks is left out, and its scenarios skip.
const MODULES: [&str; 10] = [
    "overlay",
    "vsock_loopback",
    "algif_hash",
    "sctp",
    "dccp_ipv4",
    "fuse",
    "tcp_diag",
    "udp_diag",
    "dummy",
    "veth",
];
/// The oldest and the newest: what holds on both ends is seldom wrong between them, and `--all-kernels` takes twice as long.
const DEFAULT_LINES: [&str; 2] = ["6.1", "newest"];
/// Where scenarios that take minutes are tried, if it is among those that are asked for.
const SLOW_LINE: &str = "newest";
/// For one guest with all scenarios, emulated, beside another: it takes about half of that.
const GUEST_TIMEOUT: Duration = Duration::from_secs(4200);
/// For each fuzz target.
const FUZZ_SECONDS: u32 = 10;

/// `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel line; can be given more than once; without one the oldest and the newest.
    #[arg(long = "kernel", value_parser = kernels::LINES)]
    kernels: Vec<String>,
    /// Every kernel of the matrix.
    #[arg(long, conflicts_with = "kernels")]
    all_kernels: bool,
    /// Only what needs no guest.
    #[arg(long)]
    host_only: bool,
    /// In place of all that: the scenarios of guests that boot systemd on a Debian root, with the package installed.
    #[arg(long, conflicts_with_all = ["kernels", "all_kernels", "host_only", "filter"])]
    systemd: bool,
    /// In place of all that: real programs under rules on names, in a guest that boots systemd.
    #[arg(long, conflicts_with_all = ["kernels", "all_kernels", "host_only", "filter", "systemd"])]
    programs: bool,
    /// Of those, only the ones whose name starts so; can be given more than once.
    #[arg(long, value_name = "NAME-PREFIX", conflicts_with_all = ["kernels", "all_kernels", "host_only", "filter"])]
    only: Vec<String>,
    /// Of those, only the ones on this Debian; can be given more than once.
    #[arg(long, requires = "systemd")]
    suite: Vec<systemd::Suite>,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Runs everything asked for.
pub fn run(args: &Args) -> Result<u8> {
    if args.systemd {
        return Ok(finish(systemd::run(&args.suite, &args.only)?));
    }
    if args.programs {
        return Ok(finish(systemd::programs(&args.only)?));
    }
    if !args.only.is_empty() {
        bail!("--only goes with --systemd or --programs; without them a word alone is the filter");
    }
    let mut total = host(args.filter.as_deref())?;
    total.add(fuzz(args.filter.as_deref())?);
    if !args.host_only {
        // They need the BPF toolchain, which `--host-only` does not.
        let (passed, failed, skipped) = package::check::all(args.filter.as_deref())?;
        total.add(Counts { passed, failed, skipped });
        setup::ensure_guest()?;
        let lines: Vec<&str> = match (args.all_kernels, args.kernels.is_empty()) {
            (true, _) => kernels::LINES.to_vec(),
            (false, true) => DEFAULT_LINES.to_vec(),
            (false, false) => args.kernels.iter().map(String::as_str).collect(),
        };
        guests(&lines, args.filter.as_deref(), &mut total)?;
    }
    Ok(finish(total))
}

/// The last line, and the exit status.
fn finish(total: Counts) -> u8 {
    repeat_failures();
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    u8::from(total.failed > 0 || total.passed == 0)
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
        note_cargo_line(line);
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
    let mut boots = Vec::new();
    let slow_here = slow_line(lines);
    // It takes longest, so it starts first.
    let (first, others): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| Some(**line) == slow_here);
    for line in first.iter().chain(&others) {
        // What is asked for by name is tried wherever that is asked for.
        let words = if filter.is_some() || Some(*line) == slow_here {
            words.clone()
        } else {
            [&["env".to_owned(), "SCENARIO_BRIEF=1".to_owned()], &words[..]].concat()
        };
        boots.push(Boot { kernel: kernels::find(line, false)?, words, append: "" });
        if filter.is_none() {
            let words = ["env", "SCENARIO_NO_BPF_LSM=1", "scenarios"].map(str::to_owned).to_vec();
            boots.push(Boot { kernel: kernels::find(line, false)?, words, append: WITHOUT_BPF });
        }
    }
    // Each guest has one CPU; the long ones go first.
    boots.sort_by_key(|boot| !boot.append.is_empty());
    for counts in side_by_side(&boots, |boot| guest(boot, payload.path())) {
        total.add(counts?);
    }
    Ok(())
}

/// Of several kernels, the one where scenarios that take minutes are tried: they ask of the daemon, not of the kernel.
fn slow_line<'a>(lines: &[&'a str]) -> Option<&'a str> {
    lines.iter().find(|line| **line == SLOW_LINE).or(lines.first()).copied()
}

/// A guest to boot.
struct Boot {
    kernel: Kernel,
    words: Vec<String>,
    append: &'static str,
}

/// Runs as many at once as there are CPUs, the first ones first; the results in no order.
pub fn side_by_side<J: Sync>(jobs: &[J], run: impl Fn(&J) -> Result<Counts> + Sync) -> Vec<Result<Counts>> {
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let waiting = Mutex::new(jobs.iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        let worker = || std::iter::from_fn(next).map(&run).collect::<Vec<_>>();
        let threads: Vec<_> = (0..at_once.min(jobs.len())).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn guest(boot: &Boot, payload: &Path) -> Result<Counts> {
    let Boot { kernel, words, append } = boot;
    let name =
        if append.is_empty() { kernel.version.clone() } else { format!("{}, no BPF LSM", kernel.version) };
    println!("== scenarios on {} {append}", kernel.version);
    let modules: Vec<&str> = MODULES.into_iter().filter(|name| has_module(&kernel.root, name)).collect();
    let guest = Guest {
        kernel,
        payload: &[payload.to_path_buf()],
        programs: &[build::agent()],
        modules: &modules,
        append,
        timeout: GUEST_TIMEOUT,
        icount: false,
        command: words,
    };
    let mut output = Tee::named(&name);
    let status = vm::report(guest.run(&mut output)?, &kernel.version);
    Ok(output.counts(&name, status))
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
