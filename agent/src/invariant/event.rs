//! Records of the ring buffer.

use std::sync::LazyLock;

use bytes::Bytes;

use super::reference;
use crate::{
    audit::{
        decode::{self, Body},
        json::{self, Context, PolicyId},
        process::Descent,
        summary::Summary,
    },
    policy::image::RuleInfo,
};

static CONTEXT: LazyLock<Context> = LazyLock::new(|| Context {
    rules: vec![RuleInfo {
        text: "/etc/**".into(),
        source: "policy.toml:4".into(),
        list: "files.read".into(),
    }],
    mounts: reference::mounts(),
    boot_id: "01234567-89ab-cdef-0123-456789abcdef".into(),
    policy: PolicyId { name: "fuzz".into(), digest: format!("sha256:{:064}", 0), mode: "enforce" },
    ..Context::default()
});

/// Decodes a record, and writes it as JSON: one line, which reads back as what it was and names a known kind.
pub fn check(data: &[u8]) {
    let Ok(record) = decode::decode(Bytes::copy_from_slice(data)) else { return };
    if let Body::Exec { argv, .. } = &record.body {
        assert!(argv.len() < data.len());
    }
    let event = json::event(&record, &Descent::default(), &CONTEXT);
    let line = event.to_string();
    assert!(!line.contains(['\n', '\r', '\0']), "{line}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).ok().as_ref(), Some(&event));
    assert_ne!(event["kind"], "unknown");
    let mut summary = Summary::default();
    summary.add(&record, &CONTEXT);
    if let Some(text) = summary.render() {
        assert!(text.lines().count() >= 2, "{text}");
        // The workload chooses names; they must not reach a terminal as they are.
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{}", text.escape_debug());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_of_any_content(
            kind in prop_oneof![100u16..106, 200u16..202, 300u16..304],
            head in proptest::collection::vec(any::<u8>(), 72),
            tail in proptest::collection::vec(any::<u8>(), 24..60),
        ) {
            let mut bytes = head;
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[6..8].copy_from_slice(&stockade_common::event::EVENT_VERSION.to_ne_bytes());
            bytes.extend(tail);
            super::check(&bytes);
        }
    }
}
