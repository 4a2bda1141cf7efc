//! Tags: which cgroup belongs to which scope, and what a scope is held to.

use crate::{assert_size, limits::TAG_FILTER_BUCKETS, pod};

/// Value of the `TAGS` map, keyed by cgroup id (`u64`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Index into `SCOPES`.
    pub scope: u32,
    /// `TAG_*` bits.
    pub flags: u32,
}
assert_size!(Tag, 8);

/// Whoever enters is policed at once, also before it executes anything.
pub const TAG_AT_ONCE: u32 = 1;

/// Tagged by hand, or below what was: no rule takes it away.
pub const TAG_BY_HAND: u32 = 2;

/// Value of the `STARTERS` map, keyed by process id: a process in a tagged cgroup that is not policed until it executes
/// the workload.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starter {
    /// Nanoseconds since boot at which it, or who forked it, entered.
    pub since: u64,
    /// Address of the dentry that it may execute and stay what it is; 0: none.
    pub executes: u64,
}
assert_size!(Starter, 16);

/// What a scope is held to: element of the `SCOPES` array, and one machine word, so that it changes in one step while
/// programs read it.
///
/// ```text
/// generation (32 bits) | SCOPE_* flags (16) | policy slot (16)
/// ```
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting(u64);

impl Setting {
    /// `slot` must be below [`crate::limits::MAX_SLOTS`], `flags` of 16 bits.
    #[must_use]
    #[inline(always)]
    pub const fn new(slot: u32, flags: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | ((flags & 0xffff) as u64) << 16 | (slot & 0xffff) as u64)
    }

    /// From the word in the array.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The word in the array.
    #[must_use]
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Index into the policy tables. Slot 0 has none: nothing is allowed by it.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        (self.0 & 0xffff) as u32
    }

    /// `SCOPE_*` bits.
    #[must_use]
    #[inline(always)]
    pub const fn flags(self) -> u32 {
        (self.0 >> 16 & 0xffff) as u32
    }

    /// Another number for each policy that a slot has held.
    #[must_use]
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether denials are enforced. A scope that was never set enforces, and allows nothing.
    #[must_use]
    #[inline(always)]
    pub const fn enforces(self) -> bool {
        self.flags() & SCOPE_ENFORCE != 0 || self.slot() == 0
    }
}

/// Element of the `LABELS` array: what a scope is, for the daemon that comes after. The programs do not read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// One of [`label_kind`].
    pub kind: u32,
    /// Who started a run.
    pub uid: u32,
    /// The scope's name, NUL-padded.
    pub name: [u8; LABEL_NAME],
}
assert_size!(Label, 128);

/// Longest name of a scope, in bytes.
pub const LABEL_NAME: usize = 120;

/// What a scope is.
pub mod label_kind {
    /// Not in use.
    pub const FREE: u32 = 0;
    /// A host policy's.
    pub const POLICY: u32 = 1;
    /// A run's.
    pub const RUN: u32 = 2;
    /// A host policy's, for mounts that are not the host's own.
    pub const INSTANCE: u32 = 3;
}

/// A rule of the host's own table on paths of cgroups: the lower the order, the sooner it decides.
#[must_use]
pub const fn host_rule(order: u32, scope: u32) -> u32 {
    order << 10 | scope & 0x3ff
}

/// Most rules of the host's own table.
pub const MAX_HOST_RULES: u32 = 1 << 22;

/// The scope in a [`host_rule`].
#[must_use]
#[inline(always)]
pub const fn host_scope(rule: u32) -> u32 {
    rule & 0x3ff
}

/// Where the rule that decides stands in [`crate::file::Accept`]'s arrays.
pub const HOST_FIRST: usize = 0;
/// Where the last rule that matches stands: if it is of the same scope, so are most likely all between.
pub const HOST_LAST: usize = 1;

/// Denials are enforced; without it they are reported as `would_deny` and the operation goes on.
pub const SCOPE_ENFORCE: u32 = 1;
/// Also report allowed reads and sends.
pub const SCOPE_AUDIT_ALL: u32 = 2;
/// The cgroup programs report allowed connects themselves, because no LSM hook runs before them.
pub const SCOPE_CGROUP_EMITS: u32 = 4;

/// Cgroups that are tagged by their path get [`TAG_AT_ONCE`].
pub const SCOPE_AT_ONCE: u32 = 8;

/// Port 53, whatever the address, is carried to the DNS gate of the scope.
pub const SCOPE_DNS: u32 = 16;
/// Loopback ports that sockets of the scope listen on may be connected to (`loopback:own`).
pub const SCOPE_LOOPBACK_OWN: u32 = 32;
/// Whatever leaves this host leaves by the interface whose index is the scope's element of `EGRESS` (`u32`; 0: there is
/// none now, and nothing leaves).
pub const SCOPE_EGRESS: u32 = 64;

/// Some rule denies reading, and what it denies cannot be looked at.
pub const SCOPE_LOOK: u32 = 128;
/// Nothing can be looked at that no rule allows anything of.
pub const SCOPE_GUARDED: u32 = 256;

/// Bucket of a cgroup id in `TAG_FILTER`. A zero bucket means "surely untagged": the fast path of every process that
/// Stockade has nothing to do with. Buckets are only ever set, so a collision costs a hash look-up and nothing else. Other
/// values than [`FILTER_TAGGED`] are [`filter_lack`]'s.
#[must_use]
#[inline(always)]
pub const fn filter_bucket(cgroup_id: u64) -> u32 {
    (cgroup_id as u32) & (TAG_FILTER_BUCKETS as u32 - 1)
}

/// Value of a `TAG_FILTER` bucket: a cgroup of it may be tagged.
pub const FILTER_TAGGED: u32 = 1;
/// The same, and more than one cgroup of it should be tagged and could not be noted: nothing is allowed in any that is not.
pub const FILTER_ALL_LACK: u32 = 3;

/// Value of the bucket of a cgroup that should be tagged, and could not be noted: nothing is allowed in it. Other cgroups
/// of the bucket have other values: ids are counted up, and what is left of one beside its bucket is all in here.
#[must_use]
#[inline(always)]
pub const fn filter_lack(cgroup_id: u64) -> u32 {
    ((cgroup_id >> TAG_FILTER_BUCKETS.trailing_zeros()) as u32) << 2 | 2
}

/// Whether a bucket's value says that its cgroup of this id should be tagged, and could not be noted.
#[must_use]
#[inline(always)]
pub const fn filter_says_lack(value: u32, cgroup_id: u64) -> bool {
    value == FILTER_ALL_LACK || value == filter_lack(cgroup_id)
}

/// What the bucket becomes when a cgroup of it could not be noted.
#[must_use]
#[inline(always)]
pub const fn filter_with_lack(value: u32, cgroup_id: u64) -> u32 {
    if value <= FILTER_TAGGED || value == filter_lack(cgroup_id) {
        filter_lack(cgroup_id)
    } else {
        FILTER_ALL_LACK
    }
}

pod!(Tag, Starter, Label);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_without_room_for_its_tag_is_told_from_others_of_its_bucket() {
        let (one, other) = (0x12_3456_789a, 0x12_3456_789a + TAG_FILTER_BUCKETS as u64);
        assert_eq!(filter_bucket(one), filter_bucket(other));
        for value in [0, FILTER_TAGGED] {
            assert!(!filter_says_lack(value, one));
            let value = filter_with_lack(value, one);
            assert!(filter_says_lack(value, one) && !filter_says_lack(value, other) && value != 0);
            assert_eq!(filter_with_lack(value, one), value);
            let both = filter_with_lack(value, other);
            assert!(filter_says_lack(both, one) && filter_says_lack(both, other));
            assert_eq!(filter_with_lack(both, one), both);
        }
        // What was noted before has values below.
        assert!((0..1000).all(|high| filter_lack(high << 14) > FILTER_TAGGED));
        assert!((0..1000).all(|high| filter_lack(high << 14) != FILTER_ALL_LACK));
    }
}
