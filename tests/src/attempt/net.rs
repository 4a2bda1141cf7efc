//! Reaching an address, by every transport and call.

use std::mem::zeroed;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null;

use super::{Attempt, Verb, number, or_skip, own};

pub const VERBS: &[Verb] = &[
    ("tcp4", 2, |a| connect(a, libc::SOCK_STREAM, 0, false)),
    ("tcp6", 2, |a| connect(a, libc::SOCK_STREAM, 0, false)),
    ("tcp4-mapped", 2, |a| connect(a, libc::SOCK_STREAM, 0, true)),
    ("mptcp", 2, |a| connect(a, libc::SOCK_STREAM, libc::IPPROTO_MPTCP, false)),
    ("sctp", 2, |a| connect(a, libc::SOCK_STREAM, libc::IPPROTO_SCTP, false)),
    ("zero", 1, |a| connect(&["0.0.0.0".into(), a[0].clone()], libc::SOCK_STREAM, 0, false)),
    ("zero-bound-tcp", 2, |a| zero_bound(a, libc::SOCK_STREAM, false)),
    ("zero-bound-tcp-mapped", 2, |a| zero_bound(a, libc::SOCK_STREAM, true)),
    ("zero-bound-udp", 2, |a| zero_bound(a, libc::SOCK_DGRAM, false)),
    ("tcp-fastopen", 2, |a| {
        let to = Address::parse(a, false)?;
        send(&to.socket(libc::SOCK_STREAM, 0)?, &to, libc::MSG_FASTOPEN)
    }),
    ("tcp-fastopen-connect", 2, |a| {
        let to = Address::parse(a, false)?;
        let socket = to.socket(libc::SOCK_STREAM, 0)?;
        let (fd, on) = (socket.as_raw_fd(), 1i32);
        sys!(SYS_setsockopt, fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &raw const on, 4)?;
        sys!(SYS_connect, fd, to.bytes.as_ptr(), to.length)?;
        sys!(SYS_write, fd, b"x".as_ptr(), 1).map(drop)
    }),
    ("udp4", 2, |a| datagram(a, false)),
    ("udp6", 2, |a| datagram(a, false)),
    ("udp6-mapped", 2, |a| datagram(a, true)),
    ("udp4-connected", 2, |a| connect(a, libc::SOCK_DGRAM, 0, false)),
    ("udp-source", 2, source),
    ("udp-unspec", 2, |a| {
        let mut to = Address::parse(a, false)?;
        let socket = to.socket(libc::SOCK_DGRAM, 0)?;
        to.bytes[..2].fill(0);
        send(&socket, &to, 0)
    }),
    ("sendmmsg", 2, sendmmsg),
    ("raw-icmp", 0, |_| socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    ("ping-socket", 0, |_| socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)),
    ("packet", 0, |_| socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
    ("vsock", 0, |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("alg", 0, |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    ("sctp-socket", 0, |_| socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)),
    ("netlink", 1, |a| socket(libc::AF_NETLINK, libc::SOCK_RAW, number(&a[0])?)),
];

/// A `sockaddr_in` or `sockaddr_in6` in wire form.
pub struct Address {
    pub bytes: [u8; 28],
    pub length: usize,
    pub family: i32,
}

impl Address {
    /// From an address and a port; `mapped` turns IPv4 into `::ffff:a.b.c.d`.
    pub fn parse(args: &[String], mapped: bool) -> Attempt<Self> {
        let port: u16 = number(&args[1])?;
        let ip = match number::<IpAddr>(&args[0])? {
            IpAddr::V4(ip) if mapped => IpAddr::V6(ip.to_ipv6_mapped()),
            ip => ip,
        };
        let mut bytes = [0; 28];
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        let (family, length) = match SocketAddr::new(ip, port).ip() {
            IpAddr::V4(ip) => {
                bytes[4..8].copy_from_slice(&ip.octets());
                (libc::AF_INET, 16)
            }
            IpAddr::V6(ip) => {
                bytes[8..24].copy_from_slice(&Ipv6Addr::octets(&ip));
                (libc::AF_INET6, 28)
            }
        };
        bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        Ok(Self { bytes, length, family })
    }

    /// A socket of this address's family.
    pub fn socket(&self, kind: i32, protocol: i32) -> Attempt<OwnedFd> {
        or_skip(sys!(SYS_socket, self.family, kind | libc::SOCK_CLOEXEC, protocol), "socket").map(own)
    }
}

fn socket(family: i32, kind: i32, protocol: i32) -> Attempt {
    or_skip(sys!(SYS_socket, family, kind | libc::SOCK_CLOEXEC, protocol), "socket").map(own).map(drop)
}

fn connect(args: &[String], kind: i32, protocol: i32, mapped: bool) -> Attempt {
    let to = Address::parse(args, mapped)?;
    let socket = to.socket(kind, protocol)?;
    sys!(SYS_connect, socket.as_raw_fd(), to.bytes.as_ptr(), to.length)?;
    if kind == libc::SOCK_DGRAM {
        sys!(SYS_write, socket.as_raw_fd(), b"x".as_ptr(), 1)?;
    }
    Ok(())
}

/// Asks by which address of ours it would be reached, as resolvers do to sort what they found: connects, and sends nothing.
fn source(args: &[String]) -> Attempt {
    let to = Address::parse(args, false)?;
    let socket = to.socket(libc::SOCK_DGRAM, 0)?;
    let fd = socket.as_raw_fd();
    sys!(SYS_connect, fd, to.bytes.as_ptr(), to.length)?;
    let (mut found, mut length) = ([0u8; 28], 28u32);
    sys!(SYS_getsockname, fd, found.as_mut_ptr(), &raw mut length).map(drop)
}

/// Binds to the address, then sends to the port of the unspecified one: the kernel goes to the bound address.
fn zero_bound(args: &[String], kind: i32, mapped: bool) -> Attempt {
    let from = Address::parse(&[args[0].clone(), "0".into()], mapped)?;
    let to = Address::parse(&["0.0.0.0".into(), args[1].clone()], mapped)?;
    let socket = from.socket(kind, 0)?;
    sys!(SYS_bind, socket.as_raw_fd(), from.bytes.as_ptr(), from.length)?;
    if kind == libc::SOCK_DGRAM {
        return send(&socket, &to, 0);
    }
    sys!(SYS_connect, socket.as_raw_fd(), to.bytes.as_ptr(), to.length).map(drop)
}

fn datagram(args: &[String], mapped: bool) -> Attempt {
    let to = Address::parse(args, mapped)?;
    send(&to.socket(libc::SOCK_DGRAM, 0)?, &to, 0)
}

/// Sends a byte to an address.
pub fn send(socket: &OwnedFd, to: &Address, flags: i32) -> Attempt {
    sys!(SYS_sendto, socket.as_raw_fd(), b"x".as_ptr(), 1, flags, to.bytes.as_ptr(), to.length).map(drop)
}

fn sendmmsg(args: &[String]) -> Attempt {
    let mut to = Address::parse(args, false)?;
    let socket = to.socket(libc::SOCK_DGRAM, 0)?;
    let mut byte = [b'x'];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all-zero is a valid mmsghdr.
    let mut message: libc::mmsghdr = unsafe { zeroed() };
    message.msg_hdr.msg_name = to.bytes.as_mut_ptr().cast();
    message.msg_hdr.msg_namelen = to.length as u32;
    message.msg_hdr.msg_iov = &raw mut part;
    message.msg_hdr.msg_iovlen = 1;
    message.msg_hdr.msg_control = null::<u8>().cast_mut().cast();
    sys!(SYS_sendmmsg, socket.as_raw_fd(), &raw mut message, 1, 0).map(drop)
}
