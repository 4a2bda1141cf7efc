//! Each route, and what is answered to requests that make no sense.

use std::{io::Write as _, net::TcpStream};

use serde_json::json;
use stockade::daemon::command::Status;

use super::{
    core,
    setup::{As, Daemon, exchange, parse, request},
};

#[test]
fn status_and_scopes() {
    let daemon = Daemon::start(As::Root);
    let (code, status) = daemon.get("/v1/status");
    assert_eq!(code, 200);
    assert_eq!(serde_json::from_value::<Status>(status).unwrap(), core::status());
    let (code, scope) = daemon.get("/v1/scopes/run-other");
    assert_eq!((code, scope["uid"].as_u64()), (200, Some(1001)));
    assert_eq!(daemon.refused("GET", "/v1/scopes/nobody", ""), (404, "not_found".into()));
    assert_eq!(daemon.refused("GET", "/v1/scopes/ci/shadow", ""), (404, "not_found".into()));
}

#[test]
fn what_changes_something_reaches_the_core() {
    let daemon = Daemon::start(As::Root);
    assert_eq!(daemon.post("/v1/reload", "").1["changed"], json!(["ci"]));
    assert_eq!(daemon.post("/v1/scopes/ci/mode", r#"{"mode":"audit"}"#).0, 200);
    assert_eq!(daemon.post("/v1/scopes/ci/shadow", r#"{"policy":"version = 1"}"#).1["compared"], 1);
    assert_eq!(daemon.request("DELETE", "/v1/scopes/ci/shadow", "").1["compared"], 1);
    let tag = r#"{"target":{"unit":"x.service"},"scope":"ci"}"#;
    assert_eq!(daemon.post("/v1/tag", tag).1["held"], json!(["a socket"]));
    assert_eq!(daemon.post("/v1/untag", r#"{"target":{"pid":7}}"#).0, 200);
    assert_eq!(daemon.post("/v1/detach", r#"{"confirm":"detach all"}"#).1, json!({ "detached": true }));
    let asked = daemon.asked.all();
    let expected = [
        "reload",
        "mode ci Audit",
        "shadow ci Some(\"version = 1\")",
        "shadow ci None",
        "tag Unit(\"x.service\") ci",
        "untag Pid(7)",
        "detach",
    ];
    assert_eq!(asked, expected);
}

#[test]
fn refusals_of_the_core_have_their_codes() {
    let daemon = Daemon::start(As::Root);
    let tag = |scope: &str| json!({ "target": { "cgroup": "/a" }, "scope": scope }).to_string();
    assert_eq!(
        daemon.refused("POST", "/v1/scopes/ci/shadow", r#"{"policy":"bad"}"#),
        (422, "invalid".into())
    );
    assert_eq!(
        daemon.refused("POST", "/v1/scopes/no/mode", r#"{"mode":"audit"}"#),
        (404, "not_found".into())
    );
    assert_eq!(daemon.refused("POST", "/v1/tag", &tag("taken")), (409, "conflict".into()));
    assert_eq!(daemon.refused("POST", "/v1/tag", &tag("full")), (500, "failed".into()));
}

#[test]
fn requests_that_make_no_sense_are_refused_before_the_core() {
    let daemon = Daemon::start(As::Root);
    for (method, path, body, code, kind) in [
        ("GET", "/", "", 404, "not_found"),
        ("GET", "/v2/status", "", 404, "not_found"),
        ("POST", "/v1/status", "", 405, "method_not_allowed"),
        ("GET", "/v1/events?uid=0", "", 400, "bad_request"),
        ("GET", "/v1/status", "{\"a\":1}", 400, "bad_request"),
        ("POST", "/v1/reload", "now", 400, "bad_request"),
        ("POST", "/v1/tag", "", 400, "bad_request"),
        ("POST", "/v1/tag", "{\"scope\":\"ci\"}", 400, "bad_request"),
        ("POST", "/v1/tag", "{\"target\":{\"host\":1},\"scope\":\"ci\"}", 400, "bad_request"),
        ("POST", "/v1/untag", "{\"target\":{\"pid\":1},\"more\":1}", 400, "bad_request"),
        ("POST", "/v1/scopes/ci/mode", "{\"mode\":\"off\"}", 400, "bad_request"),
        ("POST", "/v1/detach", "{}", 400, "bad_request"),
        ("POST", "/v1/detach", "{\"confirm\":\"yes\"}", 400, "bad_request"),
        ("POST", "/v1/run", "{\"policy\":\"x\"}", 400, "bad_request"),
    ] {
        assert_eq!(daemon.refused(method, path, body), (code, kind.into()), "{method} {path} {body}");
    }
    assert_eq!(daemon.asked.all(), Vec::<String>::new());
    assert!(daemon.raw(&request("PUT", "/v1/scopes/ci/shadow", "")).contains("allow: GET, POST, DELETE\r\n"));
    assert!(daemon.raw("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
}

#[test]
fn what_curl_sends_is_understood() {
    let daemon = Daemon::start(As::Root);
    let text = "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
    let answer = daemon.raw(text);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    assert!(answer.ends_with("}\n"), "a line for a terminal");
    // Long bodies are announced, and sent when they are asked for.
    let body = r#"{"target":{"pid":7}}"#;
    let text = format!(
        "POST /v1/untag HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    let mut stream = daemon.connect();
    stream.write_all(text.as_bytes()).unwrap();
    let answer = exchange(stream, body);
    assert!(
        answer.contains("HTTP/1.1 100 Continue\r\n") && answer.contains("HTTP/1.1 200 OK\r\n"),
        "{answer}"
    );
}

#[test]
fn metrics_are_there_on_both_sockets_and_nothing_else_by_tcp() {
    let daemon = Daemon::start(As::Root);
    let tcp = |text: &str| parse(&exchange(TcpStream::connect(daemon.metrics).unwrap(), text));
    for (code, text) in
        [parse(&daemon.raw(&request("GET", "/v1/metrics", ""))), tcp(&request("GET", "/metrics", ""))]
    {
        assert_eq!(code, 200);
        assert!(text.contains("stockade_map_limit{map=\"TAGS\"} 2\n"), "{text}");
    }
    assert_eq!(tcp(&request("GET", "/v1/status", "")).0, 404);
    assert_eq!(tcp(&request("POST", "/metrics", "")).0, 405);
    assert_eq!(tcp(&request("POST", "/v1/reload", "")).0, 404);
    assert_eq!(daemon.asked.all(), Vec::<String>::new());
}

#[test]
fn a_core_that_is_gone_is_told() {
    let daemon = Daemon::start(As::Root);
    assert_eq!(daemon.post("/v1/detach", r#"{"confirm":"detach all"}"#).0, 200);
    for path in ["/v1/status", "/v1/metrics"] {
        assert_eq!(daemon.refused("GET", path, ""), (503, "unavailable".into()));
    }
}
