//! The core: the one thread that owns the programs and decides what is held to what.

mod apart;
mod ask;
mod cgroups;
mod collect;
mod fallback;
mod flows;
mod instances;
mod kept;
mod look;
mod mode;
mod names;
mod place;
mod plan;
mod registry;
mod reload;
mod run;
mod running;
mod shadow;
mod sort;
mod start;
mod started;
mod status;
mod stopped;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use nix::sys::signal::Signal;
use stockade_common::{counter::COUNTERS, limits::UNDECIDED_SCOPE};
use tokio::{
    sync::mpsc,
    time::{Duration, MissedTickBehavior, interval},
};

#[cfg(test)]
pub(super) use self::registry::how_names;
pub use self::start::{StartError, Started, start};
use self::{
    apart::Apart,
    look::Looks,
    registry::{Registry, ScopeState},
    reload::Applied,
    run::RunStarts,
    sort::Sorting,
    started::Starts,
};
use super::{
    announce,
    api::RefusedPeer,
    command::{Command, PolicySet, Refusal, RefusalKind, Reloads},
    last_good::Store,
    notify,
    policies::{Boot, View},
    recorder::{Notice, Recorder},
};
use crate::{
    audit::{origin::boot_ns, ring::Ring},
    dns::GateEvent,
    gates::Gates,
    kernel::{Enforcer, KernelError, Pins, Scope, Slot},
    scope::{container::Inspector, host::HostPolicies, matcher::Matcher, tree::Tree},
};

/// Between looks at what no event may have told of.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between walks through the whole tree.
const WALK: u64 = 10;

/// Why the core ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told to; everything stays enforced.
    Stopped,
    /// It has let go of everything.
    Detached,
}

/// Everything that is enforced.
#[derive(Debug)]
pub struct Core {
    enforcer: Enforcer,
    pins: Pins,
    tree: Tree,
    inspector: Arc<Inspector>,
    /// The cgroup of this process, which is never tagged.
    own: PathBuf,
    boot: Boot,
    directory: PathBuf,
    policies: HostPolicies,
    /// Where they are kept.
    store: Store,
    /// Which of them are in force.
    set: PolicySet,
    /// They have been read: until then it is not known whose anything is.
    policies_known: bool,
    matcher: Arc<Matcher>,
    /// The host's own view of the mounts.
    host: View,
    registry: Registry,
    recorder: Recorder,
    guarantees: Vec<String>,
    degraded: bool,
    adopted: Option<u32>,
    reloads: Reloads,
    since: SystemTime,
    /// What is kept for events until the ring has been emptied once more.
    retired: Vec<Slot>,
    /// Where scopes ask for names.
    gates: Gates,
    /// The interface by which a scope must leave, and its number now.
    ways_out: BTreeMap<Scope, (String, Option<u32>)>,
    /// Who has asked where there is no gate: process ids, and their scopes.
    without_gate: BTreeMap<u32, Scope>,
    /// Scopes that were answered since their names were kept.
    answered: BTreeSet<Scope>,
    /// Inode number of the host's network namespace.
    netns: u64,
    /// Runs since the start.
    runs: u64,
    looks: Looks,
    starts: Starts,
    run_starts: RunStarts,
    /// What the core itself waits for, though not long.
    asking: Apart,
    sorting: Sorting,
}

/// Where the core hears from others.
#[derive(Debug)]
pub struct Inputs {
    /// Records of the kernel programs.
    pub ring: Ring,
    /// From the API.
    pub commands: mpsc::Receiver<Command>,
    /// Who was refused by the API.
    pub refused: mpsc::Receiver<RefusedPeer>,
    /// From the DNS gate.
    pub asked: mpsc::Receiver<GateEvent>,
    /// To this process.
    pub signals: mpsc::Receiver<Signal>,
}

fn refusal(kind: RefusalKind, message: impl std::fmt::Display) -> Refusal {
    Refusal { kind, message: message.to_string() }
}

fn refused_by_kernel(error: &KernelError) -> Refusal {
    refusal(RefusalKind::Failed, error)
}

impl Core {
    /// Works until it is told to end.
    pub async fn serve(mut self, mut inputs: Inputs) -> End {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u64;
        let end = loop {
            tokio::select! {
                biased;
                Some(signal) = inputs.signals.recv() => match signal {
                    Signal::SIGHUP => self.reload_by_signal(),
                    _ => break End::Stopped,
                },
                // Before the ring: who makes events without end must keep nobody else waiting, nor the watchdog.
                _ = tick.tick() => {
                    ticks += 1;
                    self.look(ticks.is_multiple_of(WALK));
                    report(notify::watchdog());
                }
                Some(command) = inputs.commands.recv() => {
                    // What has happened before the question belongs into the answer.
                    let rest = inputs.ring.rest();
                    self.take(rest);
                    if self.command(command) == Some(End::Detached) {
                        break End::Detached;
                    }
                }
                Some(event) = inputs.asked.recv() => self.asked(&event),
                batch = inputs.ring.batch() => match batch {
                    Ok(batch) => self.take(batch),
                    Err(error) => {
                        eprintln!("stockade: the ring of events cannot be read: {error}");
                        break End::Stopped;
                    }
                },
                () = self.looks.woken() => self.finish_looks(),
                () = self.starts.woken() => self.finish_starts(),
                () = self.run_starts.woken() => self.finish_runs(),
                Some(peer) = inputs.refused.recv() => self.peer_refused(&peer),
            }
        };
        if end == End::Stopped {
            report(notify::stopping("everything stays enforced"));
            self.tell_of_itself("stopping", "everything stays enforced");
        }
        self.keep_names();
        // Nobody would thaw what stands still.
        self.finish_all_looks();
        // Whatever becomes of us, runs go on.
        for state in self.registry.scopes.values_mut() {
            if let Some(cgroup) = state.cgroup.take() {
                cgroup.leave();
            }
        }
        self.recorder.close().await;
        end
    }

    fn take(&mut self, batch: Vec<bytes::Bytes>) {
        for notice in self.recorder.take(batch) {
            let result = match notice {
                Notice::Made { id, scope, path } => self.made(id, scope, &path),
                Notice::Started { pid, cgroup_id } => self.started(pid, cgroup_id),
                Notice::NoGate { scope, pid } => {
                    self.want_gate(scope, pid);
                    Ok(())
                }
            };
            if let Err(refusal) = result {
                eprintln!("stockade: {refusal}");
            }
        }
    }

    fn command(&mut self, command: Command) -> Option<End> {
        // Who asked may be gone: that is no reason not to have done it.
        match command {
            Command::Status { reply } => drop(reply.send(self.status())),
            Command::Reload { reply } => drop(reply.send(self.reload().map(Applied::report))),
            Command::Shadow { scope, policy, reply } => drop(reply.send(self.shadow(&scope, policy))),
            Command::SetMode { scope, mode, reply } => drop(reply.send(self.set_mode(&scope, mode))),
            Command::Tag { target, scope, reply } => drop(reply.send(self.tag_by_hand(&target, &scope))),
            Command::Untag { target, reply } => drop(reply.send(self.untag_by_hand(&target))),
            Command::Run { request, reply } => self.begin_run(request, reply),
            Command::RunEnded { scope, reply } => drop(reply.send(self.run_ended(&scope))),
            Command::Detach { reply } => {
                let result = self.detach();
                let detached = result.is_ok();
                drop(reply.send(result));
                return detached.then_some(End::Detached);
            }
        }
        None
    }

    fn reload_by_signal(&mut self) {
        report(notify::reloading());
        let status = match self.reload() {
            Ok(_) => self.summary(),
            Err(refusal) => {
                eprintln!("stockade: the policies stay as they were: {refusal}");
                format!("{}; the last reload was refused", self.summary())
            }
        };
        report(notify::ready(&status));
    }

    /// One line of what is enforced.
    #[must_use]
    pub fn summary(&self) -> String {
        let broken =
            if self.set.broken.is_some() { "; POLICIES ARE BROKEN, see `stockade status`" } else { "" };
        format!("{} scopes, {} cgroups{broken}", self.registry.scopes.len(), self.registry.cgroups.len())
    }

    /// Looks at what events may have missed: they can be lost, the rest cannot.
    fn look(&mut self, whole: bool) {
        if whole {
            self.keep_names();
        }
        let wanted = self.open_wanted_gates();
        self.finish_looks();
        self.finish_starts();
        self.finish_runs();
        // None of them keeps the others from being done.
        let walked = if whole { self.walk() } else { Ok(()) };
        let idle = if whole { self.close_idle_gates() } else { Ok(()) };
        for result in [wanted, self.look_at_held(), walked, self.collect(), idle, self.follow_interfaces()] {
            if let Err(refusal) = result {
                eprintln!("stockade: {refusal}");
            }
        }
        let instances: Vec<(Scope, Slot)> = self
            .registry
            .scopes
            .values()
            .flat_map(|state| &state.instances)
            .map(|instance| (instance.scope, instance.slot))
            .chain([(Scope(UNDECIDED_SCOPE), Slot(0)), (Scope(0), Slot(0))])
            .collect();
        for (scope, slot) in instances {
            self.take_losses_of(scope, slot);
        }
        for slot in std::mem::take(&mut self.retired) {
            self.recorder.forget(slot);
        }
    }

    fn peer_refused(&mut self, peer: &RefusedPeer) {
        let RefusedPeer { pid, uid, cgroup, why, .. } = peer;
        let said = announce::peer(&self.boot, boot_ns(), *pid, *uid, cgroup.as_deref(), why);
        self.recorder.tell(&said, "", None);
    }

    fn tell_of_itself(&mut self, state: &str, message: &str) {
        let said = announce::daemon(&self.boot, boot_ns(), state, message);
        self.recorder.tell(&said, "", None);
    }

    fn detach(&mut self) -> Result<(), Refusal> {
        let removed = self.pins.remove_all().map_err(|error| refused_by_kernel(&error))?;
        let removed: Vec<String> = removed.iter().map(|path| path.display().to_string()).collect();
        report(notify::stopping("nothing is enforced any more"));
        self.tell_of_itself("detached", &format!("removed {}", removed.join(", ")));
        Ok(())
    }

    fn state(&self, name: &str) -> Result<&ScopeState, Refusal> {
        self.registry.scopes.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.registry.scopes.keys().map(String::as_str).collect();
            let message = format!("there is no scope {name:?}: there are {}", names.join(", "));
            refusal(RefusalKind::NotFound, message)
        })
    }

    fn counters(&mut self, name: &str) -> Result<[u64; COUNTERS], Refusal> {
        let scopes: Vec<Scope> = self.state(name)?.instances.iter().map(|instance| instance.scope).collect();
        let mut sums = [0; COUNTERS];
        for scope in scopes {
            let counters = self.enforcer.counters(scope).map_err(|error| refused_by_kernel(&error))?;
            for (sum, counter) in sums.iter_mut().zip(counters) {
                *sum += counter;
            }
        }
        Ok(sums)
    }
}

/// systemd may not be listening.
fn report(result: std::io::Result<()>) {
    if let Err(error) = result {
        eprintln!("stockade: telling systemd: {error}");
    }
}
