//! Network rules to a prefix trie and sorted port ranges.

use ipnet::IpNet;
use stockade_common::net::{PORT_ALLOW, PORT_DENY, PortRange, PortRun, TCP, UDP, port_key};

use super::checked::NetRule;

/// `::ffff:0:0/96`, where IPv4 lives.
const MAPPED: (u128, u8) = (0xffff_0000_0000, 96);

/// (address as IPv6, prefix length, is IPv4)
fn key(prefix: &IpNet) -> (u128, u8, bool) {
    match prefix {
        IpNet::V4(net) => (MAPPED.0 | u128::from(u32::from(net.network())), 96 + net.prefix_len(), true),
        IpNet::V6(net) => (u128::from(net.network()), net.prefix_len(), false),
    }
}

fn covers(outer: (u128, u8), inner: (u128, u8)) -> bool {
    outer.1 <= inner.1 && (outer.1 == 0 || (outer.0 ^ inner.0) >> (128 - u32::from(outer.1)) == 0)
}

/// Prefixes (address, length, ports), sorted, and the ranges they refer to.
pub type Compiled = (Vec<([u8; 16], u8, PortRun)>, Vec<PortRange>);

/// Compiles the rules: each prefix carries what all prefixes that cover it say, so the longest match decides alone.
#[must_use]
pub fn compile(rules: &[NetRule]) -> Compiled {
    let mut sorted: Vec<(u128, u8, bool, Vec<&NetRule>)> = Vec::new();
    let mut keyed: Vec<_> = rules.iter().map(|rule| (key(&rule.prefix), rule)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    for ((addr, length, is_v4), rule) in keyed {
        match sorted.last_mut() {
            Some(last) if (last.0, last.1, last.2) == (addr, length, is_v4) => last.3.push(rule),
            _ => sorted.push((addr, length, is_v4, vec![rule])),
        }
    }
    // An IPv6 prefix wide enough to hold the mapped addresses says nothing about IPv4.
    let wide = sorted.iter().any(|entry| !entry.2 && covers((entry.0, entry.1), MAPPED));
    if wide && !sorted.iter().any(|entry| entry.2 && (entry.0, entry.1) == MAPPED) {
        sorted.push((MAPPED.0, MAPPED.1, true, Vec::new()));
        sorted.sort_by_key(|entry| (entry.0, entry.1, entry.2));
    }
    let (mut prefixes, mut ports) = (Vec::new(), Vec::new());
    // Sorted by address, then length: the prefixes that cover an entry are on the stack when it is reached.
    let mut stack: Vec<usize> = Vec::new();
    for index in 0..sorted.len() {
        let (addr, length, is_v4, _) = &sorted[index];
        stack.retain(|outer| covers((sorted[*outer].0, sorted[*outer].1), (*addr, *length)));
        stack.push(index);
        let applicable: Vec<&NetRule> = stack
            .iter()
            .filter(|outer| sorted[**outer].2 == *is_v4)
            .flat_map(|outer| &sorted[*outer].3)
            .copied()
            .collect();
        let ranges = merge(&applicable);
        prefixes.push((
            addr.to_be_bytes(),
            *length,
            PortRun { first: ports.len() as u32, len: ranges.len() as u32 },
        ));
        ports.extend(ranges);
    }
    (prefixes, ports)
}

/// Disjoint sorted ranges; deny wins, and of several rules the lowest id is named.
fn merge(rules: &[&NetRule]) -> Vec<PortRange> {
    let mut out: Vec<PortRange> = Vec::new();
    for protocol in [TCP, UDP] {
        let applicable: Vec<(u32, u32, u32, u32)> = rules
            .iter()
            .filter(|rule| if protocol == TCP { rule.tcp } else { rule.udp })
            .flat_map(|rule| {
                let verdict = if rule.deny { PORT_DENY } else { PORT_ALLOW };
                rule.ports
                    .iter()
                    .map(move |(low, high)| (u32::from(*low), u32::from(*high), verdict, rule.rule))
            })
            .collect();
        let mut edges: Vec<u32> = applicable.iter().flat_map(|range| [range.0, range.1 + 1]).collect();
        edges.sort_unstable();
        edges.dedup();
        for pair in edges.windows(2) {
            let (low, high) = (pair[0], pair[1] - 1);
            let decided = applicable
                .iter()
                .filter(|range| range.0 <= low && high <= range.1)
                // Deny is the greater verdict; of equal ones the lowest rule.
                .max_by_key(|range| (range.2, std::cmp::Reverse(range.3)));
            let Some((_, _, verdict, rule)) = decided else { continue };
            let (low, high) = (port_key(protocol, low as u16), port_key(protocol, high as u16));
            match out.last_mut() {
                Some(last) if last.high + 1 == low && (last.verdict, last.rule) == (*verdict, *rule) => {
                    last.high = high;
                }
                _ => out.push(PortRange { low, high, rule: *rule, verdict: *verdict }),
            }
        }
    }
    out
}

/// What the compiled rules say, as the kernel programs find it: the range that decides.
#[must_use]
pub fn lookup((prefixes, ports): &Compiled, addr: u128, protocol: u32, port: u16) -> Option<PortRange> {
    let (_, _, run) = prefixes
        .iter()
        .filter(|(prefix, length, _)| covers((u128::from_be_bytes(*prefix), *length), (addr, 128)))
        .max_by_key(|(_, length, _)| *length)?;
    let wanted = port_key(protocol, port);
    ports[run.first as usize..][..run.len as usize]
        .iter()
        .find(|range| range.low <= wanted && wanted <= range.high)
        .copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(prefix: &str, ports: &[(u16, u16)], deny: bool, rule: u32) -> NetRule {
        NetRule { prefix: prefix.parse().unwrap(), ports: ports.to_vec(), tcp: true, udp: false, deny, rule }
    }

    #[test]
    fn a_longer_prefix_keeps_what_shorter_ones_say() {
        let compiled = compile(&[
            rule("10.0.0.0/8", &[(5432, 5432)], false, 0),
            rule("10.1.0.0/16", &[(443, 443)], false, 1),
        ]);
        let at = |text: &str, port| {
            let addr = MAPPED.0 | u128::from(u32::from(text.parse::<std::net::Ipv4Addr>().unwrap()));
            lookup(&compiled, addr, TCP, port).map(|range| range.rule)
        };
        assert_eq!(at("10.1.2.3", 5432), Some(0));
        assert_eq!(at("10.1.2.3", 443), Some(1));
        assert_eq!(at("10.2.2.3", 443), None);
        assert_eq!(at("11.2.2.3", 5432), None);
    }

    #[test]
    fn all_of_ipv6_is_not_ipv4() {
        let compiled = compile(&[rule("::/0", &[(0, 65535)], false, 0)]);
        assert!(lookup(&compiled, 1, TCP, 80).is_some());
        assert!(lookup(&compiled, MAPPED.0 | 0x7f00_0001, TCP, 80).is_none());
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_reading(
            rules in proptest::collection::vec((0u32..16, 0u8..5, 0u16..8, 0u16..4, any::<bool>()), 1..12),
            host in 0u32..16,
            port in 0u16..12,
        ) {
            let rules: Vec<NetRule> = (0u32..).zip(rules).map(|(id, (addr, length, low, span, deny))| {
                let net = ipnet::Ipv4Net::new((addr << 28).into(), length).unwrap().trunc();
                NetRule { prefix: net.into(), ports: vec![(low, low + span)], tcp: true, udp: false, deny, rule: id }
            }).collect();
            let addr = std::net::Ipv4Addr::from(host << 28);
            let hits: Vec<&NetRule> = rules.iter().filter(|rule| {
                rule.prefix.contains(&std::net::IpAddr::from(addr)) && rule.ports[0].0 <= port && port <= rule.ports[0].1
            }).collect();
            let expected = if hits.iter().any(|rule| rule.deny) { Some(PORT_DENY) }
                else if hits.is_empty() { None } else { Some(PORT_ALLOW) };
            let found = lookup(&compile(&rules), MAPPED.0 | u128::from(u32::from(addr)), TCP, port);
            prop_assert_eq!(found.map(|range| range.verdict), expected);
        }
    }
}
