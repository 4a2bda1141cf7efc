//! Which cgroup belongs to which scope: as cgroups are made, by looking, and by hand.

use std::{
    collections::HashSet,
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use stockade_common::limits::UNDECIDED_SCOPE;

use super::{
    Core,
    place::Owner,
    refusal, refused_by_kernel,
    registry::{How, TaggedCgroup},
    sort::owner,
};
use crate::{
    audit::origin::boot_ns,
    daemon::{
        announce::{self, CgroupEvent},
        command::{CgroupStatus, Refusal, RefusalKind, ScopeKind, Tagged, Target},
    },
    kernel::{Entry, Scope},
    scope::{
        container,
        target::{self, TargetError},
        tree::{Node, TreeError, is_gone},
        walk::{Problems, Visit},
    },
};

/// What the scope of what nobody has yet is called in events.
pub(super) const UNDECIDED: &str = "undecided";
/// Times that what is below a cgroup is gone through, as long as anything is found that is to be tagged.
const ROUNDS: usize = 4;
/// What counting processes for an answer may take, while the core has other things to do.
pub(super) const COUNTING: Duration = Duration::from_secs(1);

pub(super) fn in_tree(error: &TreeError) -> Refusal {
    refusal(RefusalKind::Failed, error)
}

/// A cgroup that is to be tagged.
pub(super) struct Wanted<'a> {
    pub(super) node: &'a Node,
    pub(super) name: &'a str,
    pub(super) scope: Scope,
    pub(super) entry: Entry,
    pub(super) how: How,
    pub(super) window: Vec<String>,
}

impl Core {
    /// A cgroup was tagged as it was made.
    pub(super) fn made(&mut self, id: u64, scope: Scope, path: &[u8]) -> Result<(), Refusal> {
        let node = Node { path: PathBuf::from(OsStr::from_bytes(path)), id };
        // It may be gone by now, or another's.
        if self.scope_of(id)? != Some(scope) {
            return Ok(());
        }
        if scope.0 != UNDECIDED_SCOPE {
            // Put in by the table; its scope says when it starts.
            let Some((name, _)) = self.owner(scope) else { return Ok(()) };
            self.note(&node, &name, How::AtCreation, Vec::new());
            return Ok(());
        }
        if container::identify(&node.path).is_some() || !self.policies_known {
            // What it is can be read when its workload is about to begin, or when there are policies.
            self.note(&node, UNDECIDED, How::AtCreation, Vec::new());
            return Ok(());
        }
        let belongs = self.belongs(&node.path);
        match belongs
            .to
            .and_then(|found| self.policies.policies.get(found.policy))
            .map(|policy| policy.name.clone())
        {
            Some(name) => self.tag_below(&node, &name, How::AtCreation, belongs.warnings),
            None => self.untag_below(&node, UNDECIDED).map(drop),
        }
    }

    /// A scope's name, and when those who enter are policed.
    fn owner(&self, scope: Scope) -> Option<(String, Entry)> {
        let name = self.registry.find(scope)?.0.to_owned();
        let entry = self.registry.scopes.get(&name)?.entry;
        Some((name, entry))
    }

    /// Takes note of a tagged cgroup, and tells of it.
    pub(super) fn note(&mut self, node: &Node, name: &str, how: How, window: Vec<String>) {
        let said = CgroupEvent {
            kind: "tag",
            scope: name,
            id: node.id,
            path: &node.path,
            how: how.name(),
            window: &window,
        };
        let said = announce::cgroup(&self.boot, boot_ns(), &said);
        let uid = self.registry.scopes.get(name).and_then(|state| state.uid);
        self.recorder.tell(&said, name, uid);
        self.remember(node, how, window);
    }

    pub(super) fn remember(&mut self, node: &Node, how: How, window: Vec<String>) {
        let since = self.registry.cgroups.get(&node.id).map_or_else(SystemTime::now, |known| known.since);
        let processes = self.registry.cgroups.get(&node.id).map_or(0, |known| known.processes);
        let cgroup = TaggedCgroup { path: node.path.clone(), since, how, window, processes };
        self.registry.cgroups.insert(node.id, cgroup);
    }

    /// Tags a cgroup and what belongs with it below.
    pub(super) fn tag(&mut self, wanted: Wanted<'_>) -> Result<(), Refusal> {
        let problems = self.put_below(&wanted)?;
        let Wanted { node, name, how, mut window, .. } = wanted;
        window.extend(problems);
        self.note(node, name, how, window);
        Ok(())
    }

    /// Puts a cgroup into a scope, and what is below and was in the same as it. By hand: whatever is below, but runs. Each
    /// is put there before what is in it is listed: what is made meanwhile inherits. Returns what could not be.
    pub(super) fn put_below(&mut self, wanted: &Wanted<'_>) -> Result<Vec<String>, Refusal> {
        let Wanted { node, scope, entry, how, .. } = wanted;
        let owners = self.owners();
        let before = self.scope_of(node.id)?;
        let by_hand = *how == How::ByHand || self.is_by_hand(node.id)?;
        let owned = owner(&owners, before);
        let is_same_owner = owned == owner(&owners, Some(*scope));
        if let Err(refusal) = self.put(node.id, *scope, *entry, by_hand) {
            // Who asks by hand is told. A rule holds although there is no room to say for whom.
            if before.is_none() && !matches!(how, How::ByHand | How::Run) {
                self.enforcer.hold_untagged(node.id).map_err(|error| refused_by_kernel(&error))?;
                let message = format!("{refusal}: nothing is allowed in it until there is room for its tag");
                return Err(Refusal { message, ..refusal });
            }
            return Err(refusal);
        }
        let mut problem = None;
        let mut visited = Ok(Problems::default());
        // What was being made when its parent was put there has its parent's former tag, and can be seen only now.
        let mut done = HashSet::new();
        for _ in 0..ROUNDS {
            let mut is_changed = false;
            visited = self.visit_below(node, &mut |core, below| {
                let theirs = core.scope_of(below.id)?;
                let owned_below = owner(&owners, theirs);
                let is_done = done.contains(&below.id);
                let taken = match how {
                    _ if is_done => true,
                    How::ByHand => !matches!(owned_below, Owner::Run(_)),
                    _ if theirs.is_none() || core.is_by_hand(below.id)? != by_hand => false,
                    // From one instance to another.
                    _ if is_same_owner => theirs == before,
                    _ => owned_below == owned,
                };
                if taken && done.insert(below.id) {
                    is_changed = true;
                    match core.put(below.id, *scope, *entry, by_hand) {
                        Ok(()) => drop(core.registry.cgroups.remove(&below.id)),
                        Err(refusal) => drop(problem.get_or_insert(refusal)),
                    }
                }
                Ok(taken)
            });
            if !is_changed {
                break;
            }
        }
        let mut problems: Vec<String> = match visited {
            Ok(problems) => problems.lines().collect(),
            Err(refusal) => vec![refusal.message],
        };
        problems.extend(problem.map(|refusal| refusal.message));
        Ok(problems.into_iter().map(|why| format!("what is below could not all be tagged: {why}")).collect())
    }

    /// Goes through what is below a cgroup, as far down as the visitor says, who may make changes.
    fn visit_below(
        &mut self,
        node: &Node,
        visitor: &mut dyn FnMut(&mut Self, &Node) -> Result<bool, Refusal>,
    ) -> Result<Problems, Refusal> {
        let tree = self.tree.clone();
        let mut first_problem = None;
        let problems = tree.visit(&node.path, None, &mut |visit| {
            let Visit::Met(below) = visit else { return true };
            if below.path == node.path {
                // By that name there may be another now.
                return below.id == node.id;
            }
            visitor(self, below).unwrap_or_else(|refusal| {
                first_problem.get_or_insert(refusal);
                false
            })
        });
        match (first_problem, problems) {
            (Some(refusal), _) => Err(refusal),
            (None, Ok(problems)) => Ok(problems),
            (None, Err(TreeError::Io { source, .. })) if is_gone(&source) => Ok(Problems::default()),
            (None, Err(error)) => Err(in_tree(&error)),
        }
    }

    pub(super) fn put(&mut self, id: u64, scope: Scope, entry: Entry, by_hand: bool) -> Result<(), Refusal> {
        let tagged = if by_hand {
            self.enforcer.tag_by_hand(id, scope, entry)
        } else {
            self.enforcer.tag(id, scope, entry)
        };
        tagged.map_err(|error| refused_by_kernel(&error))
    }

    pub(super) fn is_by_hand(&mut self, id: u64) -> Result<bool, Refusal> {
        self.enforcer.is_by_hand(id).map_err(|error| refused_by_kernel(&error))
    }

    /// Has a cgroup tagged as the one it is in, or as little.
    pub(super) fn follow(&mut self, node: &Node, above: Option<u64>) -> Result<(), Refusal> {
        let Some(above) = above else { return Ok(()) };
        match self.scope_of(above)? {
            Some(scope) => {
                let by_hand = self.is_by_hand(above)?;
                let entry = self.owner(scope).map_or(Entry::Starting, |(_, entry)| entry);
                self.put(node.id, scope, entry, by_hand)?;
            }
            None => {
                self.enforcer.untag(node.id).map_err(|error| refused_by_kernel(&error))?;
            }
        }
        self.registry.cgroups.remove(&node.id);
        Ok(())
    }

    /// The number of a scope's first instance.
    pub(super) fn first(&self, name: &str) -> Result<Scope, Refusal> {
        let first = self.state(name)?.instances.first().map(|instance| instance.scope);
        first.ok_or_else(|| refusal(RefusalKind::Failed, format!("{name:?} has no tables")))
    }

    /// Lets a cgroup go, and what is below and was in the same scope.
    pub(super) fn untag_below(&mut self, node: &Node, name: &str) -> Result<TaggedCgroup, Refusal> {
        let known = self.registry.cgroups.remove(&node.id);
        let owners = self.owners();
        let owned = owner(&owners, self.scope_of(node.id)?);
        let by_hand = self.is_by_hand(node.id)?;
        self.enforcer.untag(node.id).map_err(|error| refused_by_kernel(&error))?;
        let problems = self.visit_below(node, &mut |core, below| {
            let taken = owner(&owners, core.scope_of(below.id)?) == owned
                && owned != Owner::Nobody
                && core.is_by_hand(below.id)? == by_hand;
            if taken {
                core.enforcer.untag(below.id).map_err(|error| refused_by_kernel(&error))?;
                core.registry.cgroups.remove(&below.id);
            }
            Ok(taken)
        })?;
        for line in problems.lines() {
            eprintln!("stockade: what is below could not all be untagged: {line}");
        }
        let how = known.as_ref().map_or(How::AtCreation, |known| known.how);
        let said = CgroupEvent {
            kind: "untag",
            scope: name,
            id: node.id,
            path: &node.path,
            how: how.name(),
            window: &[],
        };
        let said = announce::cgroup(&self.boot, boot_ns(), &said);
        self.recorder.tell(&said, name, None);
        Ok(known.unwrap_or(TaggedCgroup {
            path: node.path.clone(),
            since: SystemTime::now(),
            how,
            window: Vec::new(),
            processes: 0,
        }))
    }

    pub(super) fn scope_of(&mut self, id: u64) -> Result<Option<Scope>, Refusal> {
        self.enforcer.scope_of(id).map_err(|error| refused_by_kernel(&error))
    }

    pub(super) fn tag_by_hand(&mut self, target: &Target, name: &str) -> Result<Tagged, Refusal> {
        self.state(name)?;
        let node = self.resolve(target)?;
        if let Some(scope) = self.scope_of(node.id)?
            && let Some((owner, _)) = self.owner(scope)
            && owner != name
            && self.registry.scopes.get(&owner).is_some_and(|state| state.kind == ScopeKind::Run)
        {
            let message = format!("{} is a run's: it ends with the run", node.path.display());
            return Err(refusal(RefusalKind::Conflict, message));
        }
        self.tag_below(&node, name, How::ByHand, Vec::new())?;
        self.wait_for_look(node.id);
        let cgroup = self.cgroup_status(node.id, Instant::now() + COUNTING)?;
        Ok(Tagged { held: cgroup.window.clone(), cgroup, scope: name.to_owned() })
    }

    pub(super) fn untag_by_hand(&mut self, target: &Target) -> Result<Tagged, Refusal> {
        let node = self.resolve(target)?;
        let path = node.path.display();
        let Some(known) = self.registry.cgroups.get(&node.id).cloned() else {
            let message = format!("{path} was not tagged for itself");
            return Err(refusal(RefusalKind::NotFound, message));
        };
        let name = self.scope_of(node.id)?.and_then(|scope| self.owner(scope)).map(|(name, _)| name);
        let name = name.unwrap_or_else(|| UNDECIDED.to_owned());
        if known.how != How::ByHand && !self.is_by_hand(node.id)? {
            let message = format!(
                "{path} is in the scope of {name:?} by rule ({}): change the policy, and reload",
                known.how.name()
            );
            return Err(refusal(RefusalKind::Conflict, message));
        }
        let cgroup = self.cgroup_status(node.id, Instant::now() + COUNTING)?;
        self.untag_below(&node, &name)?;
        // A rule may hold for it.
        if let Err(refusal) = self.walk() {
            eprintln!("stockade: {refusal}");
        }
        Ok(Tagged { cgroup, scope: name, held: Vec::new() })
    }

    fn resolve(&self, target: &Target) -> Result<Node, Refusal> {
        let node = target::resolve(&self.tree, target).map_err(|error| {
            let kind = match &error {
                TargetError::Invalid { .. } => RefusalKind::Invalid,
                TargetError::NotFound { .. } => RefusalKind::NotFound,
                TargetError::Tree(_) => RefusalKind::Failed,
            };
            refusal(kind, error)
        })?;
        if self.own.starts_with(&node.path) {
            let message = format!("{} is the daemon's own cgroup, or above it", node.path.display());
            return Err(refusal(RefusalKind::Invalid, message));
        }
        Ok(node)
    }

    /// What is known of a cgroup. Processes are counted until `end`, and from then on are as many as were counted last.
    pub(super) fn cgroup_status(&mut self, id: u64, end: Instant) -> Result<CgroupStatus, Refusal> {
        let Some(known) = self.registry.cgroups.get_mut(&id) else {
            return Err(refusal(RefusalKind::NotFound, format!("cgroup {id} is gone")));
        };
        let is_late = || Instant::now() >= end;
        let mut stale = is_late();
        if !stale {
            let counted = self.tree.all_processes(&known.path, Some(end));
            stale = is_late();
            if !stale {
                known.processes = counted.map_or(0, |(pids, _)| pids.len() as u32);
            }
        }
        Ok(CgroupStatus {
            path: known.path.clone(),
            id,
            processes: known.processes,
            stale,
            since: humantime::format_rfc3339_seconds(known.since).to_string(),
            how: known.how.name().to_owned(),
            window: known.window.clone(),
        })
    }
}
