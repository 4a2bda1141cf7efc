//! What the kernel has been told for one scope: for each address the names that were answered with it, and until when. All of
//! it can be told again, for another policy.

use std::{collections::HashMap, net::IpAddr};

use stockade_common::{
    limits::MAX_GRANTED,
    net::{GRANTS, Grant, Granted, PrefixData},
};

use super::{
    name::Key,
    table::{Cover, Covered, NameTable, Passage},
};

/// Most names that are remembered for one address.
const MAX_NAMES: usize = 32;

/// What names allow for addresses.
#[derive(Debug, Default)]
pub struct Ledger {
    addresses: HashMap<PrefixData, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Names that were answered with the address, and when that is over.
    names: Vec<(Key, u32)>,
    granted: Granted,
}

/// That a name was answered with an address, for the daemon that comes after.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// The name asked for.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// Seconds since boot from which it no longer holds.
    pub expires: u32,
}

/// A step that the kernel has to take, and ours after it.
#[derive(Debug)]
pub struct Change {
    /// Address.
    pub address: PrefixData,
    /// What it is allowed now.
    pub granted: Granted,
    /// What it was allowed before, if anything.
    pub before: Option<Granted>,
    names: Vec<(Key, u32)>,
}

/// Why addresses cannot be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Too many ranges of ports.
    #[error(
        "the names of one address are allowed more than {GRANTS} ranges of ports; write rules for them with the same ports"
    )]
    Ranges,
    /// Too many names.
    #[error("one address has more than {MAX_NAMES} names with different rules")]
    Names,
    /// Too many addresses.
    #[error("{MAX_GRANTED} addresses are allowed by names already")]
    Full,
}

/// An address as the kernel's tables have it.
pub fn prefix_data(address: IpAddr) -> PrefixData {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn address(data: PrefixData) -> IpAddr {
    std::net::Ipv6Addr::from(data).to_canonical()
}

impl Ledger {
    /// Until when a name holds for an address that it was answered with.
    fn holds_until(&self, name: &Key, address: &PrefixData) -> Option<u32> {
        let names = &self.addresses.get(address)?.names;
        names.iter().find(|(known, _)| known == name).map(|(_, until)| *until)
    }

    /// Whether the kernel has been told already that a name holds for all these addresses until `expires`.
    pub fn holds(&self, name: &Key, addresses: &[PrefixData], expires: u32) -> bool {
        addresses.iter().all(|address| self.holds_until(name, address) >= Some(expires))
    }

    /// What has to change so that a name that was answered with these addresses holds for them until `expires`.
    ///
    /// # Errors
    /// If it cannot be; nothing has changed then.
    pub fn prepare(
        &mut self,
        table: &NameTable,
        name: &Key,
        covered: &Covered,
        addresses: &[IpAddr],
        (now, expires): (u32, u32),
    ) -> Result<Vec<Change>, LedgerError> {
        let mut changes: Vec<Change> = Vec::new();
        let mut new = 0;
        for address in addresses.iter().copied().map(prefix_data) {
            let held = self.addresses.get(&address);
            if self.holds(name, &[address], expires) || changes.iter().any(|change| change.address == address)
            {
                continue;
            }
            new += usize::from(held.is_none());
            let mut names = held.map(|held| held.names.clone()).unwrap_or_default();
            names.retain(|(known, until)| known != name && *until > now);
            if names.len() >= MAX_NAMES {
                make_room(table, covered, &mut names)?;
            }
            names.push((name.clone(), expires));
            let granted = granted(table, &names)?;
            changes.push(Change { address, granted, before: held.map(|held| held.granted), names });
        }
        if self.addresses.len() + new > MAX_GRANTED as usize {
            return Err(LedgerError::Full);
        }
        Ok(changes)
    }

    /// The kernel has taken these steps.
    pub fn commit(&mut self, changes: Vec<Change>) {
        for Change { address, granted, before: _, names } in changes {
            self.addresses.insert(address, Entry { names, granted });
        }
    }

    /// Forgets what is over; the addresses for which nothing is left.
    pub fn sweep(&mut self, now: u32) -> Vec<PrefixData> {
        let mut gone = Vec::new();
        self.addresses.retain(|address, held| {
            held.names.retain(|(_, until)| *until > now);
            if held.names.is_empty() {
                gone.push(*address);
            }
            !held.names.is_empty()
        });
        gone
    }

    /// What is left of it under another table, and the addresses that are not because of an error.
    pub fn under(&self, table: &NameTable, now: u32) -> (Self, Vec<(String, LedgerError)>) {
        let (mut left, mut lost) = (Self::default(), Vec::new());
        for (data, held) in &self.addresses {
            let ip = address(*data);
            let names: Vec<_> = held
                .names
                .iter()
                .filter(|(name, until)| {
                    *until > now
                        && matches!(table.cover(name), Cover::By(covered)
                            if table.passage(name, &covered, ip) == Passage::Granted)
                })
                .cloned()
                .collect();
            if names.is_empty() {
                continue;
            }
            match granted(table, &names) {
                Ok(granted) => {
                    left.addresses.insert(*data, Entry { names, granted });
                }
                Err(error) => {
                    lost.push((names.first().map(|(name, _)| name.to_string()).unwrap_or_default(), error));
                }
            }
        }
        (left, lost)
    }

    /// Which names were answered with which addresses.
    pub fn held(&self) -> Vec<Held> {
        let of = |(data, entry): (&PrefixData, &Entry)| {
            let address = address(*data);
            let held = entry.names.iter().map(|(name, expires)| (name.to_string(), *expires));
            held.map(|(name, expires)| Held { name, address, expires }).collect::<Vec<_>>()
        };
        self.addresses.iter().flat_map(of).collect()
    }

    /// Takes over what another has held. It is allowed once a table says so ([`Ledger::under`]).
    pub fn recall(&mut self, held: &[Held]) {
        for Held { name, address, expires } in held {
            let Some(key) = Key::parse(name) else { continue };
            if self.addresses.len() >= MAX_GRANTED as usize {
                return;
            }
            let nothing =
                || Entry { names: Vec::new(), granted: Granted { grants: [Grant::NOTHING; GRANTS] } };
            let names = &mut self.addresses.entry(prefix_data(*address)).or_insert_with(nothing).names;
            if names.len() < MAX_NAMES && !names.iter().any(|(known, _)| *known == key) {
                names.push((key, *expires));
            }
        }
    }

    /// All that it holds.
    pub fn all(&self) -> Vec<(PrefixData, Granted)> {
        self.addresses.iter().map(|(address, held)| (*address, held.granted)).collect()
    }

    /// The name that an address was answered to, by this rule: the one that holds longest.
    pub fn name_of(&self, table: &NameTable, address: PrefixData, rule: u32) -> Option<&Key> {
        let held = self.addresses.get(&address)?;
        let of_rule = |name: &Key| match table.cover(name) {
            Cover::By(covered) => table.ranges(&covered).any(|(_, _, other)| other == rule),
            Cover::Nothing | Cover::Denied(_) => false,
        };
        held.names
            .iter()
            .filter(|(name, _)| of_rule(name))
            .max_by_key(|(_, until)| *until)
            .map(|(name, _)| name)
    }
}

/// Of many names of an address that the same rules cover, the one that is over first says nothing that the others don't.
fn make_room(table: &NameTable, covered: &Covered, names: &mut Vec<(Key, u32)>) -> Result<(), LedgerError> {
    let like = |name: &Key| matches!(table.cover(name), Cover::By(other) if other.has_the_rules_of(covered));
    let oldest =
        names.iter().enumerate().filter(|(_, (name, _))| like(name)).min_by_key(|(_, (_, until))| *until);
    let (index, _) = oldest.ok_or(LedgerError::Names)?;
    names.swap_remove(index);
    Ok(())
}

/// What names come to: the ranges of all of their rules, without those that others hold at least as long for.
fn granted(table: &NameTable, names: &[(Key, u32)]) -> Result<Granted, LedgerError> {
    let mut grants: Vec<Grant> = Vec::new();
    for (name, expires) in names {
        let Cover::By(covered) = table.cover(name) else { continue };
        for (low, high, rule) in table.ranges(&covered) {
            let grant = Grant { low, high, rule, expires: *expires };
            if grants.iter().any(|other| holds_for(other, &grant)) {
                continue;
            }
            grants.retain(|other| !holds_for(&grant, other));
            grants.push(grant);
        }
    }
    grants.sort_unstable_by_key(|grant| (grant.rule, grant.expires, grant.low));
    grants.dedup_by(|next, last| {
        let joins = (next.rule, next.expires, next.low >> 16) == (last.rule, last.expires, last.low >> 16)
            && next.low <= last.high.saturating_add(1);
        if joins {
            last.high = last.high.max(next.high);
        }
        joins
    });
    let mut granted = Granted { grants: [Grant::NOTHING; GRANTS] };
    if grants.len() > GRANTS {
        return Err(LedgerError::Ranges);
    }
    for (place, grant) in granted.grants.iter_mut().zip(grants) {
        *place = grant;
    }
    Ok(granted)
}

fn holds_for(one: &Grant, other: &Grant) -> bool {
    one.low <= other.low && other.high <= one.high && one.expires >= other.expires
}

#[cfg(test)]
mod tests;
