//! Rules on names: `api.example.test:443/tcp`, `*.example.test:443`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::Ipv4Addr,
};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use stockade_common::net::{GRANTS, TCP, UDP, port_key};

use super::{
    checked::{CheckedPolicy, NameRule},
    diagnostic::Diagnostic,
    rule::{self, Endpoint, Refusal, refuse},
};

/// Longest name, in bytes, without the dot at the end.
pub const MAX_NAME: usize = 253;
/// Longest label, in bytes.
pub const MAX_LABEL: usize = 63;

/// What a rule on a name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Lower case, in its ASCII form, without the dot at the end.
    pub name: String,
    /// Every name below it, and not the name itself.
    pub below: bool,
    /// Inclusive ranges.
    pub ports: Vec<(u16, u16)>,
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

/// `name[:ports][/proto]`, or `*.name[:ports][/proto]`.
///
/// # Errors
/// See [`host`]; a bad port or protocol; more ranges of ports than one address can be given.
pub fn named(text: &str) -> Result<Named, Refusal> {
    let Endpoint { host, ports, tcp, udp } = rule::endpoint(text)?;
    let (name, below) = self::host(host)?;
    let named = Named { name, below, ports, tcp, udp };
    let count = named.ports.len() * (usize::from(tcp) + usize::from(udp));
    if count > GRANTS {
        return refuse(
            format!("{count} ranges of ports, counted for TCP and UDP: a name can have {GRANTS}"),
            "write wider ranges, name the protocol (`/tcp`), or take the ports out: any port is one range",
        );
    }
    Ok(named)
}

/// Whether what stands where an address could stand is meant as a name.
#[must_use]
pub fn is_name(host: &str) -> bool {
    !host.contains([':', '/', '[', ']']) && host.parse::<Ipv4Addr>().is_err() && !looks_like_an_address(host)
}

/// Digits and dots, as addresses are mistyped; other notations of addresses are refused as names.
fn looks_like_an_address(host: &str) -> bool {
    host.contains('.') && host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// A name, or a wildcard on names: the ASCII form in lower case, and whether all below it is meant.
///
/// # Errors
/// No name, one that is an address in another notation, a wildcard elsewhere than in front, this host's own name.
pub fn host(text: &str) -> Result<(String, bool), Refusal> {
    let (rest, below) = match text.strip_prefix("*.") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    if matches!(text, "*" | "*." | "**") {
        return refuse(
            "`*` is every name there is",
            "name the zones: \"*.example.test:443\"; if any destination is meant, allow the prefixes 0.0.0.0/0 and ::/0",
        );
    }
    if rest.contains(['*', '?', '{', '}']) {
        return refuse(
            format!("{text:?}: a wildcard is a whole label, and the first"),
            "`*.example.test` is every name below example.test, at any depth; write other names one by one",
        );
    }
    let rest = rest.strip_suffix('.').unwrap_or(rest);
    if rest.is_empty() || rest.split('.').any(str::is_empty) {
        return refuse(format!("{text:?} has an empty label"), "write for example \"api.example.test:443\"");
    }
    let name = ascii(rest)?;
    if let Some(label) = name.split('.').next_back()
        && is_number(label)
    {
        return match odd_address(&name) {
            Some(addr) => refuse(
                format!("{text:?} is the address {addr}, which some programs read in this notation"),
                &format!("write the address: \"{addr}\""),
            ),
            None => refuse(
                format!("{text:?} is neither an address nor a name: no name ends in a number"),
                "write for example 192.0.2.7, [2001:db8::7] or api.example.test",
            ),
        };
    }
    if name == "localhost" || name.ends_with(".localhost") {
        return refuse(
            format!("{text:?} is this host itself, of which DNS does not decide"),
            "write \"loopback:own\" for what the workload itself listens on, or the address: \"127.0.0.1:8080\"",
        );
    }
    Ok((name, below))
}

fn ascii(text: &str) -> Result<String, Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if let Some(bad) = text.chars().find(|c| c.is_ascii() && !plain(*c)) {
        let help = match bad {
            '@' => "name the host alone: what is before the `@` is the user",
            '/' => "a rule names a host, not what is asked of it: \"api.example.test:443\"",
            ' ' => "write one rule for each name",
            _ => "names are letters, digits, `-`, `_` and dots",
        };
        return refuse(format!("{bad:?} is in no name"), help);
    }
    let name =
        match Uts46::new().to_ascii(text.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
        {
            Ok(name) => name.into_owned(),
            Err(_) => {
                return refuse(
                    format!("{text:?} is no internationalised name"),
                    "look at how it is spelt, or write its ASCII form (xn--...)",
                );
            }
        };
    // What the mapping has made of other characters.
    if let Some(bad) = name.chars().find(|c| !plain(*c)) {
        return refuse(format!("{text:?} comes to {name:?}: {bad:?} is in no name"), "write its ASCII form");
    }
    if name.split('.').any(str::is_empty) {
        return refuse(format!("{text:?} has an empty label"), "write for example \"api.example.test:443\"");
    }
    if let Some(label) = name.split('.').find(|label| label.len() > MAX_LABEL) {
        return refuse(
            format!("the label {label:?} has {} bytes, {MAX_LABEL} are allowed", label.len()),
            "look at how it is spelt: DNS has no longer ones",
        );
    }
    if name.len() > MAX_NAME {
        return refuse(
            format!("the name has {} bytes, {MAX_NAME} are allowed", name.len()),
            "look at how it is spelt: DNS has no longer ones",
        );
    }
    Ok(name)
}

/// As `inet_aton` and URLs read it.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x");
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// The address that `inet_aton` makes of it.
fn odd_address(name: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| {
        if let Some(digits) = part.strip_prefix("0x") {
            return if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 16).ok() };
        }
        let radix = if part.len() > 1 && part.starts_with('0') { 8 } else { 10 };
        u64::from_str_radix(part, radix).ok()
    };
    let parts = name.split('.').map(number).collect::<Option<Vec<u64>>>()?;
    let (last, front) = parts.split_last()?;
    if front.len() > 3 || front.iter().any(|part| *part > 255) || *last >= 1 << (8 * (4 - front.len())) {
        return None;
    }
    let front = (0u32..).zip(front).fold(0, |sum, (index, part)| sum | part << (24 - 8 * index));
    Some(Ipv4Addr::from((front | last) as u32))
}

/// Whether a rule covers a name in its ASCII form, in lower case.
#[must_use]
pub fn covers(rule: &NameRule, name: &str) -> bool {
    if rule.below {
        name.strip_suffix(&rule.name).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
    } else {
        rule.name == name
    }
}

/// What rules allow an address that a name they cover was answered with: disjoint sorted ranges of
/// [`port_key`]s, each with the rule of the lowest number.
#[must_use]
pub fn ranges<'a>(rules: impl IntoIterator<Item = &'a NameRule>) -> Vec<(u32, u32, u32)> {
    let mut claims: Vec<(u32, u32, u32)> = Vec::new();
    for rule in rules.into_iter().filter(|rule| !rule.deny) {
        for protocol in [(rule.tcp, TCP), (rule.udp, UDP)].into_iter().filter(|(is, _)| *is) {
            claims.extend(
                rule.ports
                    .iter()
                    .map(|(low, high)| (port_key(protocol.1, *low), port_key(protocol.1, *high), rule.rule)),
            );
        }
    }
    let mut edges: Vec<u32> = claims.iter().flat_map(|(low, high, _)| [*low, *high + 1]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut out: Vec<(u32, u32, u32)> = Vec::new();
    for pair in edges.windows(2) {
        let covering = claims.iter().filter(|(low, high, _)| *low <= pair[0] && pair[0] <= *high);
        let Some(rule) = covering.map(|(_, _, rule)| *rule).min() else { continue };
        match out.last_mut() {
            Some(last) if last.1 + 1 == pair[0] && last.2 == rule => last.1 = pair[1] - 1,
            _ => out.push((pair[0], pair[1] - 1, rule)),
        }
    }
    out
}

/// Rules by the name they name.
#[derive(Debug, Default)]
pub struct Index<'a>(HashMap<&'a str, Vec<&'a NameRule>>);

impl<'a> Index<'a> {
    /// Of some rules.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = &'a NameRule>) -> Self {
        let mut index: HashMap<&str, Vec<&NameRule>> = HashMap::new();
        for rule in rules {
            index.entry(&rule.name).or_default().push(rule);
        }
        Self(index)
    }

    /// The rules that cover a name, or with `below` all names below it.
    #[must_use]
    pub fn covering(&self, name: &str, below: bool) -> Vec<&'a NameRule> {
        let own = self.0.get(name).into_iter().flatten().filter(|rule| rule.below == below);
        let starts = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        let above = starts.filter_map(|start| self.0.get(start)).flatten().filter(|rule| rule.below);
        own.chain(above).copied().collect()
    }
}

/// A complaint about each name whose rules come to more ranges of ports than an address can be given.
#[must_use]
pub fn too_many_ranges(policy: &CheckedPolicy) -> Vec<Diagnostic> {
    let index = Index::new(&policy.names);
    let mut complaints = BTreeMap::new();
    let mut seen = HashSet::new();
    for rule in policy.names.iter().filter(|rule| !rule.deny && seen.insert((&rule.name, rule.below))) {
        let covering = index.covering(&rule.name, rule.below);
        // Most names have one rule, and that has been looked at.
        if covering.len() == 1 {
            continue;
        }
        let ranges = ranges(covering.iter().copied());
        if ranges.len() > GRANTS {
            let message = format!(
                "the rules that cover {} come to {} ranges of ports: a name can have {GRANTS}",
                shown(rule),
                ranges.len()
            );
            let help = Some("write wider ranges, or name the protocol".to_owned());
            complaints
                .entry(rule.rule)
                .or_insert_with(|| policy.diagnostic(rule.rule, Refusal { message, help }));
        }
    }
    complaints.into_values().collect()
}

/// Rules that allow nothing since a denial of the same author covers them, each with the denial.
pub(super) fn dead(policy: &CheckedPolicy, same_author: impl Fn(u32, u32) -> bool) -> BTreeMap<u32, u32> {
    let (denied, allowed): (Vec<&NameRule>, Vec<&NameRule>) = policy.names.iter().partition(|rule| rule.deny);
    let denied = Index::new(denied);
    let denial = |rule: &NameRule| {
        let around = denied.covering(&rule.name, rule.below);
        around.into_iter().find(|denial| same_author(denial.rule, rule.rule)).map(|denial| denial.rule)
    };
    allowed.into_iter().filter_map(|rule| Some((rule.rule, denial(rule)?))).collect()
}

/// A name, and whether those below are meant instead, as it is written.
#[must_use]
pub fn written((name, below): &(String, bool)) -> String {
    if *below { format!("*.{name}") } else { name.clone() }
}

/// As it is written.
#[must_use]
pub fn shown(rule: &NameRule) -> String {
    if rule.below { format!("*.{}", rule.name) } else { rule.name.clone() }
}

#[cfg(test)]
mod tests;
