//! Who may ask, and from where.

use std::{os::unix::process::CommandExt as _, process::Command, sync::atomic::Ordering};

use super::setup::{As, Daemon};

const REQUESTS: [(&str, &str, &str); 13] = [
    ("GET", "/v1/status", ""),
    ("GET", "/v1/scopes/ci", ""),
    ("GET", "/v1/events", ""),
    ("GET", "/v1/metrics", ""),
    ("GET", "/v1/scopes/ci/shadow", ""),
    ("POST", "/v1/reload", ""),
    ("POST", "/v1/scopes/ci/mode", r#"{"mode":"audit"}"#),
    ("POST", "/v1/scopes/ci/shadow", r#"{"policy":""}"#),
    ("DELETE", "/v1/scopes/ci/shadow", ""),
    ("POST", "/v1/tag", r#"{"target":{"pid":7},"scope":"ci"}"#),
    ("POST", "/v1/untag", r#"{"target":{"pid":7}}"#),
    ("POST", "/v1/run", r#"{"policy":"","pid":1}"#),
    ("POST", "/v1/detach", r#"{"confirm":"detach all"}"#),
];

#[test]
fn nobody_else_is_answered() {
    let daemon = Daemon::start(As::Nobody);
    for (method, path, body) in REQUESTS {
        assert_eq!(daemon.refused(method, path, body), (403, "forbidden".into()), "{method} {path}");
    }
    assert!(daemon.asked.all().is_empty());
}

#[test]
fn members_change_nothing() {
    let daemon = Daemon::start(As::Member);
    for (method, path, body) in &REQUESTS[3..11] {
        assert_eq!(daemon.refused(method, path, body), (403, "forbidden".into()), "{method} {path}");
    }
    assert_eq!(daemon.refused("POST", "/v1/detach", REQUESTS[12].2).0, 403);
    assert!(daemon.asked.all().is_empty());
}

#[test]
fn members_see_policies_and_their_own_runs() {
    let daemon = Daemon::start(As::Member);
    let (code, status) = daemon.get("/v1/status");
    assert_eq!(code, 200);
    // Unless the tests are run by user 1000 or 1001, neither run is theirs.
    let uid = u64::from(nix::unistd::geteuid().as_raw());
    for scope in status["scopes"].as_array().unwrap() {
        assert!(scope["kind"] == "policy" || scope["uid"].as_u64() == Some(uid), "{scope}");
    }
    assert_eq!(status["scopes"][0]["cgroups"].as_array().unwrap().len(), 0);
    assert!(uid == 1001 || daemon.refused("GET", "/v1/scopes/run-other", "").0 == 404);
    assert!(uid == 1001 || daemon.refused("POST", "/v1/run/run-other/end", "").0 == 404);
}

#[test]
fn from_inside_a_tag_root_is_refused_too() {
    let daemon = Daemon::start(As::Root);
    daemon.tagged.store(true, Ordering::SeqCst);
    for (method, path, body) in REQUESTS {
        assert_eq!(daemon.refused(method, path, body), (403, "forbidden".into()), "{method} {path}");
    }
    assert!(daemon.asked.all().is_empty());
    let refused = daemon.refused.lock().unwrap();
    assert_eq!(refused.len(), REQUESTS.len());
    assert_eq!((refused[0].pid, refused[0].uid), (std::process::id(), nix::unistd::geteuid().as_raw()));
    assert!(refused[0].cgroup.is_some() && refused[0].why.contains("is tagged"), "{:?}", refused[0]);
}

#[test]
fn who_is_tagged_after_connecting_is_refused() {
    let daemon = Daemon::start(As::Root);
    let stream = daemon.connect();
    // Until it has been accepted.
    assert_eq!(daemon.get("/v1/status").0, 200);
    daemon.tagged.store(true, Ordering::SeqCst);
    let answer = super::setup::exchange(stream, &super::setup::request("POST", "/v1/reload", ""));
    assert_eq!(super::setup::parse(&answer).0, 403);
    assert!(daemon.asked.all().is_empty());
}

/// The host's accounts, and another user: needs root.
#[test]
fn the_group_is_let_in_and_others_are_not() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let user = nix::unistd::User::from_name("daemon").unwrap().unwrap();
    let other = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let daemon = Daemon::for_group("daemon");
    let ask = |uid: nix::unistd::Uid, gid: nix::unistd::Gid, path: &str, body: Option<&str>| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-w", "%{http_code}", "--unix-socket"]).arg(&daemon.path);
        curl.arg(format!("http://x{path}")).uid(uid.as_raw()).gid(gid.as_raw());
        if let Some(body) = body {
            curl.args(["-d", body]);
        }
        let output = curl.output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let seen = ask(user.uid, user.gid, "/v1/status", None);
    assert!(seen.ends_with("200") && seen.contains("\"ci\"") && !seen.contains("run-other"), "{seen}");
    assert!(ask(user.uid, user.gid, "/v1/reload", Some("")).ends_with("403"));
    assert!(ask(user.uid, user.gid, "/v1/run", Some(r#"{"policy":"ok","pid":1}"#)).ends_with("403"));
    assert_eq!(ask(other.uid, other.gid, "/v1/status", None), "000", "the file's mode");
    assert!(ask(0.into(), 0.into(), "/v1/metrics", None).ends_with("200"));
    assert!(daemon.asked.all().is_empty());
}
