//! Something to reach: TCP and UDP on both loopback addresses, all on one port.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::thread;

/// Starts the listeners and returns their port.
pub fn start() -> io::Result<u16> {
    let four = TcpListener::bind("127.0.0.1:0")?;
    let port = four.local_addr()?.port();
    let six = TcpListener::bind(("::1", port))?;
    let datagrams = [UdpSocket::bind(("127.0.0.1", port))?, UdpSocket::bind(("::1", port))?];
    for listener in [four, six] {
        thread::spawn(move || listener.incoming().for_each(drop));
    }
    for socket in datagrams {
        thread::spawn(move || while socket.recv(&mut [0; 16]).is_ok() {});
    }
    Ok(port)
}
