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

/// Beside a protocol in a [`port_key`]: the range is about listening, and the address is the one listened on.
pub const LISTEN: u32 = 0x100;

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

/// A name rule, as it holds for an address that the name was answered with: an element of [`Granted`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Lowest [`port_key`].
    pub low: u32,
    /// Highest [`port_key`], inclusive; the same protocol as `low`.
    pub high: u32,
    /// The rule that covers the name.
    pub rule: u32,
    /// Seconds since boot, suspend included, from which it no longer holds.
    pub expires: u32,
}
assert_size!(Grant, 16);

impl Grant {
    /// Allows nothing.
    pub const NOTHING: Self = Self { low: 1, high: 0, rule: u32::MAX, expires: 0 };
}

/// Most ranges of ports that names can give one address.
pub const GRANTS: usize = 8;

/// Value of a policy's `NAMES` map, keyed by [`PrefixData`]: what names allow for an address, until when. Looked at only
/// where no prefix decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Those that are not in use are [`Grant::NOTHING`].
    pub grants: [Grant; GRANTS],
}
assert_size!(Granted, 128);

/// Key of the `GATES` map: where the DNS gate of a scope listens. Its value is the port (`u32`, host order) that it has on
/// `127.0.0.1` and `::1` of that network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GateKey {
    /// Network namespace, as `SO_NETNS_COOKIE` gives it.
    pub netns: u64,
    /// Scope.
    pub scope: u32,
    /// Zero.
    pub pad: u32,
}
assert_size!(GateKey, 16);

impl GateKey {
    /// Where the gate of a scope listens.
    #[must_use]
    #[inline(always)]
    pub const fn of(netns: u64, scope: u32) -> Self {
        Self { netns, scope, pad: 0 }
    }

    /// Key of the opposite: whose gate a port is. Its value is the scope; only what is carried to a gate may reach one.
    #[must_use]
    #[inline(always)]
    pub const fn at(netns: u64, port: u16) -> Self {
        Self { netns, scope: GATE_AT | port as u32, pad: 0 }
    }
}

/// Key of the `PEERS` map: who has sent a datagram to a port on which a rule lets the scope listen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerKey {
    /// Network namespace, as `SO_NETNS_COOKIE` gives it.
    pub netns: u64,
    /// Scope.
    pub scope: u32,
    /// The port that the scope listens on, in host order.
    pub local_port: u16,
    /// That of who has sent, in host order.
    pub port: u16,
    /// Who has sent.
    pub addr: PrefixData,
}
assert_size!(PeerKey, 32);

/// Value of the `PEERS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Generation of the policy whose rule let it in; under another it may not be answered before it sends again.
    pub generation: u32,
    /// The rule.
    pub rule: u32,
    /// Seconds since boot, suspend included, from which it may not be answered any more.
    pub until: u32,
    /// Zero.
    pub pad: u32,
}
assert_size!(Peer, 16);

/// Seconds for which who has sent a datagram may be answered.
pub const PEER_SECONDS: u32 = 60;

/// Key of the `ASKERS` map: what has just been carried to a gate. Its value is when (`u64`, nanoseconds since boot, suspend left out).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AskerKey {
    /// Where it comes from.
    pub addr: PrefixData,
    /// Its port, in host order.
    pub port: u16,
    /// The gate's, in host order.
    pub gate: u16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u32,
}
assert_size!(AskerKey, 24);

/// Nanoseconds in which a packet that has left reaches a gate on loopback.
pub const ASKED_NS: u64 = 2_000_000_000;

/// In a [`GateKey`]: a port stands in place of the scope.
pub const GATE_AT: u32 = 1 << 31;

/// The port of name servers.
pub const DNS_PORT: u16 = 53;

pod!(PortRun, PortRange, Grant, Granted, GateKey, PeerKey, Peer, AskerKey);
