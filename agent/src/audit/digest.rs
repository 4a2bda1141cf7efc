//! A policy's digest: SHA-256 over every rule it comes to, variables put in, in a canonical form. The order in which
//! rules were written, and where, makes no difference, as it makes none to a verdict.

use std::{fmt::Write as _, path::Path};

use sha2::{Digest as _, Sha256};

use crate::policy::{
    checked::{AbstractRule, CheckedPolicy, DnsSettings, Mode, NameRule, NetRule, PathRule},
    names, unix,
};

/// `sha256:` and 64 hexadecimal digits.
#[must_use]
pub fn digest(policy: &CheckedPolicy) -> String {
    // Names, rule ids and who is held to it play no part.
    let CheckedPolicy {
        name: _,
        mode,
        paths,
        tmp,
        protection: _,
        destinations,
        rules: _,
        places: _,
        scope: _,
        names,
        abstracts,
        listen,
        loopback_own,
        egress,
        metadata,
        process,
        dns,
        asks_for_gate: _,
        private_names,
    } = policy;
    let mut lines: Vec<String> = paths
        .iter()
        .map(|rule| path(rule, tmp.as_deref()))
        .chain(destinations.iter().map(|rule| address("net", rule)))
        .chain(listen.iter().map(|rule| address("listen", rule)))
        .chain(abstracts.iter().map(abstract_socket))
        .collect();
    lines.extend(names.iter().map(name));
    lines.extend(loopback_own.map(|_| "loopback own".to_owned()));
    lines.extend(egress.as_ref().map(|interface| format!("egress {interface}")));
    lines.extend(metadata.map(|metadata| format!("metadata {metadata:?}")));
    let (capabilities, allow) = process.written();
    lines.extend(capabilities.iter().map(|name| format!("capability {name}")));
    lines.extend(allow.iter().map(|name| format!("process {name}")));
    if policy.uses_gate() {
        let DnsSettings { refusal, queries_per_minute, label_bytes_per_hour } = dns;
        lines.extend(private_names.iter().map(|name| format!("private {}", names::written(name))));
        lines.push(format!("dns {refusal:?} {queries_per_minute} {label_bytes_per_hour}"));
    }
    lines.sort();
    lines.dedup();
    let mut hash = Sha256::new();
    hash.update(format!("stockade policy 1 {}\n", mode_name(*mode)));
    for line in lines {
        // The length in front: no rule's text can pass for two rules.
        hash.update(format!("{} {line}\n", line.len()));
    }
    let mut out = "sha256:".to_owned();
    for byte in hash.finalize() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// `enforce` or `audit`.
#[must_use]
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    }
}

/// The directory of one run stands as its variable, so that the same policy always has the same digest.
fn path(rule: &PathRule, tmp: Option<&Path>) -> String {
    let PathRule { pattern, access, deny, protects, rule: _ } = rule;
    let below = tmp.and_then(Path::to_str).and_then(|tmp| pattern.strip_prefix(tmp));
    let pattern = below.map_or_else(|| pattern.clone(), |below| format!("${{tmp}}{below}"));
    let what = if *protects { "protect" } else { verdict(*deny) };
    format!("path {what} {access} {pattern}")
}

fn abstract_socket(rule: &AbstractRule) -> String {
    let AbstractRule { name, deny, rule: _ } = rule;
    format!("{} {}", verdict(*deny), unix::written(name))
}

fn address(what: &str, rule: &NetRule) -> String {
    let NetRule { prefix, ports, tcp, udp, deny, rule: _ } = rule;
    format!("{what} {} {prefix} {ports:?} tcp={tcp} udp={udp}", verdict(*deny))
}

fn name(rule: &NameRule) -> String {
    let NameRule { name: _, below: _, ports, tcp, udp, deny, rule: _ } = rule;
    format!("name {} {} {ports:?} tcp={tcp} udp={udp}", verdict(*deny), names::shown(rule))
}

fn verdict(deny: bool) -> &'static str {
    if deny { "deny" } else { "allow" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::check::{Overlay, check};

    fn of(allow_read: &[&str], deny_file: &[&str]) -> String {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let overlay = Overlay {
            allow_read: strings(allow_read),
            deny_file: strings(deny_file),
            allow_net: vec!["192.0.2.1:443/tcp".into()],
            ..Overlay::default()
        };
        digest(&check(&[], &overlay).unwrap())
    }

    #[test]
    fn order_and_repetition_make_no_difference_and_rules_do() {
        let one = of(&["/a", "/b"], &[]);
        assert_eq!(one, of(&["/b", "/a", "/b"], &[]));
        assert_ne!(one, of(&["/a"], &[]));
        assert_ne!(one, of(&["/a", "/b"], &["/b/c"]));
        assert!(one.starts_with("sha256:") && one.len() == 71, "{one}");
    }

    #[test]
    fn all_of_the_network_is_part_of_it() {
        let with = |change: &dyn Fn(&mut Overlay)| {
            let mut overlay = Overlay::default();
            change(&mut overlay);
            digest(&check(&[], &overlay).unwrap())
        };
        let digests = [
            with(&|_| {}),
            with(&|overlay| overlay.allow_net.push("a.test:443".into())),
            with(&|overlay| overlay.allow_net.push("*.a.test:443".into())),
            with(&|overlay| overlay.deny_net.push("a.test".into())),
            with(&|overlay| overlay.allow_net.push("loopback:own".into())),
            with(&|overlay| overlay.egress_interface = Some("wg0".into())),
            with(&|overlay| overlay.egress_interface = Some("wg1".into())),
        ];
        let different: std::collections::BTreeSet<&String> = digests.iter().collect();
        assert_eq!(different.len(), digests.len());
    }

    #[test]
    fn the_directory_of_one_run_is_no_part_of_it() {
        let with = |tmp: Option<&str>| {
            digest(&check(&[], &Overlay { tmp: tmp.map(Into::into), ..Overlay::default() }).unwrap())
        };
        assert_eq!(with(Some("/tmp/a")), with(Some("/tmp/b")));
        assert_ne!(with(Some("/tmp/a")), with(None));
    }

    #[test]
    fn mode_is_part_of_it() {
        let audit = CheckedPolicy { mode: Mode::Audit, ..CheckedPolicy::default() };
        assert_ne!(digest(&audit), digest(&CheckedPolicy::default()));
    }
}
