//! Unix sockets: whoever listens must have been made inside the same tag, or be named by a rule. Container runtimes, systemd
//! and the buses listen on unix sockets, and do for whoever may ask what the tag forbids.
//!
//! The name is that of the listening socket: of its file, by filesystem and path inside it as for opens, whatever name was
//! given to connect; or the exact bytes of its abstract name.

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel, bpf_skc_to_unix_sock},
    programs::LsmContext,
};
use stockade_common::{
    event::{FileBody, hook, kind, reason},
    file::ACCESS_CONNECT,
    limits::{ABSTRACT_DEV, MAX_PATH},
    tag::SCOPE_AUDIT_ALL,
};

use crate::{
    automaton::{self, States},
    emit::{self, Actor},
    file::{self, Decision, Request, outcome},
    kernel::{
        self, PATH_DENTRY, SOCK_TYPE, SOCKET_SK, UNIX_ADDRESS_LEN, UNIX_ADDRESS_NAME, UNIX_SOCK_ADDR,
        UNIX_SOCK_PATH,
    },
    maps::count,
    net::AF_UNIX,
    path::{self, PathBuffer},
    rules,
    socket::{self, Socket},
    tag::{self, Held},
};

/// `sun_family`, and the NUL that an abstract name begins with.
const BEFORE_NAME: u32 = 3;
/// Longest abstract name: `sun_path` without that NUL.
const MAX_ABSTRACT: u32 = 107;

/// Judges a connect or send to `peer`, which is a `struct sock` or null.
#[inline(always)]
fn judge(peer: *const u8, hook: u8) -> bool {
    let Some(held) = tag::current() else { return true };
    if peer.is_null() {
        return unnamed(&held, 0, hook, reason::OUTSIDE);
    }
    // SAFETY: typed kernel pointers, checked for null.
    unsafe {
        let sock_type = u32::from(kernel::field::<u16>(peer, &SOCK_TYPE));
        if socket::made_inside(peer, &held) {
            return unnamed(&held, sock_type, hook, reason::INSIDE);
        }
        let unix = bpf_skc_to_unix_sock(peer.cast_mut().cast()).cast::<u8>().cast_const();
        if unix.is_null() {
            return unnamed(&held, sock_type, hook, reason::OUTSIDE);
        }
        let dentry: *const u8 = kernel::field(kernel::embedded(unix, &UNIX_SOCK_PATH), &PATH_DENTRY);
        if !dentry.is_null() {
            let request = Request {
                held,
                access: ACCESS_CONNECT,
                mode: sock_type,
                kind: kind::UNIX_NAMED,
                hook,
                refused: 0,
            };
            return file::check(dentry, &request);
        }
        let address: *const u8 = kernel::field(unix, &UNIX_SOCK_ADDR);
        if address.is_null() {
            return unnamed(&held, sock_type, hook, reason::OUTSIDE);
        }
        by_abstract_name(address, &held, sock_type, hook)
    }
}

/// A peer whose name plays no part.
// verifier: inline its record would lie on the stack beneath the naming of a file, together more than 512 bytes (6.1).
#[inline(never)]
fn unnamed(held: &Held, sock_type: u32, hook: u8, reason: u16) -> bool {
    let actor = Actor { held: *held, ppid: emit::ppid() };
    let socket = Socket { family: AF_UNIX, kind: sock_type, protocol: 0 };
    socket::conclude(&actor, kind::UNIX, hook, socket, None, &Decision::new(reason))
}

/// A peer with an address of its own and no file; `address` is a `struct unix_address`.
#[inline(never)]
fn by_abstract_name(address: *const u8, held: &Held, sock_type: u32, hook: u8) -> bool {
    let Some(buffer) = path::claim(held.scope) else {
        count(held.scope, outcome(true, false));
        return !held.setting.enforces();
    };
    // SAFETY: a typed kernel pointer; the buffer was claimed.
    let (start, decision) = unsafe {
        let start = PathBuffer::forget(buffer, name_of(address, buffer));
        let decision = match start {
            u32::MAX => rules::internal(held.scope),
            start => look_up(held, buffer, start),
        };
        // verifier: all ways to a decision meet here, or the report is verified for each of them.
        let reason = PathBuffer::forget(buffer, u32::from(decision.reason)) as u16;
        let rule = PathBuffer::forget(buffer, decision.rule);
        let start = PathBuffer::forget(buffer, start.min(MAX_PATH as u32));
        (start, Decision { reason, rule })
    };
    let allow = decision.allows();
    count(held.scope, outcome(true, allow));
    if !allow || hook == hook::UNIX_STREAM_CONNECT || held.setting.flags() & SCOPE_AUDIT_ALL != 0 {
        let actor = Actor { held: *held, ppid: emit::ppid() };
        let body = FileBody { dev: ABSTRACT_DEV, access: ACCESS_CONNECT, mode: sock_type, path_len: 0 };
        // SAFETY: the buffer was claimed.
        unsafe { emit::path(buffer, start, &actor, kind::UNIX_NAMED, hook, body, &decision) };
    }
    path::release(buffer);
    allow || !held.setting.enforces()
}

/// Writes the name to the end of the buffer, without the NUL before it. Returns where it starts, or `u32::MAX`.
#[inline(always)]
unsafe fn name_of(address: *const u8, buffer: *mut PathBuffer) -> u32 {
    // SAFETY: typed loads checked by the verifier; the position is masked, and the name fits behind it.
    unsafe {
        let length: u32 = kernel::field(address, &UNIX_ADDRESS_LEN);
        let length = length.wrapping_sub(BEFORE_NAME);
        if length > MAX_ABSTRACT {
            return u32::MAX;
        }
        if length == 0 {
            return MAX_PATH as u32;
        }
        let start = MAX_PATH as u32 - length;
        let name = kernel::embedded(address, &UNIX_ADDRESS_NAME) as u64 + u64::from(BEFORE_NAME);
        let length = path::masked::<127>(length) as u32;
        let to = PathBuffer::byte(buffer, start);
        if bpf_probe_read_kernel(to.cast(), length, name as *const _) != 0 { u32::MAX } else { start }
    }
}

/// What the policy says about the abstract name in the buffer.
#[inline(always)]
unsafe fn look_up(held: &Held, buffer: *mut PathBuffer, start: u32) -> Decision {
    let slot = held.setting.slot();
    let Some(entry) = rules::filesystem_of(slot, ABSTRACT_DEV) else { return Decision::new(reason::NO_RULE) };
    let states = States { anchored: entry.anchored, floating: entry.floating };
    // SAFETY: as promised by the caller.
    match unsafe { automaton::run(slot, buffer, start, start, states) } {
        Some(way) => rules::judge(held, way.end, ACCESS_CONNECT),
        None => rules::internal(held.scope),
    }
}

/// `lsm/unix_stream_connect(sock, other, newsk)`: all three are `struct sock`. Seqpacket sockets connect here, too.
#[inline(always)]
pub fn stream_connect(ctx: &LsmContext) -> bool {
    judge(ctx.arg(1), hook::UNIX_STREAM_CONNECT)
}

/// `lsm/unix_may_send(sock, other)`: both are `struct socket`. Runs when a datagram socket connects, and for each datagram.
#[inline(always)]
pub fn may_send(ctx: &LsmContext) -> bool {
    let other: *const u8 = ctx.arg(1);
    // SAFETY: a typed kernel pointer.
    let peer = unsafe { kernel::field(other, &SOCKET_SK) };
    judge(peer, hook::UNIX_MAY_SEND)
}
