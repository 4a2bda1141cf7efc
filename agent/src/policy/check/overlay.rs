//! What is said beside the documents.

use std::path::PathBuf;

use crate::policy::{checked::Mode, from, protect::Group};

/// What comes from the command line.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// `${workspace}`: may be read, changed and executed below.
    pub workspace: Option<PathBuf>,
    /// Directories in workspaces that are repositories of their own: their places are protected as well.
    pub repositories: Vec<PathBuf>,
    /// `--lift`.
    pub lift: Vec<Group>,
    /// `--allow-net`.
    pub allow_net: Vec<String>,
    /// `--deny-net`.
    pub deny_net: Vec<String>,
    /// `--allow-listen`.
    pub allow_listen: Vec<String>,
    /// `--allow-read`.
    pub allow_read: Vec<String>,
    /// `--allow-write`.
    pub allow_write: Vec<String>,
    /// `--allow-exec`.
    pub allow_exec: Vec<String>,
    /// `--deny-read`.
    pub deny_read: Vec<String>,
    /// `--deny-write`.
    pub deny_write: Vec<String>,
    /// `--deny-exec`.
    pub deny_exec: Vec<String>,
    /// `--deny-file`.
    pub deny_file: Vec<String>,
    /// The command's own file, and the interpreters it names.
    pub command: Vec<PathBuf>,
    /// What `from:` rules come to, read before.
    pub found: from::Answers,
    /// `--egress-interface`.
    pub egress_interface: Option<String>,
    /// `--mode`.
    pub mode: Option<Mode>,
    /// `${home}`.
    pub home: Option<PathBuf>,
    /// `${user}`.
    pub user: Option<String>,
    /// The policy is one of the host's: there is no user, and no flag could give a variable its value.
    pub for_host: bool,
}
