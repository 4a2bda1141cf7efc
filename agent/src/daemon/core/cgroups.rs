//! Which cgroup belongs to which scope: as cgroups are made, by looking, and by hand.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use stockade_common::limits::UNDECIDED_SCOPE;

use super::{
    Core, refusal, refused_by_kernel,
    registry::{How, TaggedCgroup},
};
use crate::{
    audit::origin::boot_ns,
    daemon::{
        announce::{self, CgroupEvent},
        command::{CgroupStatus, Refusal, RefusalKind, ScopeKind, Tagged, Target},
        policies::View,
    },
    kernel::{Entry, Scope},
    scope::{
        container, held,
        running::freeze,
        target::{self, TargetError},
        tree::{Node, TreeError},
    },
};

/// What the scope of what nobody has yet is called in events.
pub(super) const UNDECIDED: &str = "undecided";
/// What a cgroup's processes may take to stand still.
const FREEZE: Duration = Duration::from_secs(5);
/// Things held from before that are named.
const NAMED: usize = 64;

fn in_tree(error: &TreeError) -> Refusal {
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
        let belongs = self.inspector.belongs(&self.matcher, &node.path);
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
    fn note(&mut self, node: &Node, name: &str, how: How, window: Vec<String>) {
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
        let cgroup = TaggedCgroup { path: node.path.clone(), since: SystemTime::now(), how, window };
        self.registry.cgroups.insert(node.id, cgroup);
    }

    /// Tags a cgroup and all below it.
    pub(super) fn tag(&mut self, wanted: Wanted<'_>) -> Result<(), Refusal> {
        let Wanted { node, name, scope, entry, how, window } = wanted;
        // What is made below it meanwhile inherits: it comes first.
        self.enforcer.tag(node.id, scope, entry).map_err(|error| refused_by_kernel(&error))?;
        for below in self.tree.walk(&node.path).map_err(|error| in_tree(&error))? {
            self.enforcer.tag(below.id, scope, entry).map_err(|error| refused_by_kernel(&error))?;
            if below.id != node.id {
                self.registry.cgroups.remove(&below.id);
            }
        }
        self.note(node, name, how, window);
        Ok(())
    }

    /// Tags a cgroup for a policy, whatever runs in it: it stands still meanwhile.
    fn tag_below(
        &mut self,
        node: &Node,
        name: &str,
        how: How,
        mut window: Vec<String>,
    ) -> Result<(), Refusal> {
        let entry = self.state(name)?.entry;
        let pids = self.tree.all_processes(&node.path).unwrap_or_default();
        let starting = self.enforcer.starters().map_err(|error| refused_by_kernel(&error))?;
        let running = pids.iter().any(|pid| !starting.iter().any(|(starter, _)| starter == pid));
        if !running {
            let scope = self.first(name)?;
            return self.tag(Wanted { node, name, scope, entry, how, window });
        }
        let frozen = freeze(&self.tree, &node.path, FREEZE).map_err(|error| in_tree(&error))?;
        let (scope, held) = self.look_at_running(node, name)?;
        if how != How::ByHand {
            window.push("its processes ran before it was tagged".to_owned());
        }
        window.extend(held);
        self.tag(Wanted { node, name, scope, entry, how, window })?;
        frozen.thaw().map_err(|error| in_tree(&error))
    }

    /// The instance for what runs in a cgroup, and what its processes hold from before.
    fn look_at_running(&mut self, node: &Node, name: &str) -> Result<(Scope, Vec<String>), Refusal> {
        let pids = self.tree.all_processes(&node.path).map_err(|error| in_tree(&error))?;
        let mut scope = self.first(name)?;
        if let Some(view) = pids.iter().find_map(|pid| View::of(*pid).ok()) {
            scope = self.instance(name, &view)?;
        }
        let Some((_, instance)) = self.registry.find(scope) else { return Ok((scope, Vec::new())) };
        let Some((view, image)) = &instance.compiled else { return Ok((scope, Vec::new())) };
        let report = held::held(&pids, &held::by_policy(image, &view.mounts), NAMED);
        Ok((scope, report.lines()))
    }

    /// The number of a scope's first instance.
    pub(super) fn first(&self, name: &str) -> Result<Scope, Refusal> {
        let first = self.state(name)?.instances.first().map(|instance| instance.scope);
        first.ok_or_else(|| refusal(RefusalKind::Failed, format!("{name:?} has no tables")))
    }

    /// Lets a cgroup and all below it go.
    pub(super) fn untag_below(&mut self, node: &Node, name: &str) -> Result<TaggedCgroup, Refusal> {
        let known = self.registry.cgroups.get(&node.id).cloned();
        for below in self.tree.walk(&node.path).map_err(|error| in_tree(&error))? {
            self.enforcer.untag(below.id).map_err(|error| refused_by_kernel(&error))?;
            self.registry.cgroups.remove(&below.id);
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
        }))
    }

    /// Brings every cgroup of the tree to where it belongs.
    pub(super) fn walk(&mut self) -> Result<(), Refusal> {
        self.sort(&[])
    }

    /// The same; `gone` are scopes that are about to be taken away.
    pub(super) fn sort(&mut self, gone: &[String]) -> Result<(), Refusal> {
        let nodes = self.tree.walk(Path::new("/")).map_err(|error| in_tree(&error))?;
        // Those that belong to a cgroup above, whatever they are called: who is policed could call them anything.
        let mut below: Option<(PathBuf, Scope)> = None;
        let mut first_problem = None;
        for node in nodes {
            if let Some((top, scope)) = &below
                && node.path.starts_with(top)
                && self.scope_of(node.id)? == Some(*scope)
            {
                continue;
            }
            below = None;
            let tagged = self.scope_of(node.id)?;
            match self.place(&node, tagged, gone) {
                Ok(Some(scope)) => below = Some((node.path, scope)),
                Ok(None) => {}
                // One that is gone, or cannot be frozen, must not keep the others from being tagged.
                Err(refusal) => {
                    if self.tree.id(&node.path).is_ok_and(|id| id == node.id) {
                        eprintln!("stockade: {}: {refusal}", node.path.display());
                        first_problem.get_or_insert(refusal);
                    }
                }
            }
        }
        match first_problem {
            Some(refusal) if !gone.is_empty() => Err(refusal),
            _ => Ok(()),
        }
    }

    fn scope_of(&mut self, id: u64) -> Result<Option<Scope>, Refusal> {
        self.enforcer.scope_of(id).map_err(|error| refused_by_kernel(&error))
    }

    /// Where one cgroup belongs. Returns the scope that it, and what is below it, is in then.
    fn place(
        &mut self,
        node: &Node,
        tagged: Option<Scope>,
        gone: &[String],
    ) -> Result<Option<Scope>, Refusal> {
        if node.path.parent().is_none()
            || self.own.starts_with(&node.path)
            || node.path.starts_with(&self.own)
        {
            // Runs are below our own.
            return Ok(tagged);
        }
        let owner = tagged.and_then(|scope| self.owner(scope)).map(|(name, _)| name);
        let by_hand = self.registry.cgroups.get(&node.id).is_some_and(|known| known.how == How::ByHand);
        let stays = owner.as_ref().is_some_and(|name| !gone.contains(name));
        if let Some(name) = &owner
            && stays
            && (by_hand || self.registry.scopes.get(name).is_some_and(|state| state.kind == ScopeKind::Run))
        {
            return Ok(tagged);
        }
        let undecided = tagged == Some(Scope(UNDECIDED_SCOPE));
        if undecided && (container::identify(&node.path).is_some() || !self.policies_known) {
            return Ok(tagged);
        }
        let belongs = self.inspector.belongs(&self.matcher, &node.path);
        let found = belongs.to.and_then(|found| self.policies.policies.get(found.policy));
        match (found.map(|policy| policy.name.clone()), owner) {
            (Some(name), Some(owner)) if name == owner => {
                if !self.registry.cgroups.contains_key(&node.id) {
                    self.note(node, &name, How::Adopted, Vec::new());
                }
                Ok(tagged)
            }
            (Some(name), _) => {
                self.tag_below(node, &name, How::Running, belongs.warnings)?;
                self.scope_of(node.id)
            }
            // It was in a policy's scope, and is in none now: its file says so, or is gone.
            (None, Some(owner)) => {
                let unknown = self.policies.named(&owner).is_none() && !gone.contains(&owner);
                if unknown { Ok(tagged) } else { self.untag_below(node, &owner).map(|_| None) }
            }
            (None, None) if undecided => self.untag_below(node, UNDECIDED).map(|_| None),
            // A number nobody knows is held to nothing, and so allowed nothing.
            (None, None) => Ok(tagged),
        }
    }

    /// Forgets cgroups that are gone, and instances and runs nobody is in.
    pub(super) fn collect(&mut self) -> Result<(), Refusal> {
        let tags = self.enforcer.tags().map_err(|error| refused_by_kernel(&error))?;
        self.registry.cgroups.retain(|id, _| tags.iter().any(|(tagged, _)| tagged == id));
        let is_used = |scope: Scope| tags.iter().any(|(_, tagged)| *tagged == scope);
        let mut unused = Vec::new();
        let mut ended = Vec::new();
        for (name, state) in &mut self.registry.scopes {
            if state.kind == ScopeKind::Run {
                // With a client it ends when that says so.
                let empty =
                    state.cgroup.as_ref().is_none_or(|cgroup| !cgroup.is_populated().unwrap_or(false));
                if state.orphan && empty {
                    ended.push(name.clone());
                }
                continue;
            }
            while let Some(position) = state.instances.iter().skip(1).position(|one| !is_used(one.scope)) {
                unused.push(state.instances.remove(position + 1));
            }
        }
        for instance in &unused {
            self.remove_instance(instance)?;
        }
        for name in ended {
            self.run_ended(&name)?;
        }
        Ok(())
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
        let cgroup = self.cgroup_status(node.id)?;
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
        if known.how != How::ByHand {
            let message = format!(
                "{path} is in the scope of {name:?} by rule ({}): change the policy, and reload",
                known.how.name()
            );
            return Err(refusal(RefusalKind::Conflict, message));
        }
        let cgroup = self.cgroup_status(node.id)?;
        self.untag_below(&node, &name)?;
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

    pub(super) fn cgroup_status(&mut self, id: u64) -> Result<CgroupStatus, Refusal> {
        let Some(known) = self.registry.cgroups.get(&id) else {
            return Err(refusal(RefusalKind::NotFound, format!("cgroup {id} is gone")));
        };
        let processes = self.tree.all_processes(&known.path).map_or(0, |pids| pids.len() as u32);
        Ok(CgroupStatus {
            path: known.path.clone(),
            id,
            processes,
            since: humantime::format_rfc3339_seconds(known.since).to_string(),
            how: known.how.name().to_owned(),
            window: known.window.clone(),
        })
    }
}
