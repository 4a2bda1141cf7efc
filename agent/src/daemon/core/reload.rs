//! Policies put in place of others: everything is compiled, checked and in the kernel before the first scope is switched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use stockade_common::{limits::UNDECIDED_SCOPE, tag::label_kind};

use super::{
    Core,
    apart::Budget,
    ask::NotCompiled,
    collect::free,
    names::Switched,
    plan::{numbers, same_rules},
    refusal, refused_by_kernel,
    registry::{Instance, ScopeState},
};
use crate::{
    audit::json::Context,
    daemon::{
        command::{Refusal, RefusalKind, Reloaded, ScopeKind},
        policies::{Compiled, View},
    },
    kernel::{Entry, Scope, ScopeLabel, Slot},
    policy::{
        host::{self, CgroupRule},
        image::MapImage,
    },
    scope::{
        host::{HostPolicies, HostPolicy, load, spare},
        matcher::Matcher,
    },
};

/// What a reload waits for filesystems that do not answer, in all.
const WAITING: Duration = Duration::from_secs(8);

/// What a reload came to.
#[derive(Debug)]
pub(super) struct Applied(Reloaded);

impl Applied {
    /// For who asked.
    pub(super) fn report(self) -> Reloaded {
        self.0
    }
}

/// An instance with what takes its place.
struct Replacement {
    name: String,
    scope: Scope,
    /// `None`: new.
    before: Option<Slot>,
    slot: Slot,
    view: View,
    image: Arc<MapImage>,
    context: Arc<Context>,
    flags: u32,
}

impl Core {
    /// Reads the policies again, and puts them in place if all of them are right.
    pub(super) fn reload(&mut self) -> Result<Applied, Refusal> {
        let invalid = |error: &dyn std::fmt::Display| refusal(RefusalKind::Invalid, error);
        let loaded = load(&self.directory).map_err(|error| invalid(&error));
        let applied = loaded.and_then(|policies| self.put_in_force(policies));
        match &applied {
            Ok(Applied(reloaded)) => {
                self.reloads.applied += 1;
                self.keep_in_force();
                let message = format!(
                    "changed {:?}, added {:?}, removed {:?}",
                    reloaded.changed, reloaded.added, reloaded.removed
                );
                self.tell_of_itself("reloaded", &message);
            }
            Err(refusal) => {
                self.reloads.refused += 1;
                self.are_broken(refusal);
                let message = refusal.message.clone();
                self.tell_of_itself("reload_refused", &message);
            }
        }
        applied
    }

    /// Puts policies in place of what is active, all of them or none.
    pub(super) fn put_in_force(&mut self, policies: HostPolicies) -> Result<Applied, Refusal> {
        let invalid = |error: &dyn std::fmt::Display| refusal(RefusalKind::Invalid, error);
        spare(&policies, &self.own).map_err(|error| invalid(&error))?;
        let host = View::of(1).map_err(|error| {
            refusal(RefusalKind::Failed, format!("reading the mounts of process 1: {error}"))
        })?;
        let mut reloaded = Reloaded { changed: vec![], added: vec![], removed: vec![], unchanged: vec![] };
        let mut replacements = Vec::new();
        let prepared = self.prepare(&policies, &host, &mut reloaded, &mut replacements);
        let matcher = Arc::new(Matcher::new(&policies));
        let prepared = prepared.and_then(|()| {
            let new = replacements.iter().map(|new| (new.name.as_str(), new.scope));
            let numbers = numbers(&policies, &self.registry.scopes, new);
            self.host_table(&matcher, &policies, &numbers, &host)
        });
        let table = match prepared {
            Ok(table) => table,
            Err(refusal) => {
                // Nothing is held to them yet.
                for replacement in &replacements {
                    if let Err(error) = self.enforcer.remove(replacement.slot) {
                        eprintln!("stockade: {error}");
                    }
                }
                return Err(refusal);
            }
        };
        // Until all is switched nobody must take what is kept for what the kernel is held to.
        if let Err(error) = self.store.set_in_force(None) {
            eprintln!("stockade: {error}");
        }
        self.switch(policies, matcher, host, replacements, &table, &mut reloaded)?;
        Ok(Applied(reloaded))
    }

    /// Compiles and installs whatever is another than before.
    fn prepare(
        &mut self,
        policies: &HostPolicies,
        host: &View,
        reloaded: &mut Reloaded,
        replacements: &mut Vec<Replacement>,
    ) -> Result<(), Refusal> {
        let mut taken = self.taken()?;
        let tags = self.enforcer.tags().map_err(|error| refused_by_kernel(&error))?;
        let mut budget = Budget::new(WAITING);
        for HostPolicy { name, policy, .. } in &policies.policies {
            let known = self.registry.scopes.get(name).filter(|state| state.kind == ScopeKind::Policy);
            if known.is_none() && self.registry.scopes.contains_key(name) {
                return Err(refusal(RefusalKind::Conflict, format!("{name:?} is the name of a run")));
            }
            let same_rules =
                known.is_some_and(|state| state.policy.as_ref().is_some_and(|one| same_rules(one, policy)));
            let mut views: Vec<(Option<(Scope, Slot)>, View)> = Vec::new();
            match known {
                None => views.push((None, host.clone())),
                Some(state) => {
                    for (index, instance) in state.instances.iter().enumerate() {
                        let before = Some((instance.scope, instance.slot));
                        match &instance.compiled {
                            _ if index == 0 => {
                                let same = instance
                                    .compiled
                                    .as_ref()
                                    .is_some_and(|(view, _)| view.shows_the_same(host));
                                if !(same && same_rules) {
                                    views.push((before, host.clone()));
                                }
                            }
                            Some(_) if same_rules => {}
                            _ => match self.view_of_instance(&tags, instance) {
                                Some(view) => views.push((before, view)),
                                None => eprintln!(
                                    "stockade: a container in the scope of {name:?}: its mounts cannot be read any more; it \
                                     stays held to the policy as it was"
                                ),
                            },
                        }
                    }
                }
            }
            match (known.is_some(), same_rules) {
                (false, _) => reloaded.added.push(name.clone()),
                (true, false) => reloaded.changed.push(name.clone()),
                (true, true) => reloaded.unchanged.push(name.clone()),
            }
            // A mode that was set by hand ends with a reload.
            let flags = ScopeState::of_policy(policy).flags(self.degraded);
            for (before, view) in views {
                // Many of them take longer than the watchdog waits, and nothing hangs.
                super::report(crate::daemon::notify::watchdog());
                let Compiled { image, context, warnings } = match self.compile(
                    name,
                    policy,
                    &view,
                    &mut budget,
                ) {
                    Ok(compiled) => compiled,
                    Err(NotCompiled::Refused(refusal)) => return Err(refusal),
                    // It is the workload's own doing, or its server's, and must not keep others from a new policy.
                    Err(NotCompiled::NoAnswer(why)) if view.namespace != host.namespace => {
                        eprintln!(
                            "stockade: a container in the scope of {name:?} stays held to the policy as it was: {why}"
                        );
                        continue;
                    }
                    Err(NotCompiled::NoAnswer(why)) => return Err(refusal(RefusalKind::Failed, why)),
                };
                for warning in warnings {
                    eprintln!("stockade: warning: {warning}");
                }
                let scope = match before {
                    Some((scope, _)) => scope,
                    None => free(&taken)?,
                };
                taken.insert(scope);
                let slot = self.enforcer.install(&image).map_err(|error| refused_by_kernel(&error))?;
                replacements.push(Replacement {
                    name: name.clone(),
                    scope,
                    before: before.map(|(_, slot)| slot),
                    slot,
                    view,
                    image: Arc::new(image),
                    context: Arc::new(context),
                    flags,
                });
            }
        }
        Ok(())
    }

    /// What a container's first process saw when it was about to begin, whatever its workload has mounted since.
    fn view_of_instance(&self, tags: &[(u64, Scope)], instance: &Instance) -> Option<View> {
        let view = match &instance.compiled {
            Some((view, _)) => view.clone(),
            None => View::load(&self.saved_view(instance.scope)).ok()?,
        };
        self.seen_by_somebody(tags, instance.scope, &view)
    }

    /// A view through a process that is there, so that links can be read: the one before may have ended, and another process
    /// have its id.
    pub(super) fn seen_by_somebody(&self, tags: &[(u64, Scope)], scope: Scope, view: &View) -> Option<View> {
        if view.is_there() {
            return Some(view.clone());
        }
        let nodes = self.tree.walk(std::path::Path::new("/")).ok()?.nodes;
        let nodes = nodes.iter().filter(|node| tags.contains(&(node.id, scope)));
        let mut pids = nodes.flat_map(|node| self.tree.processes(&node.path).unwrap_or_default());
        pids.find_map(|pid| view.through(pid))
    }

    fn host_table(
        &mut self,
        matcher: &Matcher,
        policies: &HostPolicies,
        numbers: &BTreeMap<String, Scope>,
        host: &View,
    ) -> Result<MapImage, Refusal> {
        let rules: Vec<CgroupRule> = matcher
            .kernel_patterns()
            .into_iter()
            .filter_map(|pattern| {
                let name = &policies.policies.get(pattern.policy)?.name;
                let scope = if pattern.needs_container { UNDECIDED_SCOPE } else { numbers.get(name)?.0 };
                Some(CgroupRule { pattern: pattern.glob, scope, exclude: pattern.exclude })
            })
            .collect();
        let image = host::compile(&rules, &host.mounts);
        image.map_err(|error| {
            refusal(RefusalKind::Invalid, format!("the scopes of all policies together: {error}"))
        })
    }

    /// From here on nothing is compiled any more: words are written, and what is not used any longer is taken away.
    fn switch(
        &mut self,
        policies: HostPolicies,
        matcher: Arc<Matcher>,
        host: View,
        replacements: Vec<Replacement>,
        table: &MapImage,
        reloaded: &mut Reloaded,
    ) -> Result<(), Refusal> {
        let kernel = |error| refused_by_kernel(&error);
        let mut entries = Vec::new();
        let mut set_by_hand = Vec::new();
        let replaced: BTreeSet<String> = replacements.iter().map(|one| one.name.clone()).collect();
        for HostPolicy { name, file, policy } in &policies.policies {
            let fresh = ScopeState::of_policy(policy);
            let entry = fresh.entry;
            let state = self.registry.scopes.entry(name.clone()).or_insert(fresh);
            if state.mode.take().is_some() {
                // What is not replaced is as it was set by hand.
                set_by_hand.push(name.clone());
            }
            if state.entry != entry {
                entries.push((name.clone(), entry));
            }
            (state.policy, state.source, state.entry) = (Some(policy.clone()), Some(file.clone()), entry);
            state.leaving = false;
        }
        let (mut free, mut opened) = (Vec::new(), Vec::new());
        for Replacement { name, scope, before, slot, view, image, context, flags } in replacements {
            self.recorder.know(slot, context.clone(), None);
            if before.is_none() {
                self.enforcer.clear_counters(scope).map_err(kernel)?;
                let label = ScopeLabel { kind: label_kind::POLICY, uid: 0, name: name.clone() };
                self.enforcer.label(scope, Some(&label)).map_err(kernel)?;
            }
            let policy = policies.named(&name).map(|policy| policy.policy.clone());
            let of_before = self.of_before(scope);
            let granted =
                self.hold((scope, slot, flags), policy.as_ref().map(|policy| (policy, policy.mode)))?;
            free.extend(before);
            opened.push(Switched {
                name: name.clone(),
                scope,
                pid: view.pid(),
                image: image.clone(),
                granted,
                before: of_before,
            });
            let instance = Instance { scope, slot, compiled: Some((view, image)), context };
            if let Some(state) = self.registry.scopes.get_mut(&name) {
                match state.instances.iter_mut().find(|instance| instance.scope == scope) {
                    Some(known) => *known = instance,
                    None => state.instances.push(instance),
                }
            }
        }
        for switched in &opened {
            self.after_switch(switched);
        }
        for name in set_by_hand {
            self.hold_again(&name)?;
        }
        // The policy that it was compared with is compiled for what was there before.
        for name in replaced {
            self.end_shadow(&name, "ended with a reload")?;
        }
        self.enforcer.hold_host(table).map_err(kernel)?;
        (self.policies, self.matcher, self.host) = (policies, matcher, host);
        self.policies_known = true;
        // The walk takes the cgroups of scopes that are gone to where they belong now.
        let gone: Vec<String> = self
            .registry
            .scopes
            .iter()
            .filter(|(name, state)| state.kind == ScopeKind::Policy && self.policies.named(name).is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for name in &gone {
            if let Some(state) = self.registry.scopes.get_mut(name) {
                state.leaving = true;
            }
        }
        self.sort(None)?;
        for (name, entry) in entries {
            self.set_entry(&name, entry)?;
        }
        for name in gone {
            if self.remove_scope(&name)? {
                reloaded.removed.push(name);
            } else {
                eprintln!(
                    "stockade: {name:?} is kept until the last cgroup that has it is untagged, or gone"
                );
            }
        }
        for slot in free {
            if slot.0 != 0 {
                self.enforcer.remove(slot).map_err(kernel)?;
                self.retired.push(slot);
            }
        }
        Ok(())
    }

    /// Says of all that is in a scope when those who enter are policed.
    fn set_entry(&mut self, name: &str, entry: Entry) -> Result<(), Refusal> {
        let scopes: Vec<Scope> = self.state(name)?.instances.iter().map(|instance| instance.scope).collect();
        let tags = self.enforcer.tags().map_err(|error| refused_by_kernel(&error))?;
        for (id, scope) in tags.into_iter().filter(|(_, scope)| scopes.contains(scope)) {
            let by_hand = self.is_by_hand(id)?;
            self.put(id, scope, entry, by_hand)?;
        }
        Ok(())
    }
}
