//! `fuzz`: coverage-guided fuzzing with a stable compiler. LLVM's coverage passes are switched on by hand, which needs
//! neither a nightly nor a sanitizer's runtime; libFuzzer comes with its crate.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, setup};

/// What `-Z sanitizer` would switch on, but for the sanitizer.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];
/// Named, so that the flags are not applied to build scripts and macros, which do not link libFuzzer.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Seconds one input may take.
const SLOW: u32 = 20;

/// `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// For each target.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Targets; without any all of them.
    targets: Vec<String>,
}

/// What a run of a target came to.
#[derive(Debug, PartialEq, Eq)]
struct Stats {
    executions: u64,
    coverage: u64,
}

/// Runs the targets asked for; 1 if one fails.
pub fn run(args: &Args) -> Result<u8> {
    let all = targets()?;
    if let Some(unknown) = args.targets.iter().find(|target| !all.contains(target)) {
        bail!("there is no fuzz target {unknown}, only {}", all.join(", "));
    }
    let chosen = all.into_iter().filter(|target| args.targets.is_empty() || args.targets.contains(target));
    let (_, failed) = fuzz(&chosen.collect::<Vec<_>>(), args.seconds)?;
    Ok(u8::from(failed > 0))
}

/// Names of all targets.
pub fn targets() -> Result<Vec<String>> {
    let folder = command::root().join("fuzz/src/bin");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Builds, and runs each target for `seconds`. Returns how many passed and failed.
pub fn fuzz(targets: &[String], seconds: u32) -> Result<(usize, usize)> {
    if targets.is_empty() {
        return Ok((0, 0));
    }
    setup::ensure_cxx()?;
    build()?;
    let (mut passed, mut failed) = (0, 0);
    for target in targets {
        match one(target, seconds) {
            Ok(Stats { executions, coverage }) => {
                println!("ok fuzz_{target}: {executions} executions, {coverage} edges covered");
                passed += 1;
            }
            Err(error) => {
                println!("FAIL fuzz_{target}: {error:#}");
                failed += 1;
            }
        }
    }
    Ok((passed, failed))
}

fn build() -> Result<()> {
    println!("building the fuzz targets");
    let mut cargo = command::cargo();
    cargo
        .current_dir(command::root().join("fuzz"))
        .args(["build", "--quiet", "--locked", "--release", "--bins", "--target", TARGET])
        .env("CARGO_TARGET_DIR", folder())
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env_remove("RUSTFLAGS");
    command::run(&mut cargo).context(
        "building the fuzz targets (new dependencies of the agent: `cd fuzz && cargo update --workspace`)",
    )
}

fn folder() -> PathBuf {
    command::root().join("target/fuzz")
}

fn one(target: &str, seconds: u32) -> Result<Stats> {
    let corpus = folder().join("corpus").join(target);
    let failures = folder().join("failures").join(target);
    for path in [&corpus, &failures] {
        fs::create_dir_all(path)?;
    }
    let mut fuzzer = Command::new(folder().join(TARGET).join("release").join(target));
    fuzzer
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={SLOW}"))
        .args(["-rss_limit_mb=4096", "-print_final_stats=1", "-verbosity=1"])
        .arg(format!("-artifact_prefix={}/", failures.display()))
        .arg(&corpus)
        .arg(command::root().join("fuzz/seeds").join(target));
    let output = fuzzer
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("starting the fuzz target {target}"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        println!("{}", tail(&log));
        match reproducer(&log) {
            Some(path) => bail!("failed on the input {}", path.display()),
            None => bail!("ended with {}", output.status),
        }
    }
    let stats = stats(&log).with_context(|| format!("no statistics in: {}", tail(&log)))?;
    if stats.executions == 0 || stats.coverage == 0 {
        bail!("{} executions, {} edges: it does nothing", stats.executions, stats.coverage);
    }
    Ok(stats)
}

/// `#1234 DONE cov: 77 ft: ...` and `stat::number_of_executed_units: 1234`.
fn stats(log: &str) -> Option<Stats> {
    let executions = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?
        .trim()
        .parse()
        .ok()?;
    let (_, rest) = log.rsplit_once(" cov: ")?;
    Some(Stats { executions, coverage: rest.split_whitespace().next()?.parse().ok()? })
}

/// `artifact_prefix='...'; Test unit written to PATH`
fn reproducer(log: &str) -> Option<&Path> {
    log.lines().find_map(|line| Some(Path::new(line.split_once("Test unit written to ")?.1)))
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| !line.starts_with('#')).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let log = "#2\tINITED cov: 5 ft: 6\n#99\tDONE   cov: 77 ft: 80 corp: 3/9b\n\
                   stat::number_of_executed_units: 99\nstat::peak_rss_mb: 40\n";
        assert_eq!(stats(log), Some(Stats { executions: 99, coverage: 77 }));
        assert_eq!(stats("#2\tINITED cov: 5\n"), None);
        let crash = "x\nartifact_prefix='/f/'; Test unit written to /f/crash-1\nBase64: eA==\n";
        assert_eq!(reproducer(crash), Some(Path::new("/f/crash-1")));
    }
}
