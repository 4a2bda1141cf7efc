use std::time::UNIX_EPOCH;

use stockade_common::event::EventHeader;

use super::*;
use crate::{
    audit::{digest::digest, json::PolicyId, schema::complaints},
    daemon::hub::Filter,
    policy::checked::CheckedPolicy,
};

/// As a kernel wrote them, all of one slot and scope.
const RECORDS: &str = include_str!("../../../testdata/records.hex");

fn records() -> Vec<Bytes> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    RECORDS.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

fn header(record: &Bytes) -> EventHeader {
    decode::decode(record.clone()).unwrap().header
}

fn context(scope: &str, digest: String) -> Context {
    Context {
        policy: PolicyId { name: scope.into(), digest, mode: "enforce" },
        boot_id: "01234567-89ab-cdef-0123-456789abcdef".into(),
        boot_time: UNIX_EPOCH,
        scope: Some(scope.into()),
        ..Context::default()
    }
}

/// A recorder that knows the scope `ci`, and what it publishes.
fn recorder() -> (Recorder, Hub, Slot, Scope) {
    let hub = Hub::default();
    let mut recorder =
        Recorder::new(hub.clone(), None, Unwritten::default(), context("undecided", String::new()));
    let EventHeader { slot, scope, .. } = header(&records()[0]);
    recorder.know(Slot(slot), Arc::new(context("ci", digest(&CheckedPolicy::default()))), None);
    (recorder, hub, Slot(slot), Scope(scope))
}

fn published(hub: &Hub) -> Vec<Value> {
    hub.recent(&Filter::default()).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lost(denied: u64, other: u64) -> [u64; COUNTERS] {
    let mut counters = [0; COUNTERS];
    counters[Counter::LostDenied as usize] = denied;
    counters[Counter::LostOther as usize] = other;
    counters
}

#[test]
fn every_event_is_as_the_schema_says() {
    let (mut recorder, hub, slot, scope) = recorder();
    recorder.take(records());
    recorder.losses(scope, slot, &lost(1, 2), 7);
    recorder.forget(slot);
    // Of a slot nobody knows, as of one that is not decided yet.
    recorder.take(records());
    let events = published(&hub);
    assert_eq!((&events[0]["scope"], &events.last().unwrap()["scope"]), (&"ci".into(), &"undecided".into()));
    for kind in ["open", "connect", "exec", "exit", "gap"] {
        assert!(events.iter().any(|event| event["kind"] == kind), "{kind}");
    }
    for event in events {
        assert_eq!(complaints(&event), Vec::<String>::new(), "{event:#}");
    }
}

#[test]
fn a_loss_is_told_once() {
    let (mut recorder, hub, slot, scope) = recorder();
    for counters in [lost(0, 0), lost(1, 2), lost(1, 2), lost(1, 5)] {
        recorder.losses(scope, slot, &counters, 7);
    }
    let told: Vec<Value> = published(&hub).into_iter().map(|mut event| event["lost"].take()).collect();
    let gap = |denied, other| serde_json::json!({ "denied": denied, "other": other, "undecoded": 0, "unwritten": 0 });
    assert_eq!(told, [gap(1, 2), gap(0, 3)]);
    // The next scope of that number begins anew.
    recorder.scope_ended(scope);
    recorder.losses(scope, slot, &lost(1, 0), 8);
    assert_eq!(published(&hub).len(), 3);
}

#[test]
fn a_comparison_gets_every_record_and_misses_what_is_lost() {
    let (mut recorder, hub, slot, scope) = recorder();
    recorder.take(records());
    let before = published(&hub);
    recorder.compare("ci", Comparison::new(false));
    recorder.take(records());
    let after = published(&hub).split_off(before.len());
    // What was allowed, and is reported for the comparison alone, is no event.
    let is_event = |event: &&Value| {
        let access = event["file"]["access"].as_array();
        event["verdict"] != "allowed"
            || !["open", "send", "unix", "socket"].contains(&event["kind"].as_str().unwrap())
            || access.is_some_and(|access| access.iter().any(|one| one == "write"))
    };
    let told = |event: &Value| [event["kind"].clone(), event["verdict"].clone(), event["boot_ns"].clone()];
    let expected: Vec<_> = before.iter().filter(is_event).map(told).collect();
    assert!(expected.len() < before.len());
    assert_eq!(after.iter().map(told).collect::<Vec<_>>(), expected);
    // It was compiled for nothing, so all it was asked is missed.
    let report = recorder.comparison("ci").unwrap().report();
    assert!(report.missed > 0 && report.compared == 0, "{report:?}");
    recorder.losses(scope, slot, &lost(1, 2), 7);
    recorder.take(vec![Bytes::from_static(b"nonsense")]);
    assert_eq!(recorder.end_comparison("ci").unwrap().missed, report.missed + 4);
    assert!(recorder.end_comparison("ci").is_none());
}
