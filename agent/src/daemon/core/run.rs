//! `stockade run` through the daemon: a cgroup with a policy of its own, for as long as the client says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use stockade_common::tag::label_kind;

use super::{
    Core,
    apart::{Apart, Pending},
    cgroups::Wanted,
    kept::Run,
    names::refused_by_gate,
    refusal, refused_by_kernel,
    registry::{How, Instance, ScopeState},
};
use crate::{
    audit::name::escape,
    daemon::{
        command::{Refusal, RefusalKind, Reply, RunEnded, RunRequest, RunStarted, ScopeKind},
        policies::{Compiled, View},
    },
    kernel::{Entry, ScopeLabel},
    policy::{
        check::{self, Overlay},
        checked::CheckedPolicy,
        from,
        parse::{Document, Source},
    },
    scope::{cgroup::OwnCgroup, tree::Node},
};

/// What finding out what a run sees may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Threads that do it at one time.
const THREADS: usize = 16;

/// What a run sees, and its policy for that.
type Looked = Result<Box<(View, Compiled)>, Refusal>;

/// Runs that are about to start.
#[derive(Debug)]
pub(super) struct RunStarts {
    apart: Apart,
    under_way: Vec<RunStart>,
}

#[derive(Debug)]
struct RunStart {
    request: RunRequest,
    reply: Reply<RunStarted>,
    name: String,
    policy: CheckedPolicy,
    looking: Pending<Looked>,
}

impl Default for RunStarts {
    fn default() -> Self {
        Self { apart: Apart::new(THREADS), under_way: Vec::new() }
    }
}

impl RunStarts {
    /// Returns when something was found.
    pub(super) async fn woken(&mut self) {
        self.apart.woken().await;
    }
}

/// The policy of a run.
pub(super) fn checked(run: &Run) -> Result<CheckedPolicy, Refusal> {
    let invalid = |error: &dyn std::fmt::Display| refusal(RefusalKind::Invalid, error);
    let source = Source { name: "policy of the run".into(), text: run.policy.clone() };
    let document = Document::new(source).map_err(|error| invalid(&error))?;
    let mut checked = check::check(&[document], &Overlay::default()).map_err(|error| invalid(&error))?;
    // As the client says, which has written the rules as well.
    for rule in &mut checked.rules {
        let source = run.sources.get(&rule.text).filter(|source| source.starts_with(from::PREFIX));
        if let Some(source) = source {
            rule.source = escape(source.as_bytes());
        }
    }
    Ok(checked)
}

impl Core {
    /// Begins a run: what it sees is found out by a thread that can be given up.
    pub(super) fn begin_run(&mut self, request: RunRequest, reply: Reply<RunStarted>) {
        match self.look_at_run(&request) {
            Ok((name, policy, looking)) => {
                self.run_starts.under_way.push(RunStart { request, reply, name, policy, looking });
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    fn look_at_run(
        &mut self,
        request: &RunRequest,
    ) -> Result<(String, CheckedPolicy, Pending<Looked>), Refusal> {
        let kept = Run { policy: request.policy.clone(), sources: request.sources.clone() };
        let checked = checked(&kept)?;
        self.runs += 1;
        let pid = request.pid;
        let name = format!("run-{}-{pid}", self.runs);
        let (named, policy, boot) = (name.clone(), checked.clone(), self.boot.clone());
        let looking = self.run_starts.apart.begin(Instant::now() + LIMIT, move || {
            let view = View::of(pid).map_err(|error| {
                refusal(RefusalKind::Failed, format!("reading the mounts of process {pid}: {error}"))
            })?;
            let compiled = view.compile(&named, &policy, &boot);
            let compiled = compiled.map_err(|error| refusal(RefusalKind::Invalid, error))?;
            Ok(Box::new((view, compiled)))
        });
        let looking = looking.map_err(|why| refusal(RefusalKind::Failed, why))?;
        Ok((name, checked, looking))
    }

    /// Starts the runs of which it is known what they see.
    pub(super) fn finish_runs(&mut self) {
        for start in std::mem::take(&mut self.run_starts.under_way) {
            let Some(looked) = start.looking.poll() else {
                self.run_starts.under_way.push(start);
                continue;
            };
            let RunStart { request, reply, name, policy, .. } = start;
            let looked = looked.unwrap_or_else(|why| {
                let message = format!("the mounts of process {}: {why}", request.pid);
                Err(refusal(RefusalKind::Failed, message))
            });
            // Who asked may be gone: then there is nobody to end it.
            if reply.is_closed() {
                continue;
            }
            let started = looked.and_then(|looked| self.run(&request, name.clone(), policy, *looked));
            let is_started = started.is_ok();
            if reply.send(started).is_err()
                && is_started
                && let Err(refusal) = self.run_ended(&name)
            {
                eprintln!("stockade: {name}: {refusal}");
            }
        }
    }

    fn run(
        &mut self,
        request: &RunRequest,
        name: String,
        checked: CheckedPolicy,
        (view, compiled): (View, Compiled),
    ) -> Result<RunStarted, Refusal> {
        let RunRequest { policy, pid, uid, client: _, audit_all, sources } = request;
        let failed = |error: &dyn std::fmt::Display| refusal(RefusalKind::Failed, error);
        let kernel = |error| refused_by_kernel(&error);
        let Compiled { image, context, .. } = compiled;
        let scope = self.free_scope()?;
        let cgroup = OwnCgroup::create(&format!("stockade-{name}")).map_err(|error| failed(&error))?;
        let slot = self.enforcer.install(&image).map_err(kernel)?;
        let context = Arc::new(context);
        let state = ScopeState {
            policy: Some(checked),
            uid: Some(*uid),
            audit_all: *audit_all,
            instances: vec![Instance {
                scope,
                slot,
                compiled: Some((view, Arc::new(image))),
                context: context.clone(),
            }],
            ..ScopeState::new(ScopeKind::Run, Entry::AtOnce)
        };
        let flags = state.flags(self.degraded);
        self.registry.scopes.insert(name.clone(), state);
        let started = self.begin(&name, &cgroup, flags, *pid, *uid, &context);
        match started {
            Ok(path) => {
                if let Some(state) = self.registry.scopes.get_mut(&name) {
                    state.cgroup = Some(cgroup);
                }
                self.keep_run(scope, &name, &Run { policy: policy.clone(), sources: sources.clone() });
                let (guarantees, degraded) = (self.guarantees.clone(), self.degraded);
                Ok(RunStarted { scope: name, cgroup: path, guarantees, degraded })
            }
            Err(refusal) => {
                drop(cgroup);
                self.remove_scope(&name)?;
                Err(refusal)
            }
        }
    }

    fn begin(
        &mut self,
        name: &str,
        cgroup: &OwnCgroup,
        flags: u32,
        pid: u32,
        uid: u32,
        context: &Arc<crate::audit::json::Context>,
    ) -> Result<std::path::PathBuf, Refusal> {
        let failed = |error: &dyn std::fmt::Display| refusal(RefusalKind::Failed, error);
        let kernel = |error| refused_by_kernel(&error);
        let scope = self.first(name)?;
        let slot = self.state(name)?.instances.first().map(|instance| instance.slot);
        let slot = slot.ok_or_else(|| failed(&"a run without tables"))?;
        self.enforcer.clear_counters(scope).map_err(kernel)?;
        let label = ScopeLabel { kind: label_kind::RUN, uid, name: name.to_owned() };
        self.enforcer.label(scope, Some(&label)).map_err(kernel)?;
        self.recorder.know(slot, context.clone(), Some(uid));
        let policy = self.state(name)?.policy.clone();
        self.hold((scope, slot, flags), policy.as_ref().map(|policy| (policy, policy.mode)))?;
        if policy.as_ref().is_some_and(CheckedPolicy::uses_gate) {
            self.gates.open(&mut self.enforcer, scope, Some(pid)).map_err(refused_by_gate)?;
        }
        let path = cgroup.path().strip_prefix(self.tree.mount()).map_err(|error| failed(&error))?;
        let path = std::path::Path::new("/").join(path);
        let node = Node { path: path.clone(), id: cgroup.id().map_err(|error| failed(&error))? };
        let wanted =
            Wanted { node: &node, name, scope, entry: Entry::AtOnce, how: How::Run, window: Vec::new() };
        self.tag(wanted)?;
        // Its number may be another process's by now.
        let owner = std::fs::metadata(format!("/proc/{pid}")).map_err(|error| failed(&error))?;
        if std::os::unix::fs::MetadataExt::uid(&owner) != uid {
            return Err(refusal(RefusalKind::Conflict, format!("process {pid} is not of user {uid}")));
        }
        cgroup.add(pid).map_err(|error| failed(&error))?;
        Ok(path)
    }

    pub(super) fn run_ended(&mut self, name: &str) -> Result<RunEnded, Refusal> {
        let state = self.state(name)?;
        if state.kind != ScopeKind::Run {
            return Err(refusal(RefusalKind::Invalid, format!("{name:?} is not a run")));
        }
        if let Some(cgroup) = self.registry.scopes.get_mut(name).and_then(|state| state.cgroup.take()) {
            // What survives stays policed, and is looked at again.
            cgroup.kill_and_remove().map_err(|error| refusal(RefusalKind::Failed, error))?;
        }
        let ended = RunEnded { decisions: self.decisions(name)?, lost: self.lost(name)? };
        self.remove_scope(name)?;
        Ok(ended)
    }
}
