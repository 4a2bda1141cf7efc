//! What one client can take from others.

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use stockade::daemon::api::limit::Limits;

use super::{
    core::publish,
    setup::{As, Daemon, exchange, limits, parse, request},
};

#[test]
fn long_bodies_are_refused_however_they_are_announced() {
    let daemon = Daemon::start(As::Root);
    let long = "x".repeat((2 << 20) + 1);
    assert_eq!(daemon.refused("POST", "/v1/tag", &long), (413, "too_large".into()));
    let chunked = format!(
        "POST /v1/tag HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        long.len()
    );
    assert_eq!(parse(&daemon.raw(&chunked)).0, 413);
    let header = format!("GET /v1/status HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    assert_eq!(parse(&daemon.raw(&header)).0, 431);
    assert!(daemon.asked.all().is_empty());
}

#[test]
fn what_does_not_come_is_not_waited_for() {
    let daemon = Daemon::with(As::Root, limits());
    let start = Instant::now();
    // Nothing at all, half a header, half a body.
    assert_eq!(daemon.raw(""), "");
    let half = daemon.raw("GET /v1/sta");
    assert!(half.is_empty() || parse(&half).0 == 408, "{half}");
    let half = "POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
    assert_eq!(parse(&daemon.raw(half)).0, 408);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn one_users_connections_are_limited() {
    let limits = Limits { root: 2, others: 2, per_user: 2, ..Limits::default() };
    let daemon = Daemon::with(As::Root, limits);
    let held = [daemon.connect(), daemon.connect()];
    let (code, text) = parse(&daemon.raw(&request("GET", "/v1/status", "")));
    assert_eq!(code, 429, "{text}");
    drop(held);
    let start = Instant::now();
    while parse(&daemon.raw(&request("GET", "/v1/status", ""))).0 != 200 {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn slow_members_hold_up_each_other_and_not_root() {
    // Members' bodies are read one at a time here, and one never comes.
    let limits = Limits { bodies: 1, ..Limits::default() };
    let slow = "POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
    let members = Daemon::with(As::Member, Limits { read: Duration::from_millis(300), ..limits });
    let mut stuck = members.connect();
    stuck.write_all(slow.as_bytes()).unwrap();
    assert_eq!(members.get("/v1/status").0, 200, "once the time of the first is over");
    let root = Daemon::with(As::Root, limits);
    let mut stuck = root.connect();
    stuck.write_all(slow.as_bytes()).unwrap();
    let start = Instant::now();
    assert_eq!(root.get("/v1/status").0, 200);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_reader_that_takes_nothing_is_let_go() {
    let daemon = Daemon::with(As::Root, limits());
    let mut stream = daemon.connect();
    stream.write_all(request("GET", "/v1/events?follow", "").as_bytes()).unwrap();
    let start = Instant::now();
    while daemon.hub.readers() == 0 {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    let long = "x".repeat(4096);
    while daemon.hub.readers() != 0 {
        publish(&daemon.hub, "ci", &long, None);
        std::thread::sleep(Duration::from_millis(1));
        assert!(start.elapsed() < Duration::from_secs(20), "it is still there");
    }
    // One that waits for events that do not come is not slow.
    let mut idle = daemon.connect();
    idle.write_all(request("GET", "/v1/events?follow", "").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    publish(&daemon.hub, "ci", "at last", None);
    let mut text = String::new();
    let mut byte = [0];
    while !text.contains("at last") {
        assert_eq!(idle.read(&mut byte).unwrap(), 1, "{text}");
        text.push(char::from(byte[0]));
    }
}

#[test]
fn the_daemon_ends_although_clients_hang_on() {
    let mut daemon = Daemon::start(As::Root);
    let silent = daemon.connect();
    let mut follower = daemon.connect();
    follower.write_all(request("GET", "/v1/events?follow", "").as_bytes()).unwrap();
    let start = Instant::now();
    while daemon.hub.readers() == 0 {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    daemon.stop();
    assert!(start.elapsed() < Duration::from_secs(10));
    let rest = exchange(follower, "");
    assert!(rest.ends_with("0\r\n\r\n"), "the stream has ended in order: {rest:?}");
    assert!(!daemon.path.exists());
    drop(silent);
}
