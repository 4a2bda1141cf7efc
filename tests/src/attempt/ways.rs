//! Less usual ways to send: other protocols, segments that the kernel makes, several peers of one socket, other interfaces.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::dns;
use super::net::{Address, send};
use super::{Attempt, Failure, Verb, number, or_skip, own, text};

const SOCK_DCCP: i32 = 6;
const IPPROTO_DCCP: i32 = 33;
const UDP_SEGMENT: i32 = 103;
const SO_BINDTOIFINDEX: i32 = 62;
/// For a connection that nobody refuses and nobody takes.
const BRIEF: u16 = 3000;
const PATIENCE: Duration = Duration::from_secs(120);

pub const VERBS: &[Verb] = &[
    ("udplite", 2, |a| {
        let to = Address::parse(a, false)?;
        send(&to.socket(libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?, &to, 0)
    }),
    ("dccp-socket", 0, |_| {
        or_skip(sys!(SYS_socket, libc::AF_INET, SOCK_DCCP, IPPROTO_DCCP), "socket").map(own).map(drop)
    }),
    ("udp-gso", 2, |a| segments(a, false)),
    ("udp-gso-connected", 2, |a| segments(a, true)),
    // Two addresses and a port, which both have.
    ("sendmmsg-two", 3, sendmmsg_two),
    ("udp-reconnect", 3, |a| reconnect(a, libc::SOCK_DGRAM)),
    ("tcp-reconnect", 3, |a| reconnect(a, libc::SOCK_STREAM)),
    ("udp-other-than-peer", 3, |a| {
        let [first, second] = two(a)?;
        let socket = first.socket(libc::SOCK_DGRAM, 0)?;
        connect(&socket, &first)?;
        send(&socket, &second, 0)
    }),
    ("tcp-brief", 2, brief),
    // An interface, and for some an address and a port.
    ("bind-to-device", 1, |a| {
        let name = text(&a[0])?;
        option(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_bytes())
    }),
    ("bind-to-index", 1, |a| option(libc::SOL_SOCKET, SO_BINDTOIFINDEX, &index(&a[0])?.to_ne_bytes())),
    ("unicast-if", 1, |a| option(libc::SOL_IP, libc::IP_UNICAST_IF, &index(&a[0])?.to_be_bytes())),
    ("udp-pktinfo", 3, pktinfo),
    // A process, and the number of a socket there.
    ("pidfd-getfd", 2, |a| {
        let (pid, fd): (i32, i32) = (number(&a[0])?, number(&a[1])?);
        let pidfd = or_skip(sys!(SYS_pidfd_open, pid, 0), "pidfd_open").map(own)?;
        or_skip(sys!(SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0), "pidfd_getfd").map(own).map(drop)
    }),
    // How, and the port of others that is like a gate's: open on 127.0.0.1 by TCP and UDP.
    ("gate-port", 2, gate_port),
    // How, and that port: whether it answers a question.
    ("gate-ask", 2, gate_ask),
    ("pause", 1, |a| {
        sleep(Duration::from_millis(number(&a[0])?));
        Ok(())
    }),
    // Until there is a file.
    ("await", 1, |a| {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if Path::new(&a[0]).exists() {
                return Ok(());
            }
            sleep(Duration::from_millis(50));
        }
        Err(Failure::Os(Errno::ETIMEDOUT))
    }),
];

fn connect(socket: &OwnedFd, to: &Address) -> Attempt {
    sys!(SYS_connect, socket.as_raw_fd(), to.bytes.as_ptr(), to.length).map(drop)
}

fn write(socket: &OwnedFd) -> Attempt {
    sys!(SYS_write, socket.as_raw_fd(), b"x".as_ptr(), 1).map(drop)
}

fn two(args: &[String]) -> Attempt<[Address; 2]> {
    let at = |address: &String| Address::parse(&[address.clone(), args[2].clone()], false);
    Ok([at(&args[0])?, at(&args[1])?])
}

/// One write of 32 bytes that leaves in segments of 8.
fn segments(args: &[String], connected: bool) -> Attempt {
    let to = Address::parse(args, false)?;
    let socket = to.socket(libc::SOCK_DGRAM, 0)?;
    let (fd, size, data) = (socket.as_raw_fd(), 8i32, [b'x'; 32]);
    sys!(SYS_setsockopt, fd, libc::SOL_UDP, UDP_SEGMENT, &raw const size, 4)?;
    if connected {
        connect(&socket, &to)?;
        return sys!(SYS_write, fd, data.as_ptr(), data.len()).map(drop);
    }
    sys!(SYS_sendto, fd, data.as_ptr(), data.len(), 0, to.bytes.as_ptr(), to.length).map(drop)
}

/// A message to each of two addresses by one call; if not both are sent, why not.
fn sendmmsg_two(args: &[String]) -> Attempt {
    let mut to = two(args)?;
    let socket = to[0].socket(libc::SOCK_DGRAM, 0)?;
    let mut byte = [b'x'];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all-zero is a valid mmsghdr.
    let mut messages: [libc::mmsghdr; 2] = unsafe { std::mem::zeroed() };
    for (message, to) in messages.iter_mut().zip(&mut to) {
        message.msg_hdr.msg_name = to.bytes.as_mut_ptr().cast();
        message.msg_hdr.msg_namelen = to.length as u32;
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
    }
    match sys!(SYS_sendmmsg, socket.as_raw_fd(), messages.as_mut_ptr(), 2, 0)? {
        2 => Ok(()),
        // The kernel tells of the error with the next call.
        _ => send(&socket, &to[1], 0),
    }
}

/// Connects to one, leaves it, and connects to the other.
fn reconnect(args: &[String], kind: i32) -> Attempt {
    let [first, second] = two(args)?;
    let socket = first.socket(kind, 0)?;
    connect(&socket, &first)?;
    let nobody = [0u8; 16];
    sys!(SYS_connect, socket.as_raw_fd(), nobody.as_ptr(), nobody.len())?;
    connect(&socket, &second)?;
    write(&socket)
}

/// Connects without waiting for longer than a moment.
fn brief(args: &[String]) -> Attempt {
    let to = Address::parse(args, false)?;
    let socket = to.socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    match connect(&socket, &to) {
        Err(Failure::Os(Errno::EINPROGRESS)) => {}
        other => return other,
    }
    let mut sockets = [PollFd::new(std::os::fd::AsFd::as_fd(&socket), PollFlags::POLLOUT)];
    if poll(&mut sockets, PollTimeout::from(BRIEF))? == 0 {
        return Err(Failure::Os(Errno::ETIMEDOUT));
    }
    let (mut error, mut length) = (0i32, 4u32);
    let fd = socket.as_raw_fd();
    sys!(SYS_getsockopt, fd, libc::SOL_SOCKET, libc::SO_ERROR, &raw mut error, &raw mut length)?;
    if error == 0 { Ok(()) } else { Err(Errno::from_raw(error).into()) }
}

fn index(interface: &str) -> Attempt<u32> {
    // SAFETY: a string that ends with NUL.
    match unsafe { libc::if_nametoindex(text(interface)?.as_ptr()) } {
        0 => Err(Errno::last().into()),
        index => Ok(index),
    }
}

fn option(level: i32, name: i32, value: &[u8]) -> Attempt {
    let socket = own(sys!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?);
    sys!(SYS_setsockopt, socket.as_raw_fd(), level, name, value.as_ptr(), value.len()).map(drop)
}

/// Two datagrams that say by which interface they leave. The first may be lost.
fn pktinfo(args: &[String]) -> Attempt {
    let mut to = Address::parse(&args[1..], false)?;
    let socket = to.socket(libc::SOCK_DGRAM, 0)?;
    let mut byte = [b'x'];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // A cmsghdr of 28 bytes, padded to 32: length, level and type, then index and two addresses.
    let level_and_kind = (libc::IP_PKTINFO as u64) << 32 | libc::SOL_IP as u64;
    let mut control = [28u64, level_and_kind, u64::from(index(&args[0])?), 0];
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = to.bytes.as_mut_ptr().cast();
    message.msg_namelen = to.length as u32;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    sys!(SYS_sendmsg, socket.as_raw_fd(), &raw const message, 0)?;
    sys!(SYS_sendmsg, socket.as_raw_fd(), &raw const message, 0).map(drop)
}

fn find_gate(except: &str) -> Attempt<u16> {
    let except: u16 = number(except)?;
    let streams = loopback_ports("/proc/net/tcp")?;
    let datagrams = loopback_ports("/proc/net/udp")?;
    let port = streams.into_iter().find(|port| *port != except && datagrams.contains(port));
    port.ok_or(Failure::Os(Errno::ENOENT))
}

/// Asks what listens as gates do.
fn gate_ask(args: &[String]) -> Attempt {
    let port = find_gate(&args[1])?.to_string();
    let to = |address: &str| [address.to_owned(), port.clone()];
    match args[0].as_str() {
        "udp4" => dns::ask(&Address::parse(&to("127.0.0.1"), false)?),
        "udp6" => dns::ask(&Address::parse(&to("::1"), false)?),
        "tcp4" => brief(&to("127.0.0.1")),
        "tcp6" => brief(&to("::1")),
        other => Err(Failure::Usage(format!("no way `{other}`"))),
    }
}

/// Reaches for what listens on loopback as gates do, as one who has found it out could.
fn gate_port(args: &[String]) -> Attempt {
    let port = find_gate(&args[1])?;
    let at = |address: &str| Address::parse(&[address.to_owned(), port.to_string()], false);
    match args[0].as_str() {
        "tcp4" => brief_to(&at("127.0.0.1")?, libc::SOCK_STREAM),
        "tcp6" => brief_to(&at("::1")?, libc::SOCK_STREAM),
        "udp4" => brief_to(&at("127.0.0.1")?, libc::SOCK_DGRAM),
        "udp6" => brief_to(&at("::1")?, libc::SOCK_DGRAM),
        "sendto4" => send(&at("127.0.0.1")?.socket(libc::SOCK_DGRAM, 0)?, &at("127.0.0.1")?, 0),
        "sendto6" => send(&at("::1")?.socket(libc::SOCK_DGRAM, 0)?, &at("::1")?, 0),
        "fastopen4" => {
            let to = at("127.0.0.1")?;
            send(&to.socket(libc::SOCK_STREAM, 0)?, &to, libc::MSG_FASTOPEN)
        }
        other => Err(Failure::Usage(format!("no way `{other}`"))),
    }
}

fn brief_to(to: &Address, kind: i32) -> Attempt {
    connect(&to.socket(kind, 0)?, to)
}

/// Ports of sockets that are bound to 127.0.0.1 and connected to nobody.
fn loopback_ports(table: &str) -> Attempt<Vec<u16>> {
    let text = std::fs::read_to_string(table)?;
    let port = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (words.next()?, words.next()?);
        let port = local.strip_prefix("0100007F:")?;
        remote.ends_with(":0000").then(|| u16::from_str_radix(port, 16).ok())?
    };
    Ok(text.lines().filter_map(port).collect())
}
