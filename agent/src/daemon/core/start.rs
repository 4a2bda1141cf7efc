//! The start of the daemon: what an earlier one has left is taken over, or nothing is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use aya::maps::{MapData, RingBuf};
use stockade_common::{
    limits::UNDECIDED_SCOPE,
    tag::{
        SCOPE_AT_ONCE, SCOPE_AUDIT_ALL, SCOPE_DNS, SCOPE_EGRESS, SCOPE_GUARDED, SCOPE_LOOK,
        SCOPE_LOOPBACK_OWN, label_kind,
    },
};
use tokio::sync::mpsc::Receiver;

use super::{
    Core,
    apart::Apart,
    cgroups::UNDECIDED,
    look::Looks,
    registry::{How, Instance, Registry, ScopeState, TaggedCgroup},
    run::RunStarts,
    sort::Sorting,
    started::{Starts, VIEWS},
};
use crate::{
    audit::{
        digest::mode_name,
        json::{Context, PolicyId},
        origin::{Origin, boot_ns, boot_time},
        sink::Sink,
    },
    cli::{guarantee::Proof, host, remedy},
    daemon::{
        command::{PolicySet, Refusal, Reloads, ScopeKind},
        hub::Hub,
        last_good::Store,
        log::Unwritten,
        policies::{Boot, View},
        recorder::Recorder,
    },
    dns::{DnsConfig, GateEvent},
    gates::{self, Gates},
    kernel::{Build, Enforcer, Entry, Found, KernelError, LoadOptions, Pins, Scope, Slot, TagReader},
    policy::checked::Mode,
    scope::{
        cgroup::OwnCgroup, container::Inspector, host::HostPolicies, matcher::Matcher, running::release,
        tree::Tree,
    },
};

/// Threads the core has waited for in vain, at which it asks nothing more.
const ASKING: usize = 16;

/// Why the daemon does not start. Nothing was changed of what is enforced.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The host cannot enforce what it must.
    #[error("{0}")]
    Unavailable(String),
    /// The kernel refused.
    #[error("{}", remedy::explain(.0))]
    Kernel(#[from] KernelError),
    /// Pins that no daemon has left.
    #[error("{0}: it is not touched; look at it, and remove it if it is of no use")]
    Foreign(String),
    /// The policies are not right, there are none from before, and whom they are for cannot be read.
    #[error("{0}")]
    Policies(Refusal),
    /// Something could not be read.
    #[error("{0}")]
    Other(String),
}

/// What has started.
pub struct Started {
    /// The core.
    pub core: Core,
    /// Where its records come from.
    pub ring: RingBuf<MapData>,
    /// What happens at the DNS gate.
    pub asked: Receiver<GateEvent>,
    /// What knows which cgroups are tagged, for the API.
    pub tags: TagReader,
}

impl std::fmt::Debug for Started {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Started").field("core", &self.core).finish_non_exhaustive()
    }
}

/// What was found out about this host.
struct Proved {
    build: Build,
    guarantees: Vec<String>,
    degraded: bool,
}

/// Starts enforcing, or goes on with it.
///
/// # Errors
/// What keeps it from that.
pub fn start(
    directory: &Path,
    allow_degraded: bool,
    hub: Hub,
    (log, unwritten): (Option<Sink>, Unwritten),
    dns: DnsConfig,
) -> Result<Started, StartError> {
    let unavailable = |why: &dyn std::fmt::Display| StartError::Unavailable(why.to_string());
    let other = |why: &dyn std::fmt::Display| StartError::Other(why.to_string());
    if !host::is_root() {
        return Err(unavailable(&"the daemon needs root"));
    }
    remedy::kernel().map_err(|why| unavailable(&why))?;
    let tree = Tree::find().map_err(|error| other(&error))?;
    let own = tree.own().map_err(|error| other(&error))?;
    let host = View::of(1).map_err(|error| other(&format!("reading the mounts of process 1: {error}")))?;
    // With maps of its own, so that what an earlier daemon has attached cannot hide that something does nothing.
    let Proved { build, guarantees, degraded } = prove(allow_degraded)?;
    let pins = Pins::below(Path::new(host::PINS));
    let adopting = match pins.find(&build)? {
        Found::Foreign(what) => return Err(StartError::Foreign(what)),
        Found::Nothing => false,
        Found::Ours { .. } => true,
    };
    let options = LoadOptions {
        network_only: degraded,
        metadata: true,
        debug_log: false,
        host_mounts: host.namespace,
        pins: Some(pins.clone()),
    };
    let mut enforcer = Enforcer::load(&options)?;
    let tags = enforcer.tag_reader()?;
    let ring = enforcer.take_ring()?;
    enforcer.attach_tracking()?;
    if !degraded {
        enforcer.attach_lsm()?;
    }
    let root = std::fs::File::open(tree.mount()).map_err(|error| other(&error))?;
    enforcer.attach_cgroup(&root)?;

    let (gates, asked) = Gates::new(dns);
    std::fs::create_dir_all(VIEWS).map_err(|error| other(&format!("creating {VIEWS}: {error}")))?;
    let boot = Boot { id: Origin::read(0).boot_id, time: boot_time(), names: gates.names() };
    let undecided = Context {
        policy: PolicyId { name: UNDECIDED.into(), digest: String::new(), mode: "enforce" },
        boot_id: boot.id.clone(),
        boot_time: boot.time,
        scope: Some(UNDECIDED.into()),
        ..Context::default()
    };
    let mut core = Core {
        enforcer,
        pins: pins.clone(),
        tree,
        inspector: Arc::new(Inspector::default()),
        own,
        boot,
        directory: directory.to_path_buf(),
        policies: HostPolicies::default(),
        store: Store::default(),
        set: PolicySet::default(),
        policies_known: false,
        matcher: Arc::new(Matcher::default()),
        host,
        registry: Registry::default(),
        recorder: Recorder::new(hub, log, unwritten, undecided),
        guarantees,
        degraded,
        adopted: None,
        reloads: Reloads::default(),
        since: SystemTime::now(),
        retired: Vec::new(),
        gates,
        ways_out: BTreeMap::new(),
        without_gate: BTreeMap::new(),
        answered: BTreeSet::new(),
        netns: gates::namespace_of(None).map_err(|error| other(&error))?,
        runs: 0,
        looks: Looks::default(),
        starts: Starts::default(),
        run_starts: RunStarts::default(),
        asking: Apart::new(ASKING),
        sorting: Sorting::default(),
    };
    let kept = core.adopt()?;
    Gates::clear(&mut core.enforcer)?;
    core.recall().map_err(|refusal| other(&refusal))?;
    if adopting {
        core.adopted = Some(kept);
    }
    if let Err(refused) = core.reload()
        && let Err(refusal) = core.fall_back(&refused)
    {
        // What was loaded and pinned for a first start holds nothing yet.
        if !adopting {
            pins.remove_all()?;
        }
        return Err(StartError::Policies(refusal));
    }
    core.enforcer.take_over(&pins, boot_ns())?;
    core.sort(None).map_err(StartError::Policies)?;
    let adopted = core.adopted.map_or_else(String::new, |count| format!("; {count} cgroups were taken over"));
    let message = format!("{}{adopted}", core.summary());
    core.tell_of_itself("started", &message);
    Ok(Started { core, ring, asked, tags })
}

fn prove(allow_degraded: bool) -> Result<Proved, StartError> {
    let cgroup = OwnCgroup::create(&format!("stockade-proof-{}", std::process::id()))
        .map_err(|error| StartError::Unavailable(error.to_string()))?;
    let attempt = |degraded: bool| {
        let options = LoadOptions { network_only: degraded, metadata: true, ..LoadOptions::default() };
        let (enforcer, findings) = host::enforce(&options, &cgroup)?;
        let mut guarantees = Vec::new();
        for (guarantee, proof) in findings {
            match proof {
                Proof::Failed(why) => return Err(format!("{}: {why}", guarantee.name)),
                Proof::Enforced => guarantees.push(guarantee.name.to_owned()),
                Proof::Absent(_) => {}
            }
        }
        let build = enforcer.build().map_err(|error| remedy::explain(&error))?;
        Ok(Proved { build, guarantees, degraded })
    };
    match remedy::bpf_lsm().and_then(|()| attempt(false)) {
        Err(why) if allow_degraded => {
            eprintln!("stockade: {why}");
            eprintln!("stockade: degraded: files are not policed, only connects, sends and sockets");
            attempt(true).map_err(StartError::Unavailable)
        }
        whole => whole.map_err(StartError::Unavailable),
    }
}

impl Core {
    /// Takes note of what an earlier daemon has left, as it left it. Returns the number of cgroups.
    fn adopt(&mut self) -> Result<u32, StartError> {
        let mut scopes: BTreeMap<String, ScopeState> = BTreeMap::new();
        let mut labels = self.enforcer.labels()?;
        // The instance for the host's own view is the first.
        labels.sort_by_key(|(scope, label)| (label.kind == label_kind::INSTANCE, *scope));
        for (scope, label) in labels {
            let setting = self.enforcer.held_to(scope)?;
            let slot = Slot(setting.slot());
            // Until its policy is read again it goes on as it was.
            let mode = if setting.enforces() { Mode::Enforce } else { Mode::Audit };
            let context = Arc::new(Context {
                policy: PolicyId { name: label.name.clone(), digest: String::new(), mode: mode_name(mode) },
                boot_id: self.boot.id.clone(),
                boot_time: self.boot.time,
                scope: Some(label.name.clone()),
                ..Context::default()
            });
            let is_run = label.kind == label_kind::RUN;
            let uid = is_run.then_some(label.uid);
            self.recorder.know(slot, context.clone(), uid);
            let at_once = is_run || setting.flags() & SCOPE_AT_ONCE != 0;
            let kind = if is_run { ScopeKind::Run } else { ScopeKind::Policy };
            let entry = if at_once { Entry::AtOnce } else { Entry::Starting };
            let audit_all = is_run && setting.flags() & SCOPE_AUDIT_ALL != 0;
            let left_flags = setting.flags()
                & (SCOPE_DNS | SCOPE_LOOPBACK_OWN | SCOPE_EGRESS | SCOPE_LOOK | SCOPE_GUARDED);
            let known =
                ScopeState { uid, mode: Some(mode), audit_all, left_flags, ..ScopeState::new(kind, entry) };
            let state = scopes.entry(label.name).or_insert(known);
            state.instances.push(Instance { scope, slot, compiled: None, context });
            self.runs = self.runs.max(u64::from(is_run) * (1 << 20));
        }
        self.registry.scopes = scopes;
        let walked = self.tree.walk(Path::new("/")).map_err(|error| StartError::Other(error.to_string()))?;
        let tags: BTreeMap<u64, Scope> = self.enforcer.tags()?.into_iter().collect();
        // What each cgroup's parent, and so on up, is tagged with.
        let mut above: Vec<(PathBuf, Option<(Scope, bool)>)> = Vec::new();
        for node in &walked.nodes {
            match release(&self.tree, &node.path) {
                Ok(false) => {}
                Ok(true) => {
                    eprintln!("stockade: {}: thawed what an earlier daemon froze", node.path.display());
                }
                Err(error) => eprintln!("stockade: {error}: thaw it by hand"),
            }
            while above.last().is_some_and(|(path, _)| Some(path.as_path()) != node.path.parent()) {
                above.pop();
            }
            let tagged = match tags.get(&node.id) {
                Some(scope) => Some((*scope, self.enforcer.is_by_hand(node.id)?)),
                None => None,
            };
            let of_parent = above.last().and_then(|(_, tagged)| *tagged);
            above.push((node.path.clone(), tagged));
            let Some((scope, by_hand)) = &tagged else { continue };
            // Of several tagged alike, one below the other, the highest was tagged for itself.
            if of_parent != tagged {
                let how = match *scope {
                    _ if *by_hand => How::ByHand,
                    Scope(UNDECIDED_SCOPE) => How::AtCreation,
                    _ => How::Adopted,
                };
                let name = self.registry.find(*scope).map(|(name, _)| name.to_owned());
                if let Some(state) = name.and_then(|name| self.registry.scopes.get_mut(&name))
                    && state.kind == ScopeKind::Run
                {
                    match OwnCgroup::adopt(self.tree.directory(&node.path)) {
                        Ok(cgroup) => state.cgroup = Some(cgroup),
                        Err(error) => eprintln!("stockade: {error}"),
                    }
                    state.orphan = true;
                }
                let cgroup = TaggedCgroup {
                    path: node.path.clone(),
                    since: SystemTime::now(),
                    how,
                    window: Vec::new(),
                    processes: 0,
                };
                self.registry.cgroups.insert(node.id, cgroup);
            }
        }
        Ok(tags.len() as u32)
    }
}
