//! `vm`: a command as root inside other kernels.

use std::{io, path::PathBuf, time::Duration};

use anyhow::Result;

use crate::{
    build,
    guest::{Guest, Outcome},
    kernels, setup,
};

/// The guest did not end in time.
pub const TIMED_OUT: u8 = 124;
/// The guest ended without reporting a status.
pub const DIED: u8 = 125;

/// `cargo xtask vm`.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel line; can be given more than once.
    #[arg(long = "kernel", value_parser = kernels::LINES, default_value = "6.12")]
    kernels: Vec<String>,
    /// Folder whose content is put under /payload; can be given more than once.
    #[arg(long = "payload")]
    payload: Vec<PathBuf>,
    /// Modules to insert, separated by blanks.
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
    /// Command and arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs; the first status that is not 0 is returned.
pub fn run(args: &Args) -> Result<u8> {
    setup::ensure_guest()?;
    if !build::agent().exists() {
        build::all()?;
    }
    let modules: Vec<_> = args.modules.split_whitespace().collect();
    let mut first = 0;
    for line in &args.kernels {
        let kernel = kernels::find(line, args.refresh)?;
        if args.kernels.len() > 1 {
            println!("== {}", kernel.version);
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
