//! Asking a name server, in the ways that resolvers do. A reply counts only if it seems to come from the server that was
//! asked: resolvers drop others.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::net::Address;
use super::uring::{self, SETUP_SQPOLL};
use super::{Attempt, Failure, Verb};

const PATIENCE: Duration = Duration::from_secs(20);
const ID: u16 = 0x5a17;

pub const VERBS: &[Verb] = &[
    // Server and name. Allowed: the name has an address. ENOENT: no such name; ECONNREFUSED: REFUSED.
    ("dns", 2, |a| datagram(a, false, false)),
    ("dns-mapped", 2, |a| datagram(a, false, true)),
    ("dns-connected", 2, |a| datagram(a, true, false)),
    ("dns-tcp", 2, |a| stream(a)),
    ("dns-peer", 2, |a| peer(a)),
    ("dns-two-servers", 3, |a| two(a)),
    ("dns-io_uring", 2, |a| by_ring(a, 0, true)),
    ("dns-io_uring-sqpoll", 2, |a| by_ring(a, SETUP_SQPOLL, true)),
    ("dns-io_uring-sendmsg", 2, |a| by_ring(a, 0, false)),
    ("dns-io_uring-sendmsg-sqpoll", 2, |a| by_ring(a, SETUP_SQPOLL, false)),
    // Name and port, by the resolver of the C library.
    ("resolve-tcp", 2, |a| {
        let port = super::number(&a[1])?;
        let mut last = Failure::Os(Errno::ENOENT);
        for address in std::net::ToSocketAddrs::to_socket_addrs(&(a[0].as_str(), port)).into_iter().flatten()
        {
            match std::net::TcpStream::connect(address) {
                Ok(_) => return Ok(()),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }),
    // A listener on loopback, and a connection to it.
    ("own-listener", 1, |a| {
        let listener = std::net::TcpListener::bind((a[0].as_str(), 0))?;
        Ok(std::net::TcpStream::connect(listener.local_addr()?).map(drop)?)
    }),
];

/// The address record of a name.
fn question(name: &str) -> Vec<u8> {
    let mut out = ID.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.extend([0, 0, 1, 0, 1]);
    out
}

fn understood(reply: &[u8]) -> Attempt {
    if reply.len() < 12 || reply[..2] != ID.to_be_bytes() || reply[2] & 0x80 == 0 {
        return Err(Failure::Os(Errno::EBADMSG));
    }
    match (reply[3] & 15, u16::from_be_bytes([reply[6], reply[7]])) {
        (0, 0) => Err(Failure::Os(Errno::ENODATA)),
        (0, _) => Ok(()),
        (3, _) => Err(Failure::Os(Errno::ENOENT)),
        (5, _) => Err(Failure::Os(Errno::ECONNREFUSED)),
        _ => Err(Failure::Os(Errno::EREMOTEIO)),
    }
}

fn server(args: &[String], mapped: bool) -> Attempt<Address> {
    Address::parse(&[args[0].clone(), "53".into()], mapped)
}

fn wait(socket: &OwnedFd) -> Attempt {
    let end = Instant::now() + PATIENCE;
    let left = end.saturating_duration_since(Instant::now());
    let mut sockets = [PollFd::new(std::os::fd::AsFd::as_fd(socket), PollFlags::POLLIN)];
    match poll(&mut sockets, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))? {
        0 => Err(Failure::Os(Errno::ETIMEDOUT)),
        _ => Ok(()),
    }
}

/// A datagram and where it seems to come from.
fn receive(socket: &OwnedFd) -> Attempt<(Vec<u8>, [u8; 28])> {
    wait(socket)?;
    let (mut buffer, mut from, mut length) = (vec![0u8; 4096], [0u8; 28], 28u32);
    let flags = 0;
    let fd = socket.as_raw_fd();
    let got =
        sys!(SYS_recvfrom, fd, buffer.as_mut_ptr(), buffer.len(), flags, from.as_mut_ptr(), &raw mut length)?;
    buffer.truncate(got as usize);
    Ok((buffer, from))
}

/// Family, port and address: what a resolver compares.
fn same(from: &[u8; 28], asked: &Address) -> bool {
    let end = if asked.family == libc::AF_INET { 8 } else { 24 };
    let start = if asked.family == libc::AF_INET { 4 } else { 8 };
    from[..4] == asked.bytes[..4] && from[start..end] == asked.bytes[start..end]
}

fn send(socket: &OwnedFd, question: &[u8], to: &Address) -> Attempt {
    let fd = socket.as_raw_fd();
    sys!(SYS_sendto, fd, question.as_ptr(), question.len(), 0, to.bytes.as_ptr(), to.length).map(drop)
}

fn datagram(args: &[String], connected: bool, mapped: bool) -> Attempt {
    let to = server(args, mapped)?;
    let socket = to.socket(libc::SOCK_DGRAM, 0)?;
    let question = question(&args[1]);
    if connected {
        sys!(SYS_connect, socket.as_raw_fd(), to.bytes.as_ptr(), to.length)?;
        sys!(SYS_write, socket.as_raw_fd(), question.as_ptr(), question.len())?;
    } else {
        send(&socket, &question, &to)?;
    }
    let (reply, from) = receive(&socket)?;
    if !same(&from, &to) {
        return Err(Failure::Os(Errno::EADDRNOTAVAIL));
    }
    understood(&reply)
}

/// Sends a question that a gate would answer, and waits for a moment.
pub fn ask(to: &Address) -> Attempt {
    let socket = to.socket(libc::SOCK_DGRAM, 0)?;
    let wait = libc::timeval { tv_sec: 3, tv_usec: 0 };
    let (fd, size) = (socket.as_raw_fd(), size_of_val(&wait));
    sys!(SYS_setsockopt, fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &raw const wait, size)?;
    send(&socket, &question("api.scenario.test"), to)?;
    let mut byte = [0u8; 1];
    sys!(SYS_recvfrom, fd, byte.as_mut_ptr(), 1, 0, 0, 0).map(drop)
}

/// As musl does: one socket, every server, and a reply from any of them.
fn two(args: &[String]) -> Attempt {
    let servers = [server(&args[..1], false)?, server(&args[1..2], false)?];
    let socket = servers[0].socket(libc::SOCK_DGRAM, 0)?;
    for to in &servers {
        send(&socket, &question(&args[2]), to)?;
    }
    let (reply, from) = receive(&socket)?;
    if !servers.iter().any(|server| same(&from, server)) {
        return Err(Failure::Os(Errno::EADDRNOTAVAIL));
    }
    understood(&reply)
}

fn stream(args: &[String]) -> Attempt {
    let to = server(args, false)?;
    let socket = to.socket(libc::SOCK_STREAM, 0)?;
    let fd = socket.as_raw_fd();
    sys!(SYS_connect, fd, to.bytes.as_ptr(), to.length)?;
    let question = question(&args[1]);
    let mut message = (question.len() as u16).to_be_bytes().to_vec();
    message.extend(question);
    sys!(SYS_write, fd, message.as_ptr(), message.len())?;
    let mut reply: Vec<u8> = Vec::new();
    while reply.len() < 2 || reply.len() < 2 + usize::from(u16::from_be_bytes([reply[0], reply[1]])) {
        wait(&socket)?;
        let mut part = [0u8; 2048];
        match sys!(SYS_read, fd, part.as_mut_ptr(), part.len())? {
            0 => return Err(Failure::Os(Errno::ECONNRESET)),
            got => reply.extend(&part[..got as usize]),
        }
    }
    understood(&reply[2..])
}

/// Whether a connected socket says that it is connected to whom it was connected to.
fn peer(args: &[String]) -> Attempt {
    let to = server(args, false)?;
    for kind in [libc::SOCK_DGRAM, libc::SOCK_STREAM] {
        let socket = to.socket(kind, 0)?;
        sys!(SYS_connect, socket.as_raw_fd(), to.bytes.as_ptr(), to.length)?;
        let (mut peer, mut length) = ([0u8; 28], 28u32);
        sys!(SYS_getpeername, socket.as_raw_fd(), peer.as_mut_ptr(), &raw mut length)?;
        if !same(&peer, &to) {
            return Err(Failure::Os(Errno::EADDRNOTAVAIL));
        }
    }
    Ok(())
}

/// A ring connects the socket, or sends the question.
fn by_ring(args: &[String], setup: u32, connected: bool) -> Attempt {
    let to = server(args, false)?;
    let socket = to.socket(libc::SOCK_DGRAM, 0)?;
    let question = question(&args[1]);
    if connected {
        uring::connect_to(&socket, &to, setup)?;
        sys!(SYS_write, socket.as_raw_fd(), question.as_ptr(), question.len())?;
    } else {
        uring::send_to(&socket, &to, &question, setup)?;
    }
    let (reply, _) = receive(&socket)?;
    understood(&reply)
}
