use proptest::prelude::*;
use stockade_common::{
    event::EventHeader,
    file::{ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE},
};

use super::*;
use crate::{
    audit::sample,
    policy::{
        checked::{CheckedPolicy, NetRule, PathRule},
        compile::{compile, path_bits},
        globs,
        mounts::MountTable,
        ports,
    },
};

const MOUNTS: &[u8] = b"21 1 8:1 / / rw - ext4 a rw\n";
const SCOPE: Scope = Scope(1);

fn compiled(paths: &[(&str, u32, bool)], nets: &[(&str, bool)]) -> (Arc<MapImage>, Context) {
    let mut policy = CheckedPolicy::default();
    for (pattern, access, deny) in paths {
        let rule = policy.rules.len() as u32;
        let pattern = (*pattern).to_owned();
        let list = if *deny { "files.deny" } else { "files.read" };
        policy.rules.push(RuleInfo {
            text: pattern.clone(),
            source: format!("ci.toml:{rule}"),
            list: list.into(),
        });
        policy.paths.push(PathRule { pattern, access: *access, deny: *deny, protects: false, rule });
    }
    for (prefix, deny) in nets {
        let rule = policy.rules.len() as u32;
        let (text, source, list) = ((*prefix).to_owned(), String::new(), "network.allow".to_owned());
        policy.rules.push(RuleInfo { text, source, list });
        policy.destinations.push(NetRule {
            prefix: prefix.parse().unwrap(),
            ports: vec![(0, u16::MAX)],
            tcp: true,
            udp: true,
            deny: *deny,
            rule,
        });
    }
    let mounts = MountTable::parse(MOUNTS).unwrap();
    let image = compile(&policy, &mounts).unwrap().0;
    let context = Context { rules: policy.rules, mounts, ..Context::default() };
    (Arc::new(image), context)
}

fn comparison(image: &Arc<MapImage>) -> Comparison {
    let mut comparison = Comparison::new(false);
    comparison.see(SCOPE, Some(image.clone()));
    comparison
}

/// What the kernel reports of a decision by `image`.
fn decided(kind: u16, body: Body, image: &MapImage, enforces: bool) -> Record {
    let mut record = Record { header: sample::header(kind), body };
    let Answer::Verdict(verdict) = ask(image, &record) else { panic!("{record:?}") };
    record.header = EventHeader {
        reason: verdict.reason,
        rule: verdict.rule,
        verdict: match (verdict.allows(), enforces) {
            (true, _) => verdict::ALLOWED,
            (false, true) => verdict::DENIED,
            (false, false) => verdict::WOULD_DENY,
        },
        ..record.header
    };
    record
}

fn open(image: &MapImage, path: &str, access: u32) -> Record {
    decided(kind::OPEN, Body::File(sample::file(access, path.as_bytes())), image, true)
}

#[test]
fn a_difference_is_told_once_with_both_rules() {
    let (active, context) = compiled(&[("/srv/**", ACCESS_READ, false)], &[]);
    let (other, _) = compiled(
        &[("/srv/**", ACCESS_READ, false), ("**/key", ACCESS_READ, true)],
        &[("192.0.2.0/24", false)],
    );
    let mut comparison = comparison(&other);
    for path in ["/srv/a", "/srv/key", "/srv/key", "/etc/x"] {
        comparison.compare(&open(&active, path, ACCESS_READ), &context);
    }
    for enforces in [true, false] {
        let body = Body::Net(sample::net([192, 0, 2, 7], 443, 6));
        comparison.compare(&decided(kind::CONNECT, body, &active, enforces), &context);
    }
    let expected = |kind: &str, object: &str, access: &str, active: &str, shadow: &str| Difference {
        kind: kind.into(),
        object: object.into(),
        access: access.into(),
        active: active.into(),
        shadow: shadow.into(),
        times: 2,
    };
    let report = comparison.report();
    assert_eq!((report.compared, report.missed, report.more), (6, 0, false));
    assert_eq!(
        report.differences,
        [
            expected(
                "open",
                "/srv/key",
                "read",
                r#"allowed: files.read "/srv/**" (ci.toml:0)"#,
                r#"denied: files.deny "**/key" (ci.toml:1)"#
            ),
            expected(
                "connect",
                "192.0.2.7:443/tcp",
                "",
                "denied: no rule",
                r#"allowed: network.allow "192.0.2.0/24" ()"#
            ),
        ]
    );
}

#[test]
fn what_no_policy_changes_is_not_compared() {
    let (image, context) = compiled(&[("/srv/**", ACCESS_READ, false)], &[]);
    let mut comparison = comparison(&image);
    for reason in [
        reason::NO_NAME,
        reason::PATH_TOO_LONG,
        reason::INTERNAL,
        reason::FAMILY,
        reason::DEVICE,
        reason::INSIDE,
        reason::OUTSIDE,
        reason::CONFINED,
    ] {
        let mut record = open(&image, "/srv/a", ACCESS_READ);
        record.header.reason = reason;
        comparison.compare(&record, &context);
    }
    for record in sample::each_kind() {
        let by_path = matches!(record.header.kind, kind::OPEN | kind::CHANGE | kind::UNIX_NAMED);
        let by_address =
            matches!(record.header.kind, kind::CONNECT | kind::SEND | kind::LISTEN | kind::ACCEPT);
        if !by_path && !by_address {
            comparison.compare(&record, &context);
        }
    }
    assert_eq!(comparison.report(), ShadowReport::default());
}

#[test]
fn what_cannot_be_asked_is_missed() {
    let (image, context) = compiled(&[("/srv/**", ACCESS_READ, false)], &[]);
    let record = open(&image, "/srv/a", ACCESS_READ);
    let mut comparison = Comparison::new(false);
    comparison.compare(&record, &context);
    comparison.see(SCOPE, None);
    comparison.compare(&record, &context);
    comparison.miss(3);
    assert_eq!(comparison.report(), ShadowReport { missed: 5, ..ShadowReport::default() });
    comparison.see(SCOPE, Some(image));
    comparison.compare(&record, &context);
    assert_eq!(comparison.report().compared, 1);
    comparison.forget(SCOPE);
    comparison.compare(&record, &context);
    assert_eq!(comparison.report().missed, 6);
}

#[test]
fn a_rename_that_one_cannot_judge_is_missed() {
    let (lax, context) = compiled(&[("/ws/**", ACCESS_READ | ACCESS_WRITE, false)], &[]);
    let (strict, _) =
        compiled(&[("/ws/**", ACCESS_READ | ACCESS_WRITE, false), ("/x/**/key", ACCESS_READ, true)], &[]);
    let access = ACCESS_READ | ACCESS_WRITE | ACCESS_MOVE;
    let mut record = Record {
        header: EventHeader {
            hook: hook::PATH_RENAME,
            verdict: verdict::ALLOWED,
            reason: reason::RULE_ALLOW,
            rule: 0,
            ..sample::header(kind::CHANGE)
        },
        body: Body::File(sample::file(access, b"/ws/directory")),
    };
    assert_eq!(ask(&lax, &record), Answer::Verdict(Verdict { reason: reason::RULE_ALLOW, rule: 0 }));
    assert_eq!(ask(&strict, &record), Answer::Unknown);
    let mut missed = comparison(&strict);
    missed.compare(&record, &context);
    assert_eq!((missed.report().compared, missed.report().missed), (0, 1));
    // The active one refused it for going from one directory into another: so would the other.
    (record.header.verdict, record.header.reason, record.header.rule) =
        (verdict::DENIED, reason::MOVES_DENIED, NO_RULE);
    let mut same = comparison(&strict);
    same.compare(&record, &context);
    assert_eq!(same.report(), ShadowReport { compared: 1, ..ShadowReport::default() });
    // One without such a rule lets it pass.
    let mut differs = comparison(&lax);
    differs.compare(&record, &context);
    assert_eq!(differs.report().differences[0].active, "denied: would move what a rule denies");
    assert_eq!(differs.report().differences[0].access, "read, write, move");
}

#[test]
fn differences_are_bounded() {
    let (nothing, context) = compiled(&[], &[]);
    let (all, _) = compiled(&[("/**", ACCESS_READ, false)], &[]);
    let mut comparison = comparison(&all);
    for number in 0..KINDS + 3 {
        comparison.compare(&open(&nothing, &format!("/{number}"), ACCESS_READ), &context);
    }
    comparison.compare(&open(&nothing, "/0", ACCESS_READ), &context);
    let report = comparison.report();
    assert_eq!((report.differences.len(), report.more), (KINDS, true));
    assert_eq!((report.compared, report.differences[0].times), (KINDS as u64 + 4, 2));
}

#[test]
fn records_for_the_comparison_alone_are_no_events() {
    let (image, _) = compiled(&[("/**", ACCESS_READ | ACCESS_WRITE, false)], &[("0.0.0.0/0", false)]);
    let net = |kind| decided(kind, Body::Net(sample::net([192, 0, 2, 7], 443, 6)), &image, true);
    let (quiet, loud) = (Comparison::new(false), Comparison::new(true));
    let reads = open(&image, "/a", ACCESS_READ);
    assert!(quiet.alone_wanted(&reads) && quiet.alone_wanted(&net(kind::SEND)));
    assert!(!loud.alone_wanted(&reads) && !loud.alone_wanted(&net(kind::SEND)));
    let denied = Record { header: EventHeader { verdict: verdict::DENIED, ..reads.header }, ..reads };
    for event in [open(&image, "/a", ACCESS_WRITE), net(kind::CONNECT), denied] {
        assert!(!quiet.alone_wanted(&event), "{event:?}");
    }
}

/// Pattern, access, whether it denies.
type Path = (String, u32, bool);
/// First bits of an address, length of the prefix, whether it denies.
type Net = (u32, u8, bool);

/// Policies that often meet.
fn policy() -> impl Strategy<Value = (Vec<Path>, Vec<Net>)> {
    (
        proptest::collection::vec((globs::tests::pattern(), 1u32..8, any::<bool>()), 0..6),
        proptest::collection::vec((0u32..4, 0u8..4, any::<bool>()), 0..6),
    )
}

fn compile_policy(paths: &[Path], nets: &[Net]) -> (Arc<MapImage>, Context) {
    let prefixes: Vec<(String, bool)> = nets
        .iter()
        .map(|(bits, length, deny)| {
            let net = ipnet::Ipv4Net::new((bits << 30).into(), *length).unwrap().trunc();
            (net.to_string(), *deny)
        })
        .collect();
    let paths: Vec<(&str, u32, bool)> =
        paths.iter().map(|(pattern, access, deny)| (pattern.as_str(), *access, *deny)).collect();
    let nets: Vec<(&str, bool)> = prefixes.iter().map(|(prefix, deny)| (prefix.as_str(), *deny)).collect();
    compiled(&paths, &nets)
}

proptest! {
    /// The two are said to differ exactly where the tables of both differ.
    #[test]
    fn differs_where_the_tables_differ(
        active in policy(),
        other in policy(),
        path in globs::tests::path(),
        access in 1u32..8,
        addr in 1u32..16,
        udp in any::<bool>(),
        enforces in any::<bool>(),
    ) {
        let (active, context) = compile_policy(&active.0, &active.1);
        let (other, _) = compile_policy(&other.0, &other.1);
        let inside = format!("/{}", path.join("/"));
        let opens = |image: &MapImage| {
            path_bits(image, 8 << 20 | 1, inside.as_bytes())
                .is_some_and(|(allow, deny)| deny & access == 0 && allow & access == access)
        };
        let mut files = comparison(&other);
        let body = Body::File(sample::file(access, inside.as_bytes()));
        files.compare(&decided(kind::OPEN, body, &active, enforces), &context);
        let report = files.report();
        prop_assert_eq!((report.compared, report.missed), (1, 0));
        prop_assert_eq!(!report.differences.is_empty(), opens(&active) != opens(&other));

        let destination = std::net::Ipv4Addr::from(addr << 28);
        let (protocol, kind) = if udp { (17, kind::SEND) } else { (6, kind::CONNECT) };
        let connects = |image: &MapImage| {
            let addr = u128::from(destination.to_ipv6_mapped());
            ports::lookup(&image.prefixes, &image.ports, addr, u32::from(protocol), 443)
                .is_some_and(|range| range.verdict == stockade_common::net::PORT_ALLOW)
        };
        let mut nets = comparison(&other);
        let body = Body::Net(sample::net(destination.octets(), 443, protocol));
        nets.compare(&decided(kind, body, &active, enforces), &context);
        let report = nets.report();
        prop_assert_eq!(report.compared, 1);
        prop_assert_eq!(!report.differences.is_empty(), connects(&active) != connects(&other));
    }
}

#[test]
fn executions_are_compared_as_opens() {
    let (active, context) = compiled(&[("/bin/**", ACCESS_READ | ACCESS_EXEC, false)], &[]);
    let (other, _) = compiled(&[("/bin/**", ACCESS_READ, false)], &[]);
    let mut comparison = comparison(&other);
    comparison.compare(&open(&active, "/bin/sh", ACCESS_EXEC), &context);
    assert_eq!(comparison.report().differences[0].access, "exec");
}
