//! Which names a policy's rules cover, and what for. A look-up costs a hash for each label, however many names there are.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use stockade_common::{
    file::NO_RULE,
    net::{TCP, UDP, port_key},
};

use super::{
    address::{Standing, standing},
    name::Key,
};
use crate::policy::checked::{DnsSettings, Mode, NameRule, NetRule};

/// What a table is made from.
#[derive(Debug, Clone, Copy)]
pub struct TableInput<'a> {
    /// Rules on names.
    pub names: &'a [NameRule],
    /// Rules on destinations: an address that one of them allows anyway may stand in an answer, without a grant.
    pub destinations: &'a [NetRule],
    /// Whether denials are enforced. If not, questions are answered whatever rules say, and told of.
    pub mode: Mode,
    /// `[network.dns]`.
    pub settings: &'a DnsSettings,
    /// Names, and whether those below are meant instead, that may have addresses of private networks.
    pub private: &'a [(String, bool)],
}

/// Rules on names, compiled.
#[derive(Debug, Default)]
pub struct NameTable {
    entries: Vec<Entry>,
    exact: HashMap<Key, Vec<u32>>,
    below: HashMap<Key, Vec<u32>>,
    private: HashSet<Key>,
    private_below: HashSet<Key>,
    /// Rules that allow something that is not public: few, if any.
    inside: Vec<(IpNet, Ranges)>,
    settings: DnsSettings,
    mode: Mode,
}

/// Inclusive ranges of [`port_key`], sorted, with neighbours merged.
type Ranges = Box<[(u32, u32)]>;

#[derive(Debug)]
struct Entry {
    rule: u32,
    deny: bool,
    ranges: Ranges,
}

/// What rules say of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cover {
    /// No rule covers it.
    Nothing,
    /// This rule denies it.
    Denied(u32),
    /// It is covered.
    By(Covered),
}

/// By what a name is covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// Indices of entries, sorted.
    entries: Vec<u32>,
    /// The rule to name: of the exact name, or else of the longest one above it.
    pub rule: u32,
    /// Bytes of its labels that no rule spells out.
    pub unspelled: usize,
}

impl Covered {
    /// By no rule: it is answered where nothing is enforced, and allowed nothing.
    pub fn by_nothing(name: &Key) -> Self {
        Self { entries: Vec::new(), rule: NO_RULE, unspelled: name.bytes().len() }
    }

    /// Whether any rule covers it.
    pub fn is_by_rule(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Whether the same rules cover both.
    pub fn has_the_rules_of(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

/// What becomes of an address in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It is granted and given.
    Granted,
    /// It is given; a rule on destinations allows it.
    Given,
    /// It is left out; what it is.
    Refused(&'static str),
}

impl NameTable {
    /// Compiles rules. Those whose name cannot be one cover nothing.
    #[must_use]
    pub fn new(input: &TableInput<'_>) -> Self {
        let TableInput { names, destinations, mode, settings, private } = *input;
        let mut table = Self { settings: *settings, mode, ..Self::default() };
        for NameRule { name, below, ports, tcp, udp, deny, rule } in names {
            let Some(key) = Key::parse(name) else { continue };
            let index = u32::try_from(table.entries.len()).unwrap_or(u32::MAX);
            table.entries.push(Entry { rule: *rule, deny: *deny, ranges: ranges(ports, *tcp, *udp) });
            let map = if *below { &mut table.below } else { &mut table.exact };
            map.entry(key).or_default().push(index);
        }
        for (name, below) in private {
            let Some(key) = Key::parse(name) else { continue };
            if *below {
                table.private_below.insert(key)
            } else {
                table.private.insert(key)
            };
        }
        for NetRule { prefix, ports, tcp, udp, deny, rule: _ } in destinations {
            if !deny && reaches_inside(prefix) {
                table.inside.push((*prefix, ranges(ports, *tcp, *udp)));
            }
        }
        table
    }

    /// `[network.dns]`.
    #[must_use]
    pub fn settings(&self) -> &DnsSettings {
        &self.settings
    }

    /// Whether denials are enforced.
    #[must_use]
    pub fn enforces(&self) -> bool {
        self.mode == Mode::Enforce
    }

    /// What rules say of a name. A denial counts whatever else covers it.
    pub(super) fn cover(&self, name: &Key) -> Cover {
        let mut entries = Vec::new();
        let mut nearest: Option<(u32, usize)> = None;
        let spelled = std::iter::once((&self.exact, name.bytes()));
        for (map, suffix) in spelled.chain(name.above().map(|suffix| (&self.below, suffix))) {
            for index in map.get(suffix).into_iter().flatten() {
                let Some(entry) = self.entries.get(*index as usize) else { continue };
                if entry.deny {
                    return Cover::Denied(entry.rule);
                }
                entries.push(*index);
                nearest.get_or_insert((entry.rule, name.bytes().len() - suffix.len()));
            }
        }
        entries.sort_unstable();
        match nearest {
            Some((rule, unspelled)) => Cover::By(Covered { entries, rule, unspelled }),
            None => Cover::Nothing,
        }
    }

    /// What a name that is covered is allowed: rules and their ranges of port keys.
    pub(super) fn ranges(&self, covered: &Covered) -> impl Iterator<Item = (u32, u32, u32)> {
        covered
            .entries
            .iter()
            .filter_map(|index| self.entries.get(*index as usize))
            .flat_map(|entry| entry.ranges.iter().map(move |(low, high)| (*low, *high, entry.rule)))
    }

    /// What becomes of an address that a name was answered with.
    pub(super) fn passage(&self, name: &Key, covered: &Covered, address: IpAddr) -> Passage {
        match standing(address) {
            Standing::Public => Passage::Granted,
            Standing::Never(what) => Passage::Refused(what),
            Standing::Private if self.may_be_private(name) => Passage::Granted,
            Standing::Private if self.is_allowed_inside(covered, address) => Passage::Given,
            Standing::Private => Passage::Refused("of a private network"),
        }
    }

    /// Whether a name may have addresses that are not public.
    pub(super) fn may_be_private(&self, name: &Key) -> bool {
        self.private.contains(name.bytes()) || name.above().any(|above| self.private_below.contains(above))
    }

    fn is_allowed_inside(&self, covered: &Covered, address: IpAddr) -> bool {
        self.inside.iter().filter(|(prefix, _)| prefix.contains(&address)).any(|(_, allowed)| {
            self.ranges(covered)
                .any(|(low, high, _)| allowed.iter().any(|(first, last)| low <= *last && *first <= high))
        })
    }
}

/// Whether a prefix has addresses that are not public: by its first and last one, and by size.
fn reaches_inside(prefix: &IpNet) -> bool {
    const PRIVATE: [&str; 9] = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "fc00::/7",
        "fec0::/10",
        "64:ff9b::/32",
        "2002::/16",
        "2000::/3",
    ];
    PRIVATE
        .iter()
        .filter_map(|text| text.parse::<IpNet>().ok())
        .any(|private| private.contains(prefix) || prefix.contains(&private))
}

fn ranges(ports: &[(u16, u16)], tcp: bool, udp: bool) -> Ranges {
    let mut merged: BTreeMap<u32, u32> = BTreeMap::new();
    let mut sorted = ports.to_vec();
    sorted.sort_unstable();
    for protocol in
        [(TCP, tcp), (UDP, udp)].into_iter().filter_map(|(protocol, wanted)| wanted.then_some(protocol))
    {
        for (first, last) in &sorted {
            let (low, high) = (port_key(protocol, *first), port_key(protocol, *last));
            match merged.range_mut(..=low).next_back() {
                Some((before, until)) if *before >> 16 == protocol && *until + 1 >= low => {
                    *until = high.max(*until);
                }
                _ => {
                    merged.insert(low, high);
                }
            }
        }
    }
    merged.into_iter().collect()
}

#[cfg(test)]
mod tests;
