//! Something to reach: TCP and UDP on both loopback addresses, all on one port, and unix sockets.

use std::fs::{self, Permissions};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::sync::OnceLock;
use std::thread;

/// The stream socket; the datagram one is beside it, with `-dgram` behind.
pub const SOCKET: &str = "/scenario-program/socket";

static PORT: OnceLock<u16> = OnceLock::new();

/// The listeners' port; 0 before they are started, where nothing can be reached.
pub fn port() -> u16 {
    PORT.get().copied().unwrap_or_default()
}

/// A socket of this process that nobody is to take.
pub fn descriptor() -> io::Result<i32> {
    static SOCKET: OnceLock<UdpSocket> = OnceLock::new();
    if SOCKET.get().is_none() {
        let _ = SOCKET.set(UdpSocket::bind("127.0.0.1:0")?);
    }
    SOCKET.get().map(AsRawFd::as_raw_fd).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Starts the listeners and returns their port.
pub fn start() -> io::Result<u16> {
    let four = TcpListener::bind("127.0.0.1:0")?;
    let port = four.local_addr()?.port();
    let six = TcpListener::bind(("::1", port))?;
    let second = TcpListener::bind(("127.0.0.2", port))?;
    let datagrams = [
        UdpSocket::bind(("127.0.0.1", port))?,
        UdpSocket::bind(("127.0.0.2", port))?,
        UdpSocket::bind(("::1", port))?,
    ];
    for listener in [four, second, six] {
        thread::spawn(move || listener.incoming().for_each(drop));
    }
    for socket in datagrams {
        thread::spawn(move || while socket.recv(&mut [0; 16]).is_ok() {});
    }
    fs::create_dir_all("/scenario-program")?;
    let datagram = format!("{SOCKET}-dgram");
    let named = UnixListener::bind(SOCKET)?;
    let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name("stockade-outside")?)?;
    let inbox = UnixDatagram::bind(&datagram)?;
    // Any user may connect: a hook is to refuse, not a permission bit.
    for path in [SOCKET, &datagram] {
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
    }
    for listener in [named, hidden] {
        thread::spawn(move || listener.incoming().for_each(drop));
    }
    thread::spawn(move || while inbox.recv(&mut [0; 16]).is_ok() {});
    Ok(*PORT.get_or_init(|| port))
}
