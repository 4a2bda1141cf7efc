//! The way of a run's records: decoded, attributed to processes, counted in the summary, written as events.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use stockade_common::event::kind;

use super::{
    decode, gate,
    json::{self, Context},
    process::Processes,
    run::{self, Losses},
    sink::{Closed, Sink},
    summary::Summary,
};
use crate::dns::GateEvent;

/// How long the sink may take for what is left at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// All that a run records.
#[derive(Debug)]
pub struct Trail {
    context: Context,
    processes: Processes,
    summary: Summary,
    sink: Option<Sink>,
    /// Forks are written too.
    all: bool,
    lost: Losses,
    /// What gap events have told.
    told: Losses,
}

impl Trail {
    /// Without a sink, only the summary is kept.
    #[must_use]
    pub fn new(context: Context, sink: Option<Sink>, all: bool) -> Self {
        Self {
            context,
            processes: Processes::default(),
            summary: Summary::default(),
            sink,
            all,
            lost: Losses::default(),
            told: Losses::default(),
        }
    }

    /// What records are explained with.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// What was refused.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// What is lost so far.
    #[must_use]
    pub fn lost(&self) -> Losses {
        self.lost
    }

    /// Takes records as they come from the ring. `denied` and `other` are what the programs have lost in all, as read
    /// after the records were taken.
    pub fn take(&mut self, records: Vec<Bytes>, (denied, other): (u64, u64), boot_ns: u64) {
        let kernel_lost = denied > self.lost.denied || other > self.lost.other;
        (self.lost.denied, self.lost.other) = (denied, other);
        let before = self.lost.undecoded;
        for bytes in records {
            // The loss is somewhere between these records: of none of them is it sure what process made it.
            if kernel_lost || self.lost.undecoded > before {
                self.processes.forget();
            }
            self.record(bytes);
        }
        if kernel_lost || self.lost.undecoded > before {
            self.processes.forget();
        }
        self.tell_losses(boot_ns);
    }

    fn record(&mut self, bytes: Bytes) {
        let Ok(record) = decode::decode(bytes) else {
            self.lost.undecoded += 1;
            return;
        };
        let context = &self.context;
        self.processes.begin(&record, |dev, path| context.visible(dev, path));
        self.summary.add(&record, context);
        if self.sink.is_some() && (self.all || record.header.kind != kind::FORK) {
            let event = json::event(&record, &self.processes.get(record.header.tgid), context);
            self.write(&event);
        }
        self.processes.end(&record);
    }

    /// Takes note of what happened at the DNS gate.
    pub fn asked(&mut self, event: &GateEvent, boot_ns: u64) {
        self.summary.asked(event, &self.context);
        if self.sink.is_some() {
            let event = gate::event(event, &self.context, boot_ns);
            self.write(&event);
        }
    }

    /// Writes one event of the agent's own.
    pub fn write(&mut self, event: &Value) {
        if let Some(sink) = &mut self.sink
            && !sink.offer(line(event))
        {
            self.lost.unwritten += 1;
        }
    }

    fn tell_losses(&mut self, boot_ns: u64) {
        let untold = self.lost.since(self.told);
        if untold.total() == 0 {
            return;
        }
        let gap = run::gap(untold, &self.context, boot_ns);
        // If this has no room either it is told later, together with what is lost until then.
        if self.sink.as_mut().is_some_and(|sink| sink.offer(line(&gap))) {
            self.told = self.lost;
        }
    }

    /// Ends the writing with `end`, which is told what was lost. Returns how it went, if there was a sink.
    pub async fn close(
        &mut self,
        boot_ns: u64,
        end: impl FnOnce(Losses, &Context) -> Value,
    ) -> Option<Closed> {
        let sink = self.sink.take()?;
        let untold = self.lost.since(self.told);
        let gap = (untold.total() > 0).then(|| line(&run::gap(untold, &self.context, boot_ns)));
        let last = gap.into_iter().chain([line(&end(self.lost, &self.context))]).collect();
        let closed = sink.close(last, PATIENCE).await;
        self.lost.unwritten += closed.unwritten;
        Some(closed)
    }
}

fn line(event: &Value) -> Vec<u8> {
    let mut line = event.to_string().into_bytes();
    line.push(b'\n');
    line
}
