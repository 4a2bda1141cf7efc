//! Being reached: what listens, and what is taken from listeners. A rule names the local address.

use aya_ebpf::programs::{LsmContext, SockAddrContext};
use stockade_common::{
    event::{hook, kind, reason},
    net::{LISTEN, TCP, UDP},
    tag::SCOPE_CGROUP_EMITS,
};

use crate::{
    emit::{self, Actor},
    file::Decision,
    kernel::{self, SOCK_NUM, SOCK_RCV_SADDR, SOCK_V6_RCV_SADDR},
    net::{self, AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, Destination, SOCK_STREAM},
    sock_addr,
    socket::{self, Socket},
    tag,
};

/// Where a socket is bound; the unspecified address and port 0 if it is not, where the kernel will choose a port.
///
/// # Safety
/// `sk` must be a typed pointer to a `struct sock`, not null.
#[inline(always)]
unsafe fn local(sk: *const u8, socket: Socket) -> Destination {
    // SAFETY: typed loads, checked by the verifier.
    unsafe {
        let port = kernel::field::<u16>(sk, &SOCK_NUM);
        if socket.family == AF_INET {
            return Destination::v4(kernel::field(sk, &SOCK_RCV_SADDR), port, socket.protocol);
        }
        let addr = kernel::embedded(sk, &SOCK_V6_RCV_SADDR).cast::<u32>();
        let word = |index| core::ptr::read_volatile(addr.add(index));
        Destination { addr: [word(0), word(1), word(2), word(3)], port, protocol: socket.protocol }
    }
}

/// What the slot's rules say about listening there.
#[inline(always)]
fn decide(slot: u32, local: &Destination) -> Decision {
    let protocol = u32::from(local.protocol);
    if protocol != TCP && protocol != UDP {
        return Decision::new(reason::FAMILY);
    }
    net::lookup(slot, local.addr, protocol | LISTEN, local.port)
}

/// Whether a rule could let the socket listen at all. `None`: this is not for the rules here.
#[inline(always)]
fn listens(socket: Socket) -> Option<bool> {
    match socket.family {
        // The name of a unix socket is a file that is made, or abstract: only those in the same network namespace find it.
        AF_UNIX | AF_NETLINK => None,
        family => Some(
            (family == AF_INET || family == AF_INET6)
                && net::nameable(u32::from(family), socket.kind, u32::from(socket.protocol)),
        ),
    }
}

/// `lsm/socket_listen(sock, backlog)`: also listening without bind.
#[inline(always)]
pub fn listen(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let actor = Actor { held, ppid: emit::ppid() };
    judge_socket(&actor, ctx.arg(0), kind::LISTEN, hook::SOCKET_LISTEN)
}

/// Judges a `struct socket` by where it is bound.
#[inline(always)]
fn judge_socket(actor: &Actor, sock: *const u8, event: u16, hook: u8) -> bool {
    let held = &actor.held;
    // SAFETY: typed kernel pointers; null is checked.
    unsafe {
        let Some((socket, sk)) = Socket::with_sock(sock) else { return !held.setting.enforces() };
        match listens(socket) {
            None => true,
            Some(false) => socket::conclude(actor, event, hook, socket, None, &Decision::new(reason::FAMILY)),
            Some(true) => {
                let local = local(sk, socket);
                let decision = decide(held.setting.slot(), &local);
                socket::conclude(actor, event, hook, socket, Some(&local), &decision)
            }
        }
    }
}

/// `lsm/socket_bind(sock, address, addrlen)`: a datagram socket with a port is one that listens. A stream socket is judged
/// when it does, since clients bind, too; so does a datagram socket that leaves the port to the kernel.
#[inline(always)]
pub fn bind(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    // SAFETY: a typed kernel pointer.
    let Some(socket) = (unsafe { Socket::of(ctx.arg(0)) }) else { return !held.setting.enforces() };
    let actor = Actor { held, ppid: emit::ppid() };
    let (event, hook) = (kind::LISTEN, hook::SOCKET_BIND);
    match listens(socket) {
        None => return true,
        Some(false) => {
            return socket::conclude(&actor, event, hook, socket, None, &Decision::new(reason::FAMILY));
        }
        Some(true) if socket.kind == SOCK_STREAM => return true,
        Some(true) => {}
    }
    let from: *const u8 = ctx.arg(1);
    let Some(address) = socket::read_address(held.scope, from as u64) else {
        return !held.setting.enforces();
    };
    // By the socket's family: an address of another one is an error, or `AF_UNSPEC`, which means the same.
    let local = address.as_of(socket);
    if local.port == 0 {
        return true;
    }
    let decision = decide(held.setting.slot(), &local);
    socket::conclude(&actor, event, hook, socket, Some(&local), &decision)
}

/// `lsm/socket_accept(sock, newsock)`: what listens and was made inside was judged when it began to.
#[inline(always)]
pub fn accept(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let sock: *const u8 = ctx.arg(0);
    // SAFETY: typed kernel pointers; null is checked.
    let socket = unsafe {
        let Some((socket, sk)) = Socket::with_sock(sock) else { return !held.setting.enforces() };
        if socket::made_inside(sk, &held) {
            return true;
        }
        socket
    };
    let actor = Actor { held, ppid: emit::ppid() };
    if socket.family == AF_UNIX {
        let decision = Decision::new(reason::OUTSIDE);
        return socket::conclude(&actor, kind::ACCEPT, hook::SOCKET_ACCEPT, socket, None, &decision);
    }
    judge_socket(&actor, sock, kind::ACCEPT, hook::SOCKET_ACCEPT)
}

/// `cgroup/bind4` and `cgroup/bind6`, where no LSM hook runs: a port that was asked for is taken for one to listen on.
/// Listening without bind is not seen there.
#[inline(always)]
pub fn cgroup_bind(ctx: &SockAddrContext, local: &Destination, hook: u8) -> bool {
    if local.port == 0 {
        return true;
    }
    let Some(held) = tag::current_by_helper() else { return true };
    if held.setting.flags() & SCOPE_CGROUP_EMITS == 0 {
        return true;
    }
    let decision = decide(held.setting.slot(), local);
    sock_addr::conclude(ctx, held, local, kind::LISTEN, hook, &decision)
}
