//! What can be written on the command line.

use std::{ffi::OsString, path::PathBuf};

use crate::{
    cli::{daemon::Socket, workspaces::Workspaces},
    policy::{parse::Metadata, protect::Group},
};

/// `stockade run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Policy file.
    #[arg(long)]
    pub policy: Option<PathBuf>,
    /// Where it works.
    #[command(flatten)]
    pub workspaces: Workspaces,
    /// Built-in profile to build on; `stockade policy profiles` lists them.
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
    /// Protected places of workspaces that may be changed all the same.
    #[arg(long, value_name = "GROUP")]
    pub lift: Vec<Group>,
    /// What may be looked at without opening it: everything, or only what some rule allows anything of; without it all that is not denied.
    #[arg(long, value_name = "WHAT")]
    pub metadata: Option<Metadata>,
    /// Destination that may be reached: an address, prefix, name or *.name, [:ports][/proto]; unix:/path or unix:@abstract-name; loopback:own; from:TOOL for the hosts that pip, cargo, npm, git-remotes or apt is set up to use.
    #[arg(long, value_name = "RULE")]
    pub allow_net: Vec<String>,
    /// Destination that may not be reached, whatever is allowed; of a name, neither ports nor protocol.
    #[arg(long, value_name = "RULE")]
    pub deny_net: Vec<String>,
    /// The one interface by which everything leaves; nothing leaves while it is not there.
    #[arg(long, value_name = "NAME")]
    pub egress_interface: Option<String>,
    /// Local address that may be listened on, beside those of loopback: address-or-prefix[:ports][/proto].
    #[arg(long, value_name = "RULE")]
    pub allow_listen: Vec<String>,
    /// Files that may be read.
    #[arg(long, value_name = "GLOB")]
    pub allow_read: Vec<String>,
    /// Files that may be changed.
    #[arg(long, value_name = "GLOB")]
    pub allow_write: Vec<String>,
    /// Files that may be executed.
    #[arg(long, value_name = "GLOB")]
    pub allow_exec: Vec<String>,
    /// Files that may not be read.
    #[arg(long, value_name = "GLOB")]
    pub deny_read: Vec<String>,
    /// Files that may not be changed.
    #[arg(long, value_name = "GLOB")]
    pub deny_write: Vec<String>,
    /// Files that may not be executed.
    #[arg(long, value_name = "GLOB")]
    pub deny_exec: Vec<String>,
    /// Files that may not be touched at all.
    #[arg(long, value_name = "GLOB")]
    pub deny_file: Vec<String>,
    /// No directory of its own for temporary files, which is made for each run and removed at its end.
    #[arg(long)]
    pub no_private_tmp: bool,
    /// Enforce, or only report what would be denied.
    #[arg(long, value_parser = ["enforce", "audit"])]
    pub mode: Option<String>,
    /// Where events go as JSON lines; `-` is standard output. The command cannot touch the file.
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// `all` also reports allowed reads and sends, and forks.
    #[arg(long, value_parser = ["default", "all"], default_value = "default")]
    pub audit: String,
    /// Start although only the network can be policed.
    #[arg(long, value_parser = ["network-only"])]
    pub allow_degraded: Option<String>,
    /// Through the daemon: if there is one, always, or never.
    #[arg(long, value_parser = ["auto", "always", "never"], default_value = "auto")]
    pub daemon: String,
    /// The daemon's socket.
    #[command(flatten)]
    pub socket: Socket,
    /// Run as this user; through sudo it is who called it.
    #[arg(long)]
    pub user: Option<String>,
    /// Capability that a command that runs as root keeps, beside those on its own files and users; or `all`.
    #[arg(long, value_name = "NAME")]
    pub allow_capability: Vec<String>,
    /// Facility of the kernel that reaches beyond the run: signals, scheduling, user-namespaces, mounts, io-uring, userfaultfd, keyrings, ipc, perf, modules, kernel-log.
    #[arg(long, value_name = "NAME")]
    pub allow_process: Vec<String>,
    /// Leave a command that runs as root all capabilities: --allow-capability all.
    #[arg(long)]
    pub keep_capabilities: bool,
    /// Command and arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
