//! Which name servers are asked.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    path::PathBuf,
    str::FromStr,
};

use nix::net::if_::if_nametoindex;

/// The host's own list.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
const TLS_PORT: u16 = 853;
/// As many as the C libraries take.
const MAX_HOST_SERVERS: usize = 3;

/// How the gate asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsConfig {
    /// Whom.
    pub upstream: Upstreams,
}

/// Which name servers are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreams {
    /// Those in a file like `/etc/resolv.conf`, which is read again when it changes.
    Host(PathBuf),
    /// These, in this order.
    These(Vec<Server>),
}

impl Default for Upstreams {
    fn default() -> Self {
        Self::Host(RESOLV_CONF.into())
    }
}

/// A name server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// Where it is.
    pub address: SocketAddr,
    /// The name in its certificate: it is asked by TLS only.
    pub tls: Option<String>,
}

impl Server {
    /// One that is asked by UDP and TCP.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            Some(name) => write!(out, "tls://{}#{name}", self.address),
            None => write!(out, "{}", self.address),
        }
    }
}

/// What is wrong with the text of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// Neither an address nor one with a port.
    #[error("{0:?} is not the address of a name server")]
    Address(String),
    /// TLS without a name.
    #[error("{0:?} does not say which name its certificate has")]
    NoName(String),
}

impl FromStr for Server {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        let (rest, tls) = match text.strip_prefix("tls://") {
            None => (text, None),
            Some(rest) => match rest.split_once('#') {
                Some((rest, name)) if !name.is_empty() => (rest, Some(name.to_owned())),
                _ => return Err(ServerError::NoName(text.into())),
            },
        };
        let port = if tls.is_some() { TLS_PORT } else { PORT };
        let bare = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(rest);
        let address = match (rest.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
            (Ok(address), _) => address,
            (Err(_), Ok(address)) => SocketAddr::new(address, port),
            (Err(_), Err(_)) => return Err(ServerError::Address(text.into())),
        };
        Ok(Self { address, tls })
    }
}

/// The servers that text like that of `/etc/resolv.conf` names; the one on this host, if none, as the C libraries do.
/// Lines that cannot be read are left out, as they do, too.
pub(super) fn host_servers(text: &str) -> Vec<Server> {
    let servers: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        .filter_map(host_address)
        .map(Server::plain)
        .take(MAX_HOST_SERVERS)
        .collect();
    if servers.is_empty() {
        vec![Server::plain((std::net::Ipv4Addr::LOCALHOST, PORT).into())]
    } else {
        servers
    }
}

fn host_address(word: &str) -> Option<SocketAddr> {
    let Some((address, interface)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse().ok()?, PORT));
    };
    let index = interface.parse().ok().or_else(|| if_nametoindex(interface).ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, index).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_written() {
        for (text, written) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:54", "[2001:db8::1]:54"),
            ("tls://192.0.2.1#dns.example.test", "tls://192.0.2.1:853#dns.example.test"),
            ("tls://[2001:db8::1]:8853#dns.example.test", "tls://[2001:db8::1]:8853#dns.example.test"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), written);
        }
        for text in ["", "dns.example.test", "192.0.2.1:x", "192.0.2", "udp://192.0.2.1"] {
            assert_eq!(text.parse::<Server>(), Err(ServerError::Address(text.into())));
        }
        for text in ["tls://192.0.2.1", "tls://192.0.2.1#"] {
            assert_eq!(text.parse::<Server>(), Err(ServerError::NoName(text.into())));
        }
    }

    #[test]
    fn the_hosts_servers_are_those_its_c_library_asks() {
        let text = "# nameserver 192.0.2.9\nsearch example.test\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 x\n\
                    nameserver bad\nnameserver fe80::1%1\nnameserver 192.0.2.4\noptions edns0\n";
        let servers: Vec<_> = host_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]);
        assert_eq!(host_servers("").first().unwrap().to_string(), "127.0.0.1:53");
    }
}
