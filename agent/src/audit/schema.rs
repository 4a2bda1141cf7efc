//! Every event against docs/schema/event-v1.json.

use std::{ffi::OsString, time::UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    json::{self, Context, PolicyId},
    origin::{Origin, Starter},
    process::{Ancestor, Descent},
    run::{self, Losses, Start},
    sample,
};
use crate::policy::image::RuleInfo;

fn validator() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(include_str!("../../../docs/schema/event-v1.json")).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

/// What the schema says against an event.
pub fn complaints(event: &Value) -> Vec<String> {
    validator().iter_errors(event).map(|error| error.to_string()).collect()
}

fn context() -> Context {
    let policy = PolicyId {
        name: "ci".into(),
        digest: crate::audit::digest::digest(&crate::policy::checked::CheckedPolicy::default()),
        mode: "enforce",
    };
    let boot_id = "01234567-89ab-cdef-0123-456789abcdef".into();
    Context { policy, boot_id, boot_time: UNIX_EPOCH, ..Context::default() }
}

/// One event of each kind.
fn events() -> Vec<Value> {
    let context = context();
    let exe = || Some(Bytes::from_static(b"/bin/\xff\n\\"));
    let descent = Descent {
        exe: exe(),
        ancestors: vec![Ancestor { pid: 7, exe: exe() }, Ancestor { pid: 6, exe: None }].into(),
        truncated: true,
    };
    let mut events: Vec<Value> =
        sample::each_kind().iter().map(|record| json::event(record, &descent, &context)).collect();
    events.extend(super::gate::sample().iter().map(|event| super::gate::event(event, &context, 1)));
    events.push(start(&context));
    events.push(run::gap(Losses { denied: 1, ..Losses::default() }, &context, 2));
    events.push(run::end(
        256,
        1,
        Some(&[0; stockade_common::counter::COUNTERS]),
        Losses::default(),
        &context,
        3,
    ));
    events.push(run::end(9, 137, None, Losses::default(), &context, 3));
    events
}

#[test]
fn every_kind_is_as_the_schema_says() {
    let validator = validator();
    for event in events() {
        let errors: Vec<String> = validator.iter_errors(&event).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{event:#}: {errors:?}");
        assert!(!event.to_string().contains('\n'), "one line");
    }
}

/// The first event of a run.
fn start(context: &Context) -> Value {
    let starter = Starter { pid: 3, exe: None, argv: Some(b"sudo\0\xff\0".to_vec()) };
    let origin = Origin {
        boot_id: String::new(),
        kernel: "6.12".into(),
        cwd: Some(b"/\xff".to_vec()),
        uid: 1000,
        started_by: vec![starter],
    };
    let words = ["sh", "-c"].map(OsString::from);
    let start = Start {
        program: "/bin/sh".into(),
        words: &words,
        ids: (1000, 1000),
        cgroup_id: 7,
        guarantees: vec!["file_read"],
        degraded: false,
        audit_all: true,
        origin: &origin,
    };
    run::start(&start, context, 1)
}

#[test]
fn the_schema_knows_no_more_and_no_less() {
    let validator = validator();
    for event in events() {
        let fields: Vec<String> = event.as_object().unwrap().keys().cloned().collect();
        for field in fields {
            let mut cut = event.clone();
            cut.as_object_mut().unwrap().remove(&field);
            assert!(!validator.is_valid(&cut), "{} without {field}", event["kind"]);
        }
        let mut more = event.clone();
        more["nonsense"] = json!(1);
        assert!(!validator.is_valid(&more), "{}", event["kind"]);
        let mut other = event.clone();
        other["kind"] = json!("nonsense");
        assert!(!validator.is_valid(&other));
    }
}

#[test]
fn a_run_tells_what_from_rules_came_to() {
    let mut context = context();
    assert_eq!(start(&context).get("from"), None);
    let (text, source) = ("a.test:443/tcp".to_owned(), "from:npm (/home/u/.npmrc:1)".to_owned());
    let told = json!([{ "rule": text, "source": source }]);
    context.rules.push(RuleInfo { text, source, list: "network.allow".into() });
    let event = start(&context);
    assert_eq!((&event["from"], complaints(&event)), (&told, Vec::new()));
}

#[test]
fn every_kind_may_name_the_daemons_scope() {
    let validator = validator();
    for mut event in events() {
        event["scope"] = json!("ci");
        assert!(validator.is_valid(&event), "{event:#}");
        event["scope"] = json!(1);
        assert!(!validator.is_valid(&event), "{event:#}");
    }
}

#[test]
fn names_that_are_not_escaped_are_refused() {
    let validator = validator();
    let mut event = events().remove(0);
    for name in ["/a\\", "/a\\x4", "/a\n", "/\u{9b}"] {
        event["file"]["path"] = json!(name);
        assert!(!validator.is_valid(&event), "{name:?}");
    }
}
