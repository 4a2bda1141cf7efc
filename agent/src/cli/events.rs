//! `stockade events`.

use std::io::{self, Write as _};

use clap::ValueEnum;
use hyper::Method;
use serde_json::Value;

use super::daemon::{Failure, Socket, done};
use crate::daemon::client::{ClientError, segment};

/// How events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line a person can read.
    Text,
    /// As they are (docs/events.md).
    Json,
}

/// `stockade events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on with what comes, from now on, instead of showing what was lately.
    #[arg(long, short)]
    follow: bool,
    /// Of this scope only.
    #[arg(long)]
    scope: Option<String>,
    /// Denials only.
    #[arg(long)]
    denied: bool,
    /// How they are shown.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    socket: Socket,
}

impl Args {
    fn path(&self) -> String {
        let mut path = format!("/v1/events?follow={}&denied={}", self.follow, self.denied);
        if let Some(scope) = &self.scope {
            path.push_str(&format!("&scope={}", segment(scope)));
        }
        path
    }
}

/// Runs the verb.
#[must_use]
pub fn run(args: &Args) -> u8 {
    done(async {
        let client = args.socket.client();
        let mut lines = client.lines(Method::GET, &args.path(), bytes::Bytes::new()).await?;
        while let Some(line) = lines.next().await? {
            let mut out = io::stdout().lock();
            match args.format {
                Format::Json => writeln!(out, "{line}")?,
                Format::Text => writeln!(out, "{}", text(&line))?,
            }
            out.flush()?;
        }
        if args.follow {
            let source = io::Error::other("it has ended");
            return Err(Failure::Daemon(ClientError::NoDaemon { path: args.socket.socket.clone(), source }));
        }
        Ok(())
    })
}

/// An event as one line. Names in it are escaped already.
fn text(line: &str) -> String {
    let Ok(event) = serde_json::from_str::<Value>(line) else {
        return format!("not understood: {}", crate::audit::name::escape(line.as_bytes()));
    };
    let at = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    // To the millisecond.
    let time = at("/time").unwrap_or("-");
    let time = time.get(..23).map_or(time.to_owned(), |start| format!("{start}Z"));
    let kind = at("/kind").unwrap_or("unknown");
    if kind == "gap" {
        let lost = event.pointer("/lost").and_then(Value::as_object);
        let lost: u64 = lost.into_iter().flatten().filter_map(|(_, number)| number.as_u64()).sum();
        return format!("{time} -- {lost} events are missing here --");
    }
    let mut out = vec![time];
    out.extend(at("/scope").or(at("/policy/name")).map(str::to_owned));
    if let Some(verdict) = at("/verdict") {
        let loud = match verdict {
            "denied" => "DENIED",
            "would_deny" => "WOULD-DENY",
            other => other,
        };
        out.push(loud.into());
    }
    out.push(kind.to_owned());
    out.extend(subject(kind, &event));
    if let Some(process) = event.get("process") {
        let name = process.get("comm").and_then(Value::as_str).unwrap_or("?");
        out.push(format!("by {name}[{}]", process.get("pid").unwrap_or(&Value::Null)));
    }
    if let Some(reason) = reason(&event) {
        let rule = match (at("/rule/text"), at("/rule/source")) {
            (Some(text), Some(source)) => format!(": {text} ({source})"),
            _ => String::new(),
        };
        out.push(format!("-- {reason}{rule}"));
    }
    crate::audit::name::printable(&out.join(" "))
}

/// Why it was decided so, in words.
#[must_use]
pub fn reason(event: &Value) -> Option<String> {
    let at = |key| event.get(key).and_then(Value::as_str);
    // The gate says what became of a question, and some of it needs no further words.
    let reason = match (at("reason"), at("outcome"), at("why")) {
        (Some(reason), ..) => reason.to_owned(),
        (None, Some("refused"), Some(why)) => why.to_owned(),
        (None, Some(outcome), Some(why)) => format!("{outcome}: {why}"),
        (None, outcome, _) => outcome?.to_owned(),
    };
    Some(reason.replace('_', " "))
}

/// What it was done to.
#[must_use]
pub fn subject(kind: &str, event: &Value) -> Option<String> {
    let at = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let words = |pointer: &str| {
        let words = event.pointer(pointer).and_then(Value::as_array)?;
        Some(words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
    };
    match kind {
        "start" => words("/command/argv"),
        "end" => Some(format!("exit code {}", event.get("exit_code")?)),
        "exec" => words("/argv").or(at("/file/path").map(str::to_owned)),
        "exit" => match event.pointer("/exit/signal").and_then(Value::as_u64) {
            Some(signal) => Some(format!("by signal {signal}")),
            None => Some(format!("with {}", event.pointer("/exit/code")?)),
        },
        "fork" => Some(format!("child {}", event.get("child")?)),
        "open" | "change" => {
            let path = at("/file/path").unwrap_or("a file without a name");
            Some(format!("{path} ({})", words("/file/access").unwrap_or_default().replace(' ', ", ")))
        }
        "dns" => at("/name").map(str::to_owned),
        "connect" | "send" => {
            let (address, port) = (at("/net/address"), event.pointer("/net/port").and_then(Value::as_u64));
            let protocol = at("/net/protocol").unwrap_or("?");
            Some(match (address, port) {
                (Some(address), Some(port)) if address.contains(':') => {
                    format!("[{address}]:{port}/{protocol}")
                }
                (Some(address), Some(port)) => format!("{address}:{port}/{protocol}"),
                _ => format!("{} {protocol}", at("/net/family").unwrap_or("?")),
            })
        }
        "socket" | "unix" => {
            let word = |pointer| at(pointer).unwrap_or("?");
            Some(format!("{} {}", word("/socket/family"), word("/socket/type")))
        }
        "ptrace" => Some(format!("pid {}", event.pointer("/target/pid")?)),
        "confine" => {
            let name = at("/operation/name")?;
            Some(at("/operation/needs").map_or_else(|| name.to_owned(), |needs| format!("{name} ({needs})")))
        }
        "signal" => Some(format!("{} pid {}", at("/operation/name")?, event.pointer("/target/pid")?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_kernel_are_one_line_each() {
        let lines: Vec<String> = include_str!("../../testdata/events.jsonl").lines().map(text).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn what_else_may_come() {
        let gap =
            r#"{"kind":"gap","time":"2026-01-02T03:04:05.123456789Z","lost":{"denied":1,"unwritten":2}}"#;
        assert_eq!(text(gap), "2026-01-02T03:04:05.123Z -- 3 events are missing here --");
        assert_eq!(text("\u{1b}"), "not understood: \\x1b");
        let six = r#"{"kind":"send","time":"t","scope":"ci","verdict":"would_deny","net":{"address":"::1","port":5,"protocol":"udp"}}"#;
        assert_eq!(text(six), "t ci WOULD-DENY send [::1]:5/udp");
        let new = "{\"kind\":\"new\\u001b\",\"time\":\"t\"}";
        assert!(!text(new).contains('\u{1b}'));
    }

    #[test]
    fn of_a_question_the_name_is_told() {
        let refused = r#"{"kind":"dns","time":"t","scope":"ci","verdict":"denied","outcome":"refused","name":"a.example.test","type":"A","why":"no_rule"}"#;
        assert_eq!(text(refused), "t ci DENIED dns a.example.test -- no rule");
        let over = r#"{"kind":"dns","time":"t","verdict":"denied","outcome":"over_budget","name":"a.test","why":"queries_per_minute"}"#;
        assert_eq!(text(over), "t DENIED dns a.test -- over budget: queries per minute");
        let answered = r#"{"kind":"dns","time":"t","verdict":"allowed","outcome":"answered","name":"a.test","addresses":["192.0.2.1"]}"#;
        assert_eq!(text(answered), "t allowed dns a.test -- answered");
    }

    #[test]
    fn the_path_holds_any_name() {
        let args = Args {
            follow: true,
            scope: Some("a&b".into()),
            denied: false,
            format: Format::Text,
            socket: Socket { socket: "/x".into() },
        };
        assert_eq!(args.path(), "/v1/events?follow=true&denied=false&scope=a%26b");
    }
}
