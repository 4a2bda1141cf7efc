//! Guests that boot systemd on a Debian root: what a real host does, with the package installed on it.

mod disk;
mod packages;
mod root;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use self::root::Purpose;
use crate::{
    build, command,
    counts::{Counts, Tee},
    kernels,
    machine::Machine,
    modules, setup,
    test::side_by_side,
    vm,
};

/// What the guest's unit executes.
const RUN: &str = include_str!("run.sh");
/// For the whole of one guest, boot included.
const TIMEOUT: Duration = Duration::from_secs(5400);

/// A Debian to boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Suite {
    /// Debian 12, with its own kernel.
    Bookworm,
    /// Debian 13, with the newest kernel.
    Trixie,
}

impl Suite {
    const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// As the mirror calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// Line of the kernel it runs.
    fn kernel(self) -> &'static str {
        match self {
            Self::Bookworm => "6.1",
            Self::Trixie => "newest",
        }
    }
}

/// Runs the scenarios whose name starts with one of `only` (all if there is none) on each suite (both if there is none).
pub fn run(suites: &[Suite], only: &[String]) -> Result<Counts> {
    setup::ensure_systemd()?;
    build::release(&["--package", "stockade-tests"])?;
    let payload = tempfile::tempdir()?;
    packages::build(payload.path())?;
    fill(payload.path(), "host", only)?;
    let mut total = Counts::default();
    let suites = if suites.is_empty() { &Suite::ALL[..] } else { suites };
    // Made one after the other: making one takes the whole machine.
    for suite in suites {
        root::image(suite.name(), Purpose::Containers)?;
    }
    for counts in side_by_side(suites, |suite| guest(*suite, Purpose::Containers, payload.path())) {
        total.add(counts?);
    }
    Ok(total)
}

/// Runs the scenarios of real programs whose name starts with one of `only` (all if there is none).
pub fn programs(only: &[String]) -> Result<Counts> {
    setup::ensure_systemd()?;
    build::all()?;
    build::release(&["--package", "stockade-tests", "--bin", "programs"])?;
    let payload = tempfile::tempdir()?;
    fill(payload.path(), "programs", only)?;
    guest(Suite::Trixie, Purpose::Programs, payload.path())
}

/// Puts into the payload what every guest needs; `scenarios` is the program that runs them.
fn fill(payload: &Path, scenarios: &str, only: &[String]) -> Result<()> {
    for (program, name) in [(scenarios, "scenarios"), ("stockade", "stockade")] {
        let from = command::root().join("target/release").join(program);
        fs::copy(&from, payload.join(name)).with_context(|| format!("copying {}", from.display()))?;
    }
    fs::write(payload.join("run.sh"), RUN)?;
    let only: String = only.iter().map(|prefix| format!("{prefix}\n")).collect();
    Ok(fs::write(payload.join("only"), only)?)
}

fn guest(suite: Suite, purpose: Purpose, payload: &Path) -> Result<Counts> {
    let kernel = kernels::find(suite.kernel(), false)?;
    let root = root::image(suite.name(), purpose)?;
    let what = match purpose {
        Purpose::Containers => suite.name().to_owned(),
        Purpose::Programs => format!("{}-programs", suite.name()),
    };
    let name = format!("{what} on {}", kernel.version);
    println!("== systemd of {name}");
    let work = tempfile::tempdir()?;
    let payload_disk = work.path().join("payload.ext4");
    disk::of_folder(payload, &payload_disk, "payload")?;
    let modules_disk = work.path().join("modules.ext4");
    let modules = modules::modules(&kernel.root)?;
    disk::of_folder(
        &modules.base.path().join("lib/modules").join(&modules.release).canonicalize()?,
        &modules_disk,
        "modules",
    )?;
    let mut machine = Machine::new(&kernel.image, "2", "3G")?;
    // `snapshot`: what a guest writes is gone with it.
    for (id, file) in [("root", &root), ("modules", &modules_disk), ("payload", &payload_disk)] {
        machine
            .arg("-drive")
            .arg(format!("if=none,id={id},file={},format=raw,snapshot=on", file.display()))
            .arg("-device")
            .arg(format!("nvme,drive={id},serial={id}"));
    }
    let logs = command::root().join("target/systemd");
    fs::create_dir_all(&logs)?;
    let console = logs.join(format!("{what}-console.log"));
    let append = format!(
        "root=PARTUUID={} rootfstype=ext4 rootwait rw systemd.show_status=0 systemd.log_target=kmsg",
        disk::PARTITION
    );
    let mut output = Tee::named(suite.name());
    let start = Instant::now();
    let status = vm::report(machine.run(&append, &console, TIMEOUT, &mut output)?, &name);
    let counts = output.counts(&name, status);
    if counts.failed > 0 {
        println!("the console of this guest is in {}", console.display());
    }
    println!("{name}: {:.0} s", start.elapsed().as_secs_f32());
    Ok(counts)
}
