//! Everything up to the command: a cgroup of our own, programs proved to hold it, the policy applied, pins.

use std::path::Path;

use nix::sys::signalfd::SignalFd;
use stockade_common::tag::{SCOPE_AUDIT_ALL, SCOPE_CGROUP_EMITS, SCOPE_ENFORCE, SCOPE_GUARDED, SCOPE_LOOK};
use tokio::sync::mpsc::Receiver;

use super::{Refused, config::Config};
use crate::{
    audit::origin::boot_ns,
    cli::{exit, guarantee::Proof, host, remedy},
    dns::GateEvent,
    gates::{self, Gates},
    kernel::{Enforcer, Entry, LoadOptions, PinnedDirectory, Scope, remove_stale_pins},
    scope::{
        cgroup::{self, OwnCgroup},
        interface, signals,
    },
};

/// The one scope of a run.
pub const SCOPE: Scope = Scope(1);

/// A cgroup that is policed, with nothing in it yet. Dropped in the order of the fields: whatever happens, the cgroup
/// is emptied while it is still policed.
#[derive(Debug)]
pub struct Prepared {
    /// The tagged cgroup.
    pub cgroup: OwnCgroup,
    /// Where the command asks for names.
    pub gates: Gates,
    /// What happens there.
    pub asked: Receiver<GateEvent>,
    /// The programs. Dropped before the pins: the kernel detaches a link in the background when a pin was the last to
    /// hold it, while closing the last descriptor waits for it (20 LSM links: 3 s on 6.12).
    pub enforcer: Enforcer,
    /// Keep the programs attached when we are killed.
    pub pins: PinnedDirectory,
    /// Signals that came and will come.
    pub signals: SignalFd,
    /// What was proved, by name.
    pub guarantees: Vec<&'static str>,
    /// Files are not policed.
    pub degraded: bool,
}

fn unavailable(why: impl std::fmt::Display) -> Refused {
    Refused::new(exit::UNAVAILABLE, format!("{why}\nnothing was started"))
}

/// Prepares a run.
pub fn prepare(config: &Config) -> Result<Prepared, Refused> {
    if !host::is_root() {
        return Err(unavailable("enforcement needs root: run with sudo"));
    }
    remedy::kernel().map_err(unavailable)?;
    clear_remains();
    // From here on there is something to clean up: a signal waits until that can be done.
    let signals = signals::block().map_err(Refused::own)?;
    // Process ids come again, and what a killed run has left is found by its name.
    let name = format!("stockade-{}-{:x}", std::process::id(), boot_ns());
    let cgroup = OwnCgroup::create(&name).map_err(unavailable)?;
    let Proved { mut enforcer, guarantees, degraded } = prove(config, &cgroup)?;
    let slot = enforcer.install(&config.image).map_err(Refused::own)?;
    let mut flags = config.image.flags;
    for (wanted, flag) in
        [(config.enforce, SCOPE_ENFORCE), (config.audit_all, SCOPE_AUDIT_ALL), (degraded, SCOPE_CGROUP_EMITS)]
    {
        flags |= if wanted { flag } else { 0 };
    }
    let (mut gates, asked) = Gates::new(config.dns.clone());
    gates
        .hold(&mut enforcer, (SCOPE, slot, flags), gates::table(&config.checked, config.checked.mode))
        .map_err(Refused::own)?;
    if config.checked.uses_gate() {
        gates.open(&mut enforcer, SCOPE, None).map_err(unavailable)?;
    }
    if let Some(name) = &config.checked.egress {
        let interface = interface::index(name);
        if interface.is_none() {
            eprintln!("stockade: there is no interface {name}: nothing leaves this host until there is");
        }
        enforcer.set_egress(SCOPE, interface).map_err(Refused::own)?;
    }
    enforcer.tag(cgroup.id().map_err(Refused::own)?, SCOPE, Entry::AtOnce).map_err(Refused::own)?;
    let pins = enforcer
        .pin(&Path::new(host::PINS).join(&name))
        .map_err(|error| unavailable(remedy::explain(&error)))?;
    Ok(Prepared { cgroup, gates, asked, pins, enforcer, signals, guarantees, degraded })
}

/// Pins of runs that were killed, once nothing is left that they police.
fn clear_remains() {
    let cleared = remove_stale_pins(Path::new(host::PINS), |name| {
        cgroup::in_use(name).unwrap_or_else(|error| {
            eprintln!("stockade: what a killed run has left stays: {error}");
            true
        })
    });
    // Not a reason to refuse: they police nothing but what that run has started.
    if let Err(error) = cleared {
        eprintln!("stockade: removing the pins of a killed run: {error}");
    }
}

struct Proved {
    enforcer: Enforcer,
    guarantees: Vec<&'static str>,
    degraded: bool,
}

/// Degraded is allowed, not asked for: a host that can police files does.
fn prove(config: &Config, cgroup: &OwnCgroup) -> Result<Proved, Refused> {
    let attempt = |degraded: bool| {
        let metadata = config.image.flags & (SCOPE_LOOK | SCOPE_GUARDED) != 0;
        let options = LoadOptions { network_only: degraded, metadata, ..LoadOptions::default() };
        let (enforcer, findings) = host::enforce(&options, cgroup)?;
        let mut guarantees = Vec::new();
        for (guarantee, proof) in findings {
            match proof {
                Proof::Failed(why) => return Err(format!("{}: {why}", guarantee.name)),
                Proof::Enforced => guarantees.push(guarantee.name),
                Proof::Absent(_) => {}
            }
        }
        Ok::<_, String>(Proved { enforcer, guarantees, degraded })
    };
    match remedy::bpf_lsm().and_then(|()| attempt(false)) {
        Err(why) if config.allow_degraded => {
            eprintln!("stockade: {why}");
            let proved = attempt(true).map_err(unavailable)?;
            eprintln!("stockade: degraded: files are not policed, only connects, sends and sockets");
            Ok(proved)
        }
        whole => whole.map_err(unavailable),
    }
}
