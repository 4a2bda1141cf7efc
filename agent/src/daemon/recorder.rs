//! Records of the kernel programs on their way to followers and the log; and what among them the core must act on.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use serde_json::Value;
use stockade_common::{
    counter::{COUNTERS, Counter},
    event::{kind, reason, verdict},
};

use super::{
    command::ShadowReport,
    hub::{Event, Hub},
    log::Unwritten,
    shadow::Comparison,
};
use crate::{
    audit::{
        decode::{self, Body},
        json::{self, Context},
        process::Processes,
        run::{self, Losses},
        sink::Sink,
    },
    kernel::{Scope, Slot},
};

/// Something the core must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A cgroup was tagged when it was made, because of its path.
    Made {
        /// Kernel id.
        id: u64,
        /// Its scope.
        scope: Scope,
        /// From the root of the v2 hierarchy.
        path: Bytes,
    },
    /// A process has asked for a name where its scope has no gate.
    NoGate {
        /// Its scope.
        scope: Scope,
        /// Its process id.
        pid: u32,
    },
    /// A workload was stopped before its first instruction.
    Started {
        /// Its process id.
        pid: u32,
        /// Its cgroup.
        cgroup_id: u64,
    },
}

/// What events of a policy are explained with.
#[derive(Debug)]
struct Policy {
    context: Arc<Context>,
    scope: Arc<str>,
    run_uid: Option<u32>,
}

/// Makes events of records.
#[derive(Debug)]
pub struct Recorder {
    hub: Hub,
    log: Option<Sink>,
    processes: Processes,
    policies: HashMap<u32, Policy>,
    /// Of cgroups of which it is not known yet whose they are.
    undecided: Policy,
    lost: HashMap<Scope, Losses>,
    /// By scope.
    comparisons: HashMap<String, Comparison>,
    undecoded: u64,
    unwritten: Unwritten,
}

impl Recorder {
    /// With a log or without; `unwritten` is what the log does not have. `context` is that of cgroups which no policy has yet.
    #[must_use]
    pub fn new(hub: Hub, log: Option<Sink>, unwritten: Unwritten, context: Context) -> Self {
        let scope: Arc<str> = context.scope.clone().unwrap_or_default().into();
        Self {
            hub,
            log,
            processes: Processes::default(),
            policies: HashMap::new(),
            undecided: Policy { context: Arc::new(context), scope, run_uid: None },
            lost: HashMap::new(),
            comparisons: HashMap::new(),
            undecoded: 0,
            unwritten,
        }
    }

    /// Events of the policy in a slot are explained with this from now on.
    pub fn know(&mut self, slot: Slot, context: Arc<Context>, run_uid: Option<u32>) {
        let scope = context.scope.clone().unwrap_or_default().into();
        self.policies.insert(slot.0, Policy { context, scope, run_uid });
    }

    /// A slot is free: all records of its policy have been taken.
    pub fn forget(&mut self, slot: Slot) {
        self.policies.remove(&slot.0);
    }

    /// Records that could not be read, and events the log did not take.
    #[must_use]
    pub fn missing(&self) -> (u64, u64) {
        (self.undecoded, self.unwritten.total())
    }

    /// Takes records as they come from the ring.
    pub fn take(&mut self, records: Vec<Bytes>) -> Vec<Notice> {
        let mut notices = Vec::new();
        for bytes in records {
            let Ok(record) = decode::decode(bytes) else {
                self.undecoded += 1;
                // Whose it was is not known.
                self.comparisons.values_mut().for_each(|comparison| comparison.miss(1));
                self.processes.forget();
                continue;
            };
            let header = &record.header;
            match (header.kind, &record.body) {
                (kind::CGROUP, Body::File(file)) => {
                    notices.push(Notice::Made {
                        id: header.cgroup_id,
                        scope: Scope(header.scope),
                        path: file.path.clone(),
                    });
                    // The core says what came of it.
                    continue;
                }
                (kind::STARTED, _) => {
                    notices.push(Notice::Started { pid: header.tgid, cgroup_id: header.cgroup_id });
                }
                (kind::CONNECT | kind::SEND, _) if header.reason == reason::NO_GATE => {
                    notices.push(Notice::NoGate { scope: Scope(header.scope), pid: header.tgid });
                }
                _ => {}
            }
            let policy = self.policies.get(&header.slot).unwrap_or(&self.undecided);
            let context = policy.context.clone();
            self.processes.begin(&record, |dev, path| context.visible(dev, path));
            let mut alone_wanted = false;
            if let Some(comparison) = self.comparisons.get_mut(&*policy.scope) {
                comparison.compare(&record, &context);
                alone_wanted = comparison.alone_wanted(&record);
            }
            if header.kind != kind::FORK && !alone_wanted {
                let value = json::event(&record, &self.processes.get(header.tgid), &context);
                let event = Event {
                    line: value.to_string().into(),
                    scope: policy.scope.clone(),
                    denied: header.verdict != verdict::ALLOWED,
                    run_uid: policy.run_uid,
                };
                self.publish(&event);
            }
            self.processes.end(&record);
        }
        notices
    }

    /// Compares what a scope has lost with what was known, and tells of it.
    pub fn losses(&mut self, scope: Scope, slot: Slot, counters: &[u64; COUNTERS], boot_ns: u64) {
        let now = Losses {
            denied: counters[Counter::LostDenied as usize],
            other: counters[Counter::LostOther as usize],
            ..Losses::default()
        };
        let before = self.lost.insert(scope, now).unwrap_or_default();
        let lost = now.since(before);
        if lost.total() == 0 {
            return;
        }
        // Of no later record is it sure what process made it.
        self.processes.forget();
        let policy = self.policies.get(&slot.0).unwrap_or(&self.undecided);
        if let Some(comparison) = self.comparisons.get_mut(&*policy.scope) {
            comparison.miss(lost.total());
        }
        let event = Event {
            line: run::gap(lost, &policy.context, boot_ns).to_string().into(),
            scope: policy.scope.clone(),
            denied: lost.denied > 0,
            run_uid: policy.run_uid,
        };
        self.publish(&event);
    }

    /// A scope's number may be another's from now on.
    pub fn scope_ended(&mut self, scope: Scope) {
        self.lost.remove(&scope);
        self.comparisons.values_mut().for_each(|comparison| comparison.forget(scope));
    }

    /// Compares a scope's decisions from now on.
    pub fn compare(&mut self, scope: &str, comparison: Comparison) {
        self.comparisons.insert(scope.to_owned(), comparison);
    }

    /// The comparison of a scope.
    pub fn comparison(&mut self, scope: &str) -> Option<&mut Comparison> {
        self.comparisons.get_mut(scope)
    }

    /// Ends the comparison of a scope: what it has found.
    pub fn end_comparison(&mut self, scope: &str) -> Option<ShadowReport> {
        self.comparisons.remove(scope).map(|comparison| comparison.report())
    }

    /// An event of the daemon's own.
    pub fn tell(&mut self, value: &Value, scope: &str, run_uid: Option<u32>) {
        let denied = value["kind"] == "peer_refused" || value["kind"] == "start_refused";
        let event = Event { line: value.to_string().into(), scope: scope.into(), denied, run_uid };
        self.publish(&event);
    }

    fn publish(&mut self, event: &Event) {
        if let Some(log) = &mut self.log {
            let mut line = event.line.as_bytes().to_vec();
            line.push(b'\n');
            if !log.offer(line) {
                self.unwritten.add(1);
            }
        }
        self.hub.publish(event);
    }

    /// Ends the log and all followers.
    pub async fn close(&mut self) {
        if let Some(log) = self.log.take() {
            let closed = log.close(Vec::new(), std::time::Duration::from_secs(2)).await;
            self.unwritten.add(closed.unwritten);
        }
        self.hub.close();
    }
}

#[cfg(test)]
mod tests;
