//! Taking away what is not used any more. A scope's number is given to another only when no tag has it.

use std::collections::{BTreeSet, HashSet};

use stockade_common::limits::UNDECIDED_SCOPE;

use super::{Core, names::refused_by_gate, refusal, refused_by_kernel, registry::Instance};
use crate::{
    daemon::command::{Refusal, RefusalKind, ScopeKind},
    kernel::Scope,
};

/// Ids that are missing in two walks, one after the other. A cgroup that is just being made has a tag before it can be seen.
#[derive(Debug, Default)]
pub(super) struct Missing(HashSet<u64>);

impl Missing {
    /// Takes note of a walk that has seen everything. Returns the ids that no cgroup has any more.
    pub(super) fn gone(&mut self, tagged: impl Iterator<Item = u64>, seen: &HashSet<u64>) -> Vec<u64> {
        let missing: HashSet<u64> = tagged.filter(|id| !seen.contains(id)).collect();
        let gone = missing.intersection(&self.0).copied().collect();
        self.0 = missing;
        gone
    }
}

impl Core {
    /// Scopes that tags have.
    fn used(&mut self) -> Result<BTreeSet<Scope>, Refusal> {
        let tags = self.enforcer.tags().map_err(|error| refused_by_kernel(&error))?;
        Ok(tags.into_iter().map(|(_, scope)| scope).collect())
    }

    /// Numbers that cannot be given to a new scope.
    pub(super) fn taken(&mut self) -> Result<BTreeSet<Scope>, Refusal> {
        let mut taken = self.used()?;
        taken.extend(self.registry.numbers());
        Ok(taken)
    }

    /// A number that no scope has, and no tag.
    pub(super) fn free_scope(&mut self) -> Result<Scope, Refusal> {
        free(&self.taken()?)
    }

    /// Forgets cgroups that are gone, and instances and runs nobody is in.
    pub(super) fn collect(&mut self) -> Result<(), Refusal> {
        let tags = self.enforcer.count_tags().map_err(|error| refused_by_kernel(&error))?;
        let (tagged, used): (HashSet<u64>, HashSet<Scope>) = tags.into_iter().unzip();
        self.registry.cgroups.retain(|id, _| tagged.contains(id));
        let mut unused = Vec::new();
        let mut ended = Vec::new();
        let mut leaving = Vec::new();
        for (name, state) in &mut self.registry.scopes {
            let is_used = |instance: &Instance| used.contains(&instance.scope);
            if state.leaving {
                if !state.instances.iter().any(is_used) {
                    leaving.push(name.clone());
                }
                continue;
            }
            if state.kind == ScopeKind::Run {
                // With a client it ends when that says so.
                let empty =
                    state.cgroup.as_ref().is_none_or(|cgroup| !cgroup.is_populated().unwrap_or(false));
                if state.orphan && empty {
                    ended.push(name.clone());
                }
                continue;
            }
            while let Some(position) = state.instances.iter().skip(1).position(|one| !is_used(one)) {
                unused.push((name.clone(), state.instances.remove(position + 1)));
            }
        }
        for (name, instance) in unused {
            let removed = self.remove_instance(&instance);
            if !matches!(removed, Ok(true))
                && let Some(state) = self.registry.scopes.get_mut(&name)
            {
                state.instances.push(Instance { compiled: None, ..instance });
            }
            removed?;
        }
        for name in ended {
            self.run_ended(&name)?;
        }
        for name in leaving {
            self.remove_scope(&name)?;
        }
        Ok(())
    }

    /// Takes away a scope. False: cgroups are in it still. What was tagged by hand stays held to it as it was; for all else it
    /// allows nothing any more. It is taken away when they are gone.
    pub(super) fn remove_scope(&mut self, name: &str) -> Result<bool, Refusal> {
        let Some(state) = self.registry.scopes.get_mut(name) else { return Ok(true) };
        state.leaving = true;
        let numbers: BTreeSet<Scope> = state.instances.iter().map(|instance| instance.scope).collect();
        if state.kind == ScopeKind::Policy && self.has_by_hand(&numbers)? {
            return Ok(false);
        }
        for scope in &numbers {
            self.enforcer.let_go(*scope).map_err(|error| refused_by_kernel(&error))?;
        }
        let is_used = !self.used()?.is_disjoint(&numbers);
        let Some(state) = self.registry.scopes.get_mut(name) else { return Ok(true) };
        if is_used {
            // So that it is put in place again as a whole if its file comes back.
            state.policy = None;
            for instance in &mut state.instances {
                instance.compiled = None;
            }
            return Ok(false);
        }
        while let Some(instance) = self.registry.scopes.get_mut(name).and_then(|state| state.instances.pop())
        {
            let removed = self.remove_instance(&instance);
            if !matches!(removed, Ok(true))
                && let Some(state) = self.registry.scopes.get_mut(name)
            {
                state.instances.push(instance);
                return removed;
            }
        }
        self.registry.scopes.remove(name);
        self.end_shadow(name, "ended with its scope")?;
        Ok(true)
    }

    fn has_by_hand(&mut self, numbers: &BTreeSet<Scope>) -> Result<bool, Refusal> {
        let tags = self.enforcer.tags().map_err(|error| refused_by_kernel(&error))?;
        for (id, _) in tags.into_iter().filter(|(_, scope)| numbers.contains(scope)) {
            if self.enforcer.is_by_hand(id).map_err(|error| refused_by_kernel(&error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes away an instance. False: a tag has its number still, and it allows nothing now.
    fn remove_instance(&mut self, instance: &Instance) -> Result<bool, Refusal> {
        let kernel = |error| refused_by_kernel(&error);
        self.take_losses_of(instance.scope, instance.slot);
        self.enforcer.let_go(instance.scope).map_err(kernel)?;
        self.gates.forget(&mut self.enforcer, instance.scope).map_err(refused_by_gate)?;
        if self.used()?.contains(&instance.scope) {
            return Ok(false);
        }
        if instance.slot.0 != 0 {
            self.enforcer.remove(instance.slot).map_err(kernel)?;
            self.retired.push(instance.slot);
        }
        self.enforcer.label(instance.scope, None).map_err(kernel)?;
        self.recorder.scope_ended(instance.scope);
        self.keep_no_more(instance.scope);
        // There is one for containers only.
        let _ = std::fs::remove_file(self.saved_view(instance.scope));
        Ok(true)
    }
}

/// The lowest number that is not taken.
pub(super) fn free(taken: &BTreeSet<Scope>) -> Result<Scope, Refusal> {
    (1..UNDECIDED_SCOPE).map(Scope).find(|scope| !taken.contains(scope)).ok_or_else(|| {
        let message = format!("all {UNDECIDED_SCOPE} scopes are taken: containers and runs have one each");
        refusal(RefusalKind::Failed, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_gone_when_two_walks_have_missed_it() {
        let mut missing = Missing::default();
        let seen = HashSet::from([1, 2]);
        assert!(missing.gone([1, 3].into_iter(), &seen).is_empty(), "it may be just being made");
        assert_eq!(missing.gone([1, 3, 4].into_iter(), &seen), [3]);
        assert!(missing.gone([4].into_iter(), &HashSet::from([4])).is_empty(), "it was being made");
        assert!(missing.gone([4].into_iter(), &seen).is_empty());
    }

    #[test]
    fn numbers_are_given_once() {
        let taken = BTreeSet::from([Scope(1), Scope(3)]);
        assert_eq!(free(&taken).unwrap(), Scope(2));
        let all: BTreeSet<Scope> = (1..UNDECIDED_SCOPE).map(Scope).collect();
        assert!(free(&all).is_err());
    }
}
