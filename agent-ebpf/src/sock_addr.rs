//! The cgroup programs. They run for the cgroup that made the socket and judge the current task; they also see what
//! the LSM hooks do not (fast open), and work where `bpf` is not an active LSM.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::generated::bpf_get_netns_cookie,
    programs::{SockAddrContext, SockContext},
};
use stockade_common::{
    counter::Counter,
    event::{NetBody, hook, kind, reason},
    net::{DNS_PORT, UDP},
    tag::SCOPE_CGROUP_EMITS,
};

use crate::{
    emit::{self, Actor},
    file::Decision,
    interface::{self, Bound},
    listen,
    maps::count,
    net::{self, AF_INET, AF_INET6, Destination},
    own::{self, Source},
    peers,
    sockets::{self, BOUND_LATE},
    tag::{self, Held},
};

#[inline(always)]
fn v4(ctx: &SockAddrContext) -> Destination {
    let raw = ctx.sock_addr;
    // SAFETY: context loads, checked by the verifier.
    unsafe { Destination::v4((*raw).user_ip4, port(raw), (*raw).protocol as u16) }
}

#[inline(always)]
fn v6(ctx: &SockAddrContext) -> Destination {
    let raw = ctx.sock_addr;
    // SAFETY: context loads, checked by the verifier.
    unsafe {
        let addr = [(*raw).user_ip6[0], (*raw).user_ip6[1], (*raw).user_ip6[2], (*raw).user_ip6[3]];
        Destination { addr, port: port(raw), protocol: (*raw).protocol as u16 }
    }
}

/// `user_port` is 16 bits in network order.
#[inline(always)]
unsafe fn port(raw: *const bpf_sock_addr) -> u16 {
    // SAFETY: as promised by the caller.
    u16::from_be(unsafe { (*raw).user_port } as u16)
}

/// `TCP_ESTABLISHED`, which connected datagram sockets are, too.
const ESTABLISHED: u32 = 1;

/// What a hook is: one that connects, or one that sends a message to an address, for a family of addresses.
#[derive(Clone, Copy)]
struct Place {
    event: u16,
    hook: u8,
    /// Addresses are IPv6.
    v6: bool,
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, destination: &Destination, place: Place) -> bool {
    let Some(held) = tag::current_by_helper() else { return true };
    // SAFETY: the context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if place.event == kind::SEND && is_peer(ctx, &held, destination) {
        return true;
    }
    // SAFETY: a load through a pointer from the context, checked by the verifier.
    let local_port = unsafe { (*sockets::sk(ctx)).src_port as u16 };
    let planned = net::plan(&held, netns, local_port, destination);
    if net::is_probe(&held, place.event, destination, &planned) && is_ours(ctx, &held) {
        return true;
    }
    let (mut decision, mut target, mut gate) = (planned, *destination, 0);
    match planned.reason {
        reason::DNS_GATE => match net::gate(netns, held.scope) {
            Some(port) => {
                target = gate_for(destination, port, place);
                gate = port;
            }
            None => decision = Decision::new(reason::NO_GATE),
        },
        reason::OWN_LISTENER => {
            target.addr = own::specific(destination.addr);
            if !listens(ctx, &target, held.scope) {
                decision = Decision::new(reason::NO_RULE);
            }
        }
        _ => {}
    }
    let mut late = 0;
    if decision.allows() {
        match interface::bind(ctx, &held, netns, &target) {
            Bound::Refused => decision = Decision::new(reason::INTERFACE),
            Bound::Now if place.event == kind::SEND => late = BOUND_LATE,
            _ => {}
        }
    }
    let delegated = planned.reason == reason::DNS_GATE || planned.reason == reason::OWN_LISTENER;
    if !conclude_as(ctx, held, destination, place.event, place.hook, &decision, delegated) {
        return false;
    }
    // Who listens for the scope may be gone when a packet is sent: that is looked at then.
    let generation = if planned.reason == reason::OWN_LISTENER { 0 } else { held.setting.generation() };
    let settled = settle(ctx, generation, destination, &target, gate, late);
    if delegated && decision.allows() {
        if !settled {
            // Who is asked could not be told to the workload.
            count(held.scope, Counter::HelperFailed);
            return !held.setting.enforces();
        }
        rewrite(ctx, &target, place.v6);
    }
    true
}

/// Whether it is the peer that the socket was let go to when it connected: an IPv6 socket with an IPv4 peer names it anew to
/// IPv4 for each message (`udpv6_sendmsg`).
#[inline(always)]
fn is_peer(ctx: &SockAddrContext, held: &Held, destination: &Destination) -> bool {
    let sk = sockets::sk(ctx);
    // SAFETY: loads through a pointer from the context, checked by the verifier.
    let (state, port) = unsafe { ((*sk).state, u16::from_be((*sk).dst_port)) };
    // SAFETY: a pointer from the context; a value of socket storage.
    let let_go = || unsafe { sockets::known(sk.cast()).is_some_and(|s| (*s).let_go_to(held, destination)) };
    state == ESTABLISHED && port == destination.port && let_go()
}

/// Whether somebody in the scope made it: `egress` judges what it sends by the same policy.
#[inline(always)]
fn is_ours(ctx: &SockAddrContext, held: &Held) -> bool {
    // SAFETY: a pointer from the context; a value of socket storage.
    unsafe { sockets::known(sockets::sk(ctx).cast()).is_some_and(|state| (*state).scope == held.scope) }
}

/// Where the gate is for who asks there. An IPv6 socket that names an IPv4 address may be bound to one; what is sent without a
/// connect cannot be rewritten to one (`-ENOTSUPP`).
#[inline(always)]
fn gate_for(destination: &Destination, port: u16, place: Place) -> Destination {
    let v4 = !place.v6 || (net::is_v4(&destination.addr) && place.event == kind::CONNECT);
    let addr = if v4 { net::LOCALHOST4 } else { net::LOCALHOST6 };
    Destination { addr, port, protocol: destination.protocol }
}

#[inline(always)]
fn listens(ctx: &SockAddrContext, target: &Destination, scope: u32) -> bool {
    let addr = if net::is_v4(&target.addr) { net::LOCALHOST4 } else { net::LOCALHOST6 };
    // A datagram socket may be connected to this one's port.
    // SAFETY: a load through a pointer from the context, checked by the verifier.
    let port =
        if u32::from(target.protocol) == UDP { unsafe { (*sockets::sk(ctx)).src_port as u16 } } else { 0 };
    // SAFETY: these programs may look sockets up.
    unsafe { own::listens(ctx.as_ptr(), &Source { addr, port }, target, scope) }
}

/// Remembers where a socket was let go to. False: there is no memory for it.
#[inline(always)]
fn settle(
    ctx: &SockAddrContext,
    generation: u32,
    destination: &Destination,
    target: &Destination,
    gate: u16,
    late: u16,
) -> bool {
    let Some(state) = sockets::of(ctx) else { return false };
    // SAFETY: a value of socket storage.
    unsafe {
        (*state).passed = *target;
        (*state).generation = generation;
        (*state).flags = late;
        if gate != 0 {
            (*state).asked = own::specific(destination.addr);
            (*state).gate = gate;
        }
    }
    true
}

/// Sends it elsewhere.
#[inline(always)]
fn rewrite(ctx: &SockAddrContext, target: &Destination, v6: bool) {
    let raw = ctx.sock_addr;
    // SAFETY: context stores, checked by the verifier.
    unsafe {
        if v6 {
            (&raw mut (*raw).user_ip6[0]).write_volatile(target.addr[0]);
            (&raw mut (*raw).user_ip6[1]).write_volatile(target.addr[1]);
            (&raw mut (*raw).user_ip6[2]).write_volatile(target.addr[2]);
            (&raw mut (*raw).user_ip6[3]).write_volatile(target.addr[3]);
        } else {
            (&raw mut (*raw).user_ip4).write_volatile(target.addr[3]);
        }
        (&raw mut (*raw).user_port).write_volatile(u32::from(target.port.to_be()));
    }
}

/// Has an answer of a gate, or the peer's name, come from the name server that was asked.
#[inline(always)]
fn put_back(ctx: &SockAddrContext, from: &Destination, v6: bool) {
    if !net::is_loopback(&from.addr) {
        return;
    }
    // SAFETY: a pointer from the context.
    let Some(state) = (unsafe { sockets::known(sockets::sk(ctx).cast()) }) else { return };
    // SAFETY: a value of socket storage.
    let (gate, asked) = unsafe { ((*state).gate, (*state).asked) };
    // An IPv4 socket has asked an IPv4 address.
    if gate != 0 && gate == from.port && (v6 || net::is_v4(&asked)) {
        rewrite(ctx, &Destination { addr: asked, port: DNS_PORT, protocol: from.protocol }, v6);
    }
}

/// `cgroup/getpeername4`.
#[inline(always)]
pub fn put_back4(ctx: &SockAddrContext) {
    put_back(ctx, &v4(ctx), false);
}

/// `cgroup/getpeername6`.
#[inline(always)]
pub fn put_back6(ctx: &SockAddrContext) {
    put_back(ctx, &v6(ctx), true);
}

/// `cgroup/recvmsg4`.
#[inline(always)]
pub fn received4(ctx: &SockAddrContext) {
    received(ctx, &v4(ctx), false);
}

/// `cgroup/recvmsg6`.
#[inline(always)]
pub fn received6(ctx: &SockAddrContext) {
    received(ctx, &v6(ctx), true);
}

#[inline(always)]
fn received(ctx: &SockAddrContext, from: &Destination, v6: bool) {
    // SAFETY: the context.
    peers::heard(ctx, unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }, from);
    put_back(ctx, from, v6);
}

/// Reports a decision on an address; false: refuse.
#[inline(always)]
pub fn conclude(
    ctx: &SockAddrContext,
    held: Held,
    destination: &Destination,
    kind: u16,
    hook: u8,
    decision: &Decision,
) -> bool {
    conclude_as(ctx, held, destination, kind, hook, decision, false)
}

/// The same. `delegated`: no LSM hook has reported it.
#[inline(always)]
fn conclude_as(
    ctx: &SockAddrContext,
    held: Held,
    destination: &Destination,
    kind: u16,
    hook: u8,
    decision: &Decision,
    delegated: bool,
) -> bool {
    // SAFETY: context loads, checked by the verifier.
    let (family, sock_type) = unsafe { ((*ctx.sock_addr).family as u16, (*ctx.sock_addr).type_ as u16) };
    let body = NetBody {
        addr: destination.bytes(),
        port: destination.port,
        protocol: destination.protocol,
        family,
        sock_type,
    };
    report(&Actor { held, ppid: 0 }, kind, hook, body, decision, delegated)
}

/// Reports what no LSM hook has reported already, and says whether to go on.
#[inline(always)]
fn report(actor: &Actor, event: u16, hook: u8, body: NetBody, decision: &Decision, delegated: bool) -> bool {
    let setting = actor.held.setting;
    let allow = decision.allows();
    let alone = delegated || setting.flags() & SCOPE_CGROUP_EMITS != 0;
    if alone {
        count(actor.held.scope, if allow { Counter::NetAllowed } else { Counter::NetDenied });
    }
    if (alone && (!allow || emit::always_reported(event))) || (!allow && setting.enforces()) {
        emit::net(actor, event, hook, body, decision);
    }
    allow || !setting.enforces()
}

/// `cgroup/connect4`.
#[inline(always)]
pub fn connect4(ctx: &SockAddrContext) -> bool {
    judge(ctx, &v4(ctx), Place { event: kind::CONNECT, hook: hook::CONNECT4, v6: false })
}

/// `cgroup/connect6`.
#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> bool {
    judge(ctx, &v6(ctx), Place { event: kind::CONNECT, hook: hook::CONNECT6, v6: true })
}

/// `cgroup/sendmsg4`.
#[inline(always)]
pub fn sendmsg4(ctx: &SockAddrContext) -> bool {
    judge(ctx, &v4(ctx), Place { event: kind::SEND, hook: hook::SENDMSG4, v6: false })
}

/// `cgroup/sendmsg6`.
#[inline(always)]
pub fn sendmsg6(ctx: &SockAddrContext) -> bool {
    judge(ctx, &v6(ctx), Place { event: kind::SEND, hook: hook::SENDMSG6, v6: true })
}

/// `cgroup/bind4`.
#[inline(always)]
pub fn bind4(ctx: &SockAddrContext) -> bool {
    listen::cgroup_bind(ctx, &v4(ctx), hook::BIND4)
}

/// `cgroup/bind6`.
#[inline(always)]
pub fn bind6(ctx: &SockAddrContext) -> bool {
    listen::cgroup_bind(ctx, &v6(ctx), hook::BIND6)
}

/// `cgroup/sock_create`.
#[inline(always)]
pub fn sock_create(ctx: &SockContext) -> bool {
    // SAFETY: context loads, checked by the verifier.
    let (family, sock_type, protocol) =
        unsafe { ((*ctx.sock).family, (*ctx.sock).type_, (*ctx.sock).protocol) };
    let nameable = net::nameable(family, sock_type, protocol);
    let inet = family == u32::from(AF_INET) || family == u32::from(AF_INET6);
    if nameable && !inet {
        return true;
    }
    let Some(held) = tag::current_by_helper() else { return true };
    if nameable {
        // Without memory it is a socket from outside to the other programs.
        if !sockets::made(ctx, &held) {
            count(held.scope, Counter::HelperFailed);
        }
        return true;
    }
    let body = NetBody {
        addr: [0; 16],
        port: 0,
        protocol: protocol as u16,
        family: family as u16,
        sock_type: sock_type as u16,
    };
    report(
        &Actor { held, ppid: 0 },
        kind::SOCKET,
        hook::SOCK_CREATE,
        body,
        &Decision::new(reason::FAMILY),
        false,
    )
}
