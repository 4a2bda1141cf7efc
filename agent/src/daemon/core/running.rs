//! Tagging what already runs, and what comes of looking at it.

use std::{
    collections::HashSet,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use stockade_common::tag::label_kind;

use super::{
    Core,
    cgroups::Wanted,
    look::{Job, Seen, Step, not_looked},
    refused_by_kernel,
    registry::{How, Instance},
};
use crate::{
    audit::json::Context,
    daemon::command::Refusal,
    kernel::{Scope, ScopeLabel},
    scope::tree::Node,
};

/// What somebody waits for what is held in a cgroup that was tagged by hand.
const WAIT: Duration = Duration::from_secs(6);
/// What listing the processes of a cgroup may take, while the core has other things to do.
const LISTING: Duration = Duration::from_millis(500);
/// Between two looks whether it is known.
const TURN: Duration = Duration::from_millis(5);

impl Core {
    /// Tags a cgroup for a policy, whatever runs in it: at once, and what is to be said of that is found out afterwards.
    pub(super) fn tag_below(
        &mut self,
        node: &Node,
        name: &str,
        how: How,
        mut window: Vec<String>,
    ) -> Result<(), Refusal> {
        let entry = self.state(name)?.entry;
        let scope = self.first(name)?;
        let wanted = Wanted { node, name, scope, entry, how, window: Vec::new() };
        window.extend(self.put_below(&wanted)?);
        let running = match self.tree.all_processes(&node.path, Some(Instant::now() + LISTING)) {
            Ok((pids, problems)) => {
                let has_more = !problems.is_empty();
                window.extend(problems.lines().map(not_looked));
                let starters = self.enforcer.starters().map_err(|error| refused_by_kernel(&error))?;
                let starters: HashSet<u32> = starters.into_iter().map(|(pid, _)| pid).collect();
                // What was not listed may be running.
                has_more || pids.iter().any(|pid| !starters.contains(pid))
            }
            Err(error) => {
                window.push(not_looked(error));
                true
            }
        };
        if !running {
            self.note(node, name, how, window);
            return Ok(());
        }
        if how != How::ByHand {
            window.push("its processes ran before it was tagged".to_owned());
        }
        // An event tells of it when all is known.
        self.remember(node, how, window.clone());
        let job = self.job(node.clone(), name, how, window.clone());
        if let Err(why) = self.looks.begin(&self.tree, job) {
            window.push(not_looked(why));
            self.note(node, name, how, window);
        }
        Ok(())
    }

    fn job(&self, node: Node, name: &str, how: How, window: Vec<String>) -> Job {
        let state = self.registry.scopes.get(name);
        let instances = state.map(|state| state.instances.as_slice()).unwrap_or_default();
        Job {
            node,
            name: name.to_owned(),
            how,
            window,
            policy: state.and_then(|state| state.policy.clone()),
            known: instances.iter().filter_map(|instance| instance.compiled.clone()).collect(),
            boot: self.boot.clone(),
        }
    }

    /// Takes up what was found.
    pub(super) fn finish_looks(&mut self) {
        for step in self.looks.steps(&self.tree) {
            match step {
                Step::View(job, seen, context) => {
                    if let Err(refusal) = self.refine(&job, seen, context) {
                        let path = job.node.path.display();
                        eprintln!(
                            "stockade: {path}: it stays held to the policy for the host's mounts: {refusal}"
                        );
                    }
                }
                Step::Done(job, lines) => self.looked(job, lines),
            }
        }
    }

    fn looked(&mut self, job: Job, lines: Vec<String>) {
        let Job { node, name, how, mut window, policy, .. } = job;
        // It may be another's by now, or gone.
        if !self.is_in(node.id, &name) {
            return;
        }
        let now = self.registry.scopes.get(&name).and_then(|state| state.policy.as_ref());
        if now.is_some() && now != policy.as_ref() {
            let again = self.job(node.clone(), &name, how, window.clone());
            match self.looks.begin(&self.tree, again) {
                Ok(()) => return,
                Err(why) => window.push(not_looked(why)),
            }
        }
        window.extend(lines);
        self.note(&node, &name, how, window);
    }

    fn is_in(&mut self, id: u64, name: &str) -> bool {
        let scope = self.enforcer.scope_of(id).ok().flatten();
        scope.and_then(|scope| self.registry.find(scope)).is_some_and(|(owner, _)| owner == name)
    }

    /// Takes a cgroup into the instance for what its processes see.
    fn refine(&mut self, job: &Job, seen: Seen, context: Option<Box<Context>>) -> Result<(), Refusal> {
        let Job { node, name, how, policy, .. } = job;
        if !self.is_in(node.id, name) {
            return Ok(());
        }
        let state = self.state(name)?;
        if state.policy != *policy {
            // What was compiled is of before a reload: it is looked at again.
            return Ok(());
        }
        let entry = state.entry;
        let known = state.instances.iter().find(|instance| {
            instance.compiled.as_ref().is_some_and(|(known, _)| known.namespace == seen.0.namespace)
        });
        let scope = match (known.map(|known| known.scope), context) {
            (Some(scope), _) => scope,
            (None, Some(context)) => self.install(name, seen, *context)?,
            // What it was known for has been taken away meanwhile.
            (None, None) => return Ok(()),
        };
        let before = self.enforcer.scope_of(node.id).map_err(|error| refused_by_kernel(&error))?;
        if before == Some(scope) {
            return Ok(());
        }
        let wanted = Wanted { node, name, scope, entry, how: *how, window: Vec::new() };
        self.put_below(&wanted).map(drop)
    }

    /// Makes an instance of what was compiled.
    pub(super) fn install(
        &mut self,
        name: &str,
        (view, image): Seen,
        context: Context,
    ) -> Result<Scope, Refusal> {
        let kernel = |error| refused_by_kernel(&error);
        let state = self.state(name)?;
        let (flags, uid) = (state.flags(self.degraded), state.uid);
        let scope = self.free_scope()?;
        let slot = self.enforcer.install(&image).map_err(kernel)?;
        self.enforcer.clear_counters(scope).map_err(kernel)?;
        let label = ScopeLabel { kind: label_kind::INSTANCE, uid: 0, name: name.to_owned() };
        self.enforcer.label(scope, Some(&label)).map_err(kernel)?;
        if let Err(error) = view.save(&self.saved_view(scope)) {
            eprintln!("stockade: a later daemon will not know the mounts of {name:?}: {error}");
        }
        let context = Arc::new(context);
        self.recorder.know(slot, context.clone(), uid);
        self.shadow_instance(name, scope, &view);
        let state = self.state(name)?;
        let (policy, mode) = (state.policy.clone(), state.effective_mode());
        self.hold((scope, slot, flags), policy.as_ref().map(|policy| (policy, mode)))?;
        let pid = view.pid();
        if let Some(state) = self.registry.scopes.get_mut(name) {
            state.instances.push(Instance { scope, slot, compiled: Some((view, image)), context });
        }
        self.open_gate(scope, pid);
        Ok(scope)
    }

    /// Waits for all looks under way; not without an end.
    pub(super) fn finish_all_looks(&mut self) {
        self.looks.forget_waiting();
        let end = Instant::now() + WAIT;
        while !self.looks.is_idle() && Instant::now() < end {
            thread::sleep(TURN);
            self.finish_looks();
        }
    }

    /// Waits until it is known what is held in a cgroup; not without an end.
    pub(super) fn wait_for_look(&mut self, id: u64) {
        let end = Instant::now() + WAIT;
        while self.looks.is_looked_at(id) && Instant::now() < end {
            thread::sleep(TURN);
            self.finish_looks();
        }
    }
}
