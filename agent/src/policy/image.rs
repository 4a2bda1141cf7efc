//! The compiled policy: plain table entries for one slot, as the kernel programs will look them up.

use stockade_common::{
    file::{Accept, FsEntry},
    net::{PortRange, PortRun},
    process::Powers,
};

/// A compiled policy. Applying it is copying it: every index in it is relative to its own tables, and the slot number
/// is put in front of the keys only when it is applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapImage {
    /// Filesystems, sorted by device (kernel encoding, `major << 20 | minor`).
    pub filesystems: Vec<(u32, FsEntry)>,
    /// `NEXT` table, indexed by state + byte; see [`stockade_common::file`]. At most
    /// [`stockade_common::limits::TABLE_ENTRIES`] long.
    pub next: Vec<u64>,
    /// `STATE` table, indexed by state; as long as `next`.
    pub states: Vec<u64>,
    /// `ACCEPTS` table; element 0 is [`Accept::NOTHING`].
    pub accepts: Vec<Accept>,
    /// Network prefixes, sorted: (address as IPv6 with IPv4 mapped, prefix length in 0..=128, ports).
    pub prefixes: Vec<([u8; 16], u8, PortRun)>,
    /// `PORTS` table.
    pub ports: Vec<PortRange>,
    /// `SCOPE_*` flags that stand beside its slot.
    pub flags: u32,
    /// What its processes may do.
    pub powers: Powers,
    /// What each rule id stands for.
    pub rules: Vec<RuleInfo>,
}

/// A rule as the user wrote it, for events and explanations.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RuleInfo {
    /// The rule's text, before variables were put in.
    pub text: String,
    /// Where it stands: `file.toml:12`, `profile base`, `--allow-net`.
    pub source: String,
    /// `network.allow`, `network.deny`, `files.read`, `files.write`, `files.exec`, `files.deny`, ...
    pub list: String,
}
