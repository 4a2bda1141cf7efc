//! Two policies beside each other: what the kernel decided by the active one, and what another would have decided. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use stockade_common::{
    event::{hook, kind, reason, verdict},
    file::{ACCESS_MOVE, ACCESS_WRITE, NO_RULE},
    limits::ABSTRACT_DEV,
};

use super::command::{Difference, ShadowReport};
use crate::{
    audit::{
        decode::{Body, File, Record},
        json::Context,
        name::escape,
        terms,
    },
    kernel::Scope,
    policy::{
        image::{MapImage, RuleInfo},
        unix,
        verdict::{self as policy, Verdict},
    },
};

/// Kinds of differences that are kept.
const KINDS: usize = 256;

/// A comparison of a scope's policy with another one.
#[derive(Debug, Default)]
pub struct Comparison {
    /// The other policy, compiled for what each instance sees; `None`: it cannot be.
    views: BTreeMap<Scope, Option<Arc<MapImage>>>,
    /// Records were wanted before it began, too.
    audit_all: bool,
    report: ShadowReport,
    known: HashMap<Kind, usize>,
}

/// What makes two differences the same.
type Kind = (u16, String, u32, Decided, Decided);

/// A decision, without what differs between hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Decided {
    allows: bool,
    reason: u16,
    rule: u32,
}

/// What the other policy says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Verdict(Verdict),
    /// It depends on what the record does not tell.
    Unknown,
    /// No policy decides that.
    NotAsked,
}

impl Comparison {
    /// Nothing compared yet. `audit_all`: all of the scope's records are events, comparison or not.
    #[must_use]
    pub fn new(audit_all: bool) -> Self {
        Self { audit_all, ..Self::default() }
    }

    /// The other policy for one instance of the scope; `None` if it cannot be compiled for that: what happens there is
    /// missed.
    pub fn see(&mut self, scope: Scope, image: Option<Arc<MapImage>>) {
        self.views.insert(scope, image);
    }

    /// An instance is gone.
    pub fn forget(&mut self, scope: Scope) {
        self.views.remove(&scope);
    }

    /// Decisions that were lost.
    pub fn miss(&mut self, decisions: u64) {
        self.report.missed += decisions;
    }

    /// What was found so far.
    #[must_use]
    pub fn report(&self) -> ShadowReport {
        self.report.clone()
    }

    /// Whether a record is there for the comparison alone, and no event.
    #[must_use]
    pub fn alone_wanted(&self, record: &Record) -> bool {
        let reported = match &record.body {
            Body::File(file) => {
                file.access & ACCESS_WRITE != 0 || record.header.hook == hook::UNIX_STREAM_CONNECT
            }
            Body::Net(_) => matches!(record.header.kind, kind::CONNECT | kind::LISTEN),
            _ => true,
        };
        !self.audit_all && record.header.verdict == verdict::ALLOWED && !reported
    }

    /// Takes a decision of the kernel's, and what the active policy is explained with.
    pub fn compare(&mut self, record: &Record, active: &Context) {
        let header = &record.header;
        if !asks_a_policy(record) {
            return;
        }
        let Some(Some(image)) = self.views.get(&Scope(header.scope)) else {
            self.report.missed += 1;
            return;
        };
        let image = image.clone();
        let other = match ask(&image, record) {
            Answer::Verdict(other) => other,
            Answer::Unknown => {
                self.report.missed += 1;
                return;
            }
            Answer::NotAsked => return,
        };
        self.report.compared += 1;
        let was =
            Decided { allows: header.verdict == verdict::ALLOWED, reason: header.reason, rule: header.rule };
        let would = Decided { allows: other.allows(), reason: other.reason, rule: other.rule };
        if was.allows == would.allows {
            return;
        }
        let (object, access) = object(record, active);
        let key = (header.kind, object, access, was, would);
        if let Some(index) = self.known.get(&key) {
            self.report.differences[*index].times += 1;
            return;
        }
        if self.report.differences.len() == KINDS {
            self.report.more = true;
            return;
        }
        self.report.differences.push(Difference {
            kind: terms::kind_name(header.kind).to_owned(),
            object: key.1.clone(),
            access: accesses(access),
            active: said(was, &active.rules),
            shadow: said(would, &image.rules),
            times: 1,
        });
        self.known.insert(key, self.report.differences.len() - 1);
    }
}

/// Whether a record tells of a decision that another policy could have made otherwise.
fn asks_a_policy(record: &Record) -> bool {
    let asked = matches!(
        record.header.kind,
        kind::OPEN
            | kind::CHANGE
            | kind::CONNECT
            | kind::SEND
            | kind::UNIX_NAMED
            | kind::LISTEN
            | kind::ACCEPT
    );
    let by_rules = [
        reason::RULE_ALLOW,
        reason::RULE_DENY,
        reason::NO_RULE,
        reason::UNKNOWN_FILESYSTEM,
        reason::MOVES_DENIED,
    ];
    asked && by_rules.contains(&record.header.reason)
}

/// Asks the other policy what the kernel asked the active one.
fn ask(image: &MapImage, record: &Record) -> Answer {
    match &record.body {
        Body::File(File { dev, access, path, .. }) => {
            let other = policy::file(image, *dev, path, *access, record.header.tgid);
            let renames = record.header.hook == hook::PATH_RENAME && access & ACCESS_MOVE != 0;
            if !renames || !other.allows() || !policy::renames_strictly(image, *dev) {
                return Answer::Verdict(other);
            }
            // From one directory into another is refused. The active policy's refusal without a rule says that it was so;
            // otherwise nothing in the record does.
            let header = &record.header;
            if header.reason == reason::MOVES_DENIED && header.rule == NO_RULE {
                return Answer::Verdict(Verdict { reason: reason::MOVES_DENIED, rule: NO_RULE });
            }
            Answer::Unknown
        }
        Body::Net(net) if matches!(record.header.kind, kind::LISTEN | kind::ACCEPT) => {
            Answer::Verdict(policy::listen(image, net.addr, net.port, net.protocol))
        }
        Body::Net(net) => Answer::Verdict(policy::net(image, net.addr, net.port, net.protocol)),
        _ => Answer::NotAsked,
    }
}

/// What was asked for, and how.
fn object(record: &Record, active: &Context) -> (String, u32) {
    match &record.body {
        Body::File(File { dev, path, .. }) if *dev == ABSTRACT_DEV => (unix::written(path), 0),
        Body::File(File { dev, access, path, .. }) => (escape(&active.visible(*dev, path)), *access),
        Body::Net(net) => {
            let address = std::net::SocketAddr::new(terms::address(net.addr), net.port);
            (format!("{address}/{}", terms::protocol(net.protocol)), 0)
        }
        _ => (String::new(), 0),
    }
}

fn accesses(access: u32) -> String {
    let mut names = terms::access_names(access);
    names.extend((access & ACCESS_MOVE != 0).then_some("move"));
    names.join(", ")
}

fn said(decided: Decided, rules: &[RuleInfo]) -> String {
    let Decided { allows, reason, rule } = decided;
    let outcome = if allows { "allowed" } else { "denied" };
    let why = match (rules.get(rule as usize), reason) {
        (Some(RuleInfo { text, source, list }), _) => format!("{list} {text:?} ({source})"),
        (None, reason::NO_RULE) => "no rule".to_owned(),
        (None, reason::UNKNOWN_FILESYSTEM) => "no rule reaches the filesystem".to_owned(),
        (None, reason::MOVES_DENIED) => "would move what a rule denies".to_owned(),
        (None, reason) => terms::reason_name(reason).to_owned(),
    };
    format!("{outcome}: {why}")
}

#[cfg(test)]
mod tests;
