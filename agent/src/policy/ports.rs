//! Network rules to a prefix trie and sorted port ranges.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use stockade_common::{
    limits::MAX_PORT_RANGES,
    net::{LISTEN, MAX_PORT_RUN, PORT_ALLOW, PORT_DENY, PortRange, PortRun, TCP, UDP, port_key},
};

use super::{checked::NetRule, metadata::METADATA};

/// `::ffff:0:0/96`, where IPv4 lives.
const MAPPED: (u128, u8) = (0xffff_0000_0000, 96);
/// `0.0.0.0/32`.
const UNSPECIFIED: (u128, u8) = (MAPPED.0, 128);

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

/// A prefix: address, length, and the ports that hold for it.
pub type Prefix = ([u8; 16], u8, PortRun);

/// Prefixes, sorted, and the ranges they refer to.
pub type Compiled = (Vec<Prefix>, Vec<PortRange>);

/// More port ranges than the kernel programs search, or than there is room for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TooManyRanges {
    /// In one prefix.
    #[error(
        "the ports that hold for one prefix come to {ranges} ranges, of which there may be {MAX_PORT_RUN}; \
         most are in this rule"
    )]
    Prefix {
        /// How many it has.
        ranges: usize,
        /// The rule that holds for it and has most ports.
        rule: u32,
    },
    /// In all.
    #[error(
        "the prefixes come to more than {MAX_PORT_RANGES} ranges of ports: each has those of the wider ones too"
    )]
    Total {
        /// The rule that has most ports.
        rule: u32,
    },
}

impl TooManyRanges {
    /// The rule to change.
    #[must_use]
    pub fn rule(&self) -> u32 {
        match self {
            Self::Prefix { rule, .. } | Self::Total { rule } => *rule,
        }
    }
}

/// A rule, and whether it is about listening.
type Claimant<'a> = (&'a NetRule, bool);

/// Of several with as many ports the first.
fn most_ports<'a>(rules: &[Claimant<'a>]) -> Option<&'a NetRule> {
    rules.iter().map(|(rule, _)| *rule).rev().max_by_key(|rule| rule.ports.len())
}

/// Compiles the rules on destinations, and those on listening beside them: each prefix carries what all prefixes that cover
/// it say, so the longest match decides alone. `built_in` is the rule that denies [`METADATA`] wherever a rule does not name
/// it exactly.
///
/// # Errors
/// If the ranges of a prefix are more than the kernel programs search.
pub fn compile(
    destinations: &[NetRule],
    listen: &[NetRule],
    built_in: u32,
) -> Result<Compiled, TooManyRanges> {
    let metadata: BTreeMap<u128, NetRule> =
        METADATA.iter().map(|addr| (key(&(*addr).into()).0, denial(*addr, built_in))).collect();
    let mut sorted: Vec<(u128, u8, bool, Vec<Claimant<'_>>)> = Vec::new();
    let rules: Vec<Claimant<'_>> = destinations
        .iter()
        .chain(metadata.values())
        .map(|rule| (rule, false))
        .chain(listen.iter().map(|rule| (rule, true)))
        .collect();
    let mut keyed: Vec<_> = rules.iter().map(|rule| (key(&rule.0.prefix), *rule)).collect();
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
    // What a wide prefix allows is not meant for 0.0.0.0, through which a bound socket reaches its own address.
    let covered = sorted.iter().any(|entry| entry.2 && covers((entry.0, entry.1), UNSPECIFIED));
    if covered && !sorted.iter().any(|entry| entry.2 && (entry.0, entry.1) == UNSPECIFIED) {
        sorted.push((UNSPECIFIED.0, UNSPECIFIED.1, true, Vec::new()));
        sorted.sort_by_key(|entry| (entry.0, entry.1, entry.2));
    }
    let (mut prefixes, mut ports) = (Vec::new(), Vec::new());
    // Sorted by address, then length: the prefixes that cover an entry are on the stack when it is reached.
    let mut stack: Vec<usize> = Vec::new();
    for index in 0..sorted.len() {
        let (addr, length, is_v4, _) = &sorted[index];
        stack.retain(|outer| covers((sorted[*outer].0, sorted[*outer].1), (*addr, *length)));
        stack.push(index);
        let applicable: Vec<Claimant<'_>> = stack
            .iter()
            .filter(|outer| sorted[**outer].2 == *is_v4)
            .flat_map(|outer| &sorted[*outer].3)
            .filter(|(rule, listens)| {
                *listens || rule.deny || (*addr, *length) != UNSPECIFIED || key(&rule.prefix).1 == *length
            })
            .copied()
            .collect();
        // What else has this prefix names the address exactly.
        let own = metadata.get(addr).filter(|_| *length == 128);
        let ranges = merge(&applicable, |rule| {
            let says_exactly = own.is_some() && key(&rule.prefix).1 == 128;
            match (rule.deny, says_exactly) {
                (true, _) if own.is_some_and(|own| std::ptr::eq(own, rule)) => Rank::BuiltIn,
                (true, _) => Rank::Deny,
                (false, true) => Rank::Exact,
                (false, false) => Rank::Allow,
            }
        });
        if ranges.len() > MAX_PORT_RUN
            && let Some(most) = most_ports(&applicable)
        {
            return Err(TooManyRanges::Prefix { ranges: ranges.len(), rule: most.rule });
        }
        if ports.len() + ranges.len() > MAX_PORT_RANGES
            && let Some(most) = most_ports(&rules)
        {
            return Err(TooManyRanges::Total { rule: most.rule });
        }
        prefixes.push((
            addr.to_be_bytes(),
            *length,
            PortRun { first: ports.len() as u32, len: ranges.len() as u32 },
        ));
        ports.extend(ranges);
    }
    Ok((prefixes, ports))
}

/// The built-in denial of an address.
fn denial(addr: IpAddr, rule: u32) -> NetRule {
    NetRule { prefix: addr.into(), ports: vec![(0, u16::MAX)], tcp: true, udp: true, deny: true, rule }
}

/// What a rule counts for: the greatest decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// An allow.
    Allow,
    /// A built-in denial.
    BuiltIn,
    /// An allow that names what a built-in denial is about.
    Exact,
    /// A denial.
    Deny,
}

impl Rank {
    fn verdict(self) -> u32 {
        match self {
            Self::Allow | Self::Exact => PORT_ALLOW,
            Self::BuiltIn | Self::Deny => PORT_DENY,
        }
    }
}

/// What is claimed and by which rule: of equal ones the lowest rule is named.
type Claim = (Rank, Reverse<u32>);

/// Disjoint sorted ranges.
fn merge(rules: &[Claimant<'_>], rank: impl Fn(&NetRule) -> Rank) -> Vec<PortRange> {
    let mut out: Vec<PortRange> = Vec::new();
    for protocol in [TCP, UDP, TCP | LISTEN, UDP | LISTEN] {
        // What begins and ends at each port.
        let mut edges: BTreeMap<u32, Vec<(bool, Claim)>> = BTreeMap::new();
        let about = |(rule, listens): &&Claimant<'_>| {
            *listens == (protocol & LISTEN != 0)
                && if protocol & !LISTEN == TCP { rule.tcp } else { rule.udp }
        };
        for (rule, _) in rules.iter().filter(about) {
            let claim = (rank(rule), Reverse(rule.rule));
            for (low, high) in &rule.ports {
                edges.entry(u32::from(*low)).or_default().push((true, claim));
                edges.entry(u32::from(*high) + 1).or_default().push((false, claim));
            }
        }
        let mut claims: BTreeMap<Claim, usize> = BTreeMap::new();
        let mut edges = edges.into_iter().peekable();
        while let Some((low, changes)) = edges.next() {
            for (begins, claim) in changes {
                let count = claims.entry(claim).or_default();
                *count = if begins { *count + 1 } else { count.wrapping_sub(1) };
            }
            claims.retain(|_, count| *count != 0);
            // Behind the last edge nothing is claimed.
            let Some((end, _)) = edges.peek() else { break };
            let Some(((rank, Reverse(rule)), _)) = claims.last_key_value() else { continue };
            let verdict = rank.verdict();
            let (low, high) = (port_key(protocol, low as u16), port_key(protocol, (end - 1) as u16));
            match out.last_mut() {
                Some(last) if last.high + 1 == low && (last.verdict, last.rule) == (verdict, *rule) => {
                    last.high = high;
                }
                _ => out.push(PortRange { low, high, rule: *rule, verdict }),
            }
        }
    }
    out
}

/// What the compiled rules say, as the kernel programs find it: the range that decides. `protocol` as in a [`port_key`].
#[must_use]
pub fn lookup(
    prefixes: &[Prefix],
    ports: &[PortRange],
    addr: u128,
    protocol: u32,
    port: u16,
) -> Option<PortRange> {
    let (_, _, run) = prefixes
        .iter()
        .filter(|(prefix, length, _)| covers((u128::from_be_bytes(*prefix), *length), (addr, 128)))
        .max_by_key(|(_, length, _)| *length)?;
    let wanted = port_key(protocol, port);
    let ranges = ports.get(run.first as usize..)?.get(..run.len as usize)?;
    let index = ranges.partition_point(|range| range.high < wanted);
    ranges.get(index).filter(|range| range.low <= wanted).copied()
}

#[cfg(test)]
mod tests {
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
            let range =
                lookup(&compile(rules, &[]).unwrap(), mapped(addr.parse().unwrap()), TCP, port).unwrap();
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
}
