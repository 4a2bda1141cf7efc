//! A name server, and the addresses it tells of: on loopback, under addresses that look public.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

/// Where it listens; `/etc/resolv.conf` names it.
pub const SERVER: &str = "127.0.0.53";
/// What `api.scenario.test` and `alias.scenario.test` have.
pub const API: &str = "11.22.33.44";
/// What all names below `wild.scenario.test` and `other.scenario.test` have.
pub const OTHER: &str = "11.22.33.45";

/// What a name has. The port of the listeners is open at the first two.
fn address(name: &str) -> Option<Ipv4Addr> {
    let text = match name {
        "api.scenario.test" | "alias.scenario.test" => API,
        "local.scenario.test" => "127.0.0.1",
        "private.scenario.test" => "10.11.12.13",
        "metadata.scenario.test" => "169.254.169.254",
        "other.scenario.test" => OTHER,
        _ if name.ends_with(".wild.scenario.test") => OTHER,
        _ => return None,
    };
    text.parse().ok()
}

/// Starts it once, and something to reach at its addresses, on a port that it returns.
pub fn start() -> io::Result<u16> {
    static PORT: OnceLock<u16> = OnceLock::new();
    if let Some(port) = PORT.get() {
        return Ok(*port);
    }
    for address in [API, OTHER] {
        let ended =
            Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", "lo"]).status()?;
        if !ended.success() {
            return Err(io::Error::other(format!("ip addr add {address}: {ended}")));
        }
    }
    std::fs::write("/etc/resolv.conf", format!("nameserver {SERVER}\n"))?;
    let first = TcpListener::bind((API, 0))?;
    let port = first.local_addr()?.port();
    for listener in [first, TcpListener::bind((OTHER, port))?] {
        thread::spawn(move || listener.incoming().for_each(drop));
    }
    let datagrams = UdpSocket::bind((SERVER, 53))?;
    let streams = TcpListener::bind((SERVER, 53))?;
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            if let Some(reply) = reply(&buffer[..length]) {
                let _ = datagrams.send_to(&reply, from);
            }
        }
    });
    thread::spawn(move || streams.incoming().flatten().for_each(|stream| drop(serve(stream))));
    Ok(*PORT.get_or_init(|| port))
}

fn serve(mut stream: std::net::TcpStream) -> io::Result<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut question)?;
    let reply = reply(&question).unwrap_or_default();
    stream.write_all(&(reply.len() as u16).to_be_bytes())?;
    stream.write_all(&reply)
}

/// Answers questions for addresses; the case of the name is kept.
fn reply(question: &[u8]) -> Option<Vec<u8>> {
    let (mut name, mut at) = (String::new(), 12);
    while let Some(length) = question.get(at).copied().filter(|length| *length > 0) {
        let label = question.get(at + 1..at + 1 + usize::from(length))?;
        name += &String::from_utf8_lossy(label).to_lowercase();
        name.push('.');
        at += 1 + usize::from(length);
    }
    let name = name.trim_end_matches('.');
    let end = at + 5;
    let is_address = question.get(at + 1..at + 3)? == [0, 1];
    let address = address(name);
    let exists = address.is_some();
    let address = address.filter(|_| is_address);
    let mut out = question.get(..end)?.to_vec();
    (out[2], out[3]) = (0x81, if exists { 0x80 } else { 0x83 });
    out[6..12].copy_from_slice(&[0, u8::from(address.is_some()), 0, 0, 0, 0]);
    if let Some(address) = address {
        if name.starts_with("alias.") {
            // alias is api: the target's name is behind it in the record.
            out[7] = 2;
            out.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 6, 3, b'a', b'p', b'i', 0xc0, 12 + 6]);
            let target = (end + 12) as u8;
            out.extend([0xc0, target, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        } else {
            out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        }
        out.extend(address.octets());
    }
    Some(out)
}
