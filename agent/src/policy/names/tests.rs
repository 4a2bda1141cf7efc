//! Names as people write them.

use proptest::prelude::*;

use super::*;

fn why(text: &str) -> String {
    let refusal = named(text).unwrap_err();
    format!("{} ({})", refusal.message, refusal.help.unwrap())
}

fn name(text: &str) -> (String, bool) {
    let Named { name, below, .. } = named(text).unwrap();
    (name, below)
}

fn rule(text: &str, deny: bool, rule: u32) -> NameRule {
    let Named { name, below, ports, tcp, udp } = named(text).unwrap();
    NameRule { name, below, ports, tcp, udp, deny, rule }
}

#[test]
fn names_are_read_in_their_ascii_form() {
    assert_eq!(name("API.Example.Test.:443/tcp"), ("api.example.test".into(), false));
    assert_eq!(name("*.example.test"), ("example.test".into(), true));
    assert_eq!(name("Bücher.example.test:443"), ("xn--bcher-kva.example.test".into(), false));
    assert_eq!(name("bücher。example。test"), ("xn--bcher-kva.example.test".into(), false));
    assert_eq!(name("_dmarc.a--b.test"), ("_dmarc.a--b.test".into(), false));
    assert_eq!(name("db:5432"), ("db".into(), false));
    let whole = named("a.test:80,8000-8100/udp").unwrap();
    assert_eq!((whole.ports, whole.tcp, whole.udp), (vec![(80, 80), (8000, 8100)], false, true));
}

#[test]
fn what_is_no_name_says_what_to_write() {
    for (text, reason) in [
        ("*", "every name"),
        ("*.:443", "every name"),
        ("api.*.test", "whole label"),
        ("a*.example.test", "whole label"),
        ("*.*.test", "whole label"),
        ("a..test", "empty label"),
        (".test", "empty label"),
        ("*..test", "empty label"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("0x7f000001:80", "127.0.0.1"),
        ("１２７.1", "127.0.0.1"),
        ("1.2.3.4.5", "ends in a number"),
        ("host.300", "ends in a number"),
        ("a b.test", "one rule for each"),
        ("user@host.test", "the user"),
        ("localhost:80", "loopback:own"),
        ("x.localhost", "loopback:own"),
        ("xn--a.test", "internationalised"),
        ("a.test:1,3,5,7,9", "10 ranges"),
        ("a.test:99999", "99999"),
    ] {
        let why = why(text);
        assert!(why.contains(reason), "{text}: {why}");
    }
    assert!(why(&format!("{}.test", "x".repeat(64))).contains("64 bytes"));
    assert!(why(&format!("{}test", "abcdefgh.".repeat(28))).contains("256 bytes"));
}

#[test]
fn a_wildcard_is_all_below_and_not_the_name() {
    let wild = rule("*.example.test", false, 0);
    assert!(covers(&wild, "a.example.test") && covers(&wild, "a.b.example.test"));
    assert!(!covers(&wild, "example.test") && !covers(&wild, "badexample.test"));
    assert!(!covers(&wild, ".example.test"));
    assert!(covers(&rule("example.test", false, 0), "example.test"));
}

#[test]
fn ranges_of_several_rules_are_put_together() {
    let rules = [rule("a.test:80-90/tcp", false, 1), rule("*.test:85-95/tcp", false, 0)];
    let key = |port| port_key(TCP, port);
    assert_eq!(ranges(&rules), [(key(80), key(84), 1), (key(85), key(95), 0)]);
    let whole = rule("a.test", false, 3);
    assert_eq!(ranges([&whole]).len(), 2, "TCP and UDP are not one range");
}

proptest! {
    #[test]
    fn no_name_is_too_strange(text in ".{0,80}") {
        let _ = named(&text);
    }

    #[test]
    fn what_was_read_is_read_the_same_again(text in "[a-zA-Z0-9_.üß-]{1,30}") {
        if let Ok(Named { name, .. }) = named(&text) {
            prop_assert_eq!(named(&name).unwrap().name, name);
        }
    }

    #[test]
    fn the_index_finds_what_covers(
        names in proptest::collection::vec(("[ab](\\.[ab]){0,3}", any::<bool>()), 1..8),
        asked in "[ab](\\.[ab]){0,4}",
    ) {
        let rules: Vec<NameRule> = (0u32..).zip(&names).map(|(id, (name, below))| {
            rule(&format!("{}{name}", if *below { "*." } else { "" }), false, id)
        }).collect();
        let mut found: Vec<u32> =
            Index::new(&rules).covering(&asked, false).iter().map(|rule| rule.rule).collect();
        found.sort_unstable();
        let plain: Vec<u32> =
            rules.iter().filter(|rule| covers(rule, &asked)).map(|rule| rule.rule).collect();
        prop_assert_eq!(found, plain);
    }
}
