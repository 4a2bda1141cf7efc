//! What every verb that enforces does first: find out whether this host can, and prove it.

use std::{fs, path::Path};

use stockade_common::tag::SLOT_ENFORCE;

use super::probe::{self, GUARANTEES};
use crate::{
    kernel::{Enforcer, LoadOptions, Slot},
    scope::cgroup::OwnCgroup,
};

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
    let probe_cgroup =
        OwnCgroup::create(&format!("stockade-probe-{}", std::process::id())).map_err(|error| text(&error))?;
    for cgroup in [attach_to, &probe_cgroup] {
        let directory = cgroup.directory().map_err(|error| text(&error))?;
        enforcer.attach_cgroup(&directory).map_err(|error| text(&error))?;
    }
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

/// Whether pins can be made.
#[must_use]
pub fn has_bpffs() -> bool {
    fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|text| text.lines().any(|line| line.contains(" /sys/fs/bpf ") && line.contains(" - bpf ")))
        && Path::new("/sys/fs/bpf").is_dir()
}
