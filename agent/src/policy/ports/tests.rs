use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

fn lookup((prefixes, ports): &Compiled, addr: u128, protocol: u32, port: u16) -> Option<PortRange> {
    super::lookup(prefixes, ports, addr, protocol, port)
}

const BUILT_IN: u32 = 1000;

fn compile(rules: &[NetRule], listen: &[NetRule]) -> Result<Compiled, TooManyRanges> {
    super::compile(rules, listen, BUILT_IN)
}

fn rule(prefix: &str, ports: &[(u16, u16)], deny: bool, rule: u32) -> NetRule {
    NetRule { prefix: prefix.parse().unwrap(), ports: ports.to_vec(), tcp: true, udp: false, deny, rule }
}

fn mapped(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u128::from(addr.to_ipv6_mapped()),
        IpAddr::V6(addr) => u128::from(addr),
    }
}

#[test]
fn a_longer_prefix_keeps_what_shorter_ones_say() {
    let compiled = compile(
        &[rule("10.0.0.0/8", &[(5432, 5432)], false, 0), rule("10.1.0.0/16", &[(443, 443)], false, 1)],
        &[],
    )
    .unwrap();
    let at = |text: &str, port| {
        lookup(&compiled, mapped(text.parse().unwrap()), TCP, port).map(|range| range.rule)
    };
    assert_eq!(at("10.1.2.3", 5432), Some(0));
    assert_eq!(at("10.1.2.3", 443), Some(1));
    assert_eq!(at("10.2.2.3", 443), None);
    assert_eq!(at("11.2.2.3", 5432), None);
}

#[test]
fn all_of_ipv6_is_not_ipv4() {
    let compiled = compile(&[rule("::/0", &[(0, 65535)], false, 0)], &[]).unwrap();
    assert!(lookup(&compiled, 1, TCP, 80).is_some());
    assert!(lookup(&compiled, MAPPED.0 | 0x7f00_0001, TCP, 80).is_none());
}

fn every_other(first: u16) -> Vec<(u16, u16)> {
    (first..=u16::MAX).step_by(2).map(|port| (port, port)).collect()
}

#[test]
fn a_run_longer_than_the_search_names_the_rule() {
    let both =
        |ports: Vec<(u16, u16)>, deny, id| NetRule { udp: true, ..rule("10.0.0.0/8", &ports, deny, id) };
    let longest = [both(every_other(1), false, 0), rule("10.0.0.0/8", &every_other(2), true, 1)];
    let ranges = compile(&longest[..1], &[]).unwrap().1;
    assert_eq!(ranges.iter().filter(|range| range.rule == 0).count(), MAX_PORT_RUN);
    let error = compile(&longest, &[]).unwrap_err();
    assert_eq!(error.rule(), 0, "{error}");
    assert!(matches!(error, TooManyRanges::Prefix { ranges, .. } if ranges > MAX_PORT_RUN));
}

#[test]
fn more_ranges_than_there_is_room_for_name_the_rule() {
    let mut rules = vec![rule("10.0.0.0/8", &every_other(1), false, 0)];
    rules.extend((1..40).map(|id| rule(&format!("10.0.0.{id}/32"), &[(0, 0)], false, id)));
    assert_eq!(compile(&rules, &[]).unwrap_err(), TooManyRanges::Total { rule: 0 });
}

/// Addresses and prefixes that often meet: a few bits of IPv4, of IPv6 around where IPv4 is mapped, and elsewhere.
fn addr() -> impl Strategy<Value = IpAddr> {
    let around =
        (0u128..4, 0u32..4).prop_map(|(high, low)| (high << 32 | u128::from(low << 30)) + (0xfffe << 32));
    prop_oneof![
        (0u32..16).prop_map(|bits| IpAddr::from((bits << 28).to_be_bytes())),
        (0u128..16).prop_map(|bits| IpAddr::from((bits << 124).to_be_bytes())),
        around.prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
        proptest::sample::select(METADATA.to_vec()),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    (addr(), 0u8..=128).prop_map(|(addr, length)| {
        let length = if addr.is_ipv4() { if length > 120 { 32 } else { length % 6 } } else { length };
        IpNet::new(addr, length).unwrap().trunc()
    })
}

#[test]
fn metadata_is_denied_unless_it_is_named() {
    let at = |rules: &[NetRule], addr: &str, port| {
        let range = lookup(&compile(rules, &[]).unwrap(), mapped(addr.parse().unwrap()), TCP, port).unwrap();
        (range.rule, range.verdict)
    };
    let any = [(0, u16::MAX)];
    let (wide, wide6) = (rule("0.0.0.0/0", &any, false, 0), rule("::/0", &any, false, 1));
    let exact = rule("169.254.169.254/32", &[(80, 80)], false, 2);
    let rules = [wide.clone(), wide6, exact.clone()];
    assert_eq!(at(&rules, "169.254.169.254", 80), (2, PORT_ALLOW));
    assert_eq!(at(&rules, "169.254.169.254", 443), (BUILT_IN, PORT_DENY));
    assert_eq!(at(&rules, "169.254.170.2", 80), (BUILT_IN, PORT_DENY));
    assert_eq!(at(&rules, "fd00:ec2::254", 80), (BUILT_IN, PORT_DENY));
    assert_eq!(at(&rules, "169.254.169.253", 80), (0, PORT_ALLOW));
    assert_eq!(at(&[], "169.254.169.254", 80), (BUILT_IN, PORT_DENY));
    let denied = [wide, exact, rule("169.254.0.0/16", &any, true, 3)];
    assert_eq!(at(&denied, "169.254.169.254", 80), (3, PORT_DENY));
}

#[test]
fn the_unspecified_address_is_allowed_by_its_own_rule_only() {
    let verdict = |rules: &[NetRule]| {
        lookup(&compile(rules, &[]).unwrap(), MAPPED.0, TCP, 80).map(|range| range.verdict)
    };
    let wide = || rule("0.0.0.0/0", &[(0, u16::MAX)], false, 0);
    assert_eq!(verdict(&[wide()]), None);
    assert_eq!(verdict(&[wide(), rule("0.0.0.0/32", &[(80, 80)], false, 1)]), Some(PORT_ALLOW));
    assert_eq!(
        verdict(&[rule("0.0.0.0/8", &[(80, 80)], true, 0), rule("0.0.0.0/32", &[(80, 80)], false, 1)]),
        Some(PORT_DENY)
    );
}

proptest! {
    #[test]
    fn agrees_with_the_plain_reading(
        rules in proptest::collection::vec(
            (net(), proptest::collection::vec((0u16..8, 0u16..4), 1..4), 1u8..4, any::<bool>()), 1..12),
        addr in addr(),
        port in 0u16..12,
        tcp in any::<bool>(),
    ) {
        let rules: Vec<NetRule> = (0u32..).zip(rules).map(|(id, (prefix, ports, protocols, deny))| NetRule {
            prefix,
            ports: ports.into_iter().map(|(low, span)| (low, low + span)).collect(),
            tcp: protocols & 1 != 0,
            udp: protocols & 2 != 0,
            deny,
            rule: id,
        }).collect();
        // As the kernel programs see it, a mapped address is the IPv4 address.
        let plain = match addr {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(addr, IpAddr::V4),
            IpAddr::V4(_) => addr,
        };
        let says = |rule: &&NetRule| {
            (if tcp { rule.tcp } else { rule.udp })
                && rule.prefix.contains(&plain)
                && (rule.deny || plain != Ipv4Addr::UNSPECIFIED || rule.prefix.prefix_len() == 32)
                && rule.ports.iter().any(|(low, high)| (low..=high).contains(&&port))
        };
        let mapped_prefix = |rule: &NetRule| matches!(rule.prefix, IpNet::V6(net) if net.prefix_len() >= 96
            && net.network().to_ipv4_mapped().is_some());
        // `rule::destination` makes IPv4 prefixes of these.
        prop_assume!(!rules.iter().any(mapped_prefix));
        let denial = rules.iter().find(|rule| rule.deny && says(rule));
        let is_metadata = METADATA.contains(&plain);
        let allowed = rules.iter().find(|rule| {
            says(rule) && (!is_metadata || rule.prefix.prefix_len() == rule.prefix.max_prefix_len())
        });
        let expected = denial.or(allowed).map(|rule| rule.rule).or(is_metadata.then_some(BUILT_IN));
        let denies = denial.is_some() || (is_metadata && allowed.is_none());
        let found = lookup(&compile(&rules, &[]).unwrap(), mapped(addr), if tcp { TCP } else { UDP }, port);
        prop_assert_eq!(found.map(|range| range.rule), expected);
        prop_assert_eq!(found.map(|range| range.verdict == PORT_DENY), expected.map(|_| denies));
    }
}
