//! Sockets in the tables of `/proc/PID/net`.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use super::shown;

/// Longest table that is read.
const MAX_TABLE: u64 = 64 << 20;

/// A table: its file, and what its sockets are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// In `/proc/PID/net`.
    pub file: &'static str,
    name: &'static str,
    layout: Layout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Addresses and ports, with the states of TCP.
    Tcp,
    /// Addresses and ports.
    Internet,
    /// Addresses, with the protocol in place of the port.
    Raw,
    Unix,
    Packet,
    Netlink,
}

/// All tables with inodes.
pub const TABLES: [Table; 13] = {
    const fn table(file: &'static str, name: &'static str, layout: Layout) -> Table {
        Table { file, name, layout }
    }
    [
        table("tcp", "TCP", Layout::Tcp),
        table("tcp6", "TCP", Layout::Tcp),
        table("udp", "UDP", Layout::Internet),
        table("udp6", "UDP", Layout::Internet),
        table("udplite", "UDP-Lite", Layout::Internet),
        table("udplite6", "UDP-Lite", Layout::Internet),
        table("icmp", "ICMP", Layout::Raw),
        table("icmp6", "ICMPv6", Layout::Raw),
        table("raw", "raw IPv4", Layout::Raw),
        table("raw6", "raw IPv6", Layout::Raw),
        table("unix", "unix", Layout::Unix),
        table("packet", "packet", Layout::Packet),
        table("netlink", "netlink", Layout::Netlink),
    ]
};

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket {
    /// What it is called: `TCP`, `unix`, ...
    pub family: String,
    /// Its own address, or a path.
    pub local: Option<String>,
    /// The other end's.
    pub remote: Option<String>,
    /// `listening`, `established`, ...
    pub state: Option<&'static str>,
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, local, remote, state } = self;
        write!(f, "{family} socket")?;
        match (local, remote) {
            (Some(local), Some(remote)) => write!(f, " {local} -> {remote}")?,
            (Some(local), None) => write!(f, " {local}")?,
            (None, Some(remote)) => write!(f, " -> {remote}")?,
            (None, None) => {}
        }
        state.map_or(Ok(()), |state| write!(f, ", {state}"))
    }
}

/// Reads all tables of a directory for the sockets with the inodes that are asked for.
///
/// # Errors
/// A table that is there and cannot be read. Where a protocol is not loaded there is none.
pub fn read(directory: &Path, wanted: &HashSet<u64>) -> io::Result<HashMap<u64, Socket>> {
    let mut found = HashMap::new();
    for table in TABLES {
        let file = match File::open(directory.join(table.file)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut lines = BufReader::new(file.take(MAX_TABLE));
        let mut line = Vec::new();
        // The first one says what the columns are.
        lines.read_until(b'\n', &mut line)?;
        while {
            line.clear();
            lines.read_until(b'\n', &mut line)? != 0
        } {
            let parsed = parse(table, String::from_utf8_lossy(&line).trim_end_matches('\n'));
            found.extend(parsed.filter(|(inode, _)| wanted.contains(inode)));
        }
        if lines.get_ref().limit() == 0 {
            let why = format!("{}: more than {MAX_TABLE} bytes", table.file);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
    }
    Ok(found)
}

/// One line of a table, not the first: the inode and the socket.
#[must_use]
pub fn parse(table: Table, line: &str) -> Option<(u64, Socket)> {
    let mut fields = line.split_ascii_whitespace();
    let family = table.name.to_owned();
    match table.layout {
        Layout::Tcp | Layout::Internet | Layout::Raw => {
            let local = address(fields.nth(1)?)?;
            let remote = address(fields.next()?)?;
            let state = fields.next()?;
            let inode = fields.nth(5)?.parse().ok()?;
            let is_raw = table.layout == Layout::Raw;
            let text =
                |address: SocketAddr| if is_raw { address.ip().to_string() } else { address.to_string() };
            let is_set =
                |address: &SocketAddr| !address.ip().is_unspecified() || (!is_raw && address.port() != 0);
            let family = if is_raw { format!("{family} protocol {}", local.port()) } else { family };
            let state = if table.layout == Layout::Tcp { tcp_state(state) } else { None };
            Some((
                inode,
                Socket {
                    family,
                    local: Some(local).filter(is_set).map(text),
                    remote: Some(remote).filter(is_set).map(text),
                    state,
                },
            ))
        }
        Layout::Unix => {
            let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
            let kind = match fields.next()? {
                "0001" => "unix stream",
                "0002" => "unix datagram",
                "0005" => "unix seqpacket",
                _ => "unix",
            };
            let is_connected = fields.next()? == "03";
            let inode = fields.next()?;
            let path = behind_fields(line, 7).filter(|path| !path.is_empty());
            // SO_ACCEPTCON.
            let state = match flags & 0x1_0000 != 0 {
                true => Some("listening"),
                false => is_connected.then_some("connected"),
            };
            let socket = Socket {
                family: kind.into(),
                local: path.map(|path| shown(path.as_bytes())),
                remote: None,
                state,
            };
            Some((inode.parse().ok()?, socket))
        }
        Layout::Packet => {
            let protocol = fields.nth(3)?.to_owned();
            let interface: u32 = fields.next()?.parse().ok()?;
            let inode = fields.nth(3)?.parse().ok()?;
            let local = match interface {
                0 => "on all interfaces".to_owned(),
                number => format!("on interface {number}"),
            };
            Some((
                inode,
                Socket {
                    family: format!("{family} {protocol}"),
                    local: Some(local),
                    remote: None,
                    state: None,
                },
            ))
        }
        Layout::Netlink => {
            let protocol: u32 = fields.nth(1)?.parse().ok()?;
            let inode = fields.nth(7)?.parse().ok()?;
            Some((
                inode,
                Socket { family: format!("{family} {protocol}"), local: None, remote: None, state: None },
            ))
        }
    }
}

/// `ADDRESS:PORT` in hexadecimal digits: an address is one or four numbers in the host's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn tcp_state(text: &str) -> Option<&'static str> {
    Some(match text {
        "01" => "established",
        "02" | "03" | "0C" => "connecting",
        "04" | "05" | "06" | "08" | "09" | "0B" => "closing",
        "07" => "closed",
        "0A" => "listening",
        _ => return None,
    })
}

/// What stands behind so many fields, blanks included.
pub(super) fn behind_fields(line: &str, count: usize) -> Option<&str> {
    let mut rest = line;
    for _ in 0..count {
        let start = rest.trim_start_matches([' ', '\t']);
        rest = &start[start.find([' ', '\t'])?..];
    }
    Some(rest.trim_start_matches([' ', '\t']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(file: &str) -> Table {
        TABLES.into_iter().find(|table| table.file == file).unwrap()
    }

    fn parsed(file: &str, line: &str) -> (u64, String) {
        let (inode, socket) = parse(table(file), line).expect(line);
        (inode, socket.to_string())
    }

    #[test]
    fn sockets_are_read_from_each_table() {
        // Addresses stand in the byte order of the host.
        let v4 = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
        let v6 = format!("000000000000000000000000{:08X}", u32::from_ne_bytes([0, 0, 0, 1]));
        for (file, line, expected) in [
            (
                "tcp",
                format!("   0: {v4}:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000000000000000 100 0 0 10 0"),
                "TCP socket 127.0.0.1:8080, listening",
            ),
            (
                "tcp6",
                format!("   1: {v6}:0016 {v6}:C001 01 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 20 4 30 10 -1"),
                "TCP socket [::1]:22 -> [::1]:49153, established",
            ),
            (
                "udp",
                format!("  44: 00000000:0044 {v4}:0035 01 00000000:00000000 00:00000000 00000000     0        0 12345 2 0 0"),
                "UDP socket 0.0.0.0:68 -> 127.0.0.1:53",
            ),
            (
                "raw",
                "   1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12345 2 0 0".to_owned(),
                "raw IPv4 protocol 1 socket",
            ),
            ("unix", "0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/a b.sock".to_owned(), "unix stream socket /run/a b.sock, listening"),
            ("unix", "0000000000000000: 00000003 00000000 00000000 0001 03 12345".to_owned(), "unix stream socket, connected"),
            ("unix", "0000000000000000: 00000002 00000000 00000000 0002 01 12345 @x".to_owned(), "unix datagram socket @x"),
            ("packet", "0000000000000000 3      3    0003   2     1 0      0      12345".to_owned(), "packet 0003 socket on interface 2"),
            ("netlink", "0000000000000000 0   1234       00000111 0        0        0     2        0        12345".to_owned(), "netlink 0 socket"),
        ] {
            assert_eq!(parsed(file, &line), (12345, expected.to_owned()));
        }
        for line in [
            "",
            "   0: 0100007F",
            "   0: 0100007G:1F90 00000000:0000 0A 0 0 0 0 0 1",
            "x x x x x x x x x x x",
        ] {
            for table in TABLES {
                let _ = parse(table, line);
            }
            assert_eq!(parse(table("tcp"), line), None);
        }
    }

    #[test]
    fn mapped_addresses_are_shown_plain() {
        let mapped = format!(
            "0000000000000000{:08X}{:08X}",
            u32::from_ne_bytes([0, 0, 0xff, 0xff]),
            u32::from_ne_bytes([10, 0, 0, 1])
        );
        assert_eq!(address(&format!("{mapped}:0050")).unwrap().to_string(), "10.0.0.1:80");
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(line in ".{0,120}", words in proptest::collection::vec("[0-9A-Fa-f:]{0,40}", 0..14)) {
            for table in TABLES {
                let _ = parse(table, &line);
                let _ = parse(table, &words.join(" "));
            }
        }
    }
}
