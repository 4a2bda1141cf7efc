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
mod tests;
