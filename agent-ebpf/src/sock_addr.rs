//! The cgroup programs. They run for the cgroup that made the socket and judge the current task; they also see what
//! the LSM hooks do not (fast open), and work where `bpf` is not an active LSM.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    programs::{SockAddrContext, SockContext},
};
use stockade_common::{
    counter::Counter,
    event::{NetBody, hook, kind, reason},
    tag::SCOPE_CGROUP_EMITS,
};

use crate::{
    emit::{self, Actor},
    file::Decision,
    listen,
    maps::count,
    net::{self, Destination},
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

#[inline(always)]
fn judge(ctx: &SockAddrContext, destination: &Destination, kind: u16, hook: u8) -> bool {
    let Some(held) = tag::current_by_helper() else { return true };
    let decision = net::decide(held.setting.slot(), destination);
    conclude(ctx, held, destination, kind, hook, &decision)
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
    // SAFETY: context loads, checked by the verifier.
    let (family, sock_type) = unsafe { ((*ctx.sock_addr).family as u16, (*ctx.sock_addr).type_ as u16) };
    let body = NetBody {
        addr: destination.bytes(),
        port: destination.port,
        protocol: destination.protocol,
        family,
        sock_type,
    };
    report(&Actor { held, ppid: 0 }, kind, hook, body, decision)
}

/// Reports what no LSM hook has reported already, and says whether to go on.
#[inline(always)]
fn report(actor: &Actor, event: u16, hook: u8, body: NetBody, decision: &Decision) -> bool {
    let setting = actor.held.setting;
    let allow = decision.allows();
    let alone = setting.flags() & SCOPE_CGROUP_EMITS != 0;
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
    judge(ctx, &v4(ctx), kind::CONNECT, hook::CONNECT4)
}

/// `cgroup/connect6`.
#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> bool {
    judge(ctx, &v6(ctx), kind::CONNECT, hook::CONNECT6)
}

/// `cgroup/sendmsg4`.
#[inline(always)]
pub fn sendmsg4(ctx: &SockAddrContext) -> bool {
    judge(ctx, &v4(ctx), kind::SEND, hook::SENDMSG4)
}

/// `cgroup/sendmsg6`.
#[inline(always)]
pub fn sendmsg6(ctx: &SockAddrContext) -> bool {
    judge(ctx, &v6(ctx), kind::SEND, hook::SENDMSG6)
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
    if net::nameable(family, sock_type, protocol) {
        return true;
    }
    let Some(held) = tag::current_by_helper() else { return true };
    let body = NetBody {
        addr: [0; 16],
        port: 0,
        protocol: protocol as u16,
        family: family as u16,
        sock_type: sock_type as u16,
    };
    report(&Actor { held, ppid: 0 }, kind::SOCKET, hook::SOCK_CREATE, body, &Decision::new(reason::FAMILY))
}
