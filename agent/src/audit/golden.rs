//! Records as a 6.12 kernel wrote them (`agent/testdata/records.hex`, one a line), through all that makes events of them.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    json::{Context, PolicyId},
    run::{self, Losses},
    sink::Sink,
    trail::Trail,
};
use crate::policy::mounts::MountTable;

const RECORDS: &str = include_str!("../../testdata/records.hex");
const EVENTS: &str = include_str!("../../testdata/events.jsonl");
const SCHEMA: &str = include_str!("../../../docs/schema/event-v1.json");
const MOUNTS: &[u8] = b"1 1 0:2 / / rw - rootfs rootfs rw\n";

fn records() -> Vec<Bytes> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    RECORDS.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The events that a trail writes of batches, each with the kernel's losses so far.
fn written(batches: Vec<(Vec<Bytes>, (u64, u64))>, all: bool) -> (String, Losses) {
    let context = Context {
        policy: PolicyId { name: "ci".into(), digest: format!("sha256:{:064}", 0), mode: "enforce" },
        mounts: MountTable::parse(MOUNTS).unwrap(),
        boot_id: "01234567-89ab-cdef-0123-456789abcdef".into(),
        boot_time: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        ..Context::default()
    };
    let shared = Shared::default();
    let mut trail = Trail::new(context, Some(Sink::start(Box::new(shared.clone())).unwrap()), all);
    for (records, lost) in batches {
        trail.take(records, lost, 1);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let end = |lost, context: &Context| run::end(0, 0, None, lost, context, 2);
    let closed = runtime.block_on(trail.close(2, end)).unwrap();
    assert!(closed.error.is_none() && closed.unwritten == 0, "{closed:?}");
    let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
    (text, trail.lost())
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn records_of_a_kernel_become_these_events() {
    let (text, lost) = written(vec![(records(), (0, 0))], true);
    assert_eq!(lost, Losses::default());
    let validator = jsonschema::validator_for(&serde_json::from_str(SCHEMA).unwrap()).unwrap();
    for event in parsed(&text) {
        assert!(validator.is_valid(&event), "{event:#}");
    }
    for (line, expected) in text.lines().zip(EVENTS.lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(text.lines().count(), EVENTS.lines().count());
}

#[test]
fn forks_and_only_they_are_left_out_by_default() {
    let kinds = |all| {
        let (text, _) = written(vec![(records(), (0, 0))], all);
        parsed(&text).iter().map(|event| event["kind"].clone()).collect::<Vec<_>>()
    };
    let mut all = kinds(true);
    assert!(all.contains(&json!("fork")));
    all.retain(|kind| kind != "fork");
    assert_eq!(kinds(false), all);
}

#[test]
fn a_loss_is_told_where_it_was_and_no_program_is_guessed_after_it() {
    let (first, rest): (Vec<_>, Vec<_>) = {
        let mut records = records();
        let rest = records.split_off(3);
        (records, rest)
    };
    let (text, lost) = written(vec![(first, (0, 0)), (rest, (1, 4))], true);
    assert_eq!((lost.denied, lost.other), (1, 4));
    let events = parsed(&text);
    let exes =
        |events: &[Value]| events.iter().map(|event| event["process"]["exe"].clone()).collect::<Vec<_>>();
    assert!(exes(&events[..3]).iter().any(Value::is_string));
    let gap = events.iter().position(|event| event["kind"] == "gap").unwrap();
    assert_eq!(events[gap]["lost"], json!({ "denied": 1, "other": 4, "undecoded": 0, "unwritten": 0 }));
    for event in &events[3..gap] {
        // An exec tells its own program.
        assert!(event["kind"] == "exec" || event["process"]["exe"].is_null(), "{event}");
    }
    assert_eq!(events.last().unwrap()["lost"]["other"], 4);
}

#[test]
fn what_cannot_be_read_is_counted() {
    let mut records = records();
    records.insert(1, Bytes::from_static(b"nonsense"));
    let (text, lost) = written(vec![(records, (0, 0))], true);
    assert_eq!(lost, Losses { undecoded: 1, ..Losses::default() });
    assert_eq!(text.lines().count(), EVENTS.lines().count() + 1, "one gap more");
}
