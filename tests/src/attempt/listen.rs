//! Being reached: listening, binding, taking connections.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::null;

use stockade_tests::descriptor;

use super::net::{Address, send};
use super::unix::receive;
use super::{Attempt, Verb, number, or_skip, own};

pub const VERBS: &[Verb] = &[
    ("listen-tcp", 2, |a| {
        let at = Address::parse(a, false)?;
        let socket = at.socket(libc::SOCK_STREAM, 0)?;
        bind(&socket, &at)?;
        listen(&socket)
    }),
    ("bind-tcp", 2, |a| {
        let at = Address::parse(a, false)?;
        bind(&at.socket(libc::SOCK_STREAM, 0)?, &at)
    }),
    ("bind-udp", 2, |a| {
        let at = Address::parse(a, false)?;
        bind(&at.socket(libc::SOCK_DGRAM, 0)?, &at)
    }),
    ("bind-udp-unspec", 1, |a| {
        let mut at = Address::parse(&["0.0.0.0".into(), a[0].clone()], false)?;
        at.bytes[..2].fill(0);
        bind(&at.socket(libc::SOCK_DGRAM, 0)?, &at)
    }),
    ("listen-unbound", 1, |a| {
        let family = if number::<u8>(&a[0])? == 6 { libc::AF_INET6 } else { libc::AF_INET };
        listen(&or_skip(sys!(SYS_socket, family, libc::SOCK_STREAM, 0), "socket").map(own)?)
    }),
    ("accept-stdin", 0, |_| sys!(SYS_accept4, 0, null::<u8>(), null::<u8>(), 0).map(own).map(drop)),
    ("connect-passed", 3, |a| {
        let socket = receive(&UnixStream::connect(&a[0])?)?;
        let to = Address::parse(&a[1..], false)?;
        sys!(SYS_connect, socket.as_raw_fd(), to.bytes.as_ptr(), to.length).map(drop)
    }),
    ("send-passed", 1, |a| {
        let socket = receive(&UnixStream::connect(&a[0])?)?;
        sys!(SYS_write, socket.as_raw_fd(), b"x".as_ptr(), 1).map(drop)
    }),
    ("pass-own", 0, |_| pass_own()),
    // Where, the port, and how.
    ("udp-answer", 3, answer),
];

/// Waits for a datagram, and answers: from the same port (`back`), connected to who has sent (`connect`), to another port of
/// his (`other`), or from another port (`elsewhere`).
fn answer(args: &[String]) -> Attempt {
    let at = Address::parse(args, false)?;
    let socket = at.socket(libc::SOCK_DGRAM, 0)?;
    bind(&socket, &at)?;
    let wait = libc::timeval { tv_sec: 30, tv_usec: 0 };
    let (fd, size) = (socket.as_raw_fd(), size_of_val(&wait));
    sys!(SYS_setsockopt, fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &raw const wait, size)?;
    let mut from = Address { bytes: [0; 28], length: 28, family: at.family };
    let (mut byte, mut length) = ([0u8; 1], 28u32);
    sys!(SYS_recvfrom, fd, byte.as_mut_ptr(), 1, 0, from.bytes.as_mut_ptr(), &raw mut length)?;
    from.length = length as usize;
    match args[2].as_str() {
        "back" => send(&socket, &from, 0),
        "connect" => {
            sys!(SYS_connect, fd, from.bytes.as_ptr(), from.length)?;
            sys!(SYS_write, fd, b"x".as_ptr(), 1).map(drop)
        }
        "other" => {
            from.bytes[3] ^= 1;
            send(&socket, &from, 0)
        }
        "elsewhere" => send(&at.socket(libc::SOCK_DGRAM, 0)?, &from, 0),
        how => Err(super::Failure::Usage(format!("how is {how}?"))),
    }
}

fn bind(socket: &OwnedFd, at: &Address) -> Attempt {
    sys!(SYS_bind, socket.as_raw_fd(), at.bytes.as_ptr(), at.length).map(drop)
}

fn listen(socket: &OwnedFd) -> Attempt {
    sys!(SYS_listen, socket.as_raw_fd(), 1).map(drop)
}

/// Hands a socket of its own to itself.
fn pass_own() -> Attempt {
    let (from, to) = UnixStream::pair()?;
    let socket = or_skip(sys!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0), "socket").map(own)?;
    descriptor::send(&from, &socket)?;
    receive(&to).map(drop)
}
