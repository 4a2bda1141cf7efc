//! What is known of a socket made inside a tag: who made it, and where it was let go to.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    cty::c_void,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{bpf_probe_read_kernel, bpf_sk_storage_get},
    },
    programs::{SockAddrContext, SockContext},
};

use crate::{
    kernel::{NET_COOKIE, SOCK_NET},
    maps::SOCKETS,
    net::Destination,
    tag::Held,
};

/// `BPF_SK_STORAGE_GET_F_CREATE`.
const CREATE: u64 = 1;

/// Value of [`SOCKETS`]. Threads that share a socket may write to it at once; what is decided by it is decided again where it
/// does not agree.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SocketState {
    /// Scope of who made it; 0: it was not tagged then.
    pub scope: u32,
    /// Process that made it.
    pub tgid: u32,
    /// Its effective user.
    pub uid: u32,
    /// `generation` of the policy by which it was let go to `passed`; 0: it was not.
    pub generation: u32,
    /// Where it was last let go to: the address that packets have, and port and protocol.
    pub passed: Destination,
    /// The name server it last asked, before its question was carried to a gate.
    pub asked: [u32; 4],
    /// Port of that gate; 0: it has asked none.
    pub gate: u16,
    /// [`BOUND_LATE`] or 0.
    pub flags: u16,
}

/// It was bound to the policy's interface while a datagram was on its way, which may still go by another.
pub const BOUND_LATE: u16 = 1;

impl SocketState {
    #[inline(always)]
    fn new(scope: u32) -> Self {
        Self {
            scope,
            tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
            uid: bpf_get_current_uid_gid() as u32,
            generation: 0,
            passed: Destination { addr: [0; 4], port: 0, protocol: 0 },
            asked: [0; 4],
            gate: 0,
            flags: 0,
        }
    }

    /// Whether it was let go there by the policy that holds now.
    #[inline(always)]
    pub fn let_go_to(&self, held: &Held, destination: &Destination) -> bool {
        self.generation != 0
            && self.generation == held.setting.generation()
            && self.passed.port == destination.port
            && self.passed.protocol == destination.protocol
            && self.passed.addr == destination.addr
    }
}

#[inline(always)]
unsafe fn storage(sk: *mut c_void, initial: *mut SocketState, flags: u64) -> Option<*mut SocketState> {
    // SAFETY: as promised by the caller.
    let state =
        unsafe { bpf_sk_storage_get((&raw const SOCKETS).cast_mut().cast(), sk, initial.cast(), flags) };
    let state: *mut SocketState = state.cast();
    (!state.is_null()).then_some(state)
}

/// Remembers who makes a socket.
#[inline(always)]
pub fn made(ctx: &SockContext, held: &Held) -> bool {
    let mut state = SocketState::new(held.scope);
    // SAFETY: the helper takes the context for the socket; a local.
    unsafe { storage(ctx.as_ptr(), &raw mut state, CREATE) }.is_some()
}

/// The socket's, which is made where there is none: it is a socket from outside, or older than the tag.
#[inline(always)]
pub fn of(ctx: &SockAddrContext) -> Option<*mut SocketState> {
    let mut state = SocketState::new(0);
    // SAFETY: a pointer from the context; a local.
    unsafe { storage(sk(ctx).cast(), &raw mut state, CREATE) }
}

/// The socket's, if it has one.
///
/// # Safety
/// `sk` must be a pointer to a socket the verifier knows, not null.
#[inline(always)]
pub unsafe fn known(sk: *mut c_void) -> Option<*mut SocketState> {
    // SAFETY: as promised by the caller.
    unsafe { storage(sk, core::ptr::null_mut(), 0) }
}

/// The socket that a cgroup program on addresses runs for.
#[inline(always)]
pub fn sk(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: a context load, checked by the verifier.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}

/// Reads kernel memory; `None` if it cannot be read.
#[inline(always)]
pub fn read<T: Copy + Default>(address: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: a local of that size; a bad source makes the helper fail.
    let read =
        unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, address as *const _) };
    (read == 0).then_some(value)
}

/// Address of a socket, as a number.
// verifier: sockets of contexts and look-ups are no pointers that may be added to; where the pointer lies in memory is.
#[inline(always)]
pub fn address(sk: *mut c_void) -> Option<u64> {
    read(&raw const sk as u64)
}

/// Cookie of a socket's network namespace, for programs that may not call the helper.
#[inline(always)]
pub fn netns(sk: *mut c_void) -> Option<u64> {
    let net: u64 = read(address(sk)? + u64::from(SOCK_NET.load()))?;
    read(net + u64::from(NET_COOKIE.load()))
}
