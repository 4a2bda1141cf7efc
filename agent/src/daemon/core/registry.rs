//! The scopes there are: each a policy, and an instance for each view of the mounts that it is compiled for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use stockade_common::tag::{SCOPE_AT_ONCE, SCOPE_AUDIT_ALL, SCOPE_CGROUP_EMITS, SCOPE_ENFORCE};

use crate::{
    audit::json::Context,
    daemon::{command::ScopeKind, policies::View},
    kernel::{Entry, Scope, Slot},
    policy::{
        checked::{CheckedPolicy, Mode},
        image::MapImage,
        scope::Start,
    },
    scope::cgroup::OwnCgroup,
};

/// A policy compiled for one view, in the kernel.
#[derive(Debug)]
pub struct Instance {
    /// What its cgroups are tagged with.
    pub scope: Scope,
    /// Where its tables are.
    pub slot: Slot,
    /// What was compiled, and for what; `None`: what an earlier daemon has left, of which that is not known.
    pub compiled: Option<(View, Arc<MapImage>)>,
    /// For events.
    pub context: Arc<Context>,
}

/// A scope.
#[derive(Debug)]
pub struct ScopeState {
    /// Where it comes from.
    pub kind: ScopeKind,
    /// The policy; `None` if its file is gone, or was never read: what an earlier daemon has left.
    pub policy: Option<CheckedPolicy>,
    /// The file.
    pub source: Option<PathBuf>,
    /// Switched by hand.
    pub mode: Option<Mode>,
    /// When those who enter are policed.
    pub entry: Entry,
    /// Who started the run.
    pub uid: Option<u32>,
    /// The run's cgroup.
    pub cgroup: Option<OwnCgroup>,
    /// Its client is not known: an earlier daemon had it. It ends when nothing is in it any more.
    pub orphan: bool,
    /// It is taken away as soon as no cgroup is in it.
    pub leaving: bool,
    /// Allowed reads and sends are reported too.
    pub audit_all: bool,
    /// What of the `SCOPE_*` flags goes with the tables, where the policy is not known.
    pub left_flags: u32,
    /// The policy it is compared with.
    pub shadow: Option<CheckedPolicy>,
    /// The first is the one for the host's own view.
    pub instances: Vec<Instance>,
}

impl ScopeState {
    /// A scope without a policy, in which nothing is yet.
    #[must_use]
    pub fn new(kind: ScopeKind, entry: Entry) -> Self {
        Self {
            kind,
            policy: None,
            source: None,
            mode: None,
            entry,
            uid: None,
            cgroup: None,
            orphan: false,
            leaving: false,
            audit_all: false,
            left_flags: 0,
            shadow: None,
            instances: Vec::new(),
        }
    }

    /// Of a host policy, with nothing in it.
    #[must_use]
    pub fn of_policy(policy: &CheckedPolicy) -> Self {
        let at_once = policy.scope.as_ref().is_some_and(|scope| scope.start == Start::AtOnce);
        let entry = if at_once { Entry::AtOnce } else { Entry::Starting };
        Self { policy: Some(policy.clone()), ..Self::new(ScopeKind::Policy, entry) }
    }

    /// Whether denials are enforced.
    #[must_use]
    pub fn effective_mode(&self) -> Mode {
        let written = self.policy.as_ref().map_or(Mode::Enforce, |policy| policy.mode);
        self.mode.unwrap_or(written)
    }

    /// `SCOPE_*` flags.
    #[must_use]
    pub fn flags(&self, degraded: bool) -> u32 {
        let enforce = self.effective_mode() == Mode::Enforce;
        // A comparison needs what was allowed as well.
        let all = self.audit_all || self.shadow.is_some();
        let at_once = self.entry == Entry::AtOnce;
        let network = self.policy.as_ref().map_or(self.left_flags, CheckedPolicy::scope_flags);
        [
            (enforce, SCOPE_ENFORCE),
            (all, SCOPE_AUDIT_ALL),
            (degraded, SCOPE_CGROUP_EMITS),
            (at_once, SCOPE_AT_ONCE),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(network, |flags, (_, flag)| flags | flag)
    }
}

/// What is known of a tagged cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedCgroup {
    /// From the root of the v2 hierarchy.
    pub path: PathBuf,
    /// When.
    pub since: SystemTime,
    /// How.
    pub how: How,
    /// What may have happened before, or is untouched.
    pub window: Vec<String>,
    /// Processes in it, and below, when they were counted last.
    pub processes: u32,
}

/// How a cgroup came to be tagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By the kernel programs, before anything was in it.
    AtCreation,
    /// When its workload was about to begin: it was a container's.
    AtStart,
    /// While something ran in it.
    Running,
    /// By hand.
    ByHand,
    /// By an earlier daemon.
    Adopted,
    /// For a run.
    Run,
}

impl How {
    /// As the API says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AtCreation => "at_creation",
            Self::AtStart => "at_start",
            Self::Running => "running",
            Self::ByHand => "by_hand",
            Self::Adopted => "adopted",
            Self::Run => "run",
        }
    }
}

/// All scopes by name, and the numbers that are taken.
#[derive(Debug, Default)]
pub struct Registry {
    /// By name.
    pub scopes: BTreeMap<String, ScopeState>,
    /// By kernel id. Only those that were tagged for themselves: what is below them has inherited.
    pub cgroups: BTreeMap<u64, TaggedCgroup>,
}

impl Registry {
    /// Name and instance of a scope's number.
    #[must_use]
    pub fn find(&self, scope: Scope) -> Option<(&str, &Instance)> {
        self.scopes.iter().find_map(|(name, state)| {
            let instance = state.instances.iter().find(|instance| instance.scope == scope)?;
            Some((name.as_str(), instance))
        })
    }

    /// All numbers that are taken.
    pub fn numbers(&self) -> impl Iterator<Item = Scope> {
        self.scopes.values().flat_map(|state| &state.instances).map(|instance| instance.scope)
    }

    /// The number of the tagged cgroup that is `path` or the nearest above it.
    #[must_use]
    pub fn above(&self, path: &Path) -> Option<u64> {
        let below = self.cgroups.iter().filter(|(_, cgroup)| path.starts_with(&cgroup.path));
        below.max_by_key(|(_, cgroup)| cgroup.path.components().count()).map(|(id, _)| *id)
    }
}

/// All that [`How::name`] gives.
#[cfg(test)]
pub fn how_names() -> [&'static str; 6] {
    [How::AtCreation, How::AtStart, How::Running, How::ByHand, How::Adopted, How::Run].map(How::name)
}

#[cfg(test)]
pub(super) mod tests {
    use stockade_common::tag::{SCOPE_DNS, SCOPE_EGRESS, SCOPE_LOOPBACK_OWN};

    use super::*;

    /// An instance of which it is not known for what it was compiled.
    pub fn instance(scope: u32, slot: u32) -> Instance {
        Instance { scope: Scope(scope), slot: Slot(slot), compiled: None, context: Arc::default() }
    }

    fn state(instances: &[(u32, u32)]) -> ScopeState {
        let instances = instances.iter().map(|(scope, slot)| instance(*scope, *slot)).collect();
        ScopeState { instances, ..ScopeState::new(ScopeKind::Policy, Entry::Starting) }
    }

    #[test]
    fn a_number_leads_to_its_scope() {
        let scopes = [("ci", &[(1, 4), (3, 5)][..]), ("web", &[(2, 6)]), ("empty", &[])];
        let scopes = scopes.map(|(name, instances)| (name.to_owned(), state(instances)));
        let registry = Registry { scopes: scopes.into(), ..Registry::default() };
        let found = |number| registry.find(Scope(number)).map(|(name, instance)| (name, instance.slot.0));
        assert_eq!([found(1), found(2), found(3)], [Some(("ci", 4)), Some(("web", 6)), Some(("ci", 5))]);
        assert_eq!(found(4), None);
        assert_eq!(registry.numbers().map(|scope| scope.0).collect::<Vec<_>>(), [1, 3, 2]);
    }

    #[test]
    fn what_is_set_by_hand_comes_before_what_is_written() {
        let audit = CheckedPolicy { mode: Mode::Audit, ..CheckedPolicy::default() };
        let mut scope = state(&[]);
        assert_eq!((scope.effective_mode(), scope.flags(false)), (Mode::Enforce, SCOPE_ENFORCE));
        scope.policy = Some(audit);
        assert_eq!((scope.effective_mode(), scope.flags(false)), (Mode::Audit, 0));
        scope.mode = Some(Mode::Enforce);
        assert_eq!(scope.flags(true), SCOPE_ENFORCE | SCOPE_CGROUP_EMITS);
    }

    #[test]
    fn a_comparison_asks_for_every_decision() {
        let compared = ScopeState { shadow: Some(CheckedPolicy::default()), ..state(&[]) };
        assert_eq!(compared.flags(false), SCOPE_ENFORCE | SCOPE_AUDIT_ALL);
        let all = ScopeState { audit_all: true, ..state(&[]) };
        assert_eq!(all.flags(false), SCOPE_ENFORCE | SCOPE_AUDIT_ALL);
    }

    fn cgroup(path: &str) -> TaggedCgroup {
        TaggedCgroup {
            path: path.into(),
            since: SystemTime::UNIX_EPOCH,
            how: How::Running,
            window: Vec::new(),
            processes: 0,
        }
    }

    #[test]
    fn the_nearest_cgroup_above_is_found_by_components() {
        let mut registry = Registry::default();
        registry.cgroups.insert(1, cgroup("/ci.slice"));
        registry.cgroups.insert(2, cgroup("/ci.slice/a"));
        assert_eq!(registry.above(Path::new("/ci.slice/a/b")), Some(2));
        assert_eq!(registry.above(Path::new("/ci.slice/ab")), Some(1));
        assert_eq!(registry.above(Path::new("/ci.slicex")), None);
    }

    #[test]
    fn scopes_are_found_by_the_number_of_each_instance() {
        let mut registry = Registry::default();
        registry.scopes.insert("a".into(), state(&[(1, 1), (4, 4)]));
        registry.scopes.insert("b".into(), state(&[(2, 2)]));
        let name = |scope| registry.find(Scope(scope)).map(|(name, instance)| (name, instance.slot.0));
        assert_eq!((name(4), name(2), name(3)), (Some(("a", 4)), Some(("b", 2)), None));
        assert_eq!(registry.numbers().collect::<Vec<_>>(), [Scope(1), Scope(4), Scope(2)]);
    }

    #[test]
    fn flags_say_how_a_scope_is_enforced() {
        let mut state = state(&[]);
        assert_eq!(state.flags(false), SCOPE_ENFORCE, "what is not known is enforced");
        (state.mode, state.entry) = (Some(Mode::Audit), Entry::AtOnce);
        assert_eq!(state.flags(true), SCOPE_CGROUP_EMITS | SCOPE_AT_ONCE);
    }

    #[test]
    fn flags_of_the_network_are_the_policys_or_those_that_were_left() {
        let mut state = ScopeState { left_flags: SCOPE_DNS | SCOPE_EGRESS, ..state(&[]) };
        assert_eq!(state.flags(false), SCOPE_ENFORCE | SCOPE_DNS | SCOPE_EGRESS, "not read yet: as it was");
        state.policy = Some(CheckedPolicy { loopback_own: Some(0), ..CheckedPolicy::default() });
        assert_eq!(state.flags(false), SCOPE_ENFORCE | SCOPE_LOOPBACK_OWN);
    }
}
