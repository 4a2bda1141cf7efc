//! Rules on names, for units: as the C library asks, through the daemon's death and return, in another network namespace.

use std::net::{TcpStream, ToSocketAddrs};
use std::process::Output;
use std::time::{Duration, Instant};

use super::Scenario;
use super::daemon;
use super::exec::{Checked, attempt, ensure, text, until};
use super::nameserver::{self, API};
use super::probe::PROGRAM;

pub const SCENARIOS: &[Scenario] = &[
    ("named_unit_reaches_what_its_rule_names", reaches),
    ("named_address_stays_allowed_through_the_daemons_death", survives),
    ("named_unit_in_another_network_namespace_is_answered", elsewhere),
];

const PATIENCE: Duration = Duration::from_secs(5);

/// `host reach NAME:PORT`: asks as the C library does, and connects. What it says is all that it learns.
pub fn reach(words: &[String]) -> Result<bool, String> {
    let [target] = words else { return Err("usage: host reach NAME:PORT".into()) };
    let addresses = match target.to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => {
            println!("unknown: {error}");
            return Ok(false);
        }
    };
    let mut reached = false;
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => {
                println!("reached {address}");
                reached = true;
            }
            Err(error) => println!("failed {address}: {:?}", error.kind()),
        }
    }
    Ok(reached)
}

fn prepare() -> Checked<u16> {
    let port = nameserver::start().map_err(|error| format!("the name server: {error}"))?;
    let policy = format!(
        r#"version = 1
name = "named"
[scope]
slices = ["ci.slice"]
[network]
allow = ["api.scenario.test:{port}/tcp"]
[files]
read = ["/**"]
exec = ["/**"]
"#
    );
    daemon::ready(&[("named.toml", &policy)])?;
    Ok(port)
}

/// Tries in a unit of its own.
fn tried(slice: &str, more: &[&str], target: &str) -> Checked<(Output, Duration)> {
    let slice = format!("--slice={slice}");
    let words = [&["systemd-run", "--quiet", "--wait", "--pipe", "--collect", &slice], more].concat();
    let start = Instant::now();
    let output = attempt(&[&words[..], &["--", PROGRAM, "reach", target]].concat())?;
    Ok((output, start.elapsed()))
}

fn says(slice: &str, more: &[&str], target: &str, expected: &str) -> Checked {
    let (output, _) = tried(slice, more, target)?;
    let said = text(&output.stdout);
    ensure(said.contains(expected), || format!("{target}: {said:?}, not {expected:?}: {}", daemon::denied()))
}

fn reaches() -> Checked {
    let port = prepare()?;
    let (api, other) = (format!("api.scenario.test:{port}"), format!("other.scenario.test:{port}"));
    says("ci.slice", &[], &format!("{API}:{port}"), "PermissionDenied")?;
    says("ci.slice", &[], &api, "reached")?;
    says("ci.slice", &[], &format!("{API}:{port}"), "reached")?;
    let (output, took) = tried("ci.slice", &[], &other)?;
    let said = text(&output.stdout);
    ensure(said.contains("unknown"), || format!("a name without a rule: {said}"))?;
    ensure(took < Duration::from_secs(60), || format!("that was told after {took:?}"))?;
    says("ci.slice", &[], &format!("api.scenario.test:{}", port ^ 1), "PermissionDenied")?;
    // The control: outside there are both.
    says("system.slice", &[], &other, "reached")
}

fn survives() -> Checked {
    let port = prepare()?;
    let (name, address) = (format!("api.scenario.test:{port}"), format!("{API}:{port}"));
    says("ci.slice", &[], &name, "reached")?;
    // What was answered is kept within ten seconds.
    std::thread::sleep(Duration::from_secs(12));
    let dead = daemon::kill()?;
    says("ci.slice", &[], &address, "reached")?;
    says("ci.slice", &[], &name, "unknown")?;
    drop(dead);
    until(60, "the daemon is back", || Ok(daemon::is_active()?.then_some(())))?;
    says("ci.slice", &[], &address, "reached")?;
    says("ci.slice", &[], &name, "reached")
}

fn elsewhere() -> Checked {
    let port = prepare()?;
    let alone = ["--property=PrivateNetwork=yes"];
    // Whoever asks first tells the daemon where a gate is needed. There is no way out of this namespace.
    says("ci.slice", &alone, &format!("other.scenario.test:{port}"), "unknown")?;
    let first = "--property=ExecStartPre=-/bin/sh -c '/srv/probe/host reach api.scenario.test:1; sleep 2'";
    let unit = ["--property=PrivateNetwork=yes", first];
    until(120, "a gate in another network namespace", || {
        let (output, _) = tried("ci.slice", &unit, &format!("api.scenario.test:{port}"))?;
        Ok(text(&output.stdout).contains(&format!("failed {API}")).then_some(()))
    })
}
