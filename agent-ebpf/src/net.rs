//! The decision on an address: one function for IPv4, IPv6 and v4-mapped, for cgroup and LSM programs alike.

use aya_ebpf::btf_maps::lpm_trie::Key;
use stockade_common::{
    event::reason,
    net::{PORT_ALLOW, PORT_SEARCH_STEPS, PortRange, PrefixData, TCP, UDP, port_key},
};

use crate::{
    file::Decision,
    maps::{PORTS, PREFIXES, PortRangeWords},
};

/// `AF_UNIX`.
pub const AF_UNIX: u16 = 1;
/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;
/// `AF_NETLINK`.
pub const AF_NETLINK: u16 = 16;
/// `SOCK_STREAM`.
pub const SOCK_STREAM: u32 = 1;
/// `SOCK_DGRAM`.
pub const SOCK_DGRAM: u32 = 2;

const PREFIX_BITS: u32 = 8 * size_of::<PrefixData>() as u32;

/// A destination.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Destination {
    /// As IPv6, network order, four words as the kernel holds them.
    pub addr: [u32; 4],
    /// Host order.
    pub port: u16,
    /// `IPPROTO_*`.
    pub protocol: u16,
}

impl Destination {
    /// An IPv4 destination; `addr` in network order.
    #[inline(always)]
    pub fn v4(addr: u32, port: u16, protocol: u16) -> Self {
        Self { addr: [0, 0, 0xffff_u32.to_be(), addr], port, protocol }
    }

    /// The address as bytes.
    #[inline(always)]
    pub fn bytes(&self) -> [u8; 16] {
        // SAFETY: same size, any bit pattern is valid.
        unsafe { core::mem::transmute(self.addr) }
    }
}

const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();

/// What the slot's rules say about a destination.
#[inline(never)]
pub fn decide(slot: u32, destination: &Destination) -> Decision {
    let mut addr = destination.addr;
    let mapped = addr[0] == 0 && addr[1] == 0 && addr[2] == 0xffff_u32.to_be();
    // The unspecified address means loopback to connect and sendto; the hooks run before the kernel says so.
    if mapped && addr[3] == 0 {
        // A bound socket goes to the very address it is bound to (ip_route_output_key_hash_rcu), which may be any of this
        // host's: so a rule must name the unspecified address itself, too.
        let first = lookup_destination(slot, addr, destination);
        if !first.allows() {
            return first;
        }
        addr[3] = LOOPBACK4;
    } else if addr[0] == 0 && addr[1] == 0 && addr[2] == 0 && addr[3] == 0 {
        // A socket bound to a mapped address goes to 127.0.0.1 instead of ::1: both must be allowed.
        let first = lookup_destination(slot, [0, 0, 0, 1_u32.to_be()], destination);
        if !first.allows() {
            return first;
        }
        addr = [0, 0, 0xffff_u32.to_be(), LOOPBACK4];
    }
    lookup_destination(slot, addr, destination)
}

#[inline(always)]
fn lookup_destination(slot: u32, addr: [u32; 4], destination: &Destination) -> Decision {
    let protocol = u32::from(destination.protocol);
    if protocol != TCP && protocol != UDP {
        return Decision::new(reason::FAMILY);
    }
    lookup(slot, addr, protocol, destination.port)
}

/// What the slot's rules say of an address; `protocol` as in a [`port_key`].
#[inline(never)]
pub fn lookup(slot: u32, addr: [u32; 4], protocol: u32, port: u16) -> Decision {
    // SAFETY: same size, any bit pattern is valid.
    let addr: PrefixData = unsafe { core::mem::transmute(addr) };
    let Some(prefixes) = PREFIXES.get(slot) else { return Decision::new(reason::NO_RULE) };
    let Some([first, len]) = prefixes.get(&Key::new(PREFIX_BITS, addr)).copied() else {
        return Decision::new(reason::NO_RULE);
    };
    let Some(ports) = PORTS.get(slot) else { return Decision::new(reason::INTERNAL) };

    let wanted = port_key(protocol, port);
    let (mut low, mut high) = (first, first.wrapping_add(len));
    for _ in 0..=PORT_SEARCH_STEPS {
        if low >= high {
            break;
        }
        let middle = low + (high - low) / 2;
        let Some(words) = ports.get(middle) else { return Decision::new(reason::INTERNAL) };
        let words: *const PortRangeWords = words;
        // SAFETY: the same words; a map value.
        let range = unsafe { &*words.cast::<PortRange>() };
        if wanted < range.low {
            high = middle;
        } else if wanted > range.high {
            low = middle + 1;
        } else {
            let reason = if range.verdict == PORT_ALLOW { reason::RULE_ALLOW } else { reason::RULE_DENY };
            return Decision { reason, rule: range.rule };
        }
    }
    Decision::new(reason::NO_RULE)
}

/// Whether a rule can name sockets of this kind at all. Raw, packet, vsock, MPTCP (whose further subflows are made by
/// a kernel worker to addresses the peer names) and the rest cannot be named.
#[inline(always)]
pub fn nameable(family: u32, kind: u32, protocol: u32) -> bool {
    match family as u16 {
        AF_UNIX => true,
        AF_INET | AF_INET6 => {
            (kind == SOCK_STREAM && (protocol == 0 || protocol == TCP))
                || (kind == SOCK_DGRAM && (protocol == 0 || protocol == UDP))
        }
        // NETLINK_ROUTE: libc asks it for interfaces and addresses; `netlink_send` lets only questions through.
        AF_NETLINK => protocol == 0,
        _ => false,
    }
}
