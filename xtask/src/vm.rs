//! `vm`: a command as root inside other kernels.
//!
//! Its output is streamed and its exit status returned; a guest that failed is told from a command that did.

use std::{io, path::PathBuf, time::Duration};

use anyhow::{Result, bail};

use crate::{build, guest::Guest, kernels, machine::Outcome, setup};

/// The guest did not end in time.
pub const TIMED_OUT: u8 = 124;
/// The guest ended without reporting a status.
pub const DIED: u8 = 125;

const AFTER_HELP: &str = "\
Exit status: that of the command; with several kernels the first that is not 0. 124 if a guest did not end in time, \
125 if it ended without a status (a panic, say); the end of its console is shown then. 1 also if no guest could be started.

Example: cargo xtask vm --kernel 6.1 --kernel newest --payload DIR -- sh /payload/x.sh";

/// `cargo xtask vm`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Kernel line; can be given more than once.
    #[arg(long = "kernel", value_parser = kernels::LINES, default_value = "6.12")]
    kernels: Vec<String>,
    /// Folder whose content is put under /payload; can be given more than once.
    #[arg(long = "payload")]
    payload: Vec<PathBuf>,
    /// Modules to insert with what they need, separated by blanks.
    #[arg(long, default_value = "")]
    modules: String,
    /// More kernel parameters.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Seconds for a whole boot.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Count instructions instead of time, so that figures repeat.
    #[arg(long)]
    icount: bool,
    /// Look for newer kernels first.
    #[arg(long)]
    refresh: bool,
    /// Command and arguments, in /payload with `stockade` on PATH; a guest has busybox and nothing else.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs; the first status that is not 0 is returned.
pub fn run(args: &Args) -> Result<u8> {
    for folder in &args.payload {
        if !folder.is_dir() {
            bail!("--payload {}: there is no such folder", folder.display());
        }
    }
    setup::ensure_guest()?;
    // Cargo looks whether anything has changed: an outdated binary is never run.
    build::all()?;
    let modules: Vec<_> = args.modules.split_whitespace().collect();
    let mut first = 0;
    for line in &args.kernels {
        let kernel = kernels::find(line, args.refresh)?;
        if args.kernels.len() > 1 {
            eprintln!("== {}", kernel.version);
        }
        let guest = Guest {
            kernel: &kernel,
            payload: &args.payload,
            programs: &[build::agent()],
            modules: &modules,
            append: &args.append,
            timeout: Duration::from_secs(args.timeout),
            icount: args.icount,
            command: &args.command,
        };
        let status = report(guest.run(&mut io::stdout())?, &kernel.version);
        if first == 0 {
            first = status;
        }
    }
    Ok(first)
}

/// The status for an outcome; a guest that failed is told from a command that did.
pub fn report(outcome: Outcome, version: &str) -> u8 {
    match outcome {
        Outcome::Status(status) => status,
        Outcome::TimedOut(console) => {
            eprintln!("xtask: the guest {version} did not end in time; its console:\n{console}");
            TIMED_OUT
        }
        Outcome::Died(console) => {
            eprintln!("xtask: the guest {version} died before the command ended; its console:\n{console}");
            DIED
        }
    }
}
