//! Maintainer scripts, units and examples: what reads them on a host reads them here.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{Outcome, Subject};
use crate::{command, package::generated};

fn packaging(folder: &str) -> PathBuf {
    command::root().join("packaging").join(folder)
}

/// The system's `sh` parses them, and shellcheck has nothing to say where it is installed.
pub fn shell(_: &Subject) -> Result<Outcome> {
    for folder in ["deb", "rpm"] {
        for (name, _) in generated::read(&packaging(folder))? {
            let path = packaging(folder).join(name);
            command::run(Command::new("sh").arg("-n").arg(&path))?;
            if command::which("shellcheck").is_some() {
                command::run(Command::new("shellcheck").arg("--shell=sh").arg(&path))?;
            }
        }
    }
    Ok(Outcome::Passed)
}

/// `systemd-analyze verify`, with the program where it was built.
pub fn units(subject: &Subject) -> Result<Outcome> {
    if command::which("systemd-analyze").is_none() {
        return Ok(Outcome::Skipped("this machine has no systemd-analyze".into()));
    }
    let folder = tempfile::tempdir()?;
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["verify", "--man=no"]);
    for (name, text) in generated::read(&packaging("systemd"))? {
        let text = String::from_utf8(text).with_context(|| format!("{name} is not UTF-8"))?;
        let path = folder.path().join(&name);
        fs::write(&path, text.replace("=/usr/bin/stockade ", &format!("={} ", subject.agent.display())))?;
        analyze.arg(path);
    }
    let output = analyze.output().context("starting systemd-analyze")?;
    // It ends well after a line about a key that it does not know.
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> = said.lines().filter(|line| line.contains("stockade")).collect();
    ensure!(output.status.success() && ours.is_empty(), "systemd-analyze says: {}", said.trim());
    Ok(Outcome::Passed)
}

/// The agent accepts each policy, as an administrator would check it.
pub fn examples(subject: &Subject) -> Result<Outcome> {
    for (name, _) in generated::read(&packaging("examples"))? {
        if name.ends_with(".toml") {
            let path = packaging("examples").join(&name);
            command::output(Command::new(&subject.agent).args(["policy", "check"]).arg(path))?;
        }
    }
    Ok(Outcome::Passed)
}
