//! Events over the socket.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use serde_json::Value;
use stockade::daemon::api::limit::Limits;

use super::{
    core::publish,
    setup::{As, Daemon, parse, request},
};

fn follow(daemon: &Daemon, query: &str) -> BufReader<UnixStream> {
    let before = daemon.hub.readers();
    let mut stream = daemon.connect();
    stream.write_all(request("GET", &format!("/v1/events?{query}"), "").as_bytes()).unwrap();
    let start = Instant::now();
    while daemon.hub.readers() == before {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    BufReader::new(stream)
}

/// The next line of JSON; chunk sizes and headers are not.
fn next(stream: &mut BufReader<UnixStream>) -> Value {
    loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the stream ended");
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

#[test]
fn what_was_and_what_comes() {
    let daemon = Daemon::start(As::Root);
    publish(&daemon.hub, "ci", "denied 1", None);
    publish(&daemon.hub, "other", "2", None);
    let recent = |query: &str| {
        let (code, text) = parse(&daemon.raw(&request("GET", &format!("/v1/events{query}"), "")));
        assert_eq!(code, 200);
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(recent(""), [r#""denied 1""#, r#""2""#]);
    assert_eq!(recent("?denied=true"), [r#""denied 1""#]);
    assert_eq!(recent("?scope=other"), [r#""2""#]);
    assert!(recent("?scope=nobody").is_empty());

    let (mut all, mut denied, mut other) = (
        follow(&daemon, "follow"),
        follow(&daemon, "follow&denied"),
        follow(&daemon, "follow=true&scope=other"),
    );
    publish(&daemon.hub, "ci", "3", None);
    publish(&daemon.hub, "ci", "denied 4", None);
    publish(&daemon.hub, "other", "5", None);
    assert_eq!(next(&mut all)["text"], "3");
    assert_eq!(next(&mut all)["text"], "denied 4");
    assert_eq!(next(&mut denied)["text"], "denied 4");
    assert_eq!(next(&mut other)["text"], "5");
    drop((all, denied, other));
    let start = Instant::now();
    while daemon.hub.readers() != 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "places are given back");
    }
}

#[test]
fn members_get_their_own_runs_events_only() {
    let daemon = Daemon::start(As::Member);
    let uid = nix::unistd::geteuid().as_raw();
    let mut own = follow(&daemon, "follow");
    publish(&daemon.hub, "ci", "a policy's", None);
    publish(&daemon.hub, "run-9", "another's", Some(uid + 1));
    publish(&daemon.hub, "run-1", "own", Some(uid));
    assert_eq!(next(&mut own)["text"], "own");
    let (_, text) = parse(&daemon.raw(&request("GET", "/v1/events", "")));
    assert_eq!(text.lines().count(), 1, "{text}");
    let (_, text) = parse(&daemon.raw(&request("GET", "/v1/events?scope=ci", "")));
    assert_eq!(text, "");
}

#[test]
fn a_slow_reader_is_told_what_it_has_missed_and_holds_up_nobody() {
    let daemon = Daemon::start(As::Root);
    let mut slow = follow(&daemon, "follow");
    let start = Instant::now();
    let mut sent = 0u64;
    while daemon.hub.dropped() < 100 {
        publish(&daemon.hub, "ci", "x", None);
        sent += 1;
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    let mut kept = 0;
    let gap = loop {
        let event = next(&mut slow);
        if event["kind"] == "gap" {
            break event;
        }
        kept += 1;
    };
    let missed = gap["lost"]["unwritten"].as_u64().unwrap();
    assert!((1..=daemon.hub.dropped()).contains(&missed), "{gap}");
    assert!(kept + missed <= sent);
}

#[test]
fn a_thousand_readers_over_sockets() {
    let limits = Limits { others: 2000, per_user: 2000, ..Limits::default() };
    let daemon = Daemon::with(As::Root, limits);
    // Of a soft limit of 1024 descriptors on many hosts.
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most).unwrap();
    let number = if most > 4096 { 1000 } else { 100 };
    let mut readers: Vec<_> = (0..number)
        .map(|_| {
            let mut stream = daemon.connect();
            stream.write_all(request("GET", "/v1/events?follow", "").as_bytes()).unwrap();
            BufReader::new(stream)
        })
        .collect();
    let start = Instant::now();
    while daemon.hub.readers() < number {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", daemon.hub.readers());
    }
    for number in 0..10 {
        publish(&daemon.hub, "ci", &number.to_string(), None);
    }
    for reader in &mut readers {
        for number in 0..10 {
            assert_eq!(next(reader)["text"], number.to_string());
        }
    }
    assert_eq!(daemon.hub.dropped(), 0);
}
