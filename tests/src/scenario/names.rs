//! Rules on names: what is allowed is what the name has, once it was asked for, and nothing else.

use std::io::Write;
use std::process::{Command, Stdio};

use super::nameserver::{self, API, OTHER, SERVER};
use super::{batch, listeners};

/// A server that is none, and that nobody can reach: the gate answers in its place.
const ANY: &str = "9.9.9.9";

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What comes of operations under a policy, one after the other; without flags, outside.
fn tried(flags: Option<&[&str]>, operations: &[&str]) -> Result<Vec<String>, String> {
    let port = nameserver::start().map_err(text)?;
    let attempt = batch::attempt().map_err(text)?;
    let fill = |words: &str| {
        let words =
            words.replace("{port}", &port.to_string()).replace("{own}", &listeners::port().to_string());
        words
            .replace("{api}", API)
            .replace("{other}", OTHER)
            .replace("{any}", ANY)
            .replace("{server}", SERVER)
    };
    let mut command = match flags {
        Some(flags) => {
            let mut command = Command::new("stockade");
            command.args(["run", "--workspace", "/lifecycle/work", "--allow-read=/etc/resolv.conf"]);
            // Else nothing of what is tried by it would come as far as the network.
            command.args(["--allow-process", "io-uring"]);
            command.args(flags.iter().map(|flag| fill(flag))).args(["--", &attempt]);
            command
        }
        None => Command::new(&attempt),
    };
    let pipes = command.args(["--batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.stderr(Stdio::piped()).spawn().map_err(text)?;
    if let Some(mut input) = child.stdin.take() {
        for operation in operations {
            // A refusal to start closes the pipe; its message says more than EPIPE.
            let _ = writeln!(input, "{}", fill(operation));
        }
    }
    let output = child.wait_with_output().map_err(text)?;
    let lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    if lines.len() != operations.len() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} of {} results: {}; {stderr}", lines.len(), operations.len(), output.status));
    }
    Ok(lines)
}

/// Each operation and what must come of it.
pub(super) fn expect(flags: Option<&[&str]>, expected: &[(&str, &str)]) -> Result<(), String> {
    let operations: Vec<&str> = expected.iter().map(|(operation, _)| *operation).collect();
    let results = tried(flags, &operations)?;
    for ((operation, expected), result) in expected.iter().zip(&results) {
        if !result.starts_with(expected) {
            return Err(format!("{operation}: {result}, not {expected} ({results:?})"));
        }
    }
    Ok(())
}

const NAMED: &[&str] = &["--allow-net=api.scenario.test:{port}"];

/// However it is asked for, and whatever server: an address is allowed once its name was answered, not before.
pub fn every_transport() -> Result<(), String> {
    for verb in ["dns", "dns-mapped", "dns-connected", "dns-tcp", "dns-io_uring"] {
        let asked = format!("{verb} {{any}} api.scenario.test");
        expect(
            Some(NAMED),
            &[("tcp4 {api} {port}", "denied"), (&asked, "allowed"), ("tcp4 {api} {port}", "allowed")],
        )?;
    }
    expect(
        Some(NAMED),
        &[
            ("dns-peer {any} api.scenario.test", "allowed"),
            ("dns-two-servers 9.9.9.9 8.8.8.8 api.scenario.test", "allowed"),
            ("dns 2620:fe::fe api.scenario.test", "allowed"),
            ("dns {server} api.scenario.test", "allowed"),
            ("resolve-tcp api.scenario.test {port}", "allowed"),
        ],
    )?;
    // Outside nobody carries a question anywhere.
    expect(None, &[("dns {server} other.scenario.test", "allowed"), ("tcp4 {api} {port}", "allowed")])
}

/// What no rule covers does not exist, and nothing is learnt by asking.
pub fn other_names() -> Result<(), String> {
    expect(
        Some(NAMED),
        &[
            ("dns {any} other.scenario.test", "error ENOENT"),
            ("dns-tcp {server} other.scenario.test", "error ENOENT"),
            ("tcp4 {other} {port}", "denied"),
            ("dns {any} api.scenario.test", "allowed"),
            ("tcp4 {other} {port}", "denied"),
            ("tcp4 {api} 81", "denied"),
            ("udp4 {api} {port}", "allowed"),
            ("udp4 {api} 81", "denied"),
        ],
    )?;
    expect(None, &[("tcp4 {other} {port}", "allowed")])
}

/// A wildcard is every name below, and not the name itself; a denial wins.
pub fn wildcards() -> Result<(), String> {
    expect(
        Some(&["--allow-net=*.wild.scenario.test:{port}/tcp", "--deny-net=no.wild.scenario.test"]),
        &[
            ("dns {any} wild.scenario.test", "error ENOENT"),
            ("dns {any} no.wild.scenario.test", "error ENOENT"),
            ("tcp4 {other} {port}", "denied"),
            ("udp-source {other} 9", "denied"),
            ("dns {any} a.B.wild.scenario.TEST", "allowed"),
            ("tcp4 {other} {port}", "allowed"),
            ("udp4 {other} {port}", "denied"),
            // Resolvers may ask by which address of ours it is reached, but nothing is sent.
            ("udp-source {other} 9", "allowed"),
            ("udp4-connected {other} {port}", "denied"),
            ("udp-source {api} 9", "denied"),
        ],
    )
}

/// An alias is followed, and allows what the name asked for allows.
pub fn alias() -> Result<(), String> {
    expect(
        Some(&["--allow-net=alias.scenario.test:{port}"]),
        &[
            ("dns {any} api.scenario.test", "error ENOENT"),
            ("dns {any} alias.scenario.test", "allowed"),
            ("tcp4 {api} {port}", "allowed"),
        ],
    )
}

/// Names whose servers answer with addresses of this host, of its network or of the cloud's metadata.
pub fn rebinding() -> Result<(), String> {
    expect(
        Some(&["--allow-net=*.scenario.test"]),
        &[
            ("dns {any} local.scenario.test", "error"),
            ("dns {any} private.scenario.test", "error"),
            ("dns {any} metadata.scenario.test", "error"),
            ("tcp4 127.0.0.1 {own}", "denied"),
            ("tcp4 10.11.12.13 80", "denied"),
            ("tcp4 169.254.169.254 80", "denied"),
        ],
    )?;
    expect(None, &[("dns {server} local.scenario.test", "allowed"), ("tcp4 127.0.0.1 {own}", "allowed")])
}

/// No allow covers the metadata addresses but one that names them.
pub fn metadata() -> Result<(), String> {
    let wide = ["--allow-net=0.0.0.0/0", "--allow-net=::/0"];
    expect(Some(&wide), &[("udp4 169.254.169.254 80", "denied"), ("udp6 fd00:ec2::254 80", "denied")])?;
    expect(Some(&wide), &[("tcp4 {api} {port}", "allowed")])?;
    let exact = [&wide[..], &["--allow-net=169.254.169.254:80"]].concat();
    // There is no such host: what counts is that it is not the policy that refuses.
    expect(Some(&exact), &[("udp4 169.254.169.254 80", "error ENETUNREACH")])
}

/// What one run has learnt is nothing to another.
pub fn apart() -> Result<(), String> {
    let asking = std::thread::spawn(|| {
        let asked = [("dns {any} api.scenario.test", "allowed"), ("tcp4 {api} {port}", "allowed")];
        expect(Some(NAMED), &asked)
    });
    let other = expect(Some(&["--allow-net=none.scenario.test"]), &[("tcp4 {api} {port}", "denied")]);
    asking.join().map_err(|_| "the other run".to_owned())??;
    other?;
    expect(Some(NAMED), &[("tcp4 {api} {port}", "denied")])
}

/// A gate is reached by questions only.
pub fn loopback_own() -> Result<(), String> {
    for address in ["127.0.0.1", "::1"] {
        let own = format!("own-listener {address}");
        expect(Some(&[]), &[(&own, "denied")])?;
        expect(
            Some(&["--allow-net=loopback:own"]),
            &[(&own, "allowed"), ("tcp4 127.0.0.1 {own}", "denied"), ("tcp6 ::1 {own}", "denied")],
        )?;
        expect(None, &[(&own, "allowed"), ("tcp4 127.0.0.1 {own}", "allowed")])?;
    }
    Ok(())
}
