//! Tags: which cgroup is held to which policy slot, and what a slot's policy is set to.

use crate::{assert_size, limits::TAG_FILTER_BUCKETS, pod};

/// Value of the `TAGS` map, keyed by cgroup id (`u64`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Index into `SLOTS` and first part of every policy table's key.
    pub slot: u32,
    /// Reserved, zero.
    pub flags: u32,
}
assert_size!(Tag, 8);

/// Value of the `SLOTS` array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotConfig {
    /// `SLOT_*` bits.
    pub flags: u32,
    /// Raised by one at each policy change of the slot.
    pub generation: u32,
}
assert_size!(SlotConfig, 8);

/// Denials are enforced; without it they are reported as `would_deny` and the operation goes on.
pub const SLOT_ENFORCE: u32 = 1;
/// Also report allowed reads and sends.
pub const SLOT_AUDIT_ALL: u32 = 2;
/// The cgroup programs report allowed connects themselves, because no LSM hook runs before them.
pub const SLOT_CGROUP_EMITS: u32 = 4;

/// Bucket of a cgroup id in `TAG_FILTER`. A zero bucket means "surely untagged": the fast path of every process that
/// Stockade has nothing to do with. Buckets are only ever set, so a collision costs a hash look-up and nothing else.
#[must_use]
#[inline(always)]
pub const fn filter_bucket(cgroup_id: u64) -> u32 {
    (cgroup_id as u32) & (TAG_FILTER_BUCKETS as u32 - 1)
}

pod!(Tag, SlotConfig);
