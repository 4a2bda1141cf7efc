//! File rules as the kernel sees them: two automata per filesystem, in row-displaced tables.
//!
//! A file is named by (filesystem, path inside that filesystem); the path starts with `/`, components are separated
//! by one `/`, the filesystem's own root is `/`. The programs step an automaton over the path's bytes:
//!
//! ```text
//! e = NEXT[(state & STATE_MASK) + byte]
//! state = if e.owner == state { e.target } else { STATE[state & STATE_MASK].default }
//! ```
//!
//! A state is the index of its row in `NEXT`; rows overlap, and `owner` says whose an entry is. A state with
//! [`STOP`] set loops to itself on every byte, so the walk may end there. State 0 is the dead state, always [`STOP`].

use crate::{assert_size, pod};

/// Open for reading, list, or readlink.
pub const ACCESS_READ: u32 = 1;
/// Open for writing, create, delete, rename, truncate, link, change of mode, owner or attributes.
pub const ACCESS_WRITE: u32 = 2;
/// Execute.
pub const ACCESS_EXEC: u32 = 4;
/// Rename a directory, or remove it. Only ever denied: set for directories that lie on the way to a deny rule, since
/// moving one would carry what is denied to a name that is not.
pub const ACCESS_MOVE: u32 = 8;
/// Connect or send to the unix socket that is bound there.
pub const ACCESS_CONNECT: u32 = 16;
/// Look at what it is: `stat`, readlink, extended attributes, watches. No rule is about it: it is denied with reading, and under
/// [`crate::tag::SCOPE_GUARDED`] allowed with anything else that is.
pub const ACCESS_LOOK: u32 = 32;
/// Number of access kinds that rules are about; bit `n` of a mask has index `n` in [`Accept`]'s arrays.
pub const ACCESS_KINDS: usize = 5;

/// State bit: every byte leads back here, so stepping can stop.
pub const STOP: u32 = 1 << 31;
/// The part of a state that is an index.
pub const STATE_MASK: u32 = (crate::limits::TABLE_ENTRIES - 1) as u32;
/// The dead state: nothing matches any more.
pub const DEAD: u32 = STOP;

/// No rule.
pub const NO_RULE: u32 = u32::MAX;

/// Value of a policy's `FILESYSTEMS` map, keyed by `super_block.s_dev` in the kernel's encoding, `major << 20 | minor`:
/// where the automata start. A filesystem without an entry is denied.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsEntry {
    /// Start state for rules that begin with a literal component.
    pub anchored: u32,
    /// Start state for rules that begin with `**`; [`DEAD`] if there are none.
    pub floating: u32,
    /// With [`FS_PROC`]: state of the anchored automaton after `/self`.
    pub anchored_self: u32,
    /// With [`FS_PROC`]: state of the floating automaton after `/self`.
    pub floating_self: u32,
    /// `FS_*` bits.
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}
assert_size!(FsEntry, 24);

/// A procfs: when the first component is the caller's own process id it is matched as `self`.
pub const FS_PROC: u32 = 1;
/// Only a rename changes the path of one of its directories, and no two directories ever have the same inode number and
/// generation, so the states of the automata at them may be remembered.
pub const FS_REMEMBER: u32 = 4;
/// Some deny rule has `**` inside, so a directory may only be renamed within its own parent directory.
pub const FS_STRICT_RENAME: u32 = 2;

/// What holds for a path at whose end the automaton is in some state. Value of the `ACCEPTS` array; index 0 is "nothing".
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Accept {
    /// `ACCESS_*` bits some rule allows.
    pub allow: u32,
    /// `ACCESS_*` bits some rule denies. Deny wins.
    pub deny: u32,
    /// For each access kind the rule that allows it, or [`NO_RULE`].
    pub allow_rule: [u32; ACCESS_KINDS],
    /// For each access kind the rule that denies it, or [`NO_RULE`].
    pub deny_rule: [u32; ACCESS_KINDS],
}
assert_size!(Accept, 48);

impl Accept {
    /// Nothing matches.
    pub const NOTHING: Self =
        Self { allow: 0, deny: 0, allow_rule: [NO_RULE; ACCESS_KINDS], deny_rule: [NO_RULE; ACCESS_KINDS] };
}

/// Packs an entry of the `NEXT` table.
#[must_use]
#[inline(always)]
pub const fn next_entry(owner: u32, target: u32) -> u64 {
    (owner as u64) << 32 | target as u64
}

/// Packs an entry of the `STATE` table: the state to go to on a byte that has no entry of its own, and the index into
/// `ACCEPTS` that holds when the path ends here.
#[must_use]
#[inline(always)]
pub const fn state_entry(accept: u32, default: u32) -> u64 {
    (accept as u64) << 32 | default as u64
}

/// One step, as the kernel programs take it; the userspace reference for tests and `explain`.
#[must_use]
#[inline(always)]
pub fn step(next: &[u64], states: &[u64], state: u32, byte: u8) -> u32 {
    let row = (state & STATE_MASK) as usize;
    let entry = next[(row + byte as usize) & STATE_MASK as usize];
    if (entry >> 32) as u32 == state { entry as u32 } else { states[row] as u32 }
}

pod!(FsEntry, Accept);
