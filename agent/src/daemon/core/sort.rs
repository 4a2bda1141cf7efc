//! Bringing every cgroup of the tree to where it belongs.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use stockade_common::{counter::Counter, limits::UNDECIDED_SCOPE};

use super::{
    Core,
    cgroups::{UNDECIDED, in_tree},
    collect::Missing,
    place::{Decision, Facts, Known, Owner, decide},
    refused_by_kernel,
    registry::How,
};
use crate::{
    daemon::command::{Refusal, ScopeKind},
    kernel::Scope,
    scope::{
        container,
        tree::Node,
        walk::{Problems, Walked},
    },
};

/// What a walk may take while the core has other things to do.
const BUDGET: Duration = Duration::from_secs(1);
/// How long a cgroup is left alone that could not be brought to where it belongs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Kernel id of the root of the hierarchy.
const ROOT: u64 = 1;

/// What is kept between two walks.
#[derive(Debug, Default)]
pub(super) struct Sorting {
    /// What was said of the last one.
    problems: Problems,
    /// Cgroups that could not be placed, and when.
    failed: HashMap<u64, Instant>,
    missing: Missing,
}

/// A cgroup above the one at hand.
struct Above {
    node: Node,
    before: Owner,
    now: Owner,
}

/// Whose each scope is.
pub(super) type Owners = HashMap<Scope, Owner>;

pub(super) fn owner(owners: &Owners, tagged: Option<Scope>) -> Owner {
    match tagged {
        None => Owner::Nobody,
        Some(Scope(UNDECIDED_SCOPE)) => Owner::Undecided,
        Some(scope) => owners.get(&scope).cloned().unwrap_or(Owner::Unknown(scope.0)),
    }
}

/// Whether a cgroup is the daemon's own, above that, or below it, where runs are. Where there is only the root for the
/// daemon it is the only one.
pub(super) fn is_own(own: &Path, path: &Path) -> bool {
    own.starts_with(path) || (own.parent().is_some() && path.starts_with(own))
}

impl Core {
    /// Whose each scope is.
    pub(super) fn owners(&self) -> Owners {
        let mut owners = HashMap::new();
        for (name, state) in &self.registry.scopes {
            let name: Arc<str> = Arc::from(name.as_str());
            let owner = match state.kind {
                ScopeKind::Run => Owner::Run(name),
                ScopeKind::Policy => Owner::Policy(name),
            };
            owners.extend(state.instances.iter().map(|instance| (instance.scope, owner.clone())));
        }
        owners
    }

    /// Brings every cgroup of the tree to where it belongs, as far as that can be done in short time.
    pub(super) fn walk(&mut self) -> Result<(), Refusal> {
        self.sort(Some(Instant::now() + BUDGET))
    }

    /// The same; without an end all of it is done.
    pub(super) fn sort(&mut self, end: Option<Instant>) -> Result<(), Refusal> {
        if end.is_none() {
            // After a reload what failed before is tried again.
            self.sorting.failed.clear();
        }
        let lost_before = self.enforcer.lost_tags().map_err(|error| refused_by_kernel(&error))?;
        let Walked { nodes, problems } =
            self.tree.walk_until(Path::new("/"), end).map_err(|error| in_tree(&error))?;
        // After the walk: whatever it has seen has its tag by now.
        let tags = self.enforcer.tags().map_err(|error| refused_by_kernel(&error))?;
        let tags: HashMap<u64, Scope> = tags.into_iter().collect();
        let mut owners = self.owners();
        let mut lost = None;
        let mut above: Vec<Above> = Vec::new();
        let mut untagged_below = false;
        for node in &nodes {
            if end.is_some_and(|end| Instant::now() >= end) {
                eprintln!(
                    "stockade: {} and what comes behind it is sorted by a later walk",
                    node.path.display()
                );
                untagged_below = true;
                break;
            }
            while above.last().is_some_and(|above| Some(above.node.path.as_path()) != node.path.parent()) {
                above.pop();
            }
            let nobody = Owner::Nobody;
            let (above_before, above_now) =
                above.last().map_or((&nobody, &nobody), |above| (&above.before, &above.now));
            let mut tagged = tags.get(&node.id).copied();
            if tagged.is_none() && *above_before != Owner::Nobody {
                // Iterating over a table that changes may miss some; here that would matter.
                tagged = self.scope_of(node.id)?;
                if tagged.is_none() && lost.is_none() {
                    lost = Some(self.has_lost_tags(&owners)?);
                }
            }
            let before = owner(&owners, tagged);
            let facts = Facts {
                above_before,
                above: above_now,
                own: &before,
                by_hand: false,
                lost: lost.unwrap_or(false),
                is_container: false,
                policy: Known::Unread,
            };
            let above_id = above.last().map(|above| above.node.id);
            let is_new = before != *above_before;
            match self.place(node, facts, is_new, above_id) {
                Ok(()) => drop(self.sorting.failed.remove(&node.id)),
                // One that is gone, or that the kernel refuses, must not keep the others from being tagged.
                Err(refusal) => {
                    if self.tree.id(&node.path).is_ok_and(|id| id == node.id) {
                        eprintln!("stockade: {}: {refusal}", node.path.display());
                        self.sorting.failed.insert(node.id, Instant::now());
                    }
                }
            }
            // An instance may have been made.
            let now = self.scope_of(node.id)?;
            untagged_below |= now.is_none() && *above_now != Owner::Nobody;
            if now.is_some_and(|now| now.0 != UNDECIDED_SCOPE && !owners.contains_key(&now)) {
                owners = self.owners();
            }
            above.push(Above { node: node.clone(), before, now: owner(&owners, now) });
        }
        self.sorting.failed.retain(|_, since| since.elapsed() < PATIENCE);
        if problems != self.sorting.problems {
            for line in problems.lines() {
                eprintln!("stockade: this part of the tree of cgroups could not be looked at: {line}");
            }
            self.sorting.problems = problems.clone();
        }
        // What is hidden from us, by a mount or a namespace, is not gone.
        let is_whole = problems.is_empty() && nodes.first().is_some_and(|root| root.id == ROOT);
        if is_whole {
            let seen: HashSet<u64> = nodes.iter().map(|node| node.id).collect();
            for id in self.sorting.missing.gone(tags.into_keys(), &seen) {
                self.enforcer.untag(id).map_err(|error| refused_by_kernel(&error))?;
                self.registry.cgroups.remove(&id);
            }
            // Nothing is held only because of what is above it: the programs need not ask that any more.
            let kernel = |error| refused_by_kernel(&error);
            if !untagged_below && self.sorting.failed.is_empty() && lost_before.any() {
                self.enforcer.mend_lost_tags(lost_before).map_err(kernel)?;
            }
        }
        Ok(())
    }

    /// Whether the kernel programs had tags they could not note.
    fn has_lost_tags(&mut self, owners: &Owners) -> Result<bool, Refusal> {
        for scope in owners.keys().copied().chain([Scope(UNDECIDED_SCOPE)]) {
            let counters = self.enforcer.counters(scope).map_err(|error| refused_by_kernel(&error))?;
            if counters[Counter::InheritFailed as usize] > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn known(&self, owner: &Owner) -> Known {
        let Owner::Policy(name) = owner else { return Known::Unread };
        let is_leaving = self.registry.scopes.get(&**name).is_some_and(|state| state.leaving);
        match self.policies.named(name) {
            Some(policy) if policy.policy.scope.is_some() => Known::Scoped,
            Some(_) => Known::Unscoped,
            None if is_leaving => Known::Leaving,
            None => Known::Unread,
        }
    }

    fn place(
        &mut self,
        node: &Node,
        facts: Facts<'_>,
        is_new: bool,
        above: Option<u64>,
    ) -> Result<(), Refusal> {
        if node.path.parent().is_none()
            || is_own(&self.own, &node.path)
            || self.sorting.failed.get(&node.id).is_some_and(|since| since.elapsed() < PATIENCE)
        {
            return Ok(());
        }
        let own = facts.own;
        let is_tagged = *own != Owner::Nobody;
        let by_hand =
            is_tagged && self.enforcer.is_by_hand(node.id).map_err(|error| refused_by_kernel(&error))?;
        let policy = self.known(own);
        let is_container = *own == Owner::Undecided && container::identify(&node.path).is_some();
        let facts = Facts { by_hand, is_container, policy, ..facts };
        let mut warnings = Vec::new();
        let decision = decide(&facts, || {
            let belongs = self.belongs(&node.path);
            warnings = belongs.warnings;
            let found = self.policies.policies.get(belongs.to?.policy)?;
            Some(Arc::from(found.name.as_str()))
        });
        match (decision, own) {
            (Decision::Leave, Owner::Policy(name))
                if is_new && !self.registry.cgroups.contains_key(&node.id) =>
            {
                let how = if by_hand { How::ByHand } else { How::Adopted };
                self.note(node, name, how, Vec::new());
                Ok(())
            }
            (Decision::Leave, _) => Ok(()),
            (Decision::Follow, _) => self.follow(node, above),
            (Decision::Tag(name), _) => self.tag_below(node, &name, How::Running, warnings),
            (Decision::Untag, Owner::Policy(name)) => self.untag_below(node, name).map(drop),
            (Decision::Untag, _) => self.untag_below(node, UNDECIDED).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_own_cgroup_is_left_alone() {
        let own = |own: &str, path: &str| is_own(Path::new(own), Path::new(path));
        let service = "/stockade.slice/stockade.service";
        for path in ["/", "/stockade.slice", service, "/stockade.slice/stockade.service/stockade-run-1"] {
            assert!(own(service, path), "{path}");
        }
        assert!(!own(service, "/stockade.slice/other.service") && !own(service, "/ci.slice"));
        // Without a cgroup of its own not everything is the daemon's.
        assert!(own("/", "/") && !own("/", "/ci.slice"));
    }
}
