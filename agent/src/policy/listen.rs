//! Rules on what may be listened on: `address-or-prefix[:ports][/proto]`, the address being the local one.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    checked::NetRule,
    rule::{self, Destination, Refusal, refuse},
};

/// What a rule allows. Who listens on the unspecified address is reached by every address of its family, and `::` by those
/// of IPv4 as well; so a rule that names it allows each of them.
///
/// # Errors
/// No address, a bad port or protocol; a prefix that holds the unspecified address among others.
pub fn rules(text: &str, id: u32) -> Result<Vec<NetRule>, Refusal> {
    if text.starts_with("unix:") {
        return refuse(
            "a unix socket needs no rule to listen",
            "a file is made for it: allow that with `files.write`",
        );
    }
    let Destination { prefix, ports, tcp, udp } = rule::destination(text)?;
    let everything = prefix.addr().is_unspecified();
    if everything && prefix.prefix_len() != 0 && prefix.prefix_len() != prefix.max_prefix_len() {
        return refuse(
            format!("{prefix} holds the unspecified address, on which a socket is reached by every address"),
            "write `0.0.0.0` or `[::]` if that is meant, or the prefix of an interface",
        );
    }
    let prefixes = match prefix {
        IpNet::V4(_) if everything => vec![Ipv4Net::default().into()],
        IpNet::V6(_) if everything => vec![Ipv6Net::default().into(), Ipv4Net::default().into()],
        one => vec![one],
    };
    let rule = |prefix| NetRule { prefix, ports: ports.clone(), tcp, udp, deny: false, rule: id };
    Ok(prefixes.into_iter().map(rule).collect())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use stockade_common::{
        event::reason,
        net::{TCP, UDP},
    };

    use super::*;
    use crate::policy::{
        check::{Overlay, check},
        checked::CheckedPolicy,
        compile::compile,
        image::MapImage,
        mounts::MountTable,
        verdict,
    };

    fn octets(addr: &str) -> [u8; 16] {
        match addr.parse().unwrap() {
            IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
            IpAddr::V6(addr) => addr.octets(),
        }
    }

    fn image(policy: &CheckedPolicy) -> MapImage {
        compile(policy, &MountTable::default()).unwrap().0
    }

    fn with(listen: &[&str], net: &[&str]) -> MapImage {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let overlay =
            Overlay { allow_listen: strings(listen), allow_net: strings(net), ..Overlay::default() };
        image(&check(&[], &overlay).unwrap())
    }

    fn tcp(image: &MapImage, addr: &str, port: u16) -> bool {
        verdict::listen(image, octets(addr), port, TCP as u16).allows()
    }

    #[test]
    fn loopback_is_free_and_all_else_is_not() {
        let nothing = image(&CheckedPolicy::default());
        let image = with(&[], &["0.0.0.0/0", "::/0"]);
        for addr in ["127.0.0.1", "127.9.9.9", "::1"] {
            assert!(tcp(&image, addr, 80) && tcp(&image, addr, 0), "{addr}");
        }
        for addr in ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "128.0.0.1"] {
            assert!(!tcp(&image, addr, 80), "{addr}: where one may connect to is not where one may listen");
        }
        assert!(!tcp(&nothing, "127.0.0.1", 80), "without a profile nothing is free");
    }

    #[test]
    fn a_rule_names_the_local_address() {
        let image = with(&["192.0.2.1:8000-8100/tcp", "10.0.0.0/8"], &[]);
        assert!(tcp(&image, "192.0.2.1", 8050) && !tcp(&image, "192.0.2.1", 7999));
        assert_eq!(verdict::listen(&image, octets("192.0.2.1"), 8050, UDP as u16).reason, reason::NO_RULE);
        assert_eq!(verdict::listen(&image, octets("192.0.2.1"), 8050, 132).reason, reason::FAMILY);
        assert!(tcp(&image, "10.1.2.3", 1) && tcp(&image, "10.1.2.3", 0));
        assert!(!tcp(&image, "0.0.0.0", 8050));
        assert!(!verdict::net(&image, octets("10.1.2.3"), 1, 6).allows(), "listening is not connecting");
    }

    #[test]
    fn the_unspecified_address_is_every_address() {
        let four = with(&["0.0.0.0:80"], &[]);
        assert!(tcp(&four, "0.0.0.0", 80) && tcp(&four, "192.0.2.1", 80) && !tcp(&four, "0.0.0.0", 81));
        assert!(!tcp(&four, "::", 80) && !tcp(&four, "2001:db8::1", 80));
        let six = with(&["[::]:80"], &[]);
        for addr in ["::", "2001:db8::1", "0.0.0.0", "192.0.2.1"] {
            assert!(tcp(&six, addr, 80), "{addr}");
        }
        assert!(!verdict::net(&six, octets("0.0.0.0"), 80, 6).allows());
    }

    #[test]
    fn bad_rules_say_why() {
        for (text, why) in [
            ("0.0.0.0/8:80", "unspecified"),
            ("::/64", "unspecified"),
            ("unix:/run/x", "needs no rule"),
            ("192.0.2.1:0", "port 0"),
            ("", "empty"),
        ] {
            let message = rules(text, 0).unwrap_err().message;
            assert!(message.contains(why), "{text:?}: {message}");
        }
    }

    proptest! {
        #[test]
        fn connecting_and_listening_do_not_mix(
            connect in proptest::collection::vec((0u32..4, 0u8..4, 1u16..4), 0..5),
            listen in proptest::collection::vec((1u32..4, 2u8..4, 1u16..4), 0..5),
            addr in 0u32..8,
            port in 1u16..5,
        ) {
            let rule = |(bits, length, port): &(u32, u8, u16)| NetRule {
                prefix: IpNet::V4(Ipv4Net::new((bits << 30 | 1).into(), *length).unwrap().trunc()),
                ports: vec![(*port, *port)], tcp: true, udp: false, deny: false, rule: 0,
            };
            let policy = CheckedPolicy {
                destinations: connect.iter().map(rule).collect(),
                listen: listen.iter().map(rule).collect(),
                ..CheckedPolicy::default()
            };
            let address = std::net::Ipv4Addr::from(addr << 29 | 1);
            let says = |rules: &[NetRule]| rules.iter().any(|rule| {
                rule.prefix.contains(&IpAddr::V4(address)) && rule.ports.contains(&(port, port))
            });
            let image = image(&policy);
            let octets = address.to_ipv6_mapped().octets();
            prop_assert_eq!(verdict::net(&image, octets, port, 6).allows(), says(&policy.destinations));
            prop_assert_eq!(verdict::listen(&image, octets, port, 6).allows(), says(&policy.listen));
        }
    }
}
