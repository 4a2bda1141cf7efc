//! The DNS gates of what this process enforces, and the kernel's side of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    sync::{Arc, OnceLock},
};

use stockade_common::net::{Granted, PrefixData};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{
    dns::{self, DnsConfig, Gate, GateEvent, Held, NameTable, TableInput},
    kernel::{self, Enforcer, KernelError, Scope, Slot},
    policy::checked::{CheckedPolicy, Mode},
};

/// Network namespaces of one scope with a gate: a workload can make any number of them.
const MAX_NAMESPACES: usize = 64;
/// Events that wait to be taken. More are counted.
const WAITING_EVENTS: usize = 1024;
/// Looks in which nobody of a scope was in a network namespace, after which its gate there is closed.
const IDLE_LOOKS: u32 = 2;

/// Why a scope has no gate.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A step failed.
    #[error("the DNS gate: {step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There are too many.
    #[error("the DNS gate: the scope has one in {MAX_NAMESPACES} network namespaces, and may have no more")]
    TooMany,
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> GateError {
    move |source| GateError::System { step, source }
}

/// A gate in a network namespace.
#[derive(Debug)]
struct Place {
    /// Inode number of the network namespace.
    namespace: u64,
    port: u16,
    /// Looks in a row in which nobody was there.
    idle: u32,
}

/// The gates there are.
#[derive(Debug)]
pub struct Gates {
    config: DnsConfig,
    gate: Names,
    events: Sender<GateEvent>,
    /// By scope and cookie of the network namespace.
    places: BTreeMap<(Scope, u64), Place>,
}

impl dns::Kernel for kernel::Granter {
    fn grant(&self, scope: u32, address: PrefixData, granted: &Granted) -> io::Result<()> {
        Self::grant(self, Scope(scope), &address, granted)
    }

    fn revoke(&self, scope: u32, address: PrefixData) -> io::Result<()> {
        match Self::revoke(self, Scope(scope), &address) {
            // The policy has no names any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// The rules on names of a policy, if it has a gate; enforced, or only reported.
#[must_use]
pub fn table(policy: &CheckedPolicy, mode: Mode) -> Option<Arc<NameTable>> {
    policy.uses_gate().then(|| {
        Arc::new(NameTable::new(&TableInput {
            names: &policy.names,
            destinations: &policy.destinations,
            settings: &policy.dns,
            private: &policy.private_names,
            mode,
        }))
    })
}

/// The gate, once there is one: names that allowed addresses, for events.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<OnceLock<Gate>>);

impl Names {
    /// The name that a rule has allowed an address for.
    #[must_use]
    pub fn name_of(&self, scope: u32, address: PrefixData, rule: u32) -> Option<String> {
        self.0.get()?.name_of(scope, address, rule)
    }
}

impl Gates {
    /// None yet. What happens at them is told to the receiver.
    #[must_use]
    pub fn new(config: DnsConfig) -> (Self, Receiver<GateEvent>) {
        let (events, receiver) = channel(WAITING_EVENTS);
        (Self { config, gate: Names::default(), events, places: BTreeMap::new() }, receiver)
    }

    /// Names for events.
    #[must_use]
    pub fn names(&self) -> Names {
        self.gate.clone()
    }

    fn start(&self, enforcer: &Enforcer) -> Result<(), GateError> {
        if self.gate.0.get().is_some() {
            return Ok(());
        }
        let events = self.events.clone();
        // An event that does not fit is one less: what was decided stays decided.
        let tell = move |event| drop(events.try_send(event));
        let granter = Arc::new(enforcer.granter()?);
        let gate = Gate::start(&self.config, granter, tell).map_err(failed("starting"))?;
        // Nobody else has: this is not shared between threads.
        let _ = self.gate.0.set(gate);
        Ok(())
    }

    fn gate(&self) -> Result<&Gate, GateError> {
        self.gate.0.get().ok_or_else(|| failed("starting")(io::ErrorKind::NotFound.into()))
    }

    /// Holds a scope to the policy in a slot, names included: in one step. What answers that clients still use allow under
    /// it is in its tables before, and is returned.
    ///
    /// # Errors
    /// What refused; nothing is changed then.
    pub fn hold(
        &mut self,
        enforcer: &mut Enforcer,
        (scope, slot, flags): (Scope, Slot, u32),
        names: Option<Arc<NameTable>>,
    ) -> Result<Vec<(PrefixData, Granted)>, GateError> {
        let Some(table) = names else {
            enforcer.hold(scope, slot, flags)?;
            self.forget(enforcer, scope)?;
            return Ok(Vec::new());
        };
        self.start(enforcer)?;
        self.gate()?.switch(scope.0, table, |granted| {
            enforcer.grant_to_slot(slot, &granted)?;
            enforcer.hold(scope, slot, flags)?;
            Ok(granted)
        })
    }

    /// Listens for a scope in the network namespace of a process, or in our own. Where it listens already it stays.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or has enough of them.
    pub fn open(&mut self, enforcer: &mut Enforcer, scope: Scope, pid: Option<u32>) -> Result<(), GateError> {
        let file = format!("/proc/{}/ns/net", pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string()));
        let namespace = File::open(file).map_err(failed("opening the network namespace"))?;
        let inode = namespace.metadata().map_err(failed("opening the network namespace"))?.ino();
        let of_scope = || self.places.iter().filter(|((of, _), _)| *of == scope);
        if of_scope().any(|(_, place)| place.namespace == inode) {
            return Ok(());
        }
        if of_scope().count() >= MAX_NAMESPACES {
            return Err(GateError::TooMany);
        }
        self.start(enforcer)?;
        let namespace = pid.map(|_| OwnedFd::from(namespace));
        // Before anything is read from them.
        let mut guarded = Ok(());
        let opened = self.gate()?.open(scope.0, namespace, |sockets| {
            let mut sockets = sockets.iter();
            guarded = sockets.try_for_each(|socket| enforcer.guard_gate(socket));
            if guarded.is_ok() { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
        });
        guarded?;
        let (netns, port) = opened.map_err(failed("listening"))?;
        if let Err(error) = enforcer.open_gate(&kernel::Gate { netns, scope, port }) {
            self.gate()?.close(scope.0, netns);
            return Err(error.into());
        }
        self.places.insert((scope, netns), Place { namespace: inode, port, idle: 0 });
        Ok(())
    }

    /// Forgets what an earlier daemon's gates were: nobody listens there.
    ///
    /// # Errors
    /// If the map cannot be changed.
    pub fn clear(enforcer: &mut Enforcer) -> Result<(), KernelError> {
        for gate in enforcer.gates()? {
            enforcer.close_gate(gate.netns, gate.scope)?;
        }
        Ok(())
    }

    /// A scope has no gate any more.
    ///
    /// # Errors
    /// If the map cannot be changed.
    pub fn forget(&mut self, enforcer: &mut Enforcer, scope: Scope) -> Result<(), GateError> {
        let places: Vec<(Scope, u64)> = self.places.keys().filter(|(of, _)| *of == scope).copied().collect();
        for place in places {
            enforcer.close_gate(place.1, scope)?;
            self.places.remove(&place);
        }
        if let Some(gate) = self.gate.0.get() {
            gate.forget(scope.0);
        }
        Ok(())
    }

    /// Whether a scope has a gate in a network namespace, by its inode number.
    #[must_use]
    pub fn is_open(&self, scope: Scope, namespace: u64) -> bool {
        self.places.iter().any(|((of, _), place)| *of == scope && place.namespace == namespace)
    }

    /// Ports of a scope's gates.
    #[must_use]
    pub fn ports(&self, scope: Scope) -> HashSet<u16> {
        self.places.iter().filter(|((of, _), _)| *of == scope).map(|(_, place)| place.port).collect()
    }

    /// Names and addresses of a scope, for the daemon that comes after.
    #[must_use]
    pub fn held(&self, scope: Scope) -> Vec<Held> {
        self.gate.0.get().map(|gate| gate.held(scope.0)).unwrap_or_default()
    }

    /// Takes over what an earlier gate has held for a scope, before the scope is first [held](Self::hold) to a policy.
    ///
    /// # Errors
    /// If there can be no gate.
    pub fn recall(&mut self, enforcer: &Enforcer, scope: Scope, held: &[Held]) -> Result<(), GateError> {
        self.start(enforcer)?;
        self.gate()?.recall(scope.0, held);
        Ok(())
    }

    /// Scopes that have a gate in a network namespace other than `own`.
    #[must_use]
    pub fn elsewhere(&self, own: u64) -> BTreeSet<Scope> {
        let others = self.places.iter().filter(|(_, place)| place.namespace != own);
        others.map(|((scope, _), _)| *scope).collect()
    }

    /// Closes gates where nobody is any more: a network namespace lives as long as something listens in it. `seen` are
    /// those in which a scope's processes are.
    ///
    /// # Errors
    /// If the map cannot be changed.
    pub fn close_idle(
        &mut self,
        enforcer: &mut Enforcer,
        own: u64,
        seen: &BTreeSet<(Scope, u64)>,
    ) -> Result<(), GateError> {
        let mut idle = Vec::new();
        for (key, place) in self.places.iter_mut().filter(|(_, place)| place.namespace != own) {
            let is_seen = seen.contains(&(key.0, place.namespace));
            place.idle = if is_seen { 0 } else { place.idle + 1 };
            if place.idle >= IDLE_LOOKS {
                idle.push(*key);
            }
        }
        for (scope, netns) in idle {
            enforcer.close_gate(netns, scope)?;
            self.places.remove(&(scope, netns));
            self.gate()?.close(scope.0, netns);
        }
        Ok(())
    }
}

/// Inode number of the network namespace of a process, or of this one.
///
/// # Errors
/// If it is gone.
pub fn namespace_of(pid: Option<u32>) -> io::Result<u64> {
    let file = format!("/proc/{}/ns/net", pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string()));
    Ok(std::fs::metadata(file)?.ino())
}
