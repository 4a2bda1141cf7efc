//! The decision on an address: one function for IPv4, IPv6 and v4-mapped, for cgroup and LSM programs alike.

use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::generated::bpf_ktime_get_boot_ns};
use stockade_common::{
    event::{kind, reason},
    file::NO_RULE,
    net::{
        DNS_PORT, GateKey, Granted, PORT_ALLOW, PORT_SEARCH_STEPS, PortRange, PrefixData, TCP, UDP, port_key,
    },
    tag::{SCOPE_DNS, SCOPE_LOOPBACK_OWN},
};

use crate::{
    file::Decision,
    maps::{GATES, GrantedWords, NAMES, PORTS, PREFIXES, PortRangeWords},
    peers,
    tag::Held,
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
/// Where IPv4 addresses are among those of IPv6.
const MAPPED: u32 = 0xffff_u32.to_be();
/// `127.0.0.1`.
pub const LOCALHOST4: [u32; 4] = [0, 0, MAPPED, LOOPBACK4];
/// `::1`.
pub const LOCALHOST6: [u32; 4] = [0, 0, 0, 1_u32.to_be()];
const NANOSECONDS: u64 = 1_000_000_000;

/// Whether it is an IPv4 address.
#[inline(always)]
pub fn is_v4(addr: &[u32; 4]) -> bool {
    addr[0] == 0 && addr[1] == 0 && addr[2] == MAPPED
}

/// Whether it is loopback, or the unspecified address, by which connect and sendto reach loopback.
#[inline(always)]
pub fn is_loopback(addr: &[u32; 4]) -> bool {
    if is_v4(addr) {
        return addr[3] == 0 || u32::from_be(addr[3]) >> 24 == 127;
    }
    addr[0] == 0 && addr[1] == 0 && addr[2] == 0 && (addr[3] == 0 || addr[3] == LOCALHOST6[3])
}

/// Port of the DNS gate that a scope has in a network namespace.
#[inline(always)]
pub fn gate(netns: u64, scope: u32) -> Option<u16> {
    // SAFETY: the value is copied out at once.
    unsafe { GATES.get(&GateKey::of(netns, scope)) }.map(|port| *port as u16)
}

/// Whether a port is a DNS gate's, of whatever scope.
#[inline(always)]
pub fn is_gate(netns: u64, port: u16) -> bool {
    // SAFETY: only whether there is a value is asked.
    unsafe { GATES.get(&GateKey::at(netns, port)) }.is_some()
}

/// What a scope is allowed: [`decide`], and what is no matter of rules. [`reason::DNS_GATE`] and [`reason::OWN_LISTENER`] are
/// not the end of it: the cgroup programs find out whether there is a gate or a listener. `local_port` is the socket's, 0 if it
/// has none.
#[inline(always)]
pub fn plan(held: &Held, netns: u64, local_port: u16, destination: &Destination) -> Decision {
    let flags = held.setting.flags();
    let protocol = u32::from(destination.protocol);
    if flags & SCOPE_DNS != 0 && destination.port == DNS_PORT && (protocol == TCP || protocol == UDP) {
        return Decision::new(reason::DNS_GATE);
    }
    let loopback = is_loopback(&destination.addr);
    // Nothing but a question reaches a gate, be it another scope's.
    if loopback && is_gate(netns, destination.port) {
        return Decision::new(reason::NO_RULE);
    }
    let decision = decide(held.setting.slot(), destination);
    if decision.reason != reason::NO_RULE {
        return decision;
    }
    if let Some(answer) = peers::answers(held, netns, local_port, destination) {
        return answer;
    }
    if loopback && flags & SCOPE_LOOPBACK_OWN != 0 {
        return Decision::new(reason::OWN_LISTENER);
    }
    decision
}

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
    let decision = lookup(slot, addr, protocol, destination.port);
    if decision.reason == reason::NO_RULE {
        return by_name(slot, addr, port_key(protocol, destination.port));
    }
    decision
}

/// What the slot's rules say of an address; `protocol` as in a [`port_key`].
#[inline(always)]
pub fn lookup(slot: u32, addr: [u32; 4], protocol: u32, port: u16) -> Decision {
    let [first, second] = halves(addr);
    unpack(net_rules(slot, first, second, port_key(protocol, port)))
}

/// What the names that an address was an answer for allow.
#[inline(always)]
fn by_name(slot: u32, addr: [u32; 4], wanted: u32) -> Decision {
    let [first, second] = halves(addr);
    unpack(net_names(slot, first, second, wanted))
}

/// Whether a connect only asks by which source address a destination would be reached: C libraries and Go do so for each address of
/// an answer, with a datagram socket and a port of their own choice (RFC 6724), and take what is refused for unreachable. It sends
/// nothing. It passes for addresses that a name has, on whatever ports; what is then sent is for `egress` to judge.
#[inline(always)]
pub fn is_probe(held: &Held, event: u16, destination: &Destination, decision: &Decision) -> bool {
    let [first, second] = halves(destination.addr);
    event == kind::CONNECT
        && decision.reason == reason::NO_RULE
        && u32::from(destination.protocol) == UDP
        && net_answered(held.setting.slot(), first, second) != 0
}

/// An address as two words, for functions of numbers.
#[inline(always)]
pub fn halves(addr: [u32; 4]) -> [u64; 2] {
    // SAFETY: same size, any bit pattern is valid.
    unsafe { core::mem::transmute(addr) }
}

#[inline(always)]
fn pack(reason: u16, rule: u32) -> u64 {
    u64::from(rule) << 32 | u64::from(reason)
}

#[inline(always)]
fn unpack(packed: u64) -> Decision {
    Decision { reason: packed as u16, rule: (packed >> 32) as u32 }
}

const NO_DECISION: u64 = (NO_RULE as u64) << 32 | reason::NO_RULE as u64;

// verifier: functions of numbers that others could call are verified once, and not for each way to each call (6.1: 440,000
// instructions for `egress` otherwise).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn net_rules(slot: u32, first: u64, second: u64, wanted: u32) -> u64 {
    // SAFETY: same size, any bit pattern is valid.
    let addr: PrefixData = unsafe { core::mem::transmute([first, second]) };
    let Some(prefixes) = PREFIXES.get(slot) else { return NO_DECISION };
    let Some([first, len]) = prefixes.get(&Key::new(PREFIX_BITS, addr)).copied() else { return NO_DECISION };
    let Some(ports) = PORTS.get(slot) else { return pack(reason::INTERNAL, NO_RULE) };

    let (mut low, mut high) = (first, first.wrapping_add(len));
    // verifier: 6.1 forgets a count that is put on the stack as less than a word.
    for _ in 0..u64::from(PORT_SEARCH_STEPS) + 1 {
        if low >= high {
            break;
        }
        let middle = low + (high - low) / 2;
        let Some(words) = ports.get(middle) else { return pack(reason::INTERNAL, NO_RULE) };
        let words: *const PortRangeWords = words;
        // SAFETY: the same words; a map value.
        let range = unsafe { &*words.cast::<PortRange>() };
        if wanted < range.low {
            high = middle;
        } else if wanted > range.high {
            low = middle + 1;
        } else {
            let allow = range.verdict == PORT_ALLOW;
            return pack(if allow { reason::RULE_ALLOW } else { reason::RULE_DENY }, range.rule);
        }
    }
    NO_DECISION
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn net_names(slot: u32, first: u64, second: u64, wanted: u32) -> u64 {
    // SAFETY: same size, any bit pattern is valid.
    let addr: PrefixData = unsafe { core::mem::transmute([first, second]) };
    // SAFETY: values are replaced as a whole, and not freed before this program has ended.
    let Some(words) = NAMES.get(slot).and_then(|names| unsafe { names.get(&addr) }) else {
        return NO_DECISION;
    };
    let words: *const GrantedWords = words;
    // SAFETY: the same words; a map value. The helper takes no arguments.
    let (granted, now) =
        unsafe { (&*words.cast::<Granted>(), (bpf_ktime_get_boot_ns() / NANOSECONDS) as u32) };
    let mut packed = NO_DECISION;
    for grant in &granted.grants {
        if wanted >= grant.low && wanted <= grant.high {
            if now < grant.expires {
                return pack(reason::RULE_ALLOW, grant.rule);
            }
            packed = pack(reason::NAME_EXPIRED, grant.rule);
        }
    }
    packed
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn net_answered(slot: u32, first: u64, second: u64) -> u64 {
    // SAFETY: same size, any bit pattern is valid.
    let addr: PrefixData = unsafe { core::mem::transmute([first, second]) };
    // SAFETY: values are replaced as a whole, and not freed before this program has ended.
    let Some(words) = NAMES.get(slot).and_then(|names| unsafe { names.get(&addr) }) else { return 0 };
    let words: *const GrantedWords = words;
    // SAFETY: the same words; a map value. The helper takes no arguments.
    let (granted, now) =
        unsafe { (&*words.cast::<Granted>(), (bpf_ktime_get_boot_ns() / NANOSECONDS) as u32) };
    u64::from(granted.grants.iter().any(|grant| now < grant.expires))
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
