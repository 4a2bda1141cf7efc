//! A run lasts as long as its client.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use super::setup::{As, Daemon, exchange, request};

fn body(policy: &str, pid: u32) -> String {
    // Whatever a client says of itself is not taken.
    json!({ "policy": policy, "pid": pid, "uid": 4242, "client": 1 }).to_string()
}

fn start(daemon: &Daemon, policy: &str) -> BufReader<UnixStream> {
    let mut stream = daemon.connect();
    stream.write_all(request("POST", "/v1/run", &body(policy, std::process::id())).as_bytes()).unwrap();
    BufReader::new(stream)
}

fn next(stream: &mut BufReader<UnixStream>) -> Option<Value> {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        if line.starts_with('{') {
            return Some(serde_json::from_str(&line).unwrap());
        }
    }
}

fn sleeper() -> Child {
    Command::new("sleep")
        .arg("60")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A child's sockets, held by us too.
fn sockets_of(pid: u32) -> Vec<OwnedFd> {
    // SAFETY: takes numbers only, and makes a descriptor for us.
    let duplicate = |pidfd: i32, fd: i32| unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, fd, 0) };
    // SAFETY: as above.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
    let mut sockets = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:")) {
            let fd = duplicate(pidfd, entry.file_name().to_str().unwrap().parse().unwrap());
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: it was made just now.
            sockets.push(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        }
    }
    // SAFETY: as above.
    drop(unsafe { OwnedFd::from_raw_fd(pidfd) });
    sockets
}

#[test]
fn a_run_is_started_told_of_and_ended() {
    let daemon = Daemon::start(As::Member);
    let mut run = start(&daemon, "ok");
    assert_eq!(next(&mut run).unwrap()["scope"], "run-1");
    assert_eq!(next(&mut run).unwrap()["text"], "begin", "not another run's");
    let (pid, uid) = (std::process::id(), nix::unistd::geteuid());
    assert_eq!(daemon.asked.all(), [format!("run {pid} by {pid} as {uid}")], "filled in from the peer");
    let (code, ended) = daemon.post("/v1/run/run-1/end", "");
    assert_eq!((code, &ended["decisions"]["net"]["denied"]), (200, &json!(4)));
    assert_eq!(next(&mut run).unwrap()["text"], "end");
    assert_eq!(next(&mut run), None, "and then the stream ends");
    assert_eq!(daemon.asked.all()[1..], ["end run-1"], "once");
    assert_eq!(daemon.refused("POST", "/v1/run/run-1/end", "").0, 404);
}

#[test]
fn a_connection_that_ends_ends_the_run() {
    let daemon = Daemon::start(As::Root);
    let mut run = start(&daemon, "ok");
    assert_eq!(next(&mut run).unwrap()["scope"], "run-1");
    drop(run);
    daemon.asked.wait_for("end run-1");
    // Before there was an answer.
    let run = start(&daemon, "slow");
    daemon
        .asked
        .wait_until("a second run", |asked| asked.iter().filter(|one| one.starts_with("run ")).count() == 2);
    drop(run);
    daemon.asked.wait_for("end run-2");
}

#[test]
fn a_killed_client_ends_the_run_though_its_connection_is_held() {
    let daemon = Daemon::start(As::Root);
    let script = r#"exec curl -sN --unix-socket "$0" -d "{\"policy\":\"ok\",\"pid\":$$}" http://x/v1/run"#;
    let mut client = Command::new("sh")
        .args(["-c", script])
        .arg(&daemon.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("run-1"));
    let held = sockets_of(client.id());
    assert!(!held.is_empty());
    client.kill().unwrap();
    client.wait().unwrap();
    daemon.asked.wait_for("end run-1");
    drop(held);
}

#[test]
fn refused_runs_leave_nothing() {
    let daemon = Daemon::start(As::Member);
    assert_eq!(daemon.refused("POST", "/v1/run", &body("bad", std::process::id())), (422, "invalid".into()));
    assert_eq!(daemon.asked.all().len(), 1);
}

#[test]
fn only_a_process_of_ones_own_is_moved() {
    let daemon = Daemon::start(As::Member);
    let mut child = sleeper();
    let mut run = daemon.connect();
    run.write_all(request("POST", "/v1/run", &body("ok", child.id())).as_bytes()).unwrap();
    let mut run = BufReader::new(run);
    assert_eq!(next(&mut run).unwrap()["scope"], "run-1", "a child is");
    child.kill().unwrap();
    child.wait().unwrap();
    let parent = std::os::unix::process::parent_id();
    for (pid, code) in [(1, 403), (parent, 403), (child.id(), 400), (0, 400), (u32::MAX, 400)] {
        assert_eq!(daemon.refused("POST", "/v1/run", &body("ok", pid)).0, code, "{pid}");
    }
    // A grandchild is no child.
    let mut shell = Command::new("sh")
        .args(["-c", "sleep 60 >/dev/null 2>&1 & echo $!; wait"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let grandchild: u32 = line.trim().parse().unwrap();
    assert_eq!(daemon.refused("POST", "/v1/run", &body("ok", grandchild)).0, 403);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(grandchild as i32), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    shell.wait().unwrap();
    assert_eq!(daemon.asked.all().iter().filter(|asked| asked.starts_with("run ")).count(), 1);
}

#[test]
fn runs_go_on_when_the_daemon_ends() {
    let mut daemon = Daemon::start(As::Root);
    let mut run = start(&daemon, "ok");
    assert_eq!(next(&mut run).unwrap()["scope"], "run-1");
    daemon.stop();
    while next(&mut run).is_some() {}
    assert!(!daemon.asked.all().contains(&"end run-1".to_owned()));
}

#[test]
fn a_run_of_an_earlier_daemon_can_be_ended() {
    let daemon = Daemon::start(As::Root);
    assert_eq!(daemon.post("/v1/run/run-old/end", "").0, 200);
    assert_eq!(daemon.asked.all(), ["end run-old"]);
    assert_eq!(daemon.refused("POST", "/v1/run/ci/end", "").0, 404, "not a run");
    assert_eq!(daemon.refused("POST", "/v1/run/none/end", "").0, 404);
    assert!(
        exchange(daemon.connect(), &request("GET", "/v1/run/run-old/end", "")).starts_with("HTTP/1.1 405 ")
    );
}
