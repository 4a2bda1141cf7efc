//! Workloads that were stopped before their first instruction: what they may do depends on whose they are and what mounts
//! they see, and both can be read now.
//!
//! Reading may ask filesystems of the workload's own, which need not answer. So threads do it that can be given up, while the
//! workload stands; what is not known in time is killed.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use stockade_common::limits::UNDECIDED_SCOPE;

use super::{
    Core,
    apart::{Apart, Pending},
    cgroups::{UNDECIDED, Wanted},
    refusal, refused_by_kernel,
    registry::How,
    stopped::{Process, cgroup_of, stands},
};
use crate::{
    audit::origin::boot_ns,
    daemon::{
        announce,
        command::{Refusal, RefusalKind},
        policies::{Compiled, View},
    },
    kernel::Scope,
    policy::checked::CheckedPolicy,
    scope::{
        matcher::{Belongs, Matcher},
        tree::Node,
    },
};

/// How long a workload stands at most from being looked at to being decided.
const LIMIT: Duration = Duration::from_secs(10);
/// Threads at one time. What they do not get to stands, and is looked at again.
const THREADS: usize = 64;
/// Turns of 5 ms that are waited for a process to stop.
const STOPPING_TURNS: u32 = 100;
/// Where the mounts of containers are written down, for a later daemon of this boot.
pub(super) const VIEWS: &str = "/run/stockade/views";

/// Workloads that are being looked at, by process id.
#[derive(Debug)]
pub(super) struct Starts {
    apart: Apart,
    under_way: BTreeMap<u32, Start>,
    /// It was said that there are too many.
    told: bool,
}

impl Default for Starts {
    fn default() -> Self {
        Self { apart: Apart::new(THREADS), under_way: BTreeMap::new(), told: false }
    }
}

impl Starts {
    /// Returns when something was found.
    pub(super) async fn woken(&mut self) {
        self.apart.woken().await;
    }
}

/// A workload that stands.
#[derive(Debug)]
struct Start {
    pid: u32,
    cgroup_id: u64,
    process: Process,
    path: PathBuf,
    end: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Whose it is, and what it sees.
    Looking(Pending<Seen>),
    /// Its policy, for what it sees.
    Compiling(Box<Compiling>),
}

/// A policy that is being compiled for what a workload sees.
#[derive(Debug)]
struct Compiling {
    place: Place,
    view: View,
    policy: CheckedPolicy,
    compiled: Pending<Result<Box<Compiled>, String>>,
}

/// What a look has found.
#[derive(Debug)]
struct Seen {
    stands: bool,
    /// Whose it is, if it was undecided, by these scopes.
    belongs: Option<(Arc<Matcher>, Belongs)>,
    view: io::Result<View>,
}

/// Where a workload belongs.
#[derive(Debug)]
struct Place {
    name: String,
    /// What its cgroup is tagged with.
    tagged: Scope,
    /// What is to be tagged.
    top: Node,
}

/// What is to be done next.
enum Next {
    Stage(Stage),
    /// It goes on; or it may not be executed, and why.
    Decided(Option<String>),
    /// What was found is not so any more: it stands, and is looked at anew.
    Again,
}

impl Core {
    pub(super) fn saved_view(&self, scope: Scope) -> PathBuf {
        PathBuf::from(VIEWS).join(scope.0.to_string())
    }

    /// Workloads whose records were lost, or that an earlier daemon has left.
    pub(super) fn look_at_held(&mut self) -> Result<(), Refusal> {
        let held = self.enforcer.held().map_err(|error| refused_by_kernel(&error))?;
        for (pid, cgroup_id) in held {
            self.started(pid, cgroup_id)?;
        }
        Ok(())
    }

    /// A workload stands before its first instruction.
    pub(super) fn started(&mut self, pid: u32, cgroup_id: u64) -> Result<(), Refusal> {
        let kernel = |error| refused_by_kernel(&error);
        if self.starts.under_way.get(&pid).is_some_and(|start| start.cgroup_id == cgroup_id) {
            return Ok(());
        }
        // Told of by its record and by the table: the second time it may be running.
        if self.enforcer.held_in(pid).map_err(kernel)? != Some(cgroup_id) {
            return Ok(());
        }
        let process = match Process::open(pid) {
            Ok(process) => process,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                return self.enforcer.release(pid).map_err(kernel);
            }
            Err(error) => {
                return Err(refusal(RefusalKind::Failed, format!("opening process {pid}: {error}")));
            }
        };
        let Some(path) = cgroup_of(pid) else { return self.enforcer.release(pid).map_err(kernel) };
        if !self.policies_known {
            // Whose it is cannot be told: it waits, as it would without a daemon, and is looked at again.
            return Ok(());
        }
        let end = Instant::now() + LIMIT;
        let undecided = self.scope_of(cgroup_id)? == Some(Scope(UNDECIDED_SCOPE));
        let asked = undecided.then(|| (self.inspector.clone(), self.matcher.clone(), path.clone()));
        let looking = self.starts.apart.begin(end, move || Seen {
            stands: stands(pid, STOPPING_TURNS),
            belongs: asked.map(|(inspector, matcher, path)| {
                let belongs = inspector.belongs(&matcher, &path);
                (matcher, belongs)
            }),
            view: View::of(pid),
        });
        match looking {
            Ok(looking) => {
                self.starts.told = false;
                let stage = Stage::Looking(looking);
                self.starts.under_way.insert(pid, Start { pid, cgroup_id, process, path, end, stage });
            }
            Err(why) => {
                // It stands, and is looked at again.
                if !std::mem::replace(&mut self.starts.told, true) {
                    eprintln!("stockade: workloads that are about to start wait: {why}");
                }
            }
        }
        Ok(())
    }

    /// Takes up what was found of workloads that stand.
    pub(super) fn finish_starts(&mut self) {
        for (pid, start) in std::mem::take(&mut self.starts.under_way) {
            match self.go_on(start) {
                Ok(Some(start)) => drop(self.starts.under_way.insert(pid, start)),
                Ok(None) => {}
                Err(refusal) => eprintln!("stockade: {refusal}"),
            }
        }
    }

    /// Does what can be done for a workload; what is left of it waits.
    fn go_on(&mut self, mut start: Start) -> Result<Option<Start>, Refusal> {
        loop {
            let next = match start.stage {
                Stage::Looking(looking) => match looking.poll() {
                    None => return Ok(Some(Start { stage: Stage::Looking(looking), ..start })),
                    Some(Err(why)) => Ok(Next::Decided(Some(format!("looking at it: {why}")))),
                    Some(Ok(seen)) => self.seen(start.pid, &start.path, start.end, seen),
                },
                Stage::Compiling(compiling) => match compiling.compiled.poll() {
                    None => return Ok(Some(Start { stage: Stage::Compiling(compiling), ..start })),
                    Some(Err(why)) => {
                        Ok(Next::Decided(Some(format!("compiling its policy for the mounts it sees: {why}"))))
                    }
                    Some(Ok(Err(why))) => Ok(Next::Decided(Some(why))),
                    Some(Ok(Ok(compiled))) => {
                        let Compiling { place, view, policy, .. } = *compiling;
                        self.compiled(start.pid, start.end, place, view, &policy, *compiled)
                    }
                },
            };
            match next.unwrap_or_else(|refusal| Next::Decided(Some(refusal.message))) {
                Next::Stage(stage) => start.stage = stage,
                Next::Again => return self.started(start.pid, start.cgroup_id).map(|()| None),
                Next::Decided(refused) => {
                    let Start { pid, cgroup_id, process, path, .. } = start;
                    return self.decide(pid, cgroup_id, &process, &path, refused).map(|()| None);
                }
            }
        }
    }

    /// Lets a workload go on, or kills it.
    fn decide(
        &mut self,
        pid: u32,
        cgroup_id: u64,
        process: &Process,
        path: &Path,
        refused: Option<String>,
    ) -> Result<(), Refusal> {
        let kernel = |error| refused_by_kernel(&error);
        if self.enforcer.held_in(pid).map_err(kernel)? != Some(cgroup_id) {
            return Ok(());
        }
        let refused = match refused {
            None if !stands(pid, 1) => Some("somebody else has let it run on".to_owned()),
            refused => refused,
        };
        let signal = if refused.is_some() { Signal::SIGKILL } else { Signal::SIGCONT };
        if let Some(why) = refused {
            let name = self.registry.above(path).and_then(|id| self.enforcer.scope_of(id).ok().flatten());
            let name = name.and_then(|scope| self.registry.find(scope)).map(|(name, _)| name.to_owned());
            let name = name.unwrap_or_else(|| UNDECIDED.to_owned());
            eprintln!("stockade: {}: process {pid} was killed before it ran: {why}", path.display());
            let said = announce::start_refused(&self.boot, boot_ns(), &name, pid, cgroup_id, path, &why);
            self.recorder.tell(&said, &name, None);
        }
        match process.send(signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                // It stays held, and is looked at again.
                Err(refusal(RefusalKind::Failed, format!("sending {signal} to process {pid}: {error}")))
            }
            _ => self.enforcer.release(pid).map_err(kernel),
        }
    }

    /// What a workload sees is known, and whose its cgroup is.
    fn seen(&mut self, pid: u32, path: &Path, end: Instant, seen: Seen) -> Result<Next, Refusal> {
        let Seen { stands, belongs, view } = seen;
        if !stands {
            return Ok(Next::Decided(Some("somebody else has let it run on".to_owned())));
        }
        // What is left of a namespace whose number has come again must not be taken for this one's.
        self.collect()?;
        if cgroup_of(pid).as_deref() != Some(path) {
            return Ok(Next::Again);
        }
        let id = self.tree.id(path).map_err(|error| refusal(RefusalKind::Failed, error))?;
        let own = Node { path: path.to_path_buf(), id };
        let Some(tagged) = self.scope_of(own.id)? else { return Ok(Next::Decided(None)) };
        let place = if tagged == Scope(UNDECIDED_SCOPE) {
            let top = self.top(own, tagged)?;
            // A reload may have come between.
            let belongs = belongs.filter(|(matcher, _)| Arc::ptr_eq(matcher, &self.matcher));
            let belongs = belongs.map_or_else(|| self.belongs(path), |(_, belongs)| belongs);
            for warning in &belongs.warnings {
                eprintln!("stockade: warning: {warning}");
            }
            let found = belongs.to.and_then(|found| self.policies.policies.get(found.policy));
            let Some(name) = found.map(|policy| policy.name.clone()) else {
                self.untag_below(&top, UNDECIDED)?;
                return Ok(Next::Decided(None));
            };
            Place { name, tagged, top }
        } else {
            match self.registry.find(tagged) {
                Some((name, _)) => Place { name: name.to_owned(), tagged, top: own },
                None => {
                    return Err(refusal(RefusalKind::NotFound, format!("nobody knows scope {}", tagged.0)));
                }
            }
        };
        let view = view.map_err(|error| {
            refusal(RefusalKind::Failed, format!("reading the mounts of process {pid}: {error}"))
        })?;
        self.find_instance(pid, end, place, view)
    }

    /// Puts a workload into the instance for what it sees, or has one compiled.
    fn find_instance(&mut self, pid: u32, end: Instant, place: Place, view: View) -> Result<Next, Refusal> {
        if let Some(scope) = self.known_instance(&place.name, &view, pid)? {
            return self.admit(pid, &place, scope);
        }
        let name = &place.name;
        let Some(policy) = self.state(name)?.policy.clone() else {
            let message = format!("the policy of {name:?} is gone: nothing new is started in its scope");
            return Err(refusal(RefusalKind::NotFound, message));
        };
        let (named, boot, of, for_view) = (name.clone(), self.boot.clone(), policy.clone(), view.clone());
        let compiled = self
            .starts
            .apart
            .begin(end, move || {
                for_view.compile(&named, &of, &boot).map(Box::new).map_err(|error| error.to_string())
            })
            .map_err(|why| refusal(RefusalKind::Failed, why))?;
        Ok(Next::Stage(Stage::Compiling(Box::new(Compiling { place, view, policy, compiled }))))
    }

    /// The tables for what a workload sees are there.
    fn compiled(
        &mut self,
        pid: u32,
        end: Instant,
        place: Place,
        view: View,
        policy: &CheckedPolicy,
        compiled: Compiled,
    ) -> Result<Next, Refusal> {
        if self.scope_of(place.top.id)? != Some(place.tagged) {
            return Ok(Next::Again);
        }
        self.collect()?;
        let is_new = self.state(&place.name)?.policy.as_ref() != Some(policy);
        // After a reload it is compiled again; of two that begin in the same container one was first.
        if is_new || self.known_instance(&place.name, &view, pid)?.is_some() {
            return self.find_instance(pid, end, place, view);
        }
        let Compiled { image, context, warnings } = compiled;
        for warning in warnings {
            eprintln!("stockade: warning: {warning}");
        }
        let scope = self.install(&place.name, (view, Arc::new(image)), context)?;
        self.admit(pid, &place, scope)
    }

    /// Puts the cgroup of a workload into the scope it belongs to, and judges the execution.
    fn admit(&mut self, pid: u32, place: &Place, scope: Scope) -> Result<Next, Refusal> {
        let Place { name, tagged, top } = place;
        if self.scope_of(top.id)? != Some(*tagged) {
            return Ok(Next::Again);
        }
        if scope != *tagged {
            let entry = self.state(name)?.entry;
            let wanted = Wanted { node: top, name, scope, entry, how: How::AtStart, window: Vec::new() };
            self.tag(wanted)?;
        }
        self.open_gate(scope, Some(pid));
        Ok(Next::Decided(self.may_execute(name, scope, pid)))
    }
}
