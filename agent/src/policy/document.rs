//! A checked policy as one document again, for whoever checks it elsewhere: everything that was put together is put in.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use stockade_common::file::{ACCESS_CONNECT, ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE};
use toml::{Table, Value};

use super::{
    check::{self, Overlay},
    checked::{
        AbstractRule, Author, CheckedPolicy, DnsRefusal, DnsSettings, Mode, NameRule, NetRule, PathRule,
    },
    diagnostic::Diagnostics,
    from, names,
    parse::{Document, Metadata, Source},
    process::Process,
    profile::BASE,
    protect::Protection,
    unix,
};

const ALL: u32 = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC;
const EVERYTHING: u32 = ALL | ACCESS_CONNECT;
const WRITE: u32 = ACCESS_READ | ACCESS_WRITE;
const EXEC: u32 = ACCESS_READ | ACCESS_EXEC;

/// The text. Checked anywhere, with nothing on the command line, it comes to the same rules.
///
/// # Errors
/// If there is no such text: the language cannot say what flags can.
pub fn document(policy: &CheckedPolicy) -> Result<String, Diagnostics> {
    let CheckedPolicy {
        name,
        mode,
        paths,
        tmp: _,
        protection,
        destinations,
        rules: _,
        places,
        scope: _,
        names,
        abstracts,
        listen,
        loopback_own,
        egress,
        metadata,
        process,
        dns,
        asks_for_gate,
        private_names,
    } = policy;
    // Rules of the profile `base` are put in wherever it is checked; others may have a home in them.
    let base = format!("profile {BASE}");
    let written = |rule: u32| {
        places
            .get(rule as usize)
            .is_none_or(|place| place.author != Author::Profile || place.source.name != base)
    };
    let mut lists: [(&str, &str, Vec<Value>); 8] = [
        ("files", "read", Vec::new()),
        ("files", "write", Vec::new()),
        ("files", "exec", Vec::new()),
        ("files", "deny", Vec::new()),
        ("network", "allow", Vec::new()),
        ("network", "deny", Vec::new()),
        ("network", "listen", Vec::new()),
        ("files", "read_only", Vec::new()),
    ];
    for rule in paths.iter().filter(|rule| written(rule.rule) && !rule.protects) {
        for (access, deny) in parts(rule) {
            let pattern = &rule.pattern;
            let (list, text) = match (access, deny) {
                (ACCESS_READ, false) => (0, pattern.clone()),
                (WRITE, false) => (1, pattern.clone()),
                (EXEC, false) => (2, pattern.clone()),
                (EVERYTHING, true) => (3, pattern.clone()),
                (ACCESS_WRITE, true) => (7, pattern.clone()),
                (ACCESS_CONNECT, false) => (4, format!("{}{pattern}", unix::PREFIX)),
                (ACCESS_CONNECT, true) => (5, format!("{}{pattern}", unix::PREFIX)),
                _ => return Err(unsaid(policy, rule.rule)),
            };
            lists[list].2.push(text.into());
        }
    }
    for rule in destinations.iter().filter(|rule| written(rule.rule)) {
        let text = destination(rule).ok_or_else(|| unsaid(policy, rule.rule))?;
        lists[if rule.deny { 5 } else { 4 }].2.push(text.into());
    }
    for AbstractRule { name, deny, rule: _ } in abstracts.iter().filter(|rule| written(rule.rule)) {
        lists[if *deny { 5 } else { 4 }].2.push(unix::written(name).into());
    }
    for rule in listen.iter().filter(|rule| written(rule.rule)) {
        let text = destination(rule).ok_or_else(|| unsaid(policy, rule.rule))?;
        lists[6].2.push(text.into());
    }
    for rule in names.iter().filter(|rule| written(rule.rule)) {
        let text = named(rule).ok_or_else(|| unsaid(policy, rule.rule))?;
        lists[if rule.deny { 5 } else { 4 }].2.push(text.into());
    }
    if loopback_own.is_some_and(written) {
        lists[4].2.push("loopback:own".into());
    }
    let mut table = Table::new();
    table.insert("version".into(), 1.into());
    table.insert("name".into(), name.clone().into());
    let word = match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    };
    table.insert("mode".into(), word.into());
    for (section, list, values) in lists {
        let section = table.entry(section).or_insert_with(|| Table::new().into());
        if let Value::Table(section) = section {
            section.insert(list.into(), values.into());
        }
    }
    if let Some(Value::Table(files)) = table.get_mut("files") {
        let Protection { groups, directories } = protection;
        let groups: Vec<Value> = groups.iter().map(|group| group.name().into()).collect();
        let directories: Vec<Value> =
            directories.iter().map(|name| if name.is_empty() { "/" } else { name }.into()).collect();
        match metadata {
            Some(Metadata::Open) => drop(files.insert("metadata".into(), "open".into())),
            Some(Metadata::Guarded) => drop(files.insert("metadata".into(), "guarded".into())),
            None => {}
        }
        files.insert("protect".into(), groups.into());
        files.insert("protect_in".into(), directories.into());
    }
    if let Some(Value::Table(network)) = table.get_mut("network") {
        if let Some(interface) = egress {
            network.insert(
                "egress".into(),
                Table::from_iter([("interface".into(), interface.clone().into())]).into(),
            );
        }
        if *asks_for_gate || *dns != DnsSettings::default() {
            network.insert("dns".into(), gate(dns, private_names).into());
        }
    }
    let (capabilities, allow) = process.written();
    let list = |names: Vec<&str>| Value::from(names.into_iter().map(Value::from).collect::<Vec<_>>());
    let process = [("capabilities".into(), list(capabilities)), ("allow".into(), list(allow))];
    table.insert("process".into(), Table::from_iter(process).into());
    let text = table.to_string();
    let source = Source { name: name.clone(), text: text.clone() };
    let again = check::check(&[Document::new(source)?], &Overlay::default())?;
    if meaning(&again) == meaning(policy) {
        return Ok(text);
    }
    Err(Diagnostics::plain(
        name,
        "cannot be written as one policy",
        Some("put all rules into one policy file"),
    ))
}

/// Where rules come from that `from:` has come to, by their text in the document.
#[must_use]
pub fn sources(policy: &CheckedPolicy) -> BTreeMap<String, String> {
    let source = |rule: u32| {
        let source = policy.rules.get(rule as usize).map(|rule| rule.source.clone());
        source.filter(|source| source.starts_with(from::PREFIX))
    };
    let names = policy.names.iter().filter_map(|rule| Some((named(rule)?, source(rule.rule)?)));
    let others = policy.destinations.iter().filter_map(|rule| Some((destination(rule)?, source(rule.rule)?)));
    names.chain(others).collect()
}

fn unsaid(policy: &CheckedPolicy, rule: u32) -> Diagnostics {
    let (source, text) = policy
        .rules
        .get(rule as usize)
        .map_or(("a rule", ""), |rule| (rule.source.as_str(), rule.text.as_str()));
    let help = "`files.deny` and --deny-file deny all at once";
    Diagnostics::plain(source, format!("{text}: a policy file cannot say this"), Some(help))
}

/// What a workspace allows is what two lists allow.
fn parts(rule: &PathRule) -> Vec<(u32, bool)> {
    match (rule.access, rule.deny) {
        (ALL, false) => vec![(WRITE, false), (EXEC, false)],
        one => vec![one],
    }
}

fn destination(rule: &NetRule) -> Option<String> {
    let NetRule { prefix, ports, tcp, udp, deny: _, rule: _ } = rule;
    let host = match prefix {
        IpNet::V4(_) => prefix.to_string(),
        IpNet::V6(_) => format!("[{prefix}]"),
    };
    endpoint(host, ports, *tcp, *udp)
}

fn named(rule: &NameRule) -> Option<String> {
    let NameRule { name: _, below: _, ports, tcp, udp, deny: _, rule: _ } = rule;
    endpoint(names::shown(rule), ports, *tcp, *udp)
}

fn endpoint(host: String, ports: &[(u16, u16)], tcp: bool, udp: bool) -> Option<String> {
    let ports = match ports {
        [] => return None,
        [(0, u16::MAX)] => String::new(),
        ports => {
            let ranges: Vec<String> = ports.iter().map(|(low, high)| format!("{low}-{high}")).collect();
            format!(":{}", ranges.join(","))
        }
    };
    let protocol = match (tcp, udp) {
        (true, true) => "",
        (true, false) => "/tcp",
        (false, true) => "/udp",
        (false, false) => return None,
    };
    Some(format!("{host}{ports}{protocol}"))
}

fn gate(dns: &DnsSettings, private: &[(String, bool)]) -> Table {
    let DnsSettings { refusal, queries_per_minute, label_bytes_per_hour } = dns;
    let refuse = match refusal {
        DnsRefusal::Nxdomain => "nxdomain",
        DnsRefusal::Refused => "refused",
    };
    Table::from_iter([
        ("refuse".into(), Value::from(refuse)),
        ("queries_per_minute".into(), i64::from(*queries_per_minute).into()),
        ("label_bytes_per_hour".into(), i64::from(*label_bytes_per_hour).into()),
        ("private".into(), private.iter().map(names::written).collect::<Vec<_>>().into()),
    ])
}

type Meaning<'a> = (
    Mode,
    BTreeSet<(&'a str, u32, bool, bool)>,
    BTreeSet<(String, bool)>,
    BTreeSet<String>,
    BTreeSet<(&'a [u8], bool)>,
    (bool, &'a Option<String>, bool, DnsSettings, &'a [(String, bool)], Option<Metadata>, Process),
);

/// All that a verdict depends on.
fn meaning(policy: &CheckedPolicy) -> Meaning<'_> {
    let paths = policy.paths.iter().flat_map(|rule| {
        parts(rule).into_iter().map(|(access, deny)| (rule.pattern.as_str(), access, deny, rule.protects))
    });
    let address = |rule: &NetRule| {
        let NetRule { prefix, ports, tcp, udp, deny: _, rule: _ } = rule;
        format!("{prefix} {ports:?} {tcp} {udp}")
    };
    let destinations = policy.destinations.iter().map(|rule| (address(rule), rule.deny));
    let listen = policy.listen.iter().map(address);
    let abstracts = policy.abstracts.iter().map(|rule| (&rule.name[..], rule.deny));
    let names = policy.names.iter().map(|rule| {
        let NameRule { name: _, below: _, ports, tcp, udp, deny, rule: _ } = rule;
        (format!("{} {ports:?} {tcp} {udp}", names::shown(rule)), *deny)
    });
    let network = (
        policy.loopback_own.is_some(),
        &policy.egress,
        policy.uses_gate(),
        policy.dns,
        &policy.private_names[..],
        policy.metadata,
        policy.process,
    );
    let destinations = destinations.chain(names).collect();
    (policy.mode, paths.collect(), destinations, listen.collect(), abstracts.collect(), network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(overlay: &Overlay) -> Result<(CheckedPolicy, CheckedPolicy), Diagnostics> {
        let policy = check::check(&[], overlay).unwrap();
        let text = document(&policy)?;
        let document = Document::new(Source { name: "x".into(), text }).unwrap();
        Ok((policy, check::check(&[document], &Overlay::default()).unwrap()))
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_comes_of_the_text_is_the_same() {
        let overlay = Overlay {
            workspaces: vec!["/home/x y/\"w\"".into()],
            read_only: vec!["/srv/data".into()],
            repositories: vec!["/home/x y/\"w\"/lib".into()],
            profiles: words(&["rust"]),
            lift: vec![crate::policy::protect::Group::Ci],
            allow_net: words(&[
                "192.0.2.0/24:80,443-445/tcp",
                "2001:db8::/32",
                "[2001:db8::1]:53/udp",
                "0.0.0.0/0:22",
                "Api.example.test:443,8000-8100/tcp",
                "*.example.test",
                "loopback:own",
                "unix:/run/{a,b}/**",
                "unix:**/x.sock",
                r"unix:@a\x00\\b",
            ]),
            deny_net: words(&["192.0.2.66", "x.example.test", "unix:/run/a/x", "unix:@b"]),
            egress_interface: Some("wg0".into()),
            allow_capability: words(&["sys_chroot"]),
            allow_process: words(&["mounts", "io-uring"]),
            allow_listen: words(&["192.0.2.1:80/udp", "[::]:8000-8100/tcp", "0.0.0.0", "2001:db8::/32"]),
            allow_read: words(&["/etc/{a,b}/**", "${home}/.x"]),
            allow_write: words(&["/srv/*.log"]),
            allow_exec: words(&["/usr/bin/**"]),
            deny_file: words(&["**/.env"]),
            command: vec!["/bin/sh".into()],
            mode: Some(Mode::Audit),
            home: Some("/home/x".into()),
            ..Overlay::default()
        };
        let (before, after) = again(&overlay).unwrap();
        assert_eq!(meaning(&before), meaning(&after));
        assert_eq!(before.name, after.name);
        let (before, after) = again(&Overlay::default()).unwrap();
        assert_eq!(crate::audit::digest::digest(&before), crate::audit::digest::digest(&after));
    }

    #[test]
    fn what_from_came_to_keeps_its_source() {
        let rule = |rule: &str| from::Found { rule: rule.into(), place: "/p".into(), left_out: false };
        let overlay = Overlay {
            allow_net: words(&["from:npm", "b.test:443"]),
            found: BTreeMap::from([(
                "from:npm".into(),
                Ok(vec![rule("a.test:443/tcp"), rule("[::1]:80/tcp")]),
            )]),
            ..Overlay::default()
        };
        let (before, after) = again(&overlay).unwrap();
        let sources = sources(&before);
        assert!(sources.values().all(|source| source == "from:npm (/p)"), "{sources:?}");
        let known = after.rules.iter().filter(|rule| sources.contains_key(&rule.text));
        assert_eq!((sources.len(), known.count()), (2, 2));
    }

    #[test]
    fn what_only_flags_can_say_is_refused() {
        let overlay = Overlay { deny_read: words(&["/etc/x"]), ..Overlay::default() };
        let refused = again(&overlay).unwrap_err().to_string();
        assert!(refused.contains("--deny-read") && refused.contains("/etc/x"), "{refused}");
    }

    #[test]
    fn a_name_that_would_become_a_variable_is_refused() {
        let overlay = Overlay { command: vec!["/opt/$x".into()], ..Overlay::default() };
        assert!(again(&overlay).is_ok(), "no variable without braces");
        let policy = CheckedPolicy {
            paths: vec![PathRule {
                pattern: "/a/${home}".into(),
                access: ACCESS_READ,
                deny: false,
                protects: false,
                rule: 0,
            }],
            ..CheckedPolicy::default()
        };
        assert!(document(&policy).is_err());
    }
}
