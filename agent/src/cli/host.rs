//! What every verb that enforces does first: find out whether this host can, and prove it.

use std::{io, path::Path};

use stockade_common::limits::MAX_SCOPES;

use super::{
    guarantee::{GUARANTEES, Guarantee, Hooks, Proof},
    probe::{Answers, Probe},
    remedy,
};
use crate::{
    kernel::{Enforcer, Entry, KernelError, LoadOptions, Scope},
    scope::cgroup::OwnCgroup,
};

/// Where each run pins its links, in a directory named after its cgroup.
pub const PINS: &str = "/sys/fs/bpf/stockade";
/// Scope of the probe: it is never held to a policy, so nothing is allowed in it.
const PROBE: Scope = Scope(MAX_SCOPES - 1);

/// A guarantee and what was found out about it.
pub type Finding = (&'static Guarantee, Proof);

fn untried(error: impl std::fmt::Display) -> String {
    format!("the enforcement could not be tried: {error}")
}

/// Loads everything, attaches it, and attempts what must be refused.
///
/// # Errors
/// What kept the programs from being loaded, attached or tried.
pub fn enforce(options: &LoadOptions, attach_to: &OwnCgroup) -> Result<(Enforcer, Vec<Finding>), String> {
    let said = |error: KernelError| remedy::explain(&error);
    let mut enforcer = Enforcer::load(options).map_err(said)?;
    enforcer.attach_tracking().map_err(said)?;
    let directory = attach_to.directory().map_err(|error| error.to_string())?;
    enforcer.attach_cgroup(&directory).map_err(said)?;
    let findings = prove(&mut enforcer, attach_to, options.network_only)?;
    Ok((enforcer, findings))
}

/// Attempts everything outside a tag; then inside one below `attach_to`, where of all that refuses only cgroup programs
/// are attached; then the LSM programs are attached, and it is attempted elsewhere, where no cgroup programs are, in a
/// cgroup made inside a tag. Neither can so hide that the other does nothing, and nothing holds unless tags are inherited.
fn prove(enforcer: &mut Enforcer, attach_to: &OwnCgroup, network_only: bool) -> Result<Vec<Finding>, String> {
    // Declared before the child, which is gone by the time they are removed.
    let below = attach_to.child("probe").map_err(untried)?;
    let beside = if network_only {
        None
    } else {
        let name = format!("stockade-probe-{}", std::process::id());
        Some(OwnCgroup::create(&name).map_err(untried)?)
    };
    let nested: OwnCgroup;
    let mut probe = Probe::start().map_err(untried)?;
    let outside = probe.attempt().map_err(untried)?;
    enforcer.tag(below.id().map_err(untried)?, PROBE, Entry::AtOnce).map_err(untried)?;
    let by_cgroup = probe.attempt_in(&below).map_err(untried)?;
    let by_lsm = match &beside {
        None => None,
        Some(beside) => {
            enforcer.attach_lsm().map_err(|error| remedy::explain(&error))?;
            enforcer.tag(beside.id().map_err(untried)?, PROBE, Entry::AtOnce).map_err(untried)?;
            nested = beside.child("nested").map_err(untried)?;
            Some(probe.attempt_in(&nested).map_err(untried)?)
        }
    };
    Ok(findings(&outside, &by_cgroup, by_lsm.as_ref()))
}

/// Without LSM answers only what cgroup programs enforce is among the findings.
fn findings(outside: &Answers, by_cgroup: &Answers, by_lsm: Option<&Answers>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, guarantee) in GUARANTEES.iter().enumerate() {
        let judge = |inside: &Answers, hook: &str| guarantee.judge(outside[index], inside[index]).by(hook);
        let by_cgroup = (guarantee.hooks == Hooks::Both).then(|| judge(by_cgroup, "without LSM programs"));
        let by_lsm = by_lsm.map(|answers| judge(answers, "without cgroup programs, in a cgroup made inside"));
        let proof = by_cgroup.into_iter().chain(by_lsm).reduce(Proof::and);
        findings.extend(proof.map(|proof| (guarantee, proof)));
    }
    findings
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
    let inside = cgroup.child("survivor").map_err(untried)?;
    enforcer.tag(inside.id().map_err(untried)?, PROBE, Entry::AtOnce).map_err(untried)?;
    let pinned = enforcer.pin(pins).map_err(|error| remedy::explain(&error))?;
    drop(enforcer);
    let answers: io::Result<_> = Probe::start().and_then(|mut probe| {
        // Its answer says that it runs: inside, it could not even be executed.
        Ok((probe.attempt()?, probe.attempt_in(&inside)?))
    });
    drop(pinned);
    let (before, after) = answers.map_err(untried)?;
    for (guarantee, (before, after)) in GUARANTEES.iter().zip(before.into_iter().zip(after)) {
        if let Proof::Failed(why) = guarantee.judge(before, after) {
            return Err(format!("with the pins alone, {}: {why}", guarantee.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_hook_hides_the_other() {
        let outside = [0; GUARANTEES.len()];
        let refused = [libc::EPERM; GUARANTEES.len()];
        let all = findings(&outside, &refused, Some(&refused));
        assert_eq!(all.len(), GUARANTEES.len());
        assert!(all.iter().all(|(_, proof)| *proof == Proof::Enforced));
        let network = findings(&outside, &refused, None);
        assert!(!network.is_empty() && network.iter().all(|(guarantee, _)| guarantee.hooks == Hooks::Both));
        for (by_cgroup, by_lsm) in [(&outside, &refused), (&refused, &outside)] {
            let tcp4 = findings(&outside, by_cgroup, Some(by_lsm));
            let tcp4 = tcp4.iter().find(|(guarantee, _)| guarantee.name == "tcp4").map(|(_, proof)| proof);
            assert!(matches!(tcp4, Some(Proof::Failed(_))), "{tcp4:?}");
        }
    }
}
