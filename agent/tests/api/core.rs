//! A core that answers by rote and remembers what it was asked.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use stockade::daemon::{
    command::{Command, Refusal, RefusalKind, Status},
    hub::{Event, Hub},
};
use tokio::sync::mpsc;

/// What was asked, in words.
#[derive(Debug, Clone, Default)]
pub struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn add(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    /// All of it.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until something was asked.
    pub fn wait_for(&self, text: &str) {
        self.wait_until(text, |asked| asked.iter().any(|asked| asked == text));
    }

    /// Waits until what was asked is as it should be.
    pub fn wait_until(&self, what: &str, is: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        while !is(&self.all()) {
            assert!(start.elapsed() < Duration::from_secs(20), "{what} was not asked, but {:?}", self.all());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn scope(name: &str, kind: &str, uid: Option<u32>) -> serde_json::Value {
    json!({
        "name": name, "kind": kind, "policy": "ci", "digest": "sha256:00", "mode": "enforce",
        "source": "/etc/stockade/policies.d/ci.toml", "uid": uid,
        "cgroups": [{
            "path": "/ci.slice", "id": 7, "processes": 2, "since": "2026-01-01T00:00:00Z", "how": "running", "window": [],
        }],
        "decisions": {
            "file": { "allowed": 1, "denied": 2 }, "net": { "allowed": 3, "denied": 4 },
            "process": { "allowed": 5, "denied": 6 },
        },
        "lost": { "denied": 0, "other": 0, "undecoded": 0, "unwritten": 0 },
        "shadow": null,
    })
}

pub fn status() -> Status {
    serde_json::from_value(json!({
        "version": "1.2.3", "pid": 1, "since": "2026-01-01T00:00:00Z", "kernel": "6.12", "guarantees": ["tcp4"],
        "degraded": false, "adopted": null, "reloads": { "applied": 1, "refused": 0 },
        "maps": [{ "name": "TAGS", "used": 1, "limit": 2 }],
        "programs": [{ "name": "connect4", "runs": 0, "run_ns": 0 }],
        "scopes": [
            scope("ci", "policy", None), scope("run-old", "run", Some(1000)), scope("run-other", "run", Some(1001)),
        ],
    }))
    .unwrap()
}

fn refusal(kind: RefusalKind) -> Refusal {
    Refusal { kind, message: "the core's words".into() }
}

/// Starts it; it ends when it is told to detach. It publishes two events for each run before it answers, and one when it ends.
pub fn start(hub: Hub) -> (mpsc::Sender<Command>, Asked) {
    let (sender, mut commands) = mpsc::channel(8);
    let asked = Asked::default();
    let heard = asked.clone();
    thread::spawn(move || {
        let mut runs = 0;
        while let Some(command) = commands.blocking_recv() {
            let last = matches!(command, Command::Detach { .. });
            answer(command, &hub, &heard, &mut runs);
            if last {
                break;
            }
        }
    });
    (sender, asked)
}

fn answer(command: Command, hub: &Hub, asked: &Asked, runs: &mut u32) {
    let tagged =
        || json!({ "cgroup": scope("x", "policy", None)["cgroups"][0], "scope": "ci", "held": ["a socket"] });
    match command {
        Command::Status { reply } => drop(reply.send(Ok(status()))),
        Command::Reload { reply } => {
            asked.add("reload".into());
            let reloaded = json!({ "changed": ["ci"], "added": [], "removed": [], "unchanged": [] });
            drop(reply.send(Ok(serde_json::from_value(reloaded).unwrap())));
        }
        Command::Shadow { scope, policy, reply } => {
            asked.add(format!("shadow {scope} {policy:?}"));
            let answer = match policy.as_deref() {
                Some("bad") => Err(refusal(RefusalKind::Invalid)),
                _ => Ok(serde_json::from_value(
                    json!({ "compared": 1, "missed": 0, "differences": [], "more": false }),
                )
                .unwrap()),
            };
            drop(reply.send(answer));
        }
        Command::SetMode { scope, mode, reply } => {
            asked.add(format!("mode {scope} {mode:?}"));
            let answer = status().scopes.into_iter().find(|one| one.name == scope);
            drop(reply.send(answer.ok_or_else(|| refusal(RefusalKind::NotFound))));
        }
        Command::Tag { target, scope, reply } => {
            asked.add(format!("tag {target:?} {scope}"));
            let answer = match scope.as_str() {
                "taken" => Err(refusal(RefusalKind::Conflict)),
                "full" => Err(refusal(RefusalKind::Failed)),
                _ => Ok(serde_json::from_value(tagged()).unwrap()),
            };
            drop(reply.send(answer));
        }
        Command::Untag { target, reply } => {
            asked.add(format!("untag {target:?}"));
            drop(reply.send(Ok(serde_json::from_value(tagged()).unwrap())));
        }
        Command::Run { request, reply } => {
            asked.add(format!("run {} by {} as {}", request.pid, request.client, request.uid));
            if request.policy == "bad" {
                return drop(reply.send(Err(refusal(RefusalKind::Invalid))));
            }
            if request.policy == "slow" {
                thread::sleep(Duration::from_millis(300));
            }
            *runs += 1;
            let scope = format!("run-{runs}");
            for (scope, text) in [("another", "no"), (scope.as_str(), "begin")] {
                publish(hub, scope, text, Some(request.uid));
            }
            let started = json!({ "scope": scope, "cgroup": "/r", "guarantees": ["tcp4"], "degraded": request.policy == "degraded" });
            drop(reply.send(Ok(serde_json::from_value(started).unwrap())));
        }
        Command::RunEnded { scope, reply } => {
            asked.add(format!("end {scope}"));
            publish(hub, &scope, "end", Some(nix::unistd::geteuid().as_raw()));
            let ended = json!({
                "decisions": status().decisions(), "lost": { "denied": 0, "other": 0, "undecoded": 0, "unwritten": 0 },
            });
            drop(reply.send(Ok(serde_json::from_value(ended).unwrap())));
        }
        Command::Detach { reply } => {
            asked.add("detach".into());
            drop(reply.send(Ok(())));
        }
    }
}

trait FirstDecisions {
    fn decisions(&self) -> serde_json::Value;
}

impl FirstDecisions for Status {
    fn decisions(&self) -> serde_json::Value {
        serde_json::to_value(self.scopes[0].decisions).unwrap()
    }
}

/// Publishes an event whose line tells `text`.
pub fn publish(hub: &Hub, scope: &str, text: &str, run_uid: Option<u32>) {
    let line = json!({ "kind": "open", "scope": scope, "text": text }).to_string().into();
    hub.publish(&Event { line, scope: scope.into(), denied: text.starts_with("denied"), run_uid });
}
