//! Names: gates in the network namespaces of those who ask, what happens there, and the interface that all must leave by.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use stockade_common::net::{Granted, PrefixData};

use super::{
    Core,
    flows::{Before, Held},
    refusal, refused_by_kernel,
};
use crate::{
    audit::{gate, origin::boot_ns},
    daemon::command::{Refusal, RefusalKind},
    dns::GateEvent,
    gates::{self, GateError},
    kernel::{Scope, Slot},
    policy::{
        checked::{CheckedPolicy, Mode},
        image::MapImage,
    },
    scope::interface,
};

/// Processes that are remembered to have asked without a gate, until the next turn.
const MOST_WANTED: usize = 64;
/// Gates that are opened in one turn, for those who have asked without one.
const MOST_OPENED: usize = 4;

pub(super) fn refused_by_gate(error: GateError) -> Refusal {
    match error {
        GateError::Kernel(error) => refused_by_kernel(&error),
        error => refusal(RefusalKind::Failed, error),
    }
}

/// A scope that was switched to another policy.
pub(super) struct Switched {
    pub(super) name: String,
    pub(super) scope: Scope,
    /// A process in its network namespace; `None`: the host's.
    pub(super) pid: Option<u32>,
    pub(super) image: Arc<MapImage>,
    /// What names allow under it already.
    pub(super) granted: Vec<(PrefixData, Granted)>,
    /// What it was held to before. `None`: nothing, or that is not known.
    pub(super) before: Option<Before>,
}

impl Core {
    /// Opens its gate, and ends connections that it may have no more.
    pub(super) fn after_switch(&mut self, switched: &Switched) {
        let Switched { name, scope, pid, image, granted, before } = switched;
        self.open_gate(*scope, *pid);
        let enforces =
            self.registry.scopes.get(name).is_some_and(|state| state.effective_mode() == Mode::Enforce);
        // What is tagged while it runs has been looked at.
        if let Some(before) = before
            && enforces
        {
            let gates = self.gates.ports(*scope);
            let held = Held { scope: *scope, image, granted, before, gates: &gates, pid: *pid };
            self.end_forbidden(name, &held);
        }
    }

    /// Holds a scope to the policy in a slot: names, interface and all. What names allow under it already is returned.
    pub(super) fn hold(
        &mut self,
        (scope, slot, flags): (Scope, Slot, u32),
        policy: Option<(&CheckedPolicy, Mode)>,
    ) -> Result<Vec<(PrefixData, Granted)>, Refusal> {
        if let Some(name) = policy.and_then(|(policy, _)| policy.egress.as_ref()) {
            self.lead_out(scope, name)?;
        }
        let table = policy.and_then(|(policy, mode)| gates::table(policy, mode));
        self.gates.hold(&mut self.enforcer, (scope, slot, flags), table).map_err(refused_by_gate)
    }

    /// Opens a scope's gate where a process is, or on the host. Without it names are refused there: nothing is open.
    pub(super) fn open_gate(&mut self, scope: Scope, pid: Option<u32>) {
        let uses_gate = self.registry.find(scope).is_some_and(|(name, _)| {
            let state = self.registry.scopes.get(name);
            state.and_then(|state| state.policy.as_ref()).is_some_and(CheckedPolicy::uses_gate)
        });
        if !uses_gate {
            return;
        }
        if let Err(error) = self.gates.open(&mut self.enforcer, scope, pid) {
            eprintln!("stockade: scope {}: names are refused in a network namespace: {error}", scope.0);
        }
    }

    /// A process has asked where its scope has no gate. A workload can make any number of network namespaces, as fast as it likes.
    pub(super) fn want_gate(&mut self, scope: Scope, pid: u32) {
        if self.without_gate.len() < MOST_WANTED {
            self.without_gate.insert(pid, scope);
        }
    }

    /// Opens some of the gates that are missing. Who asks again is there with the next turn.
    pub(super) fn open_wanted_gates(&mut self) -> Result<(), Refusal> {
        let wanted = std::mem::take(&mut self.without_gate);
        let is_there = |pid: u32| gates::namespace_of(Some(pid)).is_ok();
        let (mut open, gone): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(pid, _)| is_there(*pid));
        // Who asks and ends at once leaves others in its network namespace, or nobody who needs a gate.
        let left: BTreeSet<Scope> = gone.into_iter().map(|(_, scope)| scope).collect();
        if !left.is_empty() && open.len() < MOST_OPENED {
            let others = self.places_of(&left)?.into_iter();
            let others = others.filter(|((scope, place), _)| !self.gates.is_open(*scope, *place));
            open.extend(others.map(|((scope, _), pid)| (pid, scope)));
        }
        for (pid, scope) in open.into_iter().take(MOST_OPENED) {
            self.open_gate(scope, Some(pid));
        }
        Ok(())
    }

    /// In which network namespaces processes of scopes are, and one that is there.
    fn places_of(&mut self, scopes: &BTreeSet<Scope>) -> Result<BTreeMap<(Scope, u64), u32>, Refusal> {
        let tags = self.enforcer.tags().map_err(|error| refused_by_kernel(&error))?;
        let of: BTreeMap<u64, Scope> = tags.into_iter().filter(|(_, scope)| scopes.contains(scope)).collect();
        let tree = |error: &dyn std::fmt::Display| refusal(RefusalKind::Failed, error);
        let nodes = self.tree.walk(&PathBuf::from("/")).map_err(|error| tree(&error))?.nodes;
        let mut places = BTreeMap::new();
        for node in nodes {
            let Some(scope) = of.get(&node.id) else { continue };
            // What cannot be listed is gone.
            for pid in self.tree.processes(&node.path).unwrap_or_default() {
                places.extend(gates::namespace_of(Some(pid)).ok().map(|place| ((*scope, place), pid)));
            }
        }
        Ok(places)
    }

    /// Something happened at a gate.
    pub(super) fn asked(&mut self, event: &GateEvent) {
        let Some((name, instance)) = self.registry.find(Scope(gate::scope(event))) else { return };
        if matches!(event, GateEvent::Answered(_)) {
            self.answered.insert(Scope(gate::scope(event)));
        }
        let said = gate::event(event, &instance.context, boot_ns());
        let uid = self.registry.scopes.get(name).and_then(|state| state.uid);
        let name = name.to_owned();
        self.recorder.tell(&said, &name, uid);
    }

    fn lead_out(&mut self, scope: Scope, name: &str) -> Result<(), Refusal> {
        let index = interface::index(name);
        if index.is_none() {
            eprintln!(
                "stockade: there is no interface {name}: nothing of scope {} leaves this host",
                scope.0
            );
        }
        self.ways_out.insert(scope, (name.to_owned(), index));
        self.enforcer.set_egress(scope, index).map_err(|error| refused_by_kernel(&error))
    }

    /// An interface has another number when it comes again.
    pub(super) fn follow_interfaces(&mut self) -> Result<(), Refusal> {
        let scopes: BTreeSet<Scope> = self.registry.numbers().collect();
        self.ways_out.retain(|scope, _| scopes.contains(scope));
        let changed: Vec<(Scope, String)> = self
            .ways_out
            .iter()
            .filter(|(_, (name, known))| interface::index(name) != *known)
            .map(|(scope, (name, _))| (*scope, name.clone()))
            .collect();
        for (scope, name) in changed {
            self.lead_out(scope, &name)?;
        }
        Ok(())
    }

    /// Closes gates in network namespaces that nobody of their scope is in any more.
    pub(super) fn close_idle_gates(&mut self) -> Result<(), Refusal> {
        let elsewhere = self.gates.elsewhere(self.netns);
        if elsewhere.is_empty() {
            return Ok(());
        }
        let seen = self.places_of(&elsewhere)?.into_keys().collect();
        self.gates.close_idle(&mut self.enforcer, self.netns, &seen).map_err(refused_by_gate)
    }
}
