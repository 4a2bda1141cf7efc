//! The sockets of a gate, made in the network namespace of those who ask.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, UdpSocket},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
        sockopt::{IpFreebind, Ipv6V6Only},
    },
};

/// Ports that are tried until one is free in all families and protocols.
const ATTEMPTS: usize = 64;
const BACKLOG: i32 = 128;

/// What a gate listens on.
#[derive(Debug)]
pub struct Sockets {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The port of all of them.
    pub port: u16,
    /// On 127.0.0.1 and, where there is IPv6, ::1.
    pub udp: Vec<UdpSocket>,
    /// The same by TCP.
    pub tcp: Vec<TcpListener>,
}

impl Sockets {
    /// All of them.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.udp.iter().map(AsFd::as_fd).chain(self.tcp.iter().map(AsFd::as_fd)).collect()
    }
}

/// Makes them, in a network namespace or in our own. In a thread of its own, which ends with it.
///
/// # Errors
/// If the namespace cannot be entered or no port is free.
pub fn open(netns: Option<OwnedFd>) -> io::Result<Sockets> {
    let inside = move || {
        if let Some(netns) = netns {
            setns(netns, CloneFlags::CLONE_NEWNET)
                .map_err(|error| step("entering the network namespace", error))?;
        }
        listen_here()
    };
    let thread = thread::Builder::new().name("dns-sockets".into()).spawn(inside)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that makes a gate's sockets has panicked")))
}

fn step(doing: &str, error: Errno) -> io::Error {
    let source = io::Error::from(error);
    io::Error::new(source.kind(), format!("{doing}: {source}"))
}

fn listen_here() -> io::Result<Sockets> {
    let mut last = Errno::EADDRINUSE;
    for _ in 0..ATTEMPTS {
        match with_one_port() {
            Ok(sockets) => return Ok(sockets),
            Err(Errno::EADDRINUSE) => last = Errno::EADDRINUSE,
            Err(error) => return Err(step("listening on loopback for DNS", error)),
        }
    }
    Err(step("finding a port that is free by UDP and TCP on loopback", last))
}

fn with_one_port() -> Result<Sockets, Errno> {
    let udp4 = UdpSocket::from(bound(v4(0), SockType::Datagram)?);
    let port = udp4.local_addr().map_err(|_| Errno::EBADF)?.port();
    let netns = cookie(&udp4)?;
    let tcp4 = listening(v4(port))?;
    let (mut udp, mut tcp) = (vec![udp4], vec![tcp4]);
    match bound(v6(port), SockType::Datagram) {
        Ok(socket) => {
            udp.push(socket.into());
            tcp.push(listening(v6(port))?);
        }
        // No IPv6 here: nobody can ask by it.
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT) => {}
        Err(error) => return Err(error),
    }
    for socket in &udp {
        socket.set_nonblocking(true).map_err(|_| Errno::EBADF)?;
    }
    for socket in &tcp {
        socket.set_nonblocking(true).map_err(|_| Errno::EBADF)?;
    }
    Ok(Sockets { netns, port, udp, tcp })
}

fn v4(port: u16) -> SocketAddr {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into()
}

fn v6(port: u16) -> SocketAddr {
    SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0).into()
}

fn bound(address: SocketAddr, kind: SockType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    // A namespace may still be without its loopback's address.
    setsockopt(&fd, IpFreebind, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(fd)
}

fn listening(address: SocketAddr) -> Result<TcpListener, Errno> {
    let fd = bound(address, SockType::Stream)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}

fn cookie(socket: &UdpSocket) -> Result<u64, Errno> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(0);
    // SAFETY: `cookie` and `length` are valid for writes for the length given, and the descriptor is open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(|_| cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sockets_have_one_port() {
        let sockets = open(None).unwrap();
        assert!(sockets.port > 0 && sockets.netns > 0);
        let ports = sockets
            .udp
            .iter()
            .map(UdpSocket::local_addr)
            .chain(sockets.tcp.iter().map(TcpListener::local_addr));
        for address in ports {
            let address = address.unwrap();
            assert_eq!(address.port(), sockets.port);
            assert!(address.ip().is_loopback());
        }
        assert_eq!(sockets.udp.len(), sockets.tcp.len());
    }

    #[test]
    fn what_is_no_namespace_is_an_error_with_its_step() {
        let file = std::fs::File::open("/").unwrap();
        let error = open(Some(file.into())).unwrap_err();
        assert!(error.to_string().starts_with("entering the network namespace: "), "{error}");
    }
}
