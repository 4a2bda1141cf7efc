//! What an address in an answer may be. A name server that says "127.0.0.1" or "your router" points a workload, and whatever
//! trusts where it runs, at something that is not the name's (DNS rebinding).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::policy::metadata::METADATA;

/// What an address is, for somebody who was given it by a name server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Of the public network.
    Public,
    /// Of a private network: where a policy says so, names may have such.
    Private,
    /// Nothing that a name may lead to; what it is instead.
    Never(&'static str),
}

/// What an address is.
#[must_use]
pub fn standing(address: IpAddr) -> Standing {
    if METADATA.contains(&address) {
        return Standing::Never("a cloud's metadata service");
    }
    match address {
        IpAddr::V4(address) => of_v4(address),
        IpAddr::V6(address) => of_v6(address),
    }
}

fn of_v4(address: Ipv4Addr) -> Standing {
    match address.octets() {
        [0, ..] => Standing::Never("this host"),
        [127, ..] => Standing::Never("loopback"),
        [169, 254, ..] => Standing::Never("link-local"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Standing::Private,
        [192, 0, 0, 9 | 10] => Standing::Public,
        [192, 0, 0, _] => Standing::Never("reserved"),
        [224..=239, ..] => Standing::Never("multicast"),
        [240..=255, ..] => Standing::Never("reserved"),
        _ => Standing::Public,
    }
}

fn of_v6(address: Ipv6Addr) -> Standing {
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Standing::Never("this host"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Standing::Never("loopback"),
        // ::a.b.c.d, ::ffff:a.b.c.d, ::ffff:0:a.b.c.d: an IPv4 address in an answer that asks for the other family.
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => {
            Standing::Never("an IPv4 address in disguise")
        }
        // NAT64: what is behind is as good as the address inside.
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x0064, 0xff9b, ..] => Standing::Private,
        // 6to4.
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo: the address inside is the client's, and anybody's.
        [0x2001, 0, ..] => Standing::Never("a tunnel"),
        [0x0100, 0, 0, 0 | 1, ..] => Standing::Never("discarded"),
        [0xfe80..=0xfebf, ..] => Standing::Never("link-local"),
        [0xfec0..=0xfeff, ..] => Standing::Private,
        [0xfc00..=0xfdff, ..] => Standing::Private,
        [0xff00..=0xffff, ..] => Standing::Never("multicast"),
        // ISATAP: an interface identifier that is an IPv4 address, in any prefix.
        [_, _, _, _, 0x0000 | 0x0200, 0x5efe, high, low] if embedded(high, low) != Standing::Public => {
            embedded(high, low)
        }
        _ => Standing::Public,
    }
}

fn embedded(high: u16, low: u16) -> Standing {
    let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
    standing(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Standing {
        standing(text.parse().unwrap())
    }

    #[test]
    fn public_addresses_are_public() {
        for text in [
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.9",
            "8.8.8.8",
            "2001:db8::1",
            "2600::1",
            "64:ff9b::808:808",
        ] {
            assert_eq!(of(text), Standing::Public, "{text}");
        }
    }

    #[test]
    fn private_addresses_are_private() {
        let private = [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "fd12::1",
            "fec0::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2002:c0a8:101::1",
            "2001:db8::5efe:10.0.0.1",
        ];
        for text in private {
            assert_eq!(of(text), Standing::Private, "{text}");
        }
        assert_eq!(of("172.32.0.1"), Standing::Public);
        assert_eq!(of("100.128.0.1"), Standing::Public);
    }

    #[test]
    fn what_no_name_may_lead_to() {
        let never = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "192.0.0.192",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:1.2.3.4",
            "64:ff9b::7f00:1",
            "64:ff9b::169.254.169.254",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "2001::1",
            "100::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "2001:db8::5efe:127.0.0.1",
            "2001:db8::200:5efe:169.254.169.254",
        ];
        for text in never {
            assert!(matches!(of(text), Standing::Never(_)), "{text}");
        }
    }
}
