//! `loopback:own`: loopback ports that the scope itself listens on.

use aya_ebpf::{
    bindings::bpf_sock,
    cty::c_void,
    helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};
use stockade_common::net::TCP;

use crate::{
    kernel::{CGROUP_KN, KERNFS_NODE_ID, REUSEPORT_COUNT, REUSEPORT_SOCKETS, SOCK_CGROUP, SOCK_REUSEPORT},
    net::{self, Destination},
    sockets, tag,
};

/// `BPF_F_CURRENT_NETNS`: that of the socket or packet.
const OWN_NETNS: u64 = u64::MAX;
/// Most sockets that share a port; where there are more they are not taken for the scope's.
const MAX_SHARING: u64 = 16;
const TUPLE4: u32 = 12;
const TUPLE6: u32 = 36;

/// Where a packet comes from; address and port may be left open.
#[derive(Clone, Copy)]
pub struct Source {
    pub addr: [u32; 4],
    pub port: u16,
}

/// The address that an unspecified one stands for.
#[inline(always)]
pub fn specific(addr: [u32; 4]) -> [u32; 4] {
    if addr[3] != 0 {
        addr
    } else if net::is_v4(&addr) {
        net::LOCALHOST4
    } else {
        net::LOCALHOST6
    }
}

/// Whether what listens there, in the network namespace of the context, was made in the scope.
///
/// # Safety
/// `ctx` must be the context of a program that may look sockets up.
#[inline(always)]
pub unsafe fn listens(ctx: *mut c_void, source: &Source, destination: &Destination, scope: u32) -> bool {
    let ports = u32::from(source.port.to_be()) | u32::from(destination.port.to_be()) << 16;
    let tcp = u32::from(destination.protocol) == TCP;
    let (from, to) = (&source.addr, &destination.addr);
    // SAFETY: as promised by the caller; the tuple is a local of the size given; what was found is released.
    unsafe {
        let sk = if net::is_v4(to) {
            let mut tuple = [from[3], to[3], ports];
            look_up(ctx, tuple.as_mut_ptr(), TUPLE4, tcp)
        } else {
            let mut tuple = [from[0], from[1], from[2], from[3], to[0], to[1], to[2], to[3], ports];
            look_up(ctx, tuple.as_mut_ptr(), TUPLE6, tcp)
        };
        if sk.is_null() {
            return false;
        }
        // Numbers of scopes come again: whoever has it now has the cgroup as well.
        let of_now = sockets::address(sk.cast()).and_then(cgroup_of).and_then(tag::scope_of) == Some(scope);
        let own = of_now
            && sockets::known(sk.cast()).is_some_and(|state| (*state).scope == scope)
            && shares_with_none(sk, scope);
        bpf_sk_release(sk.cast());
        own
    }
}

#[inline(always)]
unsafe fn look_up(ctx: *mut c_void, tuple: *mut u32, size: u32, tcp: bool) -> *mut bpf_sock {
    // SAFETY: as promised by the caller.
    unsafe {
        if tcp {
            bpf_sk_lookup_tcp(ctx, tuple.cast(), size, OWN_NETNS, 0)
        } else {
            bpf_sk_lookup_udp(ctx, tuple.cast(), size, OWN_NETNS, 0)
        }
    }
}

/// Whether all that share the port by SO_REUSEPORT are of the scope: which of them a connection reaches is decided by a hash.
#[inline(always)]
unsafe fn shares_with_none(sk: *mut bpf_sock, scope: u32) -> bool {
    let group = sockets::address(sk.cast())
        .and_then(|sk| sockets::read::<u64>(sk + u64::from(SOCK_REUSEPORT.load())));
    let group = match group {
        None => return false,
        Some(0) => return true,
        Some(group) => group,
    };
    let Some(count) = sockets::read::<u16>(group + u64::from(REUSEPORT_COUNT.load())).map(u64::from) else {
        return false;
    };
    if count > MAX_SHARING {
        return false;
    }
    for index in 0..MAX_SHARING {
        if index >= count {
            break;
        }
        let member = sockets::read::<u64>(group + u64::from(REUSEPORT_SOCKETS.load()) + 8 * index);
        if member.and_then(cgroup_of).and_then(tag::scope_of) != Some(scope) {
            return false;
        }
    }
    true
}

/// Id of the cgroup of a socket.
#[inline(always)]
fn cgroup_of(sk: u64) -> Option<u64> {
    let cgroup: u64 = sockets::read(sk + u64::from(SOCK_CGROUP.load()))?;
    let node: u64 = sockets::read(cgroup + u64::from(CGROUP_KN.load()))?;
    sockets::read(node + u64::from(KERNFS_NODE_ID.load()))
}
