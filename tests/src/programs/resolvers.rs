//! How names are asked for: with search domains, and through systemd-resolved.

use std::fs;

use super::exec::{Checked, attempt, ensure, run, said, shell, until};
use super::network::{NAMESERVER, resolv_conf};
use super::program::Scenario;
use super::trial::{Outcome, Who, free, held};

/// What is asked for here.
const RULE: &str = "api.programs.test:80/tcp";
/// The first has no such name, the second does; a name with one dot is tried with them before it is tried as it is.
const SEARCH: &str = "search corp.test programs.test\noptions ndots:2\n";
const RESOLVED: &str = "/etc/systemd/resolved.conf.d/ours.conf";
const NSSWITCH: &str = "/etc/nsswitch.conf";

/// Clients of different resolvers, by the name they are given.
const CLIENTS: [(&str, &str); 4] = [
    ("getaddrinfo", "curl -sSf http://{host}/hello"),
    ("go", "go-client http://{host}/hello"),
    ("musl", "musl-client {host} /hello"),
    (
        "python",
        "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://{host}/hello\").read().decode())'",
    ),
];

/// What is to hold of them.
pub fn scenarios() -> Vec<Scenario> {
    let mut all: Vec<Scenario> = Vec::new();
    for (client, line) in CLIENTS {
        all.push((format!("search_{client}_finds_names"), Box::new(move || search(line))));
    }
    all.push(("resolved_stub_is_answered_by_the_gate".to_owned(), Box::new(|| resolved("files dns"))));
    all.push((
        "resolved_by_its_own_socket_is_refused_and_dns_asked".to_owned(),
        Box::new(|| resolved("files resolve [!UNAVAIL=return] dns")),
    ));
    all
}

fn answered(outcome: &Outcome, what: &str) -> Checked {
    ensure(outcome.status == 0 && outcome.printed.ends_with("hello"), || {
        format!("{what}: status {}: {}; denied: {}", outcome.status, outcome.said, outcome.denied())
    })
}

fn fails(outcome: &Outcome, what: &str, name: &str) -> Checked {
    ensure(outcome.status != 0 && outcome.status != 124, || {
        format!("{what}: status {}: {}", outcome.status, outcome.said)
    })?;
    ensure(outcome.refused(name), || format!("{what}: no event tells of {name}: {}", outcome.denied()))
}

/// A short name is found where the rule says, whatever was asked for on the way there; without the rule there is none.
fn search(line: &str) -> Checked {
    resolv_conf(&format!("nameserver {NAMESERVER}\n{SEARCH}"))?;
    let ended = (|| {
        let short = line.replace("{host}", "api");
        answered(&free(Who::User, "", &short)?, "control outside")?;
        answered(&held(Who::User, "", &[RULE], &short)?, "a name of one label")?;
        answered(
            &held(Who::User, "", &[RULE], &line.replace("{host}", "api.programs.test"))?,
            "a whole name",
        )?;
        fails(&held(Who::User, "", &["none.programs.test"], &short)?, "without a rule", "api.programs.test")
    })();
    resolv_conf(&format!("nameserver {NAMESERVER}\n"))?;
    ended
}

/// As on most desktops and servers: resolv.conf names the stub, which asks our name server.
fn resolved(hosts: &str) -> Checked {
    let before = fs::read_to_string(NSSWITCH).map_err(|e| format!("{NSSWITCH}: {e}"))?;
    let ours = format!("hosts: {hosts}");
    let others = before.lines().filter(|line| !line.starts_with("hosts:"));
    let changed: String = others.chain([ours.as_str()]).map(|line| format!("{line}\n")).collect();
    let ended = (|| {
        super::offers::file(
            RESOLVED,
            &format!("[Resolve]\nDNS={NAMESERVER}\nDomains=~.\nDNSSEC=no\nLLMNR=no\n"),
        )?;
        super::offers::file(NSSWITCH, &changed)?;
        resolv_conf("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n")?;
        // Of a host with nothing but loopback it says that there is no network.
        shell(
            "ip link show out0 || { ip link add out0 type dummy && ip addr add 203.0.113.1/24 dev out0 && ip link set out0 up; }",
        )?;
        run(&["systemctl", "restart", "systemd-resolved"])?;
        let line = "curl -sSf http://api.programs.test/hello";
        until(60, "systemd-resolved answers", || Ok((free(Who::User, "", line)?.status == 0).then_some(())))
            .map_err(|e| format!("{e}: {}", why()))?;
        answered(&held(Who::User, "", &[RULE], line)?, "curl")?;
        let outcome = held(Who::User, "", &["none.programs.test"], line)?;
        fails(&outcome, "curl without a rule", "api.programs.test")?;
        ensure(outcome.said.contains("api.programs.test"), || outcome.said.clone())
    })();
    let _ = run(&["systemctl", "stop", "systemd-resolved"]);
    super::offers::file(NSSWITCH, &before)?;
    resolv_conf(&format!("nameserver {NAMESERVER}\n"))?;
    ended
}

/// What systemd-resolved says of itself.
fn why() -> String {
    let words: [&[&str]; 3] = [
        &["resolvectl", "query", "api.programs.test"],
        &["resolvectl", "status", "--no-pager"],
        &["journalctl", "--no-pager", "--lines=8", "--output=cat", "--unit=systemd-resolved"],
    ];
    let said = words.map(|words| attempt(words).map_or_else(|e| e, |output| said(words, &output)));
    said.join("; ")
}
