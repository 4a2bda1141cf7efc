//! The command line against the API.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use super::{
    core::publish,
    setup::{As, Daemon},
};

fn stockade(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stockade"));
    command.args(arguments).arg("--socket").arg(socket).stdin(Stdio::null());
    command
}

fn output(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = stockade(&daemon.path, arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn status_for_people_and_programs() {
    let daemon = Daemon::start(As::Root);
    let (code, text, _) = output(&daemon, &["status"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("run-other"), "{text}");
    let (_, json, _) = output(&daemon, &["status", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["scopes"][0]["name"], "ci");
}

#[test]
fn changes_reach_the_core() {
    let daemon = Daemon::start(As::Root);
    for (arguments, said) in [
        (&["tag", "x.service", "--policy", "ci"][..], "/ci.slice is held to ci, 2 processes\n  a socket\n"),
        (&["untag", "/ci.slice"], "/ci.slice is no longer held to ci, 2 processes\n  a socket\n"),
        (&["policy", "reload"], "changed: ci\n"),
        (&["policy", "mode", "ci", "audit"], "ci: enforce until the next reload\n"),
        (&["policy", "shadow", "ci", "--end"], "1 decisions compared, 0 missed, 0 kinds of differences\n"),
        (&["detach", "--all", "--yes"], "everything is let go; the daemon has ended\n"),
    ] {
        let (code, stdout, stderr) = output(&daemon, arguments);
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), said, ""), "{arguments:?}");
    }
    let expected = [
        "tag Unit(\"x.service\") ci",
        "untag Cgroup(\"/ci.slice\")",
        "reload",
        "mode ci Audit",
        "shadow ci None",
        "detach",
    ];
    assert_eq!(daemon.asked.all(), expected);
}

#[test]
fn failures_have_their_codes() {
    let daemon = Daemon::start(As::Root);
    for (arguments, code) in [
        (&["tag", "x.service", "--policy", "taken"][..], 1),
        (&["tag", "a/b", "--policy", "ci"], 2),
        (&["policy", "mode", "nobody", "audit"], 1),
        (&["policy", "shadow", "ci"], 1),
        (&["detach", "--all"], 2),
        (&["detach", "--yes"], 2),
    ] {
        let (is, _, stderr) = output(&daemon, arguments);
        assert_eq!(is, Some(code), "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
    let none = stockade(Path::new("/no/such.sock"), &["status"]).output().unwrap();
    assert_eq!(none.status.code(), Some(4));
    assert!(String::from_utf8(none.stderr).unwrap().contains("no daemon answers at /no/such.sock"));
    let member = Daemon::start(As::Member);
    assert_eq!(output(&member, &["policy", "reload"]).0, Some(5));
    assert_eq!(output(&member, &["status"]).0, Some(0));
}

#[test]
fn a_shadow_is_begun_with_the_policys_text() {
    let daemon = Daemon::start(As::Root);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ci.toml");
    std::fs::write(&file, "version = 1\nname = \"ci\"\n").unwrap();
    let (code, stdout, stderr) = output(&daemon, &["policy", "apply", "--shadow", file.to_str().unwrap()]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.starts_with("ci: compared from now on"), "{stdout}");
    assert_eq!(daemon.asked.all(), ["shadow ci Some(\"version = 1\\nname = \\\"ci\\\"\\n\")"]);
}

#[test]
fn events_are_shown_and_followed() {
    let mut daemon = Daemon::start(As::Root);
    publish(&daemon.hub, "ci", "denied 1", None);
    publish(&daemon.hub, "ci", "2", None);
    let (code, stdout, _) = output(&daemon, &["events", "--format", "json", "--denied"]);
    assert_eq!((code, stdout.lines().count()), (Some(0), 1), "{stdout}");
    let mut follow =
        stockade(&daemon.path, &["events", "-f", "--scope", "ci"]).stdout(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while daemon.hub.readers() == 0 {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    publish(&daemon.hub, "other", "3", None);
    publish(&daemon.hub, "ci", "4", None);
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains(" ci open "));
    daemon.stop();
    assert!(lines.next().is_none());
    assert_eq!(follow.wait().unwrap().code(), Some(4), "the daemon has ended");
}

#[test]
fn a_reader_who_has_enough_is_no_failure() {
    let daemon = Daemon::start(As::Root);
    let mut command = stockade(&daemon.path, &["events"]);
    for number in 0..4000 {
        publish(&daemon.hub, "ci", &number.to_string(), None);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

/// `stockade run` with a policy that needs nothing of the host but the command.
fn run(socket: &Path, flags: &[&str], script: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stockade"));
    command.args(["run", "--socket"]).arg(socket).args(flags);
    command.args(["--allow-read", "/**", "--", "/bin/sh", "-c", script]).stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn run_goes_through_the_daemon() {
    let daemon = Daemon::start(As::Member);
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.jsonl");
    let flags = ["--daemon", "always", "--events", events.to_str().unwrap()];
    let output = run(&daemon.path, &flags, "echo out; exit 7");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), &b"out\n"[..]), "{output:?}");
    let asked = daemon.asked.all();
    assert!(asked.len() == 2 && asked[0].starts_with("run ") && asked[1] == "end run-1", "{asked:?}");
    let told = std::fs::read_to_string(&events).unwrap();
    assert!(told.lines().count() == 2 && told.contains("begin") && told.contains("end"), "{told}");
    // Where there is one it is used; where there is none, that is said.
    assert_eq!(run(&daemon.path, &[], "exit 8").status.code(), Some(8));
    let none = run(Path::new("/no/such.sock"), &["--daemon", "always"], "echo out");
    assert_eq!((none.status.code(), none.stdout.len()), (Some(4), 0));
}

#[test]
fn signals_reach_a_command_that_the_daemon_polices() {
    let daemon = Daemon::start(As::Root);
    let output = run(&daemon.path, &["--daemon", "always"], "kill -TERM $$");
    assert_eq!(output.status.code(), Some(128 + 15), "{output:?}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_stockade"));
    command.args(["run", "--daemon", "always", "--socket"]).arg(&daemon.path);
    command.args([
        "--allow-read",
        "/**",
        "/bin/sh",
        "-c",
        "trap 'exit 9' TERM; echo; while :; do sleep 0.1; done",
    ]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    daemon.asked.wait_for("end run-2");
}

#[test]
fn what_a_policy_cannot_say_is_not_told_to_the_daemon() {
    let daemon = Daemon::start(As::Root);
    let output = run(&daemon.path, &["--daemon", "always", "--deny-read", "/etc/shadow"], "echo out");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--deny-read"));
    assert!(daemon.asked.all().is_empty());
}
