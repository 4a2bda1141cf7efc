//! `egress`: what leaves this host leaves by one interface. Sockets are bound to it when it is known that they do not go to
//! loopback, which a bound socket cannot reach, and only root could unbind them again; `egress` drops what would go elsewhere.

use aya_ebpf::{
    EbpfContext as _,
    cty::c_int,
    helpers::generated::bpf_setsockopt,
    programs::{LsmContext, SockAddrContext},
};
use stockade_common::{
    counter::Counter,
    event::{hook, kind, reason},
    tag::SCOPE_EGRESS,
};

use crate::{
    emit::{self, Actor},
    file::Decision,
    maps::{EGRESS, HOST_NETNS, count},
    net::{self, Destination},
    socket::{self, Socket},
    sockets,
    tag::{self, Held},
};

const SOL_IP: u32 = 0;
const SOL_SOCKET: u32 = 1;
const SOL_IPV6: u32 = 41;
const SO_BINDTODEVICE: u32 = 25;
const IP_UNICAST_IF: u32 = 50;
const SO_BINDTOIFINDEX: u32 = 62;
const IPV6_UNICAST_IF: u32 = 76;

/// What becomes of a socket that goes somewhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// It leaves by the interface, or does not leave.
    Before,
    /// From now on. What is on its way without a connect may have been routed already.
    Now,
    /// Nothing leaves.
    Refused,
}

/// The interface of a scope in a network namespace; 0: there is none.
#[inline(always)]
pub fn of(scope: u32, netns: u64) -> u32 {
    if netns != HOST_NETNS.load() {
        return 0;
    }
    // SAFETY: a map value; read once.
    EGRESS.get_ptr(scope).map_or(0, |index| unsafe { index.read_volatile() })
}

/// Binds a socket that is about to go somewhere.
#[inline(always)]
pub fn bind(ctx: &SockAddrContext, held: &Held, netns: u64, to: &Destination) -> Bound {
    if held.setting.flags() & SCOPE_EGRESS == 0 || !held.setting.enforces() {
        return Bound::Before;
    }
    // SAFETY: a load through a pointer from the context, checked by the verifier.
    let bound = unsafe { (*sockets::sk(ctx)).bound_dev_if };
    let wanted = if net::is_loopback(&to.addr) { 0 } else { of(held.scope, netns) };
    if wanted == 0 && !net::is_loopback(&to.addr) {
        return Bound::Refused;
    }
    if bound == wanted {
        return Bound::Before;
    }
    let mut index = wanted;
    // SAFETY: a local of that size.
    let set = unsafe {
        bpf_setsockopt(
            ctx.as_ptr(),
            SOL_SOCKET as c_int,
            SO_BINDTOIFINDEX as c_int,
            (&raw mut index).cast(),
            size_of::<u32>() as c_int,
        )
    };
    match (set, wanted) {
        (0, _) => Bound::Now,
        // It goes by another interface then, to where nothing of loopback is.
        (_, 0) => Bound::Before,
        _ => {
            count(held.scope, Counter::HelperFailed);
            Bound::Refused
        }
    }
}

/// `lsm/socket_setsockopt(sock, level, optname)`: which interface a socket uses is not for the workload to say.
#[inline(always)]
pub fn setsockopt(ctx: &LsmContext) -> bool {
    let (level, option): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    let chooses = match level {
        SOL_SOCKET => option == SO_BINDTODEVICE || option == SO_BINDTOIFINDEX,
        SOL_IP => option == IP_UNICAST_IF,
        SOL_IPV6 => option == IPV6_UNICAST_IF,
        _ => false,
    };
    if !chooses {
        return true;
    }
    let Some(held) = tag::current() else { return true };
    if held.setting.flags() & SCOPE_EGRESS == 0 {
        return true;
    }
    // SAFETY: a typed kernel pointer.
    let Some(socket) = (unsafe { Socket::of(ctx.arg(0)) }) else { return !held.setting.enforces() };
    let actor = Actor { held, ppid: emit::ppid() };
    let decision = Decision::new(reason::INTERFACE);
    socket::conclude(&actor, kind::SOCKET, hook::SOCKET_SETSOCKOPT, socket, None, &decision)
}
