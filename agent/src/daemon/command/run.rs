//! What is said of a run that the daemon holds.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Decisions, Lost};

/// A command that is to be run, as `stockade run` sends it. The policy is one whole document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// Policy text with everything put in: no `extends` of files, no variables.
    pub policy: String,
    /// The process that is to be moved into the cgroup: it waits, and belongs to who asks.
    pub pid: u32,
    /// Who asks: filled in from the socket's peer, whatever the client says.
    #[serde(default)]
    pub uid: u32,
    /// The client's process id, from the socket's peer.
    #[serde(default)]
    pub client: u32,
    /// Report allowed reads and sends too.
    #[serde(default)]
    pub audit_all: bool,
    /// Where rules come from that `from:` has come to, by their text in the policy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, String>,
}

/// A run that may start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStarted {
    /// Its scope.
    pub scope: String,
    /// Its cgroup, from the root of the v2 hierarchy.
    pub cgroup: PathBuf,
    /// What was proved when the daemon started, by name.
    pub guarantees: Vec<String>,
    /// Files are not policed.
    pub degraded: bool,
}

/// What a run has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnded {
    /// Operations decided.
    pub decisions: Decisions,
    /// Events lost.
    pub lost: Lost,
}
