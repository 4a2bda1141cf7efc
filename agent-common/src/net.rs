//! Network rules as the kernel sees them: one longest-prefix trie for both address families, and sorted port ranges.

use crate::{assert_size, pod};

/// Data of a key of a policy's `PREFIXES` trie: the address as IPv6 (IPv4 as `::ffff:a.b.c.d`), in network order.
pub type PrefixData = [u8; 16];

/// Value of the `PREFIXES` trie: the run of `PORTS` that holds for addresses whose longest match this is. The compiler
/// has already merged what shorter prefixes say into it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRun {
    /// Index of the first [`PortRange`].
    pub first: u32,
    /// Number of ranges, sorted and disjoint.
    pub len: u32,
}
assert_size!(PortRun, 8);

/// An element of the `PORTS` array.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest `protocol << 16 | port`.
    pub low: u32,
    /// Highest `protocol << 16 | port`, inclusive; the same protocol as `low`.
    pub high: u32,
    /// The rule that decides.
    pub rule: u32,
    /// [`PORT_ALLOW`] or [`PORT_DENY`].
    pub verdict: u32,
}
assert_size!(PortRange, 16);

/// The range is allowed.
pub const PORT_ALLOW: u32 = 1;
/// The range is denied by a rule.
pub const PORT_DENY: u32 = 2;

/// `IPPROTO_TCP`.
pub const TCP: u32 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u32 = 17;

/// Key to look up in a run of [`PortRange`].
#[must_use]
#[inline(always)]
pub const fn port_key(protocol: u32, port: u16) -> u32 {
    protocol << 16 | port as u32
}

/// Most steps of the binary search in one run: runs are no longer than `1 << PORT_SEARCH_STEPS`.
pub const PORT_SEARCH_STEPS: u32 = 16;
/// Most [`PortRange`]s in one run.
pub const MAX_PORT_RUN: usize = 1 << PORT_SEARCH_STEPS;

pod!(PortRun, PortRange);
