//! How much a rule on names lets in: what a person should know before a policy is used.

use super::{
    checked::{CheckedPolicy, NameRule},
    diagnostic::Diagnostic,
    names::shown,
    rule::Refusal,
};

/// Whose the names below another one are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Below {
    /// Anybody's: a public suffix (`co.uk`), or a whole top-level domain.
    Suffix,
    /// Those of a provider's customers: a suffix that its owner gives names below (`pages.example`).
    Customers,
    /// One owner's, all of them: a name that somebody registered.
    Registered,
    /// Part of one owner's.
    Part,
}

/// Whose the names below `name` are, by the Public Suffix List.
#[must_use]
pub fn below(name: &str) -> Below {
    let suffix = psl::suffix(name.as_bytes());
    let is_suffix = suffix.is_some_and(|suffix| suffix.as_bytes() == name.as_bytes());
    if !name.contains('.') {
        return Below::Suffix;
    }
    match suffix {
        Some(suffix) if is_suffix && suffix.is_known() => match suffix.typ() {
            Some(psl::Type::Private) => Below::Customers,
            _ => Below::Suffix,
        },
        _ if psl::domain(name.as_bytes()).is_some_and(|domain| domain.as_bytes() == name.as_bytes()) => {
            Below::Registered
        }
        _ => Below::Part,
    }
}

/// What is wide, or does not do what it seems to.
#[must_use]
pub fn warnings(policy: &CheckedPolicy) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    let mut warn = |rule: u32, message: String, help: &str| {
        warnings.push(policy.diagnostic(rule, Refusal { message, help: Some(help.to_owned()) }));
    };
    let has_allowed = policy.names.iter().any(|rule| !rule.deny);
    for rule in &policy.names {
        if rule.deny {
            if !has_allowed {
                let message =
                    format!("no rule allows a name, so that no name is answered, {} or not", shown(rule));
                warn(
                    rule.rule,
                    message,
                    "a rule on a name carries DNS to the gate, which answers what `allow` names",
                );
            }
        } else if rule.below {
            if let Some((message, help)) = wildcard(rule) {
                warn(rule.rule, message, help);
            }
        } else if !rule.name.contains('.') {
            let message =
                format!("{:?} is one label: resolvers append their search domains to it first", rule.name);
            warn(
                rule.rule,
                message,
                "write the whole name, as `getent ahosts` or `resolvectl query` shows it",
            );
        }
    }
    if policy.uses_gate() {
        let only_dns = |ports: &[(u16, u16)]| ports == [(53, 53)];
        let of_names = policy.names.iter().filter(|rule| !rule.deny).map(|rule| (rule.rule, &rule.ports));
        let of_prefixes =
            policy.destinations.iter().filter(|rule| !rule.deny).map(|rule| (rule.rule, &rule.ports));
        for (rule, _) in of_prefixes.chain(of_names).filter(|(_, ports)| only_dns(ports)) {
            let message =
                "port 53 is carried to the DNS gate, whatever the address: the rule changes nothing";
            warn(rule, message.to_owned(), "take the rule out: the gate asks the resolvers of the host");
        }
    }
    warnings
}

fn wildcard(rule: &NameRule) -> Option<(String, &'static str)> {
    const NARROW: &str = "name the hosts, or the domain of the one who is meant: \"*.cdn.example.test\"";
    let shown = shown(rule);
    let labels = rule.name.split('.').count();
    match below(&rule.name) {
        Below::Suffix if labels == 1 => {
            Some((format!("{shown} is every name of a top-level domain: anybody may register one"), NARROW))
        }
        Below::Suffix => {
            Some((format!("{shown} is every name below a public suffix: anybody may register one"), NARROW))
        }
        Below::Customers => Some((
            format!(
                "{shown} is every name that customers of {} are given: anybody may become one",
                rule.name
            ),
            NARROW,
        )),
        Below::Registered => Some((
            format!("{shown} is every name that the owner of {} has, {labels} labels and more", rule.name),
            "if only some are needed, name them: each name below can be asked for, and carries its letters out",
        )),
        Below::Part => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::check::{Overlay, check};

    fn warned(allow: &[&str], deny: &[&str]) -> String {
        let words = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let overlay = Overlay { allow_net: words(allow), deny_net: words(deny), ..Overlay::default() };
        let warnings = warnings(&check(&[], &overlay).unwrap());
        warnings.into_iter().map(|warning| warning.message).collect()
    }

    #[test]
    fn the_list_tells_whose_names_are() {
        assert_eq!(below("test"), Below::Suffix);
        assert_eq!(below("co.uk"), Below::Suffix);
        assert_eq!(below("github.io"), Below::Customers);
        assert_eq!(below("example.test"), Below::Registered);
        assert_eq!(below("example.co.uk"), Below::Registered);
        assert_eq!(below("cdn.example.test"), Below::Part);
    }

    #[test]
    fn wide_wildcards_are_told_of_and_narrow_ones_are_not() {
        assert!(warned(&["*.test:443"], &[]).contains("top-level domain"));
        assert!(warned(&["*.co.uk:443"], &[]).contains("public suffix"));
        assert!(warned(&["*.example.test:443"], &[]).contains("the owner of example.test"));
        assert_eq!(warned(&["*.cdn.example.test:443", "a.test"], &["x.cdn.example.test"]), "");
    }

    #[test]
    fn what_does_not_do_what_it_seems_to_is_told_of() {
        assert!(warned(&["db:5432"], &[]).contains("search domains"));
        assert!(warned(&["192.0.2.0/24"], &["a.test"]).contains("no rule allows a name"));
        assert!(warned(&["192.0.2.53:53", "a.test:443"], &[]).contains("changes nothing"));
        assert_eq!(warned(&["192.0.2.53:53"], &[]), "");
    }
}
