//! What a name server's answer says about a name, and what of it a scope is given. Pure.
//!
//! Of a message only the records on the way from the name asked for are looked at. What a client gets is built from them.

use std::{collections::HashSet, net::IpAddr};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{
            A, AAAA, HTTPS, SVCB,
            svcb::{IpHint, Mandatory, SvcParamKey, SvcParamValue},
        },
    },
};

use super::{
    name::Key,
    table::{Cover, Covered, NameTable, Passage},
};

/// Most CNAMEs from a name to its addresses.
pub const MAX_CHAIN: usize = 16;
/// Most records of a name; what is more is in no answer and is not granted.
pub const MAX_RECORDS: usize = 64;
/// Bounds of the time that an answer is remembered and may be used, in seconds.
pub const TTL: (u32, u32) = (5, 3600);

/// What is known about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Names that it leads to, in order.
    pub chain: Vec<Name>,
    /// What the last of them has.
    pub data: Data,
    /// Seconds for which it holds, within bounds.
    pub ttl: u32,
}

/// What a name has of the type asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// Services.
    Services(Vec<SVCB>),
    /// Records of a type that only scopes are given in which nothing is enforced.
    Others(Vec<RData>),
    /// Nothing of this type.
    Nothing,
    /// It does not exist.
    Nonexistent,
    /// The answer ends with the last name of the chain and says nothing about it.
    Open,
}

/// Why an answer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A name leads back to one before.
    #[error("its CNAMEs go in a circle, by {0}")]
    Circle(String),
    /// Too long.
    #[error("it leads to another name more than {MAX_CHAIN} times")]
    Long,
    /// The server did not answer.
    #[error("the answer is {0}")]
    Code(ResponseCode),
}

/// Reads an answer to a question for a name.
pub fn read(message: &Message, name: &Name, kind: RecordType) -> Result<Facts, Unusable> {
    let code = message.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Err(Unusable::Code(code));
    }
    let mut chain: Vec<Name> = Vec::new();
    let mut ttl = TTL.1;
    let answers = &message.answers;
    loop {
        let current = chain.last().unwrap_or(name);
        let Some((record, target)) = answers.iter().find_map(|record| cname(record, current)) else { break };
        if target == name || chain.contains(target) {
            return Err(Unusable::Circle(Key::of(target).to_string()));
        }
        if chain.len() >= MAX_CHAIN {
            return Err(Unusable::Long);
        }
        ttl = ttl.min(record.ttl);
        // The case may be that of our own question, which is nobody's business.
        chain.push(target.to_lowercase());
    }
    let current = chain.last().unwrap_or(name);
    let of_it = |record: &&Record| {
        record.record_type() == kind
            && record.dns_class == hickory_proto::rr::DNSClass::IN
            && record.name == *current
    };
    let mut records: Vec<&Record> = answers.iter().filter(of_it).collect();
    records.truncate(MAX_RECORDS);
    ttl = records.iter().map(|record| record.ttl).fold(ttl, u32::min);
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut services: Vec<SVCB> = Vec::new();
    let mut others: Vec<RData> = Vec::new();
    for record in records {
        match &record.data {
            RData::A(A(address)) => add(&mut addresses, (*address).into()),
            RData::AAAA(AAAA(address)) => add(&mut addresses, (*address).into()),
            RData::HTTPS(HTTPS(service)) | RData::SVCB(service) => services.push(service.clone()),
            other => others.push(other.clone()),
        }
    }
    let data = if !addresses.is_empty() {
        Data::Addresses(addresses)
    } else if !services.is_empty() {
        Data::Services(services)
    } else if !others.is_empty() {
        Data::Others(others)
    } else {
        let (data, negative) = nothing(message, current, !chain.is_empty());
        ttl = ttl.min(negative);
        data
    };
    Ok(Facts { chain, data, ttl: ttl.clamp(TTL.0, TTL.1) })
}

fn add(addresses: &mut Vec<IpAddr>, address: IpAddr) {
    if !addresses.contains(&address) {
        addresses.push(address);
    }
}

fn cname<'a>(record: &'a Record, owner: &Name) -> Option<(&'a Record, &'a Name)> {
    match &record.data {
        RData::CNAME(target) if record.name == *owner => Some((record, &target.0)),
        _ => None,
    }
}

/// What an answer without records means, and for how long (RFC 2308).
fn nothing(message: &Message, name: &Name, led: bool) -> (Data, u32) {
    let negative = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) if record.name.zone_of(name) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    match (message.metadata.response_code, negative) {
        (ResponseCode::NXDomain, negative) => (Data::Nonexistent, negative.unwrap_or(TTL.0)),
        (_, Some(negative)) => (Data::Nothing, negative),
        (_, None) if led => (Data::Open, TTL.1),
        (_, None) => (Data::Nothing, TTL.0),
    }
}

/// What a scope is given of what is known.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names that the one asked for leads to.
    pub chain: Vec<Name>,
    /// Records.
    pub data: Vec<RData>,
    /// Addresses that have to be allowed before they are given.
    pub grant: Vec<IpAddr>,
    /// Addresses that are left out, and what the first is.
    pub refused: Vec<IpAddr>,
    /// What the first of them is.
    pub what: &'static str,
    /// A name on the way is denied by this rule.
    pub denied: Option<u32>,
}

/// Selects what a scope is given of the facts about a name. `own` are this host's addresses.
pub fn select(
    table: &NameTable,
    own: &HashSet<IpAddr>,
    asked: &Key,
    covered: &Covered,
    facts: &Facts,
    kind: RecordType,
) -> Selection {
    let mut selection = Selection::default();
    for name in &facts.chain {
        if let (true, Cover::Denied(rule)) = (table.enforces(), table.cover(&Key::of(name))) {
            selection.denied = Some(rule);
            return selection;
        }
    }
    let refuse = |selection: &mut Selection, address: IpAddr, what: &'static str| {
        if selection.refused.is_empty() {
            selection.what = what;
        }
        selection.refused.push(address);
        !table.enforces()
    };
    let lets = |selection: &mut Selection, address: IpAddr| match table.passage(asked, covered, address) {
        Passage::Granted if own.contains(&address) && !table.may_be_private(asked) => {
            refuse(selection, address, "this host's")
        }
        Passage::Granted => {
            if !selection.grant.contains(&address) {
                selection.grant.push(address);
            }
            true
        }
        Passage::Given => true,
        Passage::Refused(what) => refuse(selection, address, what),
    };
    match &facts.data {
        Data::Addresses(addresses) => {
            selection.chain.clone_from(&facts.chain);
            for address in addresses {
                if lets(&mut selection, *address) {
                    selection.data.push(match address {
                        IpAddr::V4(address) => RData::A(A(*address)),
                        IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
                    });
                }
            }
        }
        Data::Services(services) => {
            // Given as if the name itself had them: a client looks up what "." means, the owner, and may not ask for
            // the names on the way.
            for service in services {
                let own = is_own(service, asked, facts.chain.last());
                if !own
                    && table.enforces()
                    && !matches!(table.cover(&Key::of(&service.target_name)), Cover::By(_))
                {
                    continue;
                }
                let service = without_secrets(service, own, |address| lets(&mut selection, address));
                selection.data.extend(service.map(|service| match kind {
                    RecordType::HTTPS => RData::HTTPS(HTTPS(service)),
                    _ => RData::SVCB(service),
                }));
            }
        }
        Data::Others(records) => {
            selection.chain.clone_from(&facts.chain);
            if !table.enforces() {
                selection.data.clone_from(records);
            }
        }
        Data::Nothing | Data::Nonexistent | Data::Open => selection.chain.clone_from(&facts.chain),
    }
    selection
}

/// Whether a service is at the name asked for.
fn is_own(service: &SVCB, asked: &Key, last: Option<&Name>) -> bool {
    let target = &service.target_name;
    target.is_root() || Key::of(target) == *asked || last == Some(target)
}

/// Those of a service's hints that are let through; `None`: there are none.
fn kept<T: Copy>(hints: &[T], mut lets: impl FnMut(&T) -> bool) -> Option<Vec<T>> {
    let kept: Vec<T> = hints.iter().take(MAX_RECORDS).filter(|hint| lets(hint)).copied().collect();
    (!kept.is_empty()).then_some(kept)
}

/// A service without the keys to an encrypted hello, which would hide the name from whoever looks at connections later,
/// without what is not known here, and with the addresses that are let through. `None` if it is of no use so.
fn without_secrets(service: &SVCB, own: bool, mut lets: impl FnMut(IpAddr) -> bool) -> Option<SVCB> {
    let mut params: Vec<(SvcParamKey, SvcParamValue)> = Vec::new();
    // An alias (priority 0) has none: whoever reads it must pass them over (RFC 9460, 2.4.2).
    let given = if service.svc_priority == 0 { &[][..] } else { &service.svc_params[..] };
    let mut mandatory: Vec<SvcParamKey> = Vec::new();
    for (_, value) in given {
        if let SvcParamValue::Mandatory(Mandatory(keys)) = value {
            mandatory.clone_from(keys);
        }
    }
    // Hints only help; who left out anything else that is needed would lead the client astray. Before any address is let
    // through: what is not given must not be granted.
    mandatory.retain(|key| !matches!(key, SvcParamKey::Ipv4Hint | SvcParamKey::Ipv6Hint));
    let is_kept = |value: &SvcParamValue| {
        matches!(value, SvcParamValue::Alpn(_) | SvcParamValue::NoDefaultAlpn | SvcParamValue::Port(_))
    };
    if !mandatory.iter().all(|key| given.iter().any(|(other, value)| other == key && is_kept(value))) {
        return None;
    }
    for (key, value) in given {
        let value = match value {
            SvcParamValue::Mandatory(_) => continue,
            SvcParamValue::Ipv4Hint(IpHint(hints)) => {
                let kept = kept(hints, |hint| own && lets(hint.0.into()));
                kept.map(|kept| SvcParamValue::Ipv4Hint(IpHint(kept)))
            }
            SvcParamValue::Ipv6Hint(IpHint(hints)) => {
                let kept = kept(hints, |hint| own && lets(hint.0.into()));
                kept.map(|kept| SvcParamValue::Ipv6Hint(IpHint(kept)))
            }
            value => is_kept(value).then(|| value.clone()),
        };
        params.extend(value.map(|value| (*key, value)));
    }
    if !mandatory.is_empty() {
        params.insert(0, (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(mandatory))));
    }
    let target = if own { Name::root() } else { service.target_name.clone() };
    Some(SVCB::new(service.svc_priority, target, params))
}
