//! What the DNS gate and the policy's interface need of the programs: addresses that names have given, where gates listen.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::{
    maps::{Array, HashMap},
    programs::SocketFilter,
};
use stockade_common::{
    net::{GATE_AT, GateKey, Granted, PrefixData},
    tag::Setting,
};

use super::{Enforcer, KernelError, Scope, Slot, descriptor, map, policy_maps::granted_bytes, program, sys};

/// By slot, the maps of what names have given to a policy.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Arc<Mutex<BTreeMap<u32, OwnedFd>>>);

impl Names {
    fn maps(&self) -> MutexGuard<'_, BTreeMap<u32, OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot's map from now on.
    pub(super) fn put(&self, slot: Slot, map: Option<OwnedFd>) {
        match map {
            Some(map) => self.maps().insert(slot.0, map),
            None => self.maps().remove(&slot.0),
        };
    }
}

/// A DNS gate that the programs carry questions to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gate {
    /// Cookie of the network namespace in which it listens, and whose questions it answers.
    pub netns: u64,
    /// Whose questions.
    pub scope: Scope,
    /// On `127.0.0.1` and `::1`.
    pub port: u16,
}

/// Grants addresses to scopes, from any thread.
#[derive(Debug)]
pub struct Granter {
    scopes: OwnedFd,
    names: Names,
}

impl Granter {
    /// Sets what names allow for an address, in place of what they allowed before, under the policy that the scope is held to.
    ///
    /// # Errors
    /// `NotFound` if that policy has no rules on names; else what the kernel says, among it that the table is full (`E2BIG`).
    pub fn grant(&self, scope: Scope, address: &PrefixData, granted: &Granted) -> io::Result<()> {
        self.with_names(scope, |names| sys::map_update(names.as_fd(), address, &granted_bytes(granted)))
    }

    /// Takes away what names allow for an address. No error if there is nothing.
    ///
    /// # Errors
    /// As [`Self::grant`].
    pub fn revoke(&self, scope: Scope, address: &PrefixData) -> io::Result<()> {
        self.with_names(scope, |names| sys::map_delete(names.as_fd(), address).map(drop))
    }

    fn with_names(&self, scope: Scope, work: impl FnOnce(&OwnedFd) -> io::Result<()>) -> io::Result<()> {
        // Before the slot is read: it cannot become another policy's meanwhile.
        let maps = self.names.maps();
        let mut word = [0; size_of::<u64>()];
        sys::map_lookup(self.scopes.as_fd(), &scope.0.to_ne_bytes(), &mut word)?;
        let slot = Setting::from_word(u64::from_ne_bytes(word)).slot();
        let missing = || {
            let why = format!("the policy that scope {} is held to has no rules on names", scope.0);
            io::Error::new(io::ErrorKind::NotFound, why)
        };
        work(maps.get(&slot).ok_or_else(missing)?)
    }
}

impl Enforcer {
    /// What grants addresses to scopes.
    ///
    /// # Errors
    /// If a descriptor cannot be copied.
    pub fn granter(&self) -> Result<Granter, KernelError> {
        Ok(Granter { scopes: descriptor(&self.ebpf, "SCOPES")?, names: self.names.clone() })
    }

    /// Puts what names have given into a slot that no scope is held to yet.
    ///
    /// # Errors
    /// If the policy there has no rules on names, or the kernel refuses.
    pub fn grant_to_slot(&self, slot: Slot, granted: &[(PrefixData, Granted)]) -> Result<(), KernelError> {
        let maps = self.names.maps();
        let names = maps.get(&slot.0).ok_or(KernelError::Mismatch("table of names in that slot"))?;
        for (address, granted) in granted {
            sys::map_update(names.as_fd(), address, &granted_bytes(granted)).map_err(failed("filling"))?;
        }
        Ok(())
    }

    /// Carries a scope's questions in a network namespace to a gate from now on.
    ///
    /// # Errors
    /// If the map is full.
    pub fn open_gate(&mut self, gate: &Gate) -> Result<(), KernelError> {
        let Gate { netns, scope, port } = *gate;
        let mut gates: HashMap<_, GateKey, u32> = map(&mut self.ebpf, "GATES")?;
        // First that nothing else may reach it.
        gates.insert(GateKey::at(netns, port), scope.0, 0).map_err(refused("GATES"))?;
        let opened = gates.insert(GateKey::of(netns, scope.0), u32::from(port), 0);
        opened.map_err(refused("GATES")).inspect_err(|_| {
            // Nothing listens for a gate that was not opened.
            let _ = gates.remove(&GateKey::at(netns, port));
        })
    }

    /// Has a gate's socket let in nothing but what the programs have carried there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn guard_gate(&mut self, socket: &impl AsFd) -> Result<(), KernelError> {
        let name = "gate_filter";
        let filter: &mut SocketFilter = program(&mut self.ebpf, name)?;
        let attached = filter.attach(socket);
        attached.map_err(|source| KernelError::Program { step: "attaching", program: name.into(), source })
    }

    /// Carries no questions there any more: what is asked is refused. True: there was such a gate.
    ///
    /// # Errors
    /// If the map refuses.
    pub fn close_gate(&mut self, netns: u64, scope: Scope) -> Result<bool, KernelError> {
        let mut gates: HashMap<_, GateKey, u32> = map(&mut self.ebpf, "GATES")?;
        let port = match gates.get(&GateKey::of(netns, scope.0), 0) {
            Ok(port) => port as u16,
            Err(aya::maps::MapError::KeyNotFound) => return Ok(false),
            Err(error) => return Err(refused("GATES")(error)),
        };
        for key in [GateKey::of(netns, scope.0), GateKey::at(netns, port)] {
            match gates.remove(&key) {
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
                Err(error) => return Err(refused("GATES")(error)),
            }
        }
        Ok(true)
    }

    /// All gates that questions are carried to.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn gates(&mut self) -> Result<Vec<Gate>, KernelError> {
        let gates: HashMap<_, GateKey, u32> = map(&mut self.ebpf, "GATES")?;
        let all: Vec<(GateKey, u32)> = gates.iter().collect::<Result<_, _>>().map_err(refused("GATES"))?;
        let of_scopes = all.into_iter().filter(|(key, _)| key.scope & GATE_AT == 0);
        let gates = of_scopes.map(|(key, port)| Gate {
            netns: key.netns,
            scope: Scope(key.scope),
            port: port as u16,
        });
        Ok(gates.collect())
    }

    /// Says by which interface of this network namespace a scope with `SCOPE_EGRESS` leaves. `None`: there is none now, and
    /// nothing leaves.
    ///
    /// # Errors
    /// If there is no such scope.
    pub fn set_egress(&mut self, scope: Scope, interface: Option<u32>) -> Result<(), KernelError> {
        let mut egress: Array<_, u32> = map(&mut self.ebpf, "EGRESS")?;
        egress.set(scope.0, interface.unwrap_or(0), 0).map_err(refused("EGRESS"))
    }

    /// Tables of names that an earlier daemon has made.
    pub(super) fn find_names(&mut self) -> Result<(), KernelError> {
        let outer = descriptor(&self.ebpf, "NAMES")?;
        for slot in &self.slots {
            let mut id = [0; size_of::<u32>()];
            let found = sys::map_lookup(outer.as_fd(), &slot.to_ne_bytes(), &mut id);
            if found.map_err(failed("reading"))? {
                let names = sys::map_by_id(u32::from_ne_bytes(id)).map_err(failed("opening"))?;
                self.names.put(Slot(*slot), Some(names));
            }
        }
        Ok(())
    }
}

fn refused(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> KernelError + use<> {
    move |source| KernelError::Map { map, source }
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> KernelError + use<> {
    move |source| KernelError::System { step, object: "map NAMES".into(), source }
}
