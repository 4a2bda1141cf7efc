//! Explanations of one policy.

use super::*;
use crate::policy::{
    check::{self, Overlay},
    compile::compile,
    mounts::MountTable,
    parse::{Document, Source},
};

const TEXT: &str = r#"version = 1
[network]
allow = [
  "192.0.2.0/24:443/tcp",
  "api.example.test:443/tcp",
  "*.cdn.example.test:443",
  "loopback:own",
  "169.254.0.0/16",
]
deny = ["192.0.2.66", "tracker.cdn.example.test"]
egress = { interface = "wg0" }
"#;

fn with<T>(text: &str, ask: impl FnOnce(Explainer<'_>) -> T) -> T {
    let document = Document::new(Source { name: "p.toml".into(), text: text.into() }).unwrap();
    let policy = check::check(&[document], &Overlay::default()).unwrap();
    let (image, _) = compile(&policy, &MountTable::default()).unwrap();
    ask(Explainer { policy: &policy, image: &image })
}

fn address(text: &str, addr: &str, port: u16, protocol: Protocol) -> Explanation {
    with(text, |explainer| explainer.address(addr.parse().unwrap(), port, protocol))
}

fn name(name: &str, port: u16, addresses: &[&str]) -> Explanation {
    let addresses: Vec<IpAddr> = addresses.iter().map(|addr| addr.parse().unwrap()).collect();
    with(TEXT, |explainer| explainer.name(name, port, Protocol::Tcp, &addresses))
}

fn short(answer: &Explanation) -> (Outcome, &'static str, &str) {
    (answer.outcome, answer.reason, answer.rules.first().map_or("", |rule| rule.source.as_str()))
}

#[test]
fn addresses_are_explained_by_their_rule() {
    use Outcome::{Allowed, Denied, Depends};
    use Protocol::{Tcp, Udp};
    for (addr, port, protocol, expected) in [
        ("192.0.2.7", 443, Tcp, (Allowed, "rule_allow", "p.toml:4")),
        ("::ffff:192.0.2.7", 443, Tcp, (Allowed, "rule_allow", "p.toml:4")),
        ("192.0.2.66", 443, Tcp, (Denied, "rule_deny", "p.toml:10")),
        ("192.0.2.7", 443, Udp, (Depends, "names", "p.toml:6")),
        ("192.0.2.7", 80, Tcp, (Denied, "no_rule", "")),
        ("198.51.100.1", 443, Tcp, (Depends, "names", "p.toml:5")),
        ("10.0.0.1", 443, Tcp, (Denied, "no_rule", "")),
        ("127.0.0.1", 8080, Tcp, (Depends, "loopback_own", "p.toml:7")),
        ("169.254.169.254", 80, Tcp, (Denied, "metadata", "built in")),
        ("169.254.1.1", 80, Tcp, (Allowed, "rule_allow", "p.toml:8")),
        ("198.51.100.53", 53, Udp, (Allowed, "dns_gate", "")),
    ] {
        let answer = address(TEXT, addr, port, protocol);
        assert_eq!(short(&answer), expected, "{addr} {port}: {answer:?}");
    }
    let plain = address("version = 1\n", "198.51.100.53", 53, Udp);
    assert_eq!(short(&plain), (Denied, "no_rule", ""));
    assert!(plain.change.unwrap().contains("--allow-net 198.51.100.53:53/udp"));
    let v6 = address("version = 1\n", "2001:db8::1", 80, Tcp);
    assert!(v6.change.unwrap().contains("--allow-net [2001:db8::1]:80/tcp"));
}

#[test]
fn names_are_explained_by_rule_wildcard_and_port() {
    assert_eq!(short(&name("api.example.test", 443, &[])), (Outcome::Allowed, "name_allow", "p.toml:5"));
    let wild = name("x.y.cdn.example.test", 443, &[]);
    assert_eq!(short(&wild), (Outcome::Allowed, "name_allow", "p.toml:6"));
    assert!(wild.why.contains("*.cdn.example.test"), "{}", wild.why);
    assert_eq!(short(&name("tracker.cdn.example.test", 443, &[])).1, "name_deny");
    assert_eq!(short(&name("api.example.test", 80, &[])).1, "other_ports");
    let apex = name("cdn.example.test", 443, &[]);
    assert_eq!(short(&apex), (Outcome::Denied, "no_rule", ""));
    assert!(apex.notes.iter().any(|note| note.contains("not cdn.example.test itself")), "{apex:?}");
}

#[test]
fn each_address_of_a_name_is_told_of() {
    let answer = name(
        "api.example.test",
        443,
        &["198.51.100.1", "192.0.2.66", "10.0.0.1", "127.0.0.1", "169.254.169.254"],
    );
    let reasons: Vec<&str> = answer.addresses.iter().map(|answer| answer.reason).collect();
    assert_eq!(reasons, ["name_allow", "rule_deny", "rebinding", "rebinding", "metadata"]);
}

#[test]
fn the_way_out_and_the_mode_are_told_of() {
    let answer = address(TEXT, "192.0.2.7", 443, Protocol::Tcp);
    assert_eq!(answer.interface.as_deref(), Some("wg0"));
    assert_eq!(address(TEXT, "127.0.0.1", 8080, Protocol::Tcp).interface, None);
    let audit = address("version = 1\nmode = \"audit\"\n", "192.0.2.7", 443, Protocol::Tcp);
    assert!(audit.notes.iter().any(|note| note.contains("audit")), "{audit:?}");
}

#[test]
fn listening_is_for_loopback_without_a_rule() {
    with(TEXT, |explainer| {
        let at = |addr: &str| explainer.listen(addr.parse().unwrap(), 8080, Protocol::Tcp);
        assert_eq!(short(&at("127.0.0.1")), (Outcome::Allowed, "rule_allow", "profile base:6"));
        assert_eq!(short(&at("0.0.0.0")), (Outcome::Denied, "no_rule", ""));
    });
}
