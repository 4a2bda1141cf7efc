//! `demo`: an untrusted agent at work under Stockade, on this host or in a guest; it verifies itself.

mod events;
mod forbidden;
mod script;
mod servers;
mod show;
mod stage;
mod story;
mod verdict;

use std::{
    env,
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{build, command, guest::Guest, kernels, setup, vm};

const GUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Use a guest even if this host can enforce.
    #[arg(long)]
    guest: bool,
    /// Kernel line of the guest, 6.12 if not given; asks for a guest.
    #[arg(long, value_parser = kernels::LINES)]
    kernel: Option<String>,
    /// Run the agent without Stockade: the demo must fail then.
    #[arg(long, hide = true)]
    unpoliced: bool,
    /// The demo itself, as root in a network namespace of its own. Says where that is.
    #[arg(long, hide = true, requires = "programs")]
    on_stage: Option<String>,
    /// Where `stockade` and `attempt` are.
    #[arg(long, hide = true)]
    programs: Option<PathBuf>,
    /// Whether the reader is at a terminal.
    #[arg(long, hide = true)]
    colour: bool,
}

/// Sets everything up, chooses the place, and runs the demo there.
pub fn run(args: &Args) -> Result<u8> {
    if let (Some(place), Some(programs)) = (&args.on_stage, &args.programs) {
        return show::run(&show::Options {
            place,
            programs,
            policed: !args.unpoliced,
            story: story::Story::new(args.colour),
        });
    }
    build::all()?;
    build::release(&["--package", "stockade-tests", "--bin", "attempt"])?;
    if !args.guest && args.kernel.is_none() {
        match refusal()? {
            None => return on_host(args),
            Some(why) => println!("this host cannot enforce, so the demo runs in a guest: {why}"),
        }
    }
    in_guest(args)
}

/// Why `stockade doctor` says that this host cannot enforce; nothing if it can.
fn refusal() -> Result<Option<String>> {
    if !command::is_root() && command::which("sudo").is_none() {
        return Ok(Some("it takes root, and there is no sudo".to_owned()));
    }
    let output = command::as_root(build::agent())
        .arg("doctor")
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .context("starting stockade doctor")?;
    if output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("UNAVAILABLE"));
    Ok(Some(line.map_or_else(|| format!("stockade doctor ended with {}", output.status), squeeze)))
}

fn squeeze(line: &str) -> String {
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

fn stage_words(args: &Args, place: &str, programs: &str) -> Vec<String> {
    let mut words = ["demo", "--on-stage", place, "--programs", programs].map(str::to_owned).to_vec();
    if io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none() {
        words.push("--colour".to_owned());
    }
    if args.unpoliced {
        words.push("--unpoliced".to_owned());
    }
    words
}

fn on_host(args: &Args) -> Result<u8> {
    setup::ensure_ip()?;
    let unshare = command::which("unshare").context("unshare (package util-linux) is missing")?;
    let programs = command::root().join("target/release");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let place = format!("on this host, Linux {}", release.trim());
    let status = command::as_root(unshare)
        .args(["--net", "--"])
        .arg(env::current_exe()?)
        .args(stage_words(args, &place, &programs.to_string_lossy()))
        .status()
        .context("starting the demo")?;
    Ok(status.code().map_or(1, |code| code as u8))
}

fn in_guest(args: &Args) -> Result<u8> {
    setup::ensure_guest()?;
    let kernel = kernels::find(args.kernel.as_deref().unwrap_or("6.12"), false)?;
    let git = stage::Git::find()?;
    let place = format!("in a guest, Linux {}", kernel.version);
    println!("booting {}", kernel.version);
    // All programs are in the guest's /bin, git's own among them.
    let mut words = ["env", "GIT_EXEC_PATH=/bin", "unshare", "-n", "xtask"].map(str::to_owned).to_vec();
    words.extend(stage_words(args, &place, "/bin"));
    let guest = Guest {
        kernel: &kernel,
        payload: &[],
        programs: &[
            build::agent(),
            command::root().join("target/release/attempt"),
            env::current_exe()?,
            git.program,
            git.daemon,
        ],
        modules: &[],
        append: "",
        timeout: GUEST_TIMEOUT,
        icount: false,
        command: &words,
    };
    Ok(vm::report(guest.run(&mut io::stdout())?, &kernel.version))
}
