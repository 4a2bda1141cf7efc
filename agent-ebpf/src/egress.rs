//! The wall behind the hooks: packets of sockets that belong to tagged cgroups. What a hook has let go to an address passes;
//! so a denial holds also where another program has undone it (`bpf_set_retval`), and a connected datagram socket stops
//! when a new policy forbids its peer. Of TCP the first packet is looked at: connections that are there live on.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id, bpf_skb_load_bytes,
    },
    programs::SkBuffContext,
};
use stockade_common::{
    counter::Counter,
    event::{NetBody, hook, kind, reason},
    net::{TCP, UDP},
    tag::{SCOPE_EGRESS, SCOPE_LOOPBACK_OWN},
};

use crate::{
    askers,
    emit::{self, Actor},
    file::Decision,
    interface,
    maps::count,
    net::{self, AF_INET, AF_INET6, Destination, SOCK_DGRAM, SOCK_STREAM},
    own::{self, Source},
    sockets::{self, BOUND_LATE, SocketState},
    tag::{self, Held},
};

/// The packet is dropped; the sender of a datagram is told (EPERM).
const DROP: i32 = 0;
const PASS: i32 = 1;
/// The packet is lost, as it may be on any network: the sender is not told (`NET_XMIT_DROP`).
const LOSE: i32 = 2;
/// `TCP_SYN_SENT`: what it sends asks for a connection.
const SYN_SENT: u32 = 2;
/// Loopback in each network namespace.
const LOOPBACK_INTERFACE: u32 = 1;

#[derive(Clone, Copy)]
struct Packet {
    from: Source,
    to: Destination,
    /// It asks for a connection.
    opens: bool,
}

/// `cgroup_skb/egress`.
#[inline(always)]
pub fn egress(ctx: &SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context.
    let cgroup_id = unsafe { bpf_skb_cgroup_id(skb) };
    let Some(id) = tag::filtered(cgroup_id) else { return PASS };
    // SAFETY: the context.
    let ancestor = |level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level) };
    let Some(tag) = tag::tag_above(id, ancestor) else { return PASS };
    judge(ctx, &Held::to(id, tag.scope))
}

#[inline(always)]
fn judge(ctx: &SkBuffContext, held: &Held) -> i32 {
    // SAFETY: context loads, checked by the verifier.
    let (sk, out) = unsafe { ((*ctx.skb.skb).__bindgen_anon_2.sk, (*ctx.skb.skb).ifindex) };
    if sk.is_null() {
        return DROP;
    }
    // SAFETY: not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return DROP;
    }
    let Some(packet) = stream(sk).or_else(|| datagram(ctx.skb.skb)) else {
        let packet = Packet {
            from: Source { addr: [0; 4], port: 0 },
            to: Destination { addr: [0; 4], port: 0, protocol: 0 },
            opens: false,
        };
        return conclude(held, None, &packet, &Decision::new(reason::FAMILY));
    };
    // SAFETY: not null.
    let state = unsafe { sockets::known(sk.cast()) };
    let guarded = held.setting.flags() & SCOPE_EGRESS != 0 && out != LOOPBACK_INTERFACE;
    if guarded && sockets::netns(sk.cast()).map_or(0, |netns| interface::of(held.scope, netns)) != out {
        return elsewhere(held, state, &packet);
    }
    let udp = u32::from(packet.to.protocol) == UDP;
    if !udp && !packet.opens {
        return PASS;
    }
    let netns = sockets::netns(sk.cast());
    // Who listens on loopback changes: a gate may be where another, or nobody's port, was.
    let gate =
        net::is_loopback(&packet.to.addr) && netns.is_none_or(|netns| net::is_gate(netns, packet.to.port));
    // SAFETY: a value of socket storage.
    if !gate && state.is_some_and(|state| unsafe { (*state).let_go_to(held, &packet.to) }) {
        return PASS;
    }
    let decision = decide(ctx, held, state, &packet, netns);
    if decision.allows() { PASS } else { conclude(held, state, &packet, &decision) }
}

/// A packet that would leave by an interface that is not the policy's.
#[inline(always)]
fn elsewhere(held: &Held, state: Option<*mut SocketState>, packet: &Packet) -> i32 {
    if let Some(state) = state
        && held.setting.enforces()
    {
        // SAFETY: a value of socket storage.
        unsafe {
            if (*state).flags & BOUND_LATE != 0 {
                (*state).flags = 0;
                return LOSE;
            }
        }
    }
    conclude(held, state, packet, &Decision::new(reason::INTERFACE))
}

/// What the policy says of a packet, whatever became of its socket before.
#[inline(always)]
fn decide(
    ctx: &SkBuffContext,
    held: &Held,
    state: Option<*mut SocketState>,
    packet: &Packet,
    netns: Option<u64>,
) -> Decision {
    let Some(netns) = netns else {
        count(held.scope, Counter::HelperFailed);
        return Decision::new(reason::INTERNAL);
    };
    let loopback = net::is_loopback(&packet.to.addr);
    // SAFETY: a value of socket storage.
    let asked = state.is_some_and(|state| unsafe { (*state).gate == packet.to.port && (*state).gate != 0 });
    if loopback && asked && net::gate(netns, held.scope) == Some(packet.to.port) {
        askers::note(held, &packet.from, &packet.to);
        return Decision::new(reason::DNS_GATE);
    }
    let decision = net::plan(held, netns, packet.from.port, &packet.to);
    match decision.reason {
        // A question goes to the gate; this one does not.
        reason::DNS_GATE => return Decision::new(reason::NO_GATE),
        reason::OWN_LISTENER => {}
        _ => return decision,
    }
    // SAFETY: packets may look sockets up.
    if held.setting.flags() & SCOPE_LOOPBACK_OWN != 0
        && unsafe { own::listens(ctx.as_ptr(), &packet.from, &packet.to, held.scope) }
    {
        return decision;
    }
    Decision::new(reason::NO_RULE)
}

/// What a TCP socket sends goes to its peer, whatever the host makes of that on the way: other addresses (NAT), or a packet
/// around it (IPsec). `None`: it is no such socket.
#[inline(always)]
fn stream(sk: *const bpf_sock) -> Option<Packet> {
    // SAFETY: a full socket, checked by the verifier.
    unsafe {
        if (*sk).type_ != SOCK_STREAM || (*sk).protocol != TCP {
            return None;
        }
        // verifier: fields of both families are read first: a pointer to one or the other may not be made of a socket's.
        let (from4, to4) =
            ((&raw const (*sk).src_ip4).read_volatile(), (&raw const (*sk).dst_ip4).read_volatile());
        let (mut from, mut to) = ([0; 4], [0; 4]);
        for word in 0..4 {
            from[word] = (&raw const (*sk).src_ip6[word]).read_volatile();
            to[word] = (&raw const (*sk).dst_ip6[word]).read_volatile();
        }
        if (*sk).family == u32::from(AF_INET) {
            (from, to) = (Destination::v4(from4, 0, 0).addr, Destination::v4(to4, 0, 0).addr);
        }
        Some(Packet {
            from: Source { addr: from, port: (*sk).src_port as u16 },
            to: Destination { addr: to, port: u16::from_be((*sk).dst_port), protocol: TCP as u16 },
            opens: (*sk).state == SYN_SENT,
        })
    }
}

/// Reads addresses and ports. `None`: not UDP, or with headers between that change where it goes.
#[inline(always)]
fn datagram(skb: *mut __sk_buff) -> Option<Packet> {
    let mut ip = [0u32; 5];
    load(skb, 0, &mut ip)?;
    let [first, ..] = ip[0].to_ne_bytes();
    let (from, to, protocol, transport);
    if first >> 4 == 4 {
        let [_, protocol4, ..] = ip[2].to_ne_bytes();
        // A later fragment has no ports.
        if ip[1].to_ne_bytes()[2] & 0x1f != 0 || ip[1].to_ne_bytes()[3] != 0 {
            return None;
        }
        from = Destination::v4(ip[3], 0, 0).addr;
        to = Destination::v4(ip[4], 0, 0).addr;
        protocol = protocol4;
        transport = u32::from(first & 15) * 4;
    } else {
        let mut rest = [0u32; 8];
        load(skb, 8, &mut rest)?;
        from = [rest[0], rest[1], rest[2], rest[3]];
        to = [rest[4], rest[5], rest[6], rest[7]];
        protocol = ip[1].to_ne_bytes()[2];
        transport = 40;
    }
    if u32::from(protocol) != UDP {
        return None;
    }
    let mut ports = [0u16; 2];
    load(skb, transport, &mut ports)?;
    let [source, destination] = ports.map(u16::from_be);
    Some(Packet {
        from: Source { addr: from, port: source },
        to: Destination { addr: to, port: destination, protocol: u16::from(protocol) },
        opens: false,
    })
}

#[inline(always)]
fn load<T>(skb: *mut __sk_buff, offset: u32, into: &mut T) -> Option<()> {
    // SAFETY: the context, and a local of that size.
    let loaded = unsafe {
        bpf_skb_load_bytes(
            skb.cast_const().cast(),
            offset,
            core::ptr::from_mut(into).cast(),
            size_of::<T>() as u32,
        )
    };
    (loaded == 0).then_some(())
}

/// Reports a packet that is not allowed.
#[inline(always)]
fn conclude(held: &Held, state: Option<*mut SocketState>, packet: &Packet, decision: &Decision) -> i32 {
    count(held.scope, Counter::NetDenied);
    let udp = u32::from(packet.to.protocol) == UDP;
    let body = NetBody {
        addr: packet.to.bytes(),
        port: packet.to.port,
        protocol: packet.to.protocol,
        family: if net::is_v4(&packet.to.addr) { AF_INET } else { AF_INET6 },
        sock_type: if udp { SOCK_DGRAM as u16 } else { SOCK_STREAM as u16 },
    };
    // SAFETY: a value of socket storage.
    let maker = state.map_or([0; 2], |state| unsafe { [(*state).tgid, (*state).uid] });
    let event = if packet.opens { kind::CONNECT } else { kind::SEND };
    emit::packet(&Actor { held: *held, ppid: 0 }, maker, event, hook::EGRESS, body, decision);
    if held.setting.enforces() { DROP } else { PASS }
}
