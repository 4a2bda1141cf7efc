//! Unix sockets: the peer must have been made inside the same tag. Container runtimes, systemd and the buses listen on
//! unix sockets, and do for whoever may ask what the tag forbids.

use aya_ebpf::programs::LsmContext;
use stockade_common::event::{hook, kind, reason};

use crate::{
    emit::{self, Actor},
    file::Decision,
    kernel::{self, SOCK_CGROUP, SOCKET_SK},
    net::AF_UNIX,
    socket::{self, Socket},
    tag,
};

#[inline(always)]
fn judge(peer: *const u8, sock_type: u32, hook: u8) -> bool {
    let Some(held) = tag::current() else { return true };
    // SAFETY: a typed kernel pointer; both pointers are checked.
    let inside = unsafe {
        if peer.is_null() {
            false
        } else {
            let cgroup: *const u8 = kernel::field(peer, &SOCK_CGROUP);
            !cgroup.is_null() && tag::scope_of(kernel::cgroup_id(cgroup)) == Some(held.scope)
        }
    };
    let decision = Decision::new(if inside { reason::INSIDE } else { reason::OUTSIDE });
    let actor = Actor { held, ppid: emit::ppid() };
    let socket = Socket { family: AF_UNIX, kind: sock_type, protocol: 0 };
    socket::conclude(&actor, kind::UNIX, hook, socket, None, &decision)
}

/// `lsm/unix_stream_connect(sock, other, newsk)`: all three are `struct sock`.
#[inline(always)]
pub fn stream_connect(ctx: &LsmContext) -> bool {
    judge(ctx.arg(1), 1, hook::UNIX_STREAM_CONNECT)
}

/// `lsm/unix_may_send(sock, other)`: both are `struct socket`.
#[inline(always)]
pub fn may_send(ctx: &LsmContext) -> bool {
    let other: *const u8 = ctx.arg(1);
    // SAFETY: a typed kernel pointer.
    let peer = unsafe { kernel::field(other, &SOCKET_SK) };
    judge(peer, 2, hook::UNIX_MAY_SEND)
}
