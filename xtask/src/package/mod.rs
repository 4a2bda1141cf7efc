//! `package`: a .deb and an .rpm with the same contents. The same commit, built with the same tools at the same place,
//! gives the same bytes.

pub mod check;
mod contents;
mod deb;
mod generated;
mod licences;
mod needs;
mod release;
mod rpm;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use self::{
    contents::{Format, Item},
    needs::Needs,
    release::Release,
};
use crate::{build, command, setup};

/// What the package says of itself.
const SUMMARY: &str = "default-deny network and file policies for workloads, in the kernel";
const DESCRIPTION: &str = "\
Stockade holds CI jobs, coding agents, containers and systemd units to a policy from outside: what no rule names is refused by \
eBPF programs on cgroup and LSM hooks, with a fast EPERM. What is held stays held when the daemon ends, is killed or upgraded.";
/// There is no mailbox behind it: reports go where the source came from.
const MAINTAINER: &str = "Stockade maintainers <maintainers@stockade.invalid>";

/// `cargo xtask package`.
#[derive(clap::Args)]
pub struct Args {
    /// Number of this package of the same version: a higher one is an upgrade.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    revision: u32,
    /// Also check what was built: contents, a scratch installation, that it can be built twice.
    #[arg(long)]
    check: bool,
}

/// What was built.
#[derive(Debug)]
pub struct Packages {
    /// For Debian and its kin.
    pub deb: PathBuf,
    /// For Fedora and its kin.
    pub rpm: PathBuf,
}

/// Builds both packages, and says where they are.
pub fn run(args: &Args) -> Result<u8> {
    let packages = build(args.revision)?;
    for path in [&packages.deb, &packages.rpm] {
        println!("built {}", path.display());
    }
    if !args.check {
        return Ok(0);
    }
    let (passed, failed, skipped) = check::all(None)?;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(u8::from(failed > 0))
}

/// Builds the agent, and both packages of it in `target/package`.
pub fn build(revision: u32) -> Result<Packages> {
    setup::ensure_package()?;
    let agent = build::all()?;
    of(&agent, revision, &command::root().join("target/package"))
}

/// Both packages of an agent that was built, in a folder.
pub fn of(agent: &Path, revision: u32, folder: &Path) -> Result<Packages> {
    setup::ensure_package()?;
    eprintln!("packaging");
    let release = Release::current(revision)?;
    Sources::collect(agent, &release)?.write(&release, folder)
}

/// Everything that goes into packages, in memory.
struct Sources {
    items: Vec<Item>,
    needs: Needs,
}

impl Sources {
    fn collect(agent: &Path, release: &Release) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let generated = generated::Generated::by(agent, scratch.path())?;
        let binary = stripped(agent, &scratch.path().join("stockade"))?;
        let needs = Needs::read(&binary).with_context(|| format!("reading {}", agent.display()))?;
        let items = contents::items(binary, &generated, &licences::copyright()?, release)?;
        Ok(Self { items, needs })
    }

    fn of(&self, format: Format) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |item| item.only.is_none_or(|only| only == format))
    }

    fn write(&self, release: &Release, folder: &Path) -> Result<Packages> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let items: Vec<_> = self.of(Format::Deb).collect();
        let deb = deb::write(&items, &self.needs, release, folder).context("making the .deb")?;
        let items: Vec<_> = self.of(Format::Rpm).collect();
        let rpm = rpm::write(&items, &self.needs, release, folder).context("making the .rpm")?;
        Ok(Packages { deb, rpm })
    }
}

/// The binary without what only a debugger needs.
fn stripped(agent: &Path, to: &Path) -> Result<Vec<u8>> {
    command::run(Command::new("strip").arg("--strip-unneeded").arg("-o").arg(to).arg(agent))?;
    fs::read(to).with_context(|| format!("reading {}", to.display()))
}
