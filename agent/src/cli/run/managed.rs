//! A run through the daemon, which polices, counts and reports; here the command is started, and followed.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    process::ExitStatus,
    time::{Duration, Instant},
};

use nix::{sys::signalfd::SignalFd, unistd::Pid};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{Refused, args::Args, command, config::Config, supervise::Command, unstarted};
use crate::{
    audit::{name::printable, sink::Sink},
    cli::{
        daemon::Failure,
        events::{reason, subject},
        exit, host,
    },
    daemon::{
        api::error::ErrorKind,
        client::{
            Client, ClientError,
            run::{Run, RunError, Wanted},
        },
        command::{Lost, RunEnded},
    },
    policy::{
        document::{document, sources},
        protect::{self, Group},
    },
    scope::{signals, terminal::Terminal},
};

/// How long a daemon that is being replaced is waited for at the end.
const RETURN: Duration = Duration::from_secs(15);
/// How long the last events are waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Different refusals that are kept, and shown.
const MAX_KINDS: usize = 2_000;
const MAX_LINES: usize = 20;

/// The daemon is to do it.
#[derive(Debug)]
pub struct Managed {
    client: Client,
    policy: String,
    sources: BTreeMap<String, String>,
}

/// Whether the daemon is to do it.
pub fn choose(args: &Args, config: &Config) -> Result<Option<Managed>, Refused> {
    let client = args.socket.client();
    let always = args.daemon == "always";
    if args.daemon == "never" || (!always && client.reachable().is_err()) {
        return Ok(None);
    }
    match document(&config.checked) {
        Ok(policy) => Ok(Some(Managed { client, policy, sources: sources(&config.checked) })),
        // Root can do without it.
        Err(error) if !always && host::is_root() => {
            eprintln!("stockade: not through the daemon, which cannot be told this policy: {error}");
            Ok(None)
        }
        Err(error) => Err(Refused::new(exit::USAGE, error)),
    }
}

fn refused(error: RunError) -> Refused {
    match error {
        RunError::Daemon(error) => {
            let failure = Failure::Daemon(error);
            Refused::new(failure.code(), format!("{failure}\nnothing was started"))
        }
        error @ RunError::Degraded => {
            Refused::new(exit::UNAVAILABLE, format!("{error}\nnothing was started"))
        }
        RunError::Launch(error) => unstarted(&error),
        error @ RunError::Own { .. } => Refused::own(error),
    }
}

impl Managed {
    /// Runs the command; returns the exit code.
    pub fn run(self, config: &Config) -> Result<u8, Refused> {
        let Self { client, policy, sources } = self;
        let out = config.events.as_ref().map(super::events::Destination::open).transpose();
        let out = out.map_err(|error| Refused::new(exit::USAGE, error))?;
        let terminal = Terminal::in_foreground();
        let signals = signals::block().map_err(Refused::own)?;
        let Config { audit_all, allow_degraded, .. } = *config;
        let wanted = Wanted { policy, audit_all, sources, allow_degraded };
        let mut run = Run::start(&client, wanted, |join| command(config, join).start()).map_err(refused)?;
        if run.started().degraded {
            eprintln!("stockade: degraded: files are not policed, only connects, sends and sockets");
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(Refused::own)?;
        runtime.block_on(async {
            let mut tale =
                Tale { sink: out.map(Sink::start).transpose().map_err(Refused::own)?, ..Tale::default() };
            let status = follow(&mut run, &mut tale, &signals).await.map_err(Refused::own)?;
            let ended = end(&mut run).await;
            if let Some(terminal) = &terminal {
                terminal.take_back();
            }
            // The daemon closes the stream behind the last event; one that is gone has closed it.
            let rest = async {
                while let Some(line) = run.next().await {
                    tale.take(&line);
                }
            };
            if timeout(PATIENCE, rest).await.is_err() {
                eprintln!("stockade: the daemon is slow to tell the last events: some are missing");
            }
            tale.close(ended.as_ref().ok().map(|ended| ended.lost)).await;
            let cgroup = run.started().cgroup.display().to_string();
            ended.map_err(|error| {
                Refused::own(format!(
                    "{error}\nwhat the command has left in cgroup {cgroup} stays there, held to its policy"
                ))
            })?;
            Ok(exit::passed_on(status))
        })
    }
}

async fn follow(run: &mut Run, tale: &mut Tale, signals: &SignalFd) -> io::Result<ExitStatus> {
    let command = Command(Pid::from_raw(run.child().id() as i32));
    let mut told = true;
    command
        .follow(signals, async || {
            match run.next().await {
                Some(line) => tale.take(&line),
                None if told => {
                    told = false;
                    eprintln!(
                        "stockade: the daemon tells no more: the command stays held to its policy, events are missing from here"
                    );
                }
                // There is nothing to wait for any more but the command's end.
                None => std::future::pending().await,
            }
            Ok(())
        })
        .await
}

/// A daemon that is being replaced comes back.
async fn end(run: &mut Run) -> Result<RunEnded, ClientError> {
    let start = Instant::now();
    loop {
        match run.end().await {
            Err(ClientError::NoDaemon { .. }) if start.elapsed() < RETURN => {}
            Err(ClientError::Refused(error))
                if error.kind == ErrorKind::Unavailable && start.elapsed() < RETURN => {}
            ended => return ended,
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// What is told of the run.
#[derive(Debug, Default)]
struct Tale {
    sink: Option<Sink>,
    refusals: HashMap<String, u64>,
    others: u64,
    only_reported: bool,
    missing: u64,
    unwritten: u64,
}

impl Tale {
    fn take(&mut self, line: &str) {
        if let Some(sink) = &mut self.sink {
            let taken = sink.offer(format!("{line}\n").into_bytes());
            self.unwritten += u64::from(!taken);
        }
        let Ok(event) = serde_json::from_str::<Value>(line) else { return };
        let word = |key| event.get(key).and_then(Value::as_str);
        let kind = word("kind").unwrap_or("unknown");
        if kind == "gap" {
            let lost = event.get("lost").and_then(Value::as_object);
            self.missing += lost.into_iter().flatten().filter_map(|(_, number)| number.as_u64()).sum::<u64>();
        }
        let Some(verdict @ ("denied" | "would_deny")) = word("verdict") else { return };
        self.only_reported |= verdict == "would_deny";
        let reason = reason(&event).unwrap_or_else(|| "unknown".to_owned());
        let lift = protected(&event)
            .map_or_else(String::new, |group| format!("; allow with --lift {}", group.name()));
        let text = format!("{kind} {} ({reason}){lift}", subject(kind, &event).unwrap_or_default());
        if self.refusals.len() < MAX_KINDS || self.refusals.contains_key(&text) {
            *self.refusals.entry(text).or_default() += 1;
        } else {
            self.others += 1;
        }
    }

    /// Writes what is left, and says on standard error what was refused and what is missing.
    async fn close(mut self, lost: Option<Lost>) {
        if let Some(sink) = self.sink.take() {
            let closed = sink.close(Vec::new(), PATIENCE).await;
            self.unwritten += closed.unwritten;
            if let Some(error) = closed.error {
                eprintln!("stockade: writing events: {error}");
            }
        }
        if self.unwritten > 0 {
            eprintln!("stockade: {} events were not written", self.unwritten);
        }
        // A gap that the daemon tells is in its counts too.
        let counted = lost.map_or(0, |lost| lost.denied + lost.other + lost.undecoded + lost.unwritten);
        let missing = self.missing.max(counted);
        if missing > 0 {
            eprintln!("stockade: {missing} events were lost: the summary lacks them");
        }
        eprint!("{}", self.summary());
    }

    fn summary(&self) -> String {
        let total = self.refusals.values().sum::<u64>() + self.others;
        if total == 0 {
            return String::new();
        }
        let verb = if self.only_reported { "would have been refused" } else { "refused" };
        let mut out = format!("stockade: {total} {verb}\n");
        let mut lines: Vec<(&String, u64)> =
            self.refusals.iter().map(|(text, count)| (text, *count)).collect();
        lines.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        for (text, count) in lines.iter().take(MAX_LINES) {
            out.push_str(&format!("{count:6} x {}\n", printable(text)));
        }
        let rest = lines.iter().skip(MAX_LINES).map(|(_, count)| count).sum::<u64>() + self.others;
        if rest > 0 {
            out.push_str(&format!("       ... and {rest} more\n"));
        }
        out
    }
}

/// The protected places that were to be changed.
fn protected(event: &Value) -> Option<Group> {
    let word = |key| event.pointer(key).and_then(Value::as_str);
    protect::group_of(word("/rule/list")?, word("/rule/text")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_a_kernel_are_summed_up() {
        let mut tale = Tale::default();
        for line in include_str!("../../../testdata/events.jsonl").lines().chain(["nonsense"]) {
            tale.take(line);
        }
        let expected = "stockade: 4 refused\n     1 x change /secret/new (read, write) (no rule)\n     \
                        1 x connect 127.0.0.1:1/tcp (no rule)\n     1 x open /secret/a (read) (no rule)\n     \
                        1 x socket inet raw (family)\n";
        assert_eq!(tale.summary(), expected);
        assert_eq!(Tale::default().summary(), "");
        let mut asked = Tale::default();
        asked
            .take(r#"{"kind":"dns","verdict":"denied","outcome":"refused","name":"a.test","why":"no_rule"}"#);
        assert_eq!(asked.summary(), "stockade: 1 refused\n     1 x dns a.test (no rule)\n");
        let mut place = Tale::default();
        let rule = r#"{"text":"ci","source":"a protected place","list":"files.protect"}"#;
        place.take(&format!(
            r#"{{"kind":"change","verdict":"denied","reason":"rule_deny","file":{{"path":"/w/.github","access":["write"]}},"rule":{rule}}}"#
        ));
        let line = "change /w/.github (write) (rule deny); allow with --lift ci";
        assert!(place.summary().contains(line), "{}", place.summary());
        tale.take(r#"{"kind":"gap","lost":{"denied":1,"unwritten":2}}"#);
        assert_eq!(tale.missing, 3);
    }
}
