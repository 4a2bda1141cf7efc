//! The LSM socket hooks: they judge the current task whatever cgroup made the socket, and see every family.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, programs::LsmContext};
use stockade_common::{
    counter::Counter,
    event::{NetBody, hook, kind, reason},
    tag::SCOPE_AUDIT_ALL,
};

use crate::{
    emit::{self, Actor},
    file::Decision,
    kernel::{
        self, MSGHDR_MSG_FLAGS, MSGHDR_MSG_NAME, NET_COOKIE, SK_BUFF_DATA, SK_BUFF_LEN, SOCK_CGROUP,
        SOCK_FAMILY, SOCK_NET, SOCK_NUM, SOCK_PROTOCOL, SOCKET_SK, SOCKET_TYPE,
    },
    maps::count,
    net::{self, AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, Destination, SOCK_STREAM},
    tag::{self, Held},
};

const MSG_FASTOPEN: u32 = 0x2000_0000;

/// `struct sockaddr_in6`, whose first 8 bytes are `struct sockaddr_in`'s.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SockAddr {
    family: u16,
    port_be: u16,
    flow_or_v4: u32,
    addr6: [u32; 4],
    scope: u32,
}

impl SockAddr {
    /// The address that it is to a socket of a family of the internet, whatever family it says itself.
    #[inline(always)]
    pub fn as_of(&self, socket: Socket) -> Destination {
        let port = u16::from_be(self.port_be);
        if socket.family == AF_INET {
            Destination::v4(self.flow_or_v4, port, socket.protocol)
        } else {
            Destination { addr: self.addr6, port, protocol: socket.protocol }
        }
    }
}

/// Family, type and protocol of a socket.
#[derive(Clone, Copy)]
pub struct Socket {
    pub family: u16,
    pub kind: u32,
    pub protocol: u16,
}

impl Socket {
    /// # Safety
    /// `socket` must be a typed pointer to a `struct socket`.
    #[inline(always)]
    pub unsafe fn of(socket: *const u8) -> Option<Self> {
        // SAFETY: as promised by the caller.
        unsafe { Self::with_sock(socket) }.map(|(socket, _)| socket)
    }

    /// The same, and its `struct sock`, which is not null.
    ///
    /// # Safety
    /// As [`Self::of`].
    #[inline(always)]
    pub unsafe fn with_sock(socket: *const u8) -> Option<(Self, *const u8)> {
        // SAFETY: typed loads; null is checked.
        unsafe {
            let sk: *const u8 = kernel::field(socket, &SOCKET_SK);
            if sk.is_null() {
                return None;
            }
            let found = Self {
                family: kernel::field(sk, &SOCK_FAMILY),
                kind: u32::from(kernel::field::<u16>(socket, &SOCKET_TYPE)),
                protocol: kernel::field(sk, &SOCK_PROTOCOL),
            };
            Some((found, sk))
        }
    }
}

/// Whether a socket was made in a cgroup of the scope that a task is held to.
///
/// # Safety
/// `sk` must be a typed pointer to a `struct sock`, not null.
#[inline(always)]
pub unsafe fn made_inside(sk: *const u8, held: &Held) -> bool {
    // SAFETY: typed loads; null is checked.
    unsafe {
        let cgroup: *const u8 = kernel::field(sk, &SOCK_CGROUP);
        !cgroup.is_null() && tag::scope_of(kernel::cgroup_id(cgroup)) == Some(held.scope)
    }
}

/// Reports a decision on a socket; false: refuse.
#[inline(always)]
pub fn conclude(
    actor: &Actor,
    event: u16,
    hook: u8,
    socket: Socket,
    destination: Option<&Destination>,
    decision: &Decision,
) -> bool {
    let setting = actor.held.setting;
    let allow = decision.allows();
    count(actor.held.scope, if allow { Counter::NetAllowed } else { Counter::NetDenied });
    if !allow || emit::always_reported(event) || setting.flags() & SCOPE_AUDIT_ALL != 0 {
        let body = NetBody {
            addr: destination.map_or([0; 16], Destination::bytes),
            port: destination.map_or(0, |d| d.port),
            protocol: socket.protocol,
            family: socket.family,
            sock_type: socket.kind as u16,
        };
        emit::net(actor, event, hook, body, decision);
    }
    allow || !setting.enforces()
}

/// `lsm/socket_create(family, type, protocol, kern)`.
#[inline(always)]
pub fn create(ctx: &LsmContext) -> bool {
    let (family, kind, protocol): (u32, u32, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let kern: u32 = ctx.arg(3);
    if kern != 0 || net::nameable(family, kind, protocol) {
        return true;
    }
    let Some(held) = tag::current() else { return true };
    let actor = Actor { held, ppid: emit::ppid() };
    let socket = Socket { family: family as u16, kind, protocol: protocol as u16 };
    conclude(&actor, kind::SOCKET, hook::SOCKET_CREATE, socket, None, &Decision::new(reason::FAMILY))
}

/// Reads an address that the kernel has already copied in; its buffer is always a whole `sockaddr_storage`.
#[inline(always)]
pub fn read_address(scope: u32, from: u64) -> Option<SockAddr> {
    let mut address = SockAddr::default();
    // SAFETY: a local of that size; a bad source makes the helper fail.
    let read = unsafe {
        bpf_probe_read_kernel((&raw mut address).cast(), size_of::<SockAddr>() as u32, from as *const _)
    };
    if read != 0 {
        count(scope, Counter::HelperFailed);
        return None;
    }
    Some(address)
}

/// The destination an address names for a socket. `Err` is a decision already.
#[inline(always)]
fn destination(socket: Socket, address: &SockAddr) -> Result<Destination, Decision> {
    let port = u16::from_be(address.port_be);
    match address.family {
        AF_INET => Ok(Destination::v4(address.flow_or_v4, port, socket.protocol)),
        AF_INET6 => Ok(Destination { addr: address.addr6, port, protocol: socket.protocol }),
        _ => Err(Decision::new(reason::FAMILY)),
    }
}

/// `lsm/socket_connect(sock, address, addrlen)`.
#[inline(always)]
pub fn connect(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    // SAFETY: a typed kernel pointer.
    let Some(socket) = (unsafe { Socket::of(ctx.arg(0)) }) else { return !held.setting.enforces() };
    // Unix peers are judged by the unix hooks, netlink by netlink_send.
    if socket.family == AF_UNIX || socket.family == AF_NETLINK {
        return true;
    }
    let from: *const u8 = ctx.arg(1);
    let actor = Actor { held, ppid: emit::ppid() };
    // SAFETY: a typed kernel pointer, which `Socket::of` has found to have a socket.
    unsafe { addressed(&actor, ctx.arg(0), socket, from as u64, kind::CONNECT, hook::SOCKET_CONNECT, 0) }
}

/// Judges an address given to connect or sendmsg. `unspecified` is the family that `AF_UNSPEC` stands for; 0: it
/// dissolves an association, which is always allowed.
///
/// # Safety
/// `sock` must be a typed pointer to a `struct socket`.
#[inline(always)]
unsafe fn addressed(
    actor: &Actor,
    sock: *const u8,
    socket: Socket,
    from: u64,
    event: u16,
    hook: u8,
    unspecified: u16,
) -> bool {
    let Some(mut address) = read_address(actor.held.scope, from) else {
        return !actor.held.setting.enforces();
    };
    if address.family == 0 {
        if unspecified == 0 && (socket.family == AF_INET || socket.family == AF_INET6) {
            return true;
        }
        address.family = unspecified;
    }
    match destination(socket, &address) {
        Ok(destination) => {
            // SAFETY: as promised by the caller; null is checked.
            let (netns, local_port, inside) = unsafe {
                let sk: *const u8 = kernel::field(sock, &SOCKET_SK);
                if sk.is_null() {
                    return !actor.held.setting.enforces();
                }
                (
                    kernel::field::<u64>(kernel::field(sk, &SOCK_NET), &NET_COOKIE),
                    kernel::field::<u16>(sk, &SOCK_NUM),
                    made_inside(sk, &actor.held),
                )
            };
            let mut decision = net::plan(&actor.held, netns, local_port, &destination);
            if decision.reason == reason::DNS_GATE || decision.reason == reason::OWN_LISTENER {
                // The cgroup programs finish it, and report it; they run for the cgroup that the socket was made in.
                if inside {
                    return true;
                }
                let question = decision.reason == reason::DNS_GATE;
                decision = Decision::new(if question { reason::NO_GATE } else { reason::NO_RULE });
            }
            if inside && net::is_probe(&actor.held, event, &destination, &decision) {
                return true;
            }
            conclude(actor, event, hook, socket, Some(&destination), &decision)
        }
        Err(decision) => conclude(actor, event, hook, socket, None, &decision),
    }
}

/// `lsm/socket_sendmsg(sock, msg, size)`: destinations given with the message, and fast open, which connects without
/// `socket_connect`.
#[inline(always)]
pub fn sendmsg(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    // SAFETY: typed kernel pointers.
    let (socket, name, flags) = unsafe {
        let message: *const u8 = ctx.arg(1);
        (
            Socket::of(ctx.arg(0)),
            kernel::field::<u64>(message, &MSGHDR_MSG_NAME),
            kernel::field::<u32>(message, &MSGHDR_MSG_FLAGS),
        )
    };
    let Some(socket) = socket else { return !held.setting.enforces() };
    if socket.family == AF_UNIX || socket.family == AF_NETLINK {
        return true;
    }
    let inet = socket.family == AF_INET || socket.family == AF_INET6;
    let actor = Actor { held, ppid: emit::ppid() };
    if !inet {
        // Such a socket can't be made inside the tag; it was passed in.
        return conclude(
            &actor,
            kind::SEND,
            hook::SOCKET_SENDMSG,
            socket,
            None,
            &Decision::new(reason::FAMILY),
        );
    }
    let fast_open = flags & MSG_FASTOPEN != 0;
    if name == 0 || (socket.kind == SOCK_STREAM && !fast_open) {
        return true;
    }
    let event = if fast_open { kind::CONNECT } else { kind::SEND };
    // An IPv4 socket takes AF_UNSPEC for AF_INET; an IPv6 one sends to its peer, checked at connect.
    let unspecified = if socket.family == AF_INET { AF_INET } else { 0 };
    // SAFETY: a typed kernel pointer.
    unsafe { addressed(&actor, ctx.arg(0), socket, name, event, hook::SOCKET_SENDMSG, unspecified) }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct NetlinkHeader {
    len: u32,
    kind: u16,
    flags: u16,
    seq: u32,
    pid: u32,
}

/// `lsm/netlink_send(sk, skb)`: questions to NETLINK_ROUTE (`RTM_GET*`), one message at a time; nothing that changes.
#[inline(always)]
pub fn netlink_send(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    // SAFETY: typed kernel pointers.
    let (protocol, length, data) = unsafe {
        let (sk, skb): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
        (
            kernel::field::<u16>(sk, &SOCK_PROTOCOL),
            kernel::field::<u32>(skb, &SK_BUFF_LEN),
            kernel::field::<u64>(skb, &SK_BUFF_DATA),
        )
    };
    let mut header = NetlinkHeader::default();
    // SAFETY: a local of that size; a bad source makes the helper fail.
    let read = unsafe {
        bpf_probe_read_kernel((&raw mut header).cast(), size_of::<NetlinkHeader>() as u32, data as *const _)
    };
    let single = header.len >= length;
    let question = header.kind >= 16 && header.kind & 3 == 2;
    if read == 0 && protocol == 0 && length >= size_of::<NetlinkHeader>() as u32 && single && question {
        return true;
    }
    let actor = Actor { held, ppid: emit::ppid() };
    let socket = Socket { family: AF_NETLINK, kind: 3, protocol };
    conclude(&actor, kind::SEND, hook::NETLINK_SEND, socket, None, &Decision::new(reason::FAMILY))
}
