//! Events of the agent itself: the start and the end of a run, and gaps in what it could record.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf};

use serde_json::{Value, json};
use stockade_common::counter::{self, COUNTERS, Counter};

use super::{json::Context, name::escape, origin::Origin};
use crate::policy::from;

/// How many events there should have been, and are not. Only grows during a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Refusals that did not fit the ring.
    pub denied: u64,
    /// Other records that did not fit the ring.
    pub other: u64,
    /// Records that could not be read.
    pub undecoded: u64,
    /// Events that the sink did not take in time, or at all.
    pub unwritten: u64,
}

impl Losses {
    /// All of them.
    #[must_use]
    pub fn total(self) -> u64 {
        self.denied + self.other + self.undecoded + self.unwritten
    }

    /// What was lost since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            denied: self.denied.saturating_sub(earlier.denied),
            other: self.other.saturating_sub(earlier.other),
            undecoded: self.undecoded.saturating_sub(earlier.undecoded),
            unwritten: self.unwritten.saturating_sub(earlier.unwritten),
        }
    }

    fn json(self) -> Value {
        let Self { denied, other, undecoded, unwritten } = self;
        json!({ "denied": denied, "other": other, "undecoded": undecoded, "unwritten": unwritten })
    }
}

/// What is started, how, and by whom.
#[derive(Debug)]
pub struct Start<'a> {
    /// The command's file.
    pub program: PathBuf,
    /// Its words.
    pub words: &'a [std::ffi::OsString],
    /// Its user and group.
    pub ids: (u32, u32),
    /// The tagged cgroup.
    pub cgroup_id: u64,
    /// What was proved before the start, by name.
    pub guarantees: Vec<&'static str>,
    /// Files are not policed.
    pub degraded: bool,
    /// Allowed reads and sends are reported too.
    pub audit_all: bool,
    /// The host and who started us.
    pub origin: &'a Origin,
}

/// The first event.
#[must_use]
pub fn start(start: &Start<'_>, context: &Context, boot_ns: u64) -> Value {
    let Start { program, words, ids: (uid, gid), cgroup_id, guarantees, degraded, audit_all, origin } = start;
    let mut out = context.common("start", boot_ns);
    let text = |words: &OsStr| escape(words.as_bytes());
    let argv: Vec<String> = words.iter().map(|word| text(word)).collect();
    out.insert("cgroup_id".into(), json!(cgroup_id));
    out.insert(
        "command".into(),
        json!({
            "path": text(program.as_os_str()), "argv": argv, "cwd": origin.cwd.as_deref().map(escape),
            "uid": uid, "gid": gid,
        }),
    );
    let started_by: Vec<Value> = origin
        .started_by
        .iter()
        .map(|one| {
            json!({
                "pid": one.pid, "exe": one.exe.as_deref().map(escape), "argv": one.argv.as_deref().map(super::json::words),
            })
        })
        .collect();
    out.insert(
        "agent".into(),
        json!({
            "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id(), "uid": origin.uid,
            "started_by": started_by,
        }),
    );
    out.insert("kernel".into(), json!(origin.kernel));
    out.insert("guarantees".into(), json!(guarantees));
    out.insert("degraded".into(), json!(degraded));
    out.insert("audit".into(), json!(if *audit_all { "all" } else { "default" }));
    let found = context.rules.iter().filter(|rule| rule.source.starts_with(from::PREFIX));
    let found: Vec<Value> = found.map(|rule| json!({ "rule": rule.text, "source": rule.source })).collect();
    if !found.is_empty() {
        out.insert("from".into(), found.into());
    }
    Value::Object(out)
}

/// Events are missing here.
#[must_use]
pub fn gap(lost: Losses, context: &Context, boot_ns: u64) -> Value {
    let mut out = context.common("gap", boot_ns);
    out.insert("lost".into(), lost.json());
    Value::Object(out)
}

/// The last event. `status` is the command's, as `waitpid` gives it.
#[must_use]
pub fn end(
    status: u32,
    exit_code: u8,
    counters: Option<&[u64; COUNTERS]>,
    lost: Losses,
    context: &Context,
    boot_ns: u64,
) -> Value {
    let mut out = context.common("end", boot_ns);
    out.insert("exit".into(), super::json::wait_status(status));
    out.insert("exit_code".into(), json!(exit_code));
    let named = |counters: &[u64; COUNTERS]| {
        let sums = [("denied", counter::denied(counters)), ("allowed", counter::allowed(counters))];
        let each = COUNTER_NAMES.iter().map(|(counter, name)| (*name, counters[*counter as usize]));
        Value::Object(
            sums.into_iter().chain(each).map(|(name, count)| (name.to_owned(), json!(count))).collect(),
        )
    };
    out.insert("counters".into(), counters.map_or(Value::Null, named));
    out.insert("lost".into(), lost.json());
    Value::Object(out)
}

/// The counters of decisions. The losses stand apart.
const COUNTER_NAMES: [(Counter, &str); COUNTERS - 2] = [
    (Counter::FileDenied, "file_denied"),
    (Counter::FileAllowed, "file_allowed"),
    (Counter::NetDenied, "net_denied"),
    (Counter::NetAllowed, "net_allowed"),
    (Counter::ProcessDenied, "process_denied"),
    (Counter::PathTooLong, "path_too_long"),
    (Counter::NoBuffer, "no_buffer"),
    (Counter::NoName, "no_name"),
    (Counter::HelperFailed, "helper_failed"),
    (Counter::InheritFailed, "inherit_failed"),
    (Counter::BadTable, "bad_table"),
    (Counter::Raced, "raced"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_since_the_last_gap() {
        let earlier = Losses { denied: 1, other: 2, ..Losses::default() };
        let now = Losses { denied: 4, other: 2, unwritten: 1, ..Losses::default() };
        let expected = Losses { denied: 3, unwritten: 1, ..Losses::default() };
        assert_eq!(now.since(earlier), expected);
        assert_eq!((now.total(), expected.total()), (7, 4));
    }

    #[test]
    fn every_counter_is_named_once() {
        let mut seen: Vec<u32> = COUNTER_NAMES.iter().map(|(counter, _)| *counter as u32).collect();
        seen.extend([Counter::LostDenied as u32, Counter::LostOther as u32]);
        seen.sort_unstable();
        assert_eq!(seen, (0..COUNTERS as u32).collect::<Vec<_>>());
    }
}
