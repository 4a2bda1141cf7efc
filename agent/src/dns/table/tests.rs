use std::time::Instant;

use super::*;
use crate::dns::reference::rule;

fn table(names: &[NameRule]) -> NameTable {
    let settings = DnsSettings::default();
    NameTable::new(&TableInput {
        names,
        destinations: &[],
        mode: Mode::Enforce,
        settings: &settings,
        private: &[],
    })
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

#[test]
fn exact_names_and_those_below_are_told_apart() {
    let table = table(&[
        rule("example.test", false, false, 1),
        rule("example.test", true, false, 2),
        rule("b.example.test", true, false, 3),
        rule("no.b.example.test", false, true, 4),
        rule("gone.test", true, true, 5),
    ]);
    let by = |text: &str| match table.cover(&key(text)) {
        Cover::By(covered) => (covered.rule, covered.unspelled, covered.entries),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(by("example.test"), (1, 0, vec![0]));
    assert_eq!(by("a.example.test"), (2, 2, vec![1]));
    assert_eq!(by("b.example.test"), (2, 2, vec![1]));
    assert_eq!(by("xyz.a.b.example.test"), (3, 6, vec![1, 2]));
    assert_eq!(table.cover(&key("no.b.example.test")), Cover::Denied(4));
    assert_eq!(table.cover(&key("x.gone.test")), Cover::Denied(5));
    for text in ["gone.test", "test", "notexample.test", "example.test.other"] {
        assert_eq!(table.cover(&key(text)), Cover::Nothing, "{text}");
    }
    assert_eq!(table.cover(&Key::of(&hickory_proto::rr::Name::root())), Cover::Nothing);
}

#[test]
fn ranges_are_merged_within_a_protocol_only() {
    let ranges = ranges(&[(443, 443), (80, 90), (85, 95), (96, 100), (0, 65_535)], true, true);
    assert_eq!(
        *ranges,
        [(port_key(TCP, 0), port_key(TCP, 65_535)), (port_key(UDP, 0), port_key(UDP, 65_535))]
    );
    assert_eq!(
        *super::ranges(&[(5, 6), (8, 9)], false, true),
        [(port_key(UDP, 5), port_key(UDP, 6)), (port_key(UDP, 8), port_key(UDP, 9)),]
    );
}

#[test]
fn only_rules_that_reach_private_networks_are_kept_for_them() {
    let reaches = |text: &str| reaches_inside(&text.parse().unwrap());
    for text in ["0.0.0.0/0", "::/0", "10.1.0.0/16", "192.168.1.1/32", "fd00::/8", "64:ff9b::/96"] {
        assert!(reaches(text), "{text}");
    }
    for text in ["192.0.2.0/24", "8.0.0.0/8"] {
        assert!(!reaches(text), "{text}");
    }
}

#[test]
fn ten_thousand_names_cost_what_ten_do() {
    let many: Vec<_> = (0..10_000)
        .map(|index| rule(&format!("n{index}.example.test"), index % 2 == 0, false, index))
        .collect();
    let cost = |table: &NameTable| {
        let key = key("a.b.n6.example.test");
        let round = || {
            let begun = Instant::now();
            (0..2000).for_each(|_| assert!(matches!(table.cover(&key), Cover::By(_))));
            begun.elapsed()
        };
        (0..9).map(|_| round()).min().unwrap()
    };
    let (ten, all) = (cost(&table(&many[..10])), cost(&table(&many)));
    assert!(all < ten * 3, "{ten:?} and {all:?}");
}
