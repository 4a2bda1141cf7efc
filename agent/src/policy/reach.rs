//! Rules that can never allow anything, because a denial beside them covers them altogether: a mistake.
//!
//! Only denials of the same author count. Taking back what an extended file or a profile allows is what denials are for.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{
    checked::{Author, CheckedPolicy, NetRule, PathRule},
    diagnostic::Diagnostic,
    globs::{Part, Spelt, parts},
    names,
    rule::Refusal,
};

/// A complaint about each rule that is certainly denied as a whole. What only several denials cover together may be
/// missed.
#[must_use]
pub fn unreachable(policy: &CheckedPolicy) -> Vec<Diagnostic> {
    let mut dead = paths(policy);
    dead.extend(destinations(policy));
    let same_author = |one, other| author(policy, one).is_some_and(|who| author(policy, other) == Some(who));
    dead.extend(names::dead(policy, same_author));
    dead.into_iter()
        .map(|(rule, denial)| {
            let info = &policy.rules[denial as usize];
            let message =
                format!("the rule allows nothing: {:?} ({}) denies all of it", info.text, info.source);
            let help = Some("take the rule out, or narrow the denial: a denial always wins".to_owned());
            policy.diagnostic(rule, Refusal { message, help })
        })
        .collect()
}

/// Whose a rule is, if somebody wrote it for this policy.
fn author(policy: &CheckedPolicy, rule: u32) -> Option<Author> {
    let author = policy.places.get(rule as usize)?.author;
    matches!(author, Author::File(_) | Author::Flags).then_some(author)
}

struct Denial<'a> {
    author: Author,
    whole: Spelt,
    /// `X/**` denies X as well.
    top: Option<Spelt>,
    rule: &'a PathRule,
}

/// Dead rules and for each a denial.
fn paths(policy: &CheckedPolicy) -> BTreeMap<u32, u32> {
    let denials: Vec<Denial> = policy
        .paths
        .iter()
        .filter(|rule| rule.deny)
        .filter_map(|rule| {
            let whole = parts(&rule.pattern);
            let top = match whole.split_last() {
                Some((Part::Any, top)) if !top.is_empty() => Some(Spelt::new(top)),
                _ => None,
            };
            Some(Denial { author: author(policy, rule.rule)?, whole: Spelt::new(&whole), top, rule })
        })
        .collect();
    // A rule with alternatives is dead if all of them are.
    let mut dead: BTreeMap<u32, Option<u32>> = BTreeMap::new();
    for rule in policy.paths.iter().filter(|rule| !rule.deny) {
        let Some(author) = author(policy, rule.rule) else { continue };
        let inner = Spelt::new(&parts(&rule.pattern));
        let covers = |denial: &&Denial| {
            denial.author == author
                && (denial.whole.covers(&inner) || denial.top.as_ref().is_some_and(|top| top.covers(&inner)))
        };
        let (mut denied, mut first) = (0, None);
        for denial in denials.iter().filter(covers) {
            denied |= denial.rule.access;
            first = first.or(Some(denial.rule.rule));
        }
        let found = first.filter(|_| rule.access & !denied == 0);
        dead.entry(rule.rule).and_modify(|known| *known = known.and(found)).or_insert(found);
    }
    dead.into_iter().filter_map(|(rule, denial)| Some((rule, denial?))).collect()
}

fn destinations(policy: &CheckedPolicy) -> BTreeMap<u32, u32> {
    let (denied, allowed): (Vec<&NetRule>, Vec<&NetRule>) =
        policy.destinations.iter().partition(|rule| rule.deny);
    let mut dead = BTreeMap::new();
    for rule in allowed {
        let Some(who) = author(policy, rule.rule) else { continue };
        let around: Vec<&NetRule> = denied
            .iter()
            .filter(|denial| {
                author(policy, denial.rule) == Some(who) && contains(&denial.prefix, &rule.prefix)
            })
            .copied()
            .collect();
        let covered = |tcp: bool| {
            let of_protocol = around.iter().filter(|denial| if tcp { denial.tcp } else { denial.udp });
            all_in(&rule.ports, of_protocol.flat_map(|denial| denial.ports.iter().copied()).collect())
        };
        if let Some(first) = around.first()
            && (!rule.tcp || covered(true))
            && (!rule.udp || covered(false))
        {
            dead.insert(rule.rule, first.rule);
        }
    }
    dead
}

/// IPv6 prefixes say nothing about IPv4, however wide.
fn contains(outer: &IpNet, inner: &IpNet) -> bool {
    match (outer, inner) {
        (IpNet::V4(outer), IpNet::V4(inner)) => outer.contains(inner),
        (IpNet::V6(outer), IpNet::V6(inner)) => outer.contains(inner),
        _ => false,
    }
}

/// Whether each of the ranges lies in the union of others.
fn all_in(ranges: &[(u16, u16)], mut others: Vec<(u16, u16)>) -> bool {
    others.sort_unstable();
    ranges.iter().all(|(low, high)| {
        let mut next = u32::from(*low);
        for (other_low, other_high) in &others {
            if u32::from(*other_low) > next {
                break;
            }
            next = next.max(u32::from(*other_high) + 1);
        }
        next > u32::from(*high)
    })
}

#[cfg(test)]
mod tests {
    use crate::policy::{
        check::{Overlay, check},
        parse::{Document, Source},
    };

    /// The complaints about a policy that extends another.
    fn complaints(base: &str, text: &str, overlay: &Overlay) -> String {
        let documents = [("base.toml", base), ("p.toml", text)].map(|(name, text)| {
            Document::new(Source { name: name.into(), text: format!("version = 1\n{text}\n") }).unwrap()
        });
        check(&documents, overlay).map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    fn complaint(text: &str) -> String {
        complaints("", text, &Overlay::default())
    }

    #[test]
    fn a_rule_that_is_denied_as_a_whole_is_an_error() {
        for text in [
            "[files]\nread = [\"/srv/a/**\"]\ndeny = [\"/srv/**\"]",
            "[files]\nread = [\"/srv/.env\"]\ndeny = [\"**/.env\"]",
            "[files]\nwrite = [\"/srv/{a,b}\"]\ndeny = [\"/srv/?\"]",
            "[files]\nread = [\"/srv\"]\ndeny = [\"/srv/**\"]",
            "[network]\nallow = [\"a.b.test:443\"]\ndeny = [\"*.test\"]",
            "[network]\nallow = [\"*.a.test:443\"]\ndeny = [\"*.test\"]",
            "[network]\nallow = [\"a.test:443\"]\ndeny = [\"a.test\"]",
            "[network]\nallow = [\"10.1.0.0/16:443/tcp\"]\ndeny = [\"10.0.0.0/8\"]",
            "[network]\nallow = [\"10.1.0.0/16:80-90\"]\ndeny = [\"10.0.0.0/8:80-85\", \"10.1.0.0/16:86-100\"]",
        ] {
            let message = complaint(text);
            assert!(message.contains("allows nothing") && message.contains("p.toml:3"), "{text}: {message}");
            assert!(message.contains("(p.toml:4) denies all of it"), "{text}: {message}");
            assert!(message.contains("take the rule out"), "{message}");
        }
    }

    #[test]
    fn a_rule_of_which_something_is_left_is_none() {
        for text in [
            "[files]\nread = [\"/srv/**\"]\ndeny = [\"/srv/a/**\"]",
            "[files]\nread = [\"/{srv,data}/x\"]\ndeny = [\"/srv/**\"]",
            "[network]\nallow = [\"10.0.0.0/8\"]\ndeny = [\"10.1.0.0/16\"]",
            "[network]\nallow = [\"*.a.test\"]\ndeny = [\"x.a.test\", \"a.test\"]",
            "[network]\nallow = [\"10.1.0.0/16\"]\ndeny = [\"10.0.0.0/8:80-90\"]",
            "[network]\nallow = [\"10.1.0.0/16:80\"]\ndeny = [\"10.0.0.0/8:80/tcp\"]",
            "[network]\nallow = [\"10.1.0.1:80\"]\ndeny = [\"::/0\"]",
        ] {
            assert_eq!(complaint(text), "");
        }
        let overlay = Overlay {
            allow_write: vec!["/srv/x".into()],
            deny_write: vec!["/srv/**".into()],
            ..Overlay::default()
        };
        assert_eq!(complaints("", "", &overlay), "", "reading is left");
    }

    #[test]
    fn what_others_allow_may_be_taken_back() {
        let (allow, deny) = ("[files]\nread = [\"/srv/a\"]", "[files]\ndeny = [\"/srv/**\", \"/dev/tty\"]");
        assert_eq!(complaints(allow, deny, &Overlay::default()), "");
        let overlay = Overlay { deny_file: vec!["/srv/**".into()], ..Overlay::default() };
        assert_eq!(complaints("", allow, &overlay), "");
        let overlay = Overlay {
            allow_read: vec!["/srv/a".into()],
            deny_read: vec!["/srv/*".into()],
            ..Overlay::default()
        };
        assert!(complaints("", "", &overlay).contains("--allow-read"));
    }
}
