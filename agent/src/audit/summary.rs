//! What was refused in a run, how often, why, and what would allow it.

use std::collections::HashMap;

use stockade_common::{
    event::{reason, verdict},
    file::{ACCESS_EXEC, ACCESS_WRITE},
    net::UDP,
};

use super::{
    decode::{Body, Record},
    json::{self, Context},
};

const MAX_LINES: usize = 20;
const MAX_KINDS: usize = 10_000;

/// Counts of refusals by what they were.
#[derive(Debug, Default)]
pub struct Summary {
    lines: HashMap<String, u64>,
    others: u64,
}

impl Summary {
    /// Takes note of a record, if it is a refusal.
    pub fn add(&mut self, record: &Record, context: &Context) {
        if record.header.verdict == verdict::ALLOWED {
            return;
        }
        let why = match context.rules.get(record.header.rule as usize) {
            Some(rule) => format!("denied by {:?} ({})", rule.text, rule.source),
            None => json::reason_name(record.header.reason).replace('_', " "),
        };
        let (what, flag) = object(record, context);
        let hint = flag
            .filter(|_| record.header.reason == reason::NO_RULE)
            .map_or_else(String::new, |flag| format!("; allow with {flag}"));
        let line = format!("{what}: {why}{hint}");
        // The workload chooses the names: it must not choose how much memory we take.
        if self.lines.len() < MAX_KINDS || self.lines.contains_key(&line) {
            *self.lines.entry(line).or_default() += 1;
        } else {
            self.others += 1;
        }
    }

    /// The lines, most frequent first; nothing if nothing was refused.
    #[must_use]
    pub fn render(&self) -> Option<String> {
        if self.lines.is_empty() {
            return None;
        }
        let mut lines: Vec<(&String, &u64)> = self.lines.iter().collect();
        lines.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let total: u64 = self.lines.values().sum::<u64>() + self.others;
        let mut out = format!("stockade: {total} refused\n");
        if self.others > 0 {
            out.push_str(&format!("{:6} x of more kinds than are kept\n", self.others));
        }
        for (line, count) in lines.iter().take(MAX_LINES) {
            out.push_str(&format!("{count:6} x {line}\n"));
        }
        if lines.len() > MAX_LINES {
            out.push_str(&format!("       and {} more\n", lines.len() - MAX_LINES));
        }
        Some(out)
    }
}

fn object(record: &Record, context: &Context) -> (String, Option<String>) {
    let name = json::kind_name(record.header.kind);
    match &record.body {
        Body::File { dev, access, path, .. } => {
            let path = json::text(&json::visible_path(context, *dev, path)).escape_debug().to_string();
            let flag = if access & ACCESS_WRITE != 0 {
                "write"
            } else if access & ACCESS_EXEC != 0 {
                "exec"
            } else {
                "read"
            };
            let access = json::access_names(*access).join("+");
            // The workload chooses the name and the user pastes the flag: only names that mean nothing to a shell or
            // to a glob get one.
            let plain =
                path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@:=, ".contains(&byte));
            (format!("{name} {path} ({access})"), plain.then(|| format!("--allow-{flag} '{path}'")))
        }
        Body::Net { addr, port, protocol, family, sock_type } => {
            if *port == 0 {
                return (format!("{name} family {family} type {sock_type} protocol {protocol}"), None);
            }
            let addr = json::address(*addr);
            let host = if addr.is_ipv6() { format!("[{addr}]") } else { addr.to_string() };
            let protocol = if u32::from(*protocol) == UDP { "udp" } else { "tcp" };
            let target = format!("{host}:{port}/{protocol}");
            (format!("{name} {target}"), Some(format!("--allow-net '{target}'")))
        }
        Body::Target { pid, detail } => (format!("{name} process {pid} detail {detail}"), None),
        Body::Argv { .. } | Body::Fork { .. } | Body::Exit { .. } => (name.to_owned(), None),
    }
}
