//! What every verb that enforces does first: find out whether this host can, and prove it.

use std::{fs, io, path::Path};

use stockade_common::tag::SLOT_ENFORCE;

use super::probe::{self, GUARANTEES, Probe};
use crate::{
    kernel::{Enforcer, LoadOptions, Slot},
    scope::cgroup::OwnCgroup,
};

/// Where each run pins its links, in a directory named after its cgroup.
pub const PINS: &str = "/sys/fs/bpf/stockade";
/// Slot of the probe: it never gets a rule.
const PROBE_SLOT: Slot = Slot(2);
/// Where the active LSMs are listed.
const LSM_LIST: &str = "/sys/kernel/security/lsm";

/// A guarantee's name and whether it holds.
pub type Finding = (&'static probe::Guarantee, Result<(), String>);

/// Why `bpf` is no active LSM, and the kernel parameter that makes it one.
///
/// # Errors
/// If it is not.
pub fn bpf_lsm() -> Result<(), String> {
    let list = fs::read_to_string(LSM_LIST).map_err(|error| format!("{LSM_LIST} cannot be read: {error}"))?;
    if list.trim().split(',').any(|name| name == "bpf") {
        return Ok(());
    }
    Err(format!("`bpf` is not an active LSM: boot with the kernel parameter lsm={},bpf", list.trim()))
}

/// Loads and attaches everything, and attempts what must be refused.
///
/// # Errors
/// What kept the programs from being loaded, attached or tried.
pub fn enforce(options: &LoadOptions, attach_to: &OwnCgroup) -> Result<(Enforcer, Vec<Finding>), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut enforcer = Enforcer::load(options).map_err(|error| text(&error))?;
    enforcer.attach_tracking().map_err(|error| text(&error))?;
    if !options.network_only {
        enforcer.attach_lsm().map_err(|error| text(&error))?;
    }
    enforcer
        .attach_cgroup(&attach_to.directory().map_err(|error| text(&error))?)
        .map_err(|error| text(&error))?;
    // Below the other, so that what is attached there is what is tried.
    let probe_cgroup = attach_to.child("probe").map_err(|error| text(&error))?;
    enforcer.configure(PROBE_SLOT, SLOT_ENFORCE).map_err(|error| text(&error))?;
    let results = probe::prove(&mut enforcer, &probe_cgroup, PROBE_SLOT)
        .map_err(|error| format!("the enforcement could not be tried: {error}"))?;
    let findings = GUARANTEES
        .iter()
        .zip(results)
        .filter(|(guarantee, _)| !(options.network_only && guarantee.lsm))
        .collect();
    Ok((enforcer, findings))
}

/// Whether we have root's id, which loading programs needs.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: takes nothing.
    unsafe { libc::geteuid() == 0 }
}

/// Pins, lets go of everything this process holds, and attempts all of it again: what a killed agent leaves behind.
///
/// # Errors
/// What could not be pinned, or what went through.
pub fn outlives(mut enforcer: Enforcer, cgroup: &OwnCgroup, pins: &Path) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let inside = cgroup.child("survivor").map_err(|error| text(&error))?;
    enforcer.tag(inside.id().map_err(|error| text(&error))?, PROBE_SLOT).map_err(|error| text(&error))?;
    let pinned = enforcer
        .pin(pins)
        .map_err(|error| format!("{error} (a bpf filesystem must be mounted at /sys/fs/bpf)"))?;
    drop(enforcer);
    let answers = Probe::start().and_then(|mut probe| {
        // Its answer says that it runs: inside, it could not even be executed.
        probe.attempt()?;
        inside.add(probe.pid()).map_err(io::Error::other)?;
        probe.attempt()
    });
    drop(pinned);
    match answers {
        Ok(answers) if answers.iter().all(|answer| *answer == libc::EPERM) => Ok(()),
        Ok(answers) => {
            Err(format!("with the pins alone the attempts ended with {answers:?} instead of EPERM"))
        }
        Err(error) => Err(format!("the enforcement could not be tried: {error}")),
    }
}
