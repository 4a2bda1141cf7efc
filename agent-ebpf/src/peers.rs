//! Datagrams that come to a port on which a rule lets the scope listen: who has sent one may be answered, from that port.

use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, programs::SockAddrContext};
use stockade_common::{
    counter::Counter,
    event::reason,
    net::{LISTEN, PEER_SECONDS, Peer, PeerKey, UDP},
};

use crate::{
    file::Decision,
    maps::{PEERS, count},
    net::{self, AF_INET, Destination},
    sockets,
    tag::{self, Held},
};

const NANOSECONDS: u64 = 1_000_000_000;

/// Seconds since boot.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: takes no arguments.
    (unsafe { bpf_ktime_get_boot_ns() } / NANOSECONDS) as u32
}

/// Notes who has sent what a socket is about to receive.
#[inline(always)]
pub fn heard(ctx: &SockAddrContext, netns: u64, from: &Destination) {
    let Some(held) = tag::current_by_helper() else { return };
    let sk = sockets::sk(ctx);
    // verifier: fields of both families are read first: a pointer to one or the other may not be made of a socket's.
    // SAFETY: loads through a pointer from the context, checked by the verifier.
    let (local, port) = unsafe {
        let from4 = (&raw const (*sk).src_ip4).read_volatile();
        let mut from6 = [0; 4];
        for (word, value) in from6.iter_mut().enumerate() {
            *value = (&raw const (*sk).src_ip6[word]).read_volatile();
        }
        let is_v4 = (*sk).family == u32::from(AF_INET);
        let port = (*sk).src_port as u16;
        (if is_v4 { Destination::v4(from4, 0, 0).addr } else { from6 }, port)
    };
    // Where nothing but a question may go nothing is answered either.
    if port == 0 || (net::is_loopback(&from.addr) && net::is_gate(netns, from.port)) {
        return;
    }
    let decision = net::lookup(held.setting.slot(), local, UDP | LISTEN, port);
    if !decision.allows() {
        return;
    }
    let key = PeerKey { netns, scope: held.scope, local_port: port, port: from.port, addr: from.bytes() };
    let peer = Peer {
        generation: held.setting.generation(),
        rule: decision.rule,
        until: now() + PEER_SECONDS,
        pad: 0,
    };
    if PEERS.insert(&key, &peer, 0).is_err() {
        count(held.scope, Counter::HelperFailed);
    }
}

/// Whether a datagram from a port of the scope is an answer. `None`: it is not, or is over.
#[inline(always)]
pub fn answers(held: &Held, netns: u64, local_port: u16, to: &Destination) -> Option<Decision> {
    if u32::from(to.protocol) != UDP || local_port == 0 {
        return None;
    }
    let [first, second] = net::halves(to.addr);
    let ports = u64::from(local_port) << 16 | u64::from(to.port);
    let found =
        net_peers(netns, u64::from(held.scope) << 32 | ports, first, second, held.setting.generation());
    (found != 0).then(|| Decision { reason: reason::RULE_ALLOW, rule: (found - 1) as u32 })
}

// verifier: see `net::net_rules`.
/// Zero, or one more than the rule.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn net_peers(netns: u64, place: u64, first: u64, second: u64, generation: u32) -> u64 {
    // SAFETY: same size, any bit pattern is valid.
    let addr = unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>([first, second]) };
    let key = PeerKey {
        netns,
        scope: (place >> 32) as u32,
        local_port: (place >> 16) as u16,
        port: place as u16,
        addr,
    };
    // SAFETY: the value is copied out at once.
    match unsafe { PEERS.get(&key) }.copied() {
        Some(peer) if peer.generation == generation && now() < peer.until => u64::from(peer.rule) + 1,
        _ => 0,
    }
}
