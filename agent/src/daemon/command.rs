//! What can be asked of the daemon's core, and what it answers. The answers are what the API shows, as JSON, version 1:
//! fields are only ever added.

mod run;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use self::run::{RunEnded, RunRequest, RunStarted};
use crate::policy::checked::Mode;

/// Where the core sends an answer. Who asked may be gone.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Why the core did not do what was asked. Nothing was changed then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of thing it is.
    pub kind: RefusalKind,
    /// For a person: what was wrong, where, and what to do.
    pub message: String,
}

/// Kinds of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// What was asked for makes no sense: a policy with errors, an unknown mode.
    Invalid,
    /// No scope, cgroup, unit or process of that name.
    NotFound,
    /// It stands in the way of something that is there.
    Conflict,
    /// The kernel refused, or has no room.
    Failed,
}

/// A request to the core.
#[derive(Debug)]
pub enum Command {
    /// What is enforced, on what, with what counts.
    Status {
        /// Where the answer goes.
        reply: Reply<Status>,
    },
    /// Read `policies.d` again and, if all of it is right, put it in place of what is active.
    Reload {
        /// Where the answer goes.
        reply: Reply<Reloaded>,
    },
    /// Compare what a policy would decide with what the active one decides, from now on.
    Shadow {
        /// The scope.
        scope: String,
        /// Policy text; `None` ends the comparison.
        policy: Option<String>,
        /// Where the answer goes: what the comparison has found so far, when it ends.
        reply: Reply<ShadowReport>,
    },
    /// Switch a scope between enforcing and auditing, until the next reload says otherwise.
    SetMode {
        /// The scope.
        scope: String,
        /// The new mode.
        mode: Mode,
        /// Where the answer goes.
        reply: Reply<ScopeStatus>,
    },
    /// Hold something to a scope's policy.
    Tag {
        /// What.
        target: Target,
        /// The scope's name.
        scope: String,
        /// Where the answer goes.
        reply: Reply<Tagged>,
    },
    /// Let something go that was tagged by hand.
    Untag {
        /// What.
        target: Target,
        /// Where the answer goes.
        reply: Reply<Tagged>,
    },
    /// Make a cgroup for a command, held to a policy of its own.
    Run {
        /// What is to run.
        request: RunRequest,
        /// Where the answer goes.
        reply: Reply<RunStarted>,
    },
    /// A run's client is gone: end what is left in its cgroup, and let it go.
    RunEnded {
        /// The run's scope.
        scope: String,
        /// Where the answer goes.
        reply: Reply<RunEnded>,
    },
    /// Let go of everything, remove all pins, and exit.
    Detach {
        /// Where the answer goes.
        reply: Reply<()>,
    },
}

/// Something to be tagged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A cgroup, as a path from the root of the v2 hierarchy: `/system.slice/x.service`.
    Cgroup(PathBuf),
    /// A systemd unit, by name.
    Unit(String),
    /// The cgroup that a process is in.
    Pid(u32),
}

/// What is enforced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// When it started, RFC 3339.
    pub since: String,
    /// The kernel's release.
    pub kernel: String,
    /// What was proved at the start, by name.
    pub guarantees: Vec<String>,
    /// Files are not policed: the network only.
    pub degraded: bool,
    /// What was adopted from an earlier daemon: number of tagged cgroups; `None` if nothing was there.
    pub adopted: Option<u32>,
    /// Successful and refused reloads.
    pub reloads: Reloads,
    /// Which policies are in force.
    #[serde(default)]
    pub policies: PolicySet,
    /// Entries of the tables that have a limit, and the limit.
    pub maps: Vec<MapFill>,
    /// Run time of the kernel programs, where the kernel counts it (`kernel.bpf_stats_enabled`).
    pub programs: Vec<ProgramStatus>,
    /// Each scope.
    pub scopes: Vec<ScopeStatus>,
}

/// Reloads since the daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloads {
    /// That took effect.
    pub applied: u64,
    /// That were refused.
    pub refused: u64,
}

/// Which policies are in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicySet {
    /// Where they come from.
    pub source: PolicySource,
    /// Digest of their files, those they extend included; null if they are not all from files that are known.
    pub digest: Option<String>,
    /// Why it is not what is in policies.d; null if it is.
    pub broken: Option<BrokenPolicies>,
    /// Why they could not be kept for a start at which policies.d is broken; null if they were.
    pub unkept: Option<String>,
}

/// Where the policies in force come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicySource {
    /// What is, or was at the last reload that took effect, in policies.d.
    PoliciesD,
    /// What was kept of the last policies that took effect.
    LastGood,
    /// What of policies.d can be read; what has errors allows nothing.
    Readable,
    /// What an earlier daemon has put into the kernel.
    #[default]
    EarlierDaemon,
}

/// Files that cannot be put in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BrokenPolicies {
    /// Since when that is known, RFC 3339.
    pub since: String,
    /// What is wrong, for a person; several lines.
    pub error: String,
    /// Policies that allow nothing, because nothing more of them is known than whom they are for.
    pub nothing_allowed: Vec<String>,
}

/// How full a table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MapFill {
    /// Its name.
    pub name: String,
    /// Entries.
    pub used: u64,
    /// Most entries.
    pub limit: u64,
}

/// A kernel program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgramStatus {
    /// Its name.
    pub name: String,
    /// How often it ran. 0 where the kernel doesn't count.
    pub runs: u64,
    /// Nanoseconds it ran for.
    pub run_ns: u64,
}

/// Where a scope comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScopeKind {
    /// A file in `policies.d`.
    Policy,
    /// A `stockade run`.
    Run,
}

/// One scope: a policy and what is held to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScopeStatus {
    /// Its name: the policy's, or the run's.
    pub name: String,
    /// Where it comes from.
    pub kind: ScopeKind,
    /// The policy's name.
    pub policy: String,
    /// The policy's digest.
    pub digest: String,
    /// `enforce` or `audit`.
    pub mode: Mode,
    /// The file it was read from.
    pub source: Option<PathBuf>,
    /// Who started the run.
    pub uid: Option<u32>,
    /// What is held to it.
    pub cgroups: Vec<CgroupStatus>,
    /// Operations decided.
    pub decisions: Decisions,
    /// Events that were lost, by why.
    pub lost: Lost,
    /// Policy text that is compared with, if any.
    pub shadow: Option<ShadowReport>,
}

/// A tagged cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CgroupStatus {
    /// From the root of the v2 hierarchy.
    pub path: PathBuf,
    /// Kernel id.
    pub id: u64,
    /// Processes in it, children included.
    pub processes: u32,
    /// They were counted earlier: there was no time for it now.
    #[serde(default)]
    pub stale: bool,
    /// When it was tagged, RFC 3339.
    pub since: String,
    /// How: `at_creation` (before its first process), `running`, `by_hand`, `adopted`, `run`.
    pub how: String,
    /// What may have happened before the tag, or is still untouched by it, in words; empty if nothing.
    pub window: Vec<String>,
}

/// Decisions by plane and verdict. In audit mode `denied` are those that would have been.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decisions {
    /// File operations.
    pub file: Verdicts,
    /// Network operations.
    pub net: Verdicts,
    /// Everything else: ptrace, bpf, cgroups.
    pub process: Verdicts,
}

/// Allowed and denied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdicts {
    /// Went on.
    pub allowed: u64,
    /// Refused.
    pub denied: u64,
}

/// Events that are missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// Denials that did not fit the ring.
    pub denied: u64,
    /// Others that did not fit the ring.
    pub other: u64,
    /// Records that could not be read.
    pub undecoded: u64,
    /// Events that the log did not take.
    pub unwritten: u64,
}

/// A reload that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Scopes whose policy is another now.
    pub changed: Vec<String>,
    /// Scopes that are new.
    pub added: Vec<String>,
    /// Scopes that are gone.
    pub removed: Vec<String>,
    /// Scopes that are as before.
    pub unchanged: Vec<String>,
}

/// What a comparison has found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ShadowReport {
    /// Decisions compared.
    pub compared: u64,
    /// Decisions that were lost before they could be compared.
    pub missed: u64,
    /// Where the two differ, each once, with how often.
    pub differences: Vec<Difference>,
    /// More kinds of differences than are kept.
    pub more: bool,
}

/// A decision the two policies differ on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// `open`, `connect`, ...
    pub kind: String,
    /// The path or the address.
    pub object: String,
    /// `read`, `write`, `exec`, or empty.
    pub access: String,
    /// What the active policy says, with the rule.
    pub active: String,
    /// What the other says, with the rule.
    pub shadow: String,
    /// How often.
    pub times: u64,
}

/// What was tagged or let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagged {
    /// The cgroup.
    pub cgroup: CgroupStatus,
    /// The scope.
    pub scope: String,
    /// Sockets and descriptors its processes held from before, in words.
    pub held: Vec<String>,
}
