//! The host's own resolver, for explanations: never for a verdict.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, ToSocketAddrs as _},
    sync::Mutex,
    thread,
};

use crate::policy::{checked::CheckedPolicy, diagnostic::Diagnostic, names, rule::Refusal};

/// Questions at once.
const THREADS: usize = 16;

/// The addresses that this host's resolver gives for a name now, sorted.
///
/// # Errors
/// What the resolver says.
pub fn addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    // With the dot it is the whole name, to which no search domain is appended.
    let found = (format!("{name}."), 0).to_socket_addrs().map_err(|error| format!("{name}: {error}"))?;
    Ok(found.map(|found| found.ip()).collect::<BTreeSet<_>>().into_iter().collect())
}

/// What names that a policy allows have in common, and what could not be resolved.
pub fn shared(policy: &CheckedPolicy) -> (Vec<Diagnostic>, Vec<String>) {
    let allowed: BTreeMap<&str, u32> = policy
        .names
        .iter()
        .filter(|rule| !rule.deny && !rule.below)
        .rev()
        .map(|rule| (rule.name.as_str(), rule.rule))
        .collect();
    let todo = Mutex::new(allowed.keys().copied().collect::<Vec<_>>());
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..THREADS.min(allowed.len()) {
            scope.spawn(|| {
                while let Some(name) = todo.lock().ok().and_then(|mut todo| todo.pop()) {
                    let answer = addresses(name);
                    if let Ok(mut found) = found.lock() {
                        found.push((name, answer));
                    }
                }
            });
        }
    });
    let (mut by_address, mut failed) = (BTreeMap::<IpAddr, BTreeSet<&str>>::new(), Vec::new());
    for (name, answer) in found.into_inner().unwrap_or_default() {
        match answer {
            Ok(addresses) => {
                for addr in addresses {
                    by_address.entry(addr).or_default().insert(name);
                }
            }
            Err(error) => failed.push(error),
        }
    }
    failed.sort();
    (told(policy, &allowed, &by_address), failed)
}

/// One warning for each set of names that is behind the same addresses.
fn told(
    policy: &CheckedPolicy,
    rules: &BTreeMap<&str, u32>,
    by_address: &BTreeMap<IpAddr, BTreeSet<&str>>,
) -> Vec<Diagnostic> {
    let mut groups: BTreeMap<&BTreeSet<&str>, Vec<String>> = BTreeMap::new();
    for (addr, names) in by_address.iter().filter(|(_, names)| names.len() > 1) {
        groups.entry(names).or_default().push(addr.to_string());
    }
    let warning = |(names, addresses): (&BTreeSet<&str>, Vec<String>)| {
        let first = names.first().and_then(|name| rules.get(name)).copied()?;
        let covering = policy.names.iter().filter(|rule| names.iter().any(|name| names::covers(rule, name)));
        let ports = names::ranges(covering).len();
        let list: Vec<&str> = names.iter().copied().collect();
        let message = format!(
            "{} have {} in common: what is allowed for one of them is allowed for all, {ports} ranges of ports",
            list.join(", "),
            addresses.join(", ")
        );
        let help = "the kernel sees addresses, not names: allow the same ports for each, or reach them through a proxy that \
                    looks at names"
            .to_owned();
        Some(policy.diagnostic(first, Refusal { message, help: Some(help) }))
    };
    groups.into_iter().filter_map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        check::{Overlay, check},
        diagnostic::Diagnostics,
    };

    #[test]
    fn names_behind_one_address_are_named_once() {
        let allow_net = ["a.test:443/tcp", "b.test:8443/tcp", "c.test:443"].map(str::to_owned).to_vec();
        let policy = check(&[], &Overlay { allow_net, ..Overlay::default() }).unwrap();
        let rules = policy.names.iter().map(|rule| (rule.name.as_str(), rule.rule)).collect();
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let by_address = BTreeMap::from([
            (addr("192.0.2.1"), BTreeSet::from(["a.test", "b.test"])),
            (addr("192.0.2.2"), BTreeSet::from(["a.test", "b.test"])),
            (addr("192.0.2.3"), BTreeSet::from(["c.test"])),
        ]);
        let warnings = told(&policy, &rules, &by_address);
        assert_eq!(warnings.len(), 1);
        let text = Diagnostics(warnings).to_string();
        assert!(text.contains("a.test, b.test have 192.0.2.1, 192.0.2.2 in common"), "{text}");
        assert!(text.contains("2 ranges"), "{text}");
    }

    #[test]
    fn what_does_not_resolve_is_said() {
        assert!(addresses("stockade.invalid").unwrap_err().contains("stockade.invalid"));
    }
}
