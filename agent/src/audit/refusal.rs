//! One refusal in words: what was refused, why, and which flag would allow it.

use std::net::SocketAddr;

use stockade_common::{
    event::{hook, kind, reason},
    file::{ACCESS_EXEC, ACCESS_WRITE},
    limits::ABSTRACT_DEV,
};

use super::{
    decode::{Body, File, Net, Record},
    json::Context,
    known_socket,
    name::escape,
    operation::{self, Need},
    terms,
};
use crate::policy::{
    mounts::Mount,
    protect::{self, Group},
    unix,
};

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// An access to a file.
    File {
        /// What for.
        access: Access,
        /// Escaped; empty where it has no name.
        path: String,
    },
    /// A connect or send.
    Destination {
        /// `connect to` or `send to`.
        verb: &'static str,
        /// As a rule has it.
        rule: String,
    },
    /// A connect or send to a unix socket that has a name.
    Unix {
        /// `connect to` or `send to`.
        verb: &'static str,
        /// As a rule has it; of a path that is not plain not one to paste.
        rule: String,
        /// What is known to listen there.
        known: Option<&'static str>,
    },
    /// Listening, or taking a connection.
    Listener {
        /// What is done with the local address.
        verb: &'static str,
        /// As a rule has it.
        rule: String,
    },
    /// A privilege or facility of the kernel.
    Facility {
        /// In words.
        what: String,
        /// The flag that gives it.
        flag: String,
    },
    /// Anything else, in words.
    Other(String),
}

/// The flag that allows an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// `--allow-read`.
    Read,
    /// `--allow-write`.
    Write,
    /// `--allow-exec`.
    Exec,
}

impl Access {
    fn of(access: u32) -> Self {
        if access & ACCESS_WRITE != 0 {
            Self::Write
        } else if access & ACCESS_EXEC != 0 {
            Self::Exec
        } else {
            Self::Read
        }
    }

    /// For people.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Exec => "execute",
        }
    }

    /// The flag that allows it for `glob`.
    #[must_use]
    pub fn flag(self, glob: &str) -> String {
        let flag = match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Exec => "exec",
        };
        format!("--allow-{flag} '{glob}'")
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Refusal {
    /// What.
    pub subject: Subject,
    /// Why.
    pub why: String,
    /// A rule would allow it.
    pub allowable: bool,
    /// The protected places that it is one of.
    pub protected: Option<Group>,
}

impl Refusal {
    /// The refusal that a record tells of.
    #[must_use]
    pub fn of(record: &Record, context: &Context) -> Self {
        let rule = context.rules.get(record.header.rule as usize);
        let protected = rule.and_then(|rule| protect::group_of(&rule.list, &rule.text));
        let why = match rule {
            Some(rule) => format!("denied by {} ({})", escape(rule.text.as_bytes()), rule.source),
            None => reason_text(record.header.reason).to_owned(),
        };
        let (subject, reachable) = subject(record, context);
        let lacks_rule = match record.header.reason {
            reason::NO_RULE => true,
            reason::UNKNOWN_FILESYSTEM => reachable,
            _ => false,
        };
        Self { subject, why, allowable: lacks_rule, protected }
    }

    /// The flag that would allow it, if there is one that can be pasted into a shell.
    #[must_use]
    pub fn flag(&self) -> Option<String> {
        if let Some(group) = self.protected {
            return Some(format!("--lift {}", group.name()));
        }
        match &self.subject {
            Subject::File { access, path } if self.allowable && is_plain(path) => Some(access.flag(path)),
            Subject::Destination { rule, .. } if self.allowable => Some(format!("--allow-net '{rule}'")),
            Subject::Unix { rule, .. } if self.allowable => {
                let path = rule.strip_prefix(unix::PREFIX).filter(|name| !name.starts_with(unix::ABSTRACT));
                path.is_none_or(is_plain).then(|| format!("--allow-net '{rule}'"))
            }
            Subject::Facility { flag, .. } => Some(flag.clone()),
            Subject::Listener { rule, .. } if self.allowable => Some(format!("--allow-listen '{rule}'")),
            _ => None,
        }
    }

    /// What was refused, for people.
    #[must_use]
    pub fn what(&self) -> String {
        match &self.subject {
            Subject::File { access, path } if path.is_empty() => format!("{} a file", access.verb()),
            Subject::File { access, path } => format!("{} {path}", access.verb()),
            Subject::Destination { verb, rule } | Subject::Listener { verb, rule } => {
                format!("{verb} {rule}")
            }
            Subject::Unix { verb, rule, known: Some(known) } => format!("{verb} {rule} ({known})"),
            Subject::Unix { verb, rule, known: None } => format!("{verb} {rule}"),
            Subject::Facility { what: text, .. } | Subject::Other(text) => text.clone(),
        }
    }
}

/// The workload chooses names and the user pastes flags: only a name that means nothing to a shell or a glob gets one.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@:=, ".contains(&byte))
}

fn subject(record: &Record, context: &Context) -> (Subject, bool) {
    let header = &record.header;
    match &record.body {
        Body::File(file) if header.kind == kind::UNIX_NAMED => unix_socket(header.hook, file, context),
        Body::File(File { dev, access, path, .. })
        | Body::Exec { file: File { dev, access, path, .. }, .. } => {
            let is_proc = |mount: &Mount| mount.dev == *dev && mount.fs_type == "proc";
            let path = if context.mounts.mounts.iter().any(is_proc) {
                in_any_run(path, header.tgid)
            } else {
                path.to_vec()
            };
            let seen = context.mounts.visible(*dev, &path);
            let reachable = seen.is_some();
            let path = escape(&seen.unwrap_or(path));
            (Subject::File { access: Access::of(*access), path }, reachable)
        }
        Body::Net(net) => (network(header.kind, header.reason, net), true),
        Body::Target { .. } => {
            let operation = operation::of(record);
            let what = match operation.needs {
                Need::Capability(name) => format!("{} {name}", operation.text),
                Need::Nothing | Need::Facility(_) => operation.text.to_owned(),
            };
            let subject = match operation.needs.flag() {
                Some(flag) => Subject::Facility { what, flag },
                None => Subject::Other(what),
            };
            (subject, false)
        }
        Body::Fork { .. } | Body::Exit { .. } => {
            (Subject::Other(terms::kind_name(header.kind).into()), false)
        }
    }
}

/// A path inside a procfs without the ids of one run: rules call the process's own directory `self`, others become `*`.
fn in_any_run(path: &[u8], own: u32) -> Vec<u8> {
    let is_id = |name: &[u8]| !name.is_empty() && name.iter().all(u8::is_ascii_digit);
    let own = own.to_string();
    let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    // The first is what stands before the first slash: nothing.
    if let Some(name) = names.get_mut(1).filter(|name| is_id(name)) {
        *name = if *name == own.as_bytes() { b"self" } else { b"*" };
        if let [_, _, b"task", thread, ..] = names.as_mut_slice()
            && is_id(thread)
        {
            *thread = b"*";
        }
    }
    names.join(&b'/')
}

fn unix_socket(from: u8, file: &File, context: &Context) -> (Subject, bool) {
    let verb = if from == hook::UNIX_MAY_SEND { "send to" } else { "connect to" };
    let File { dev, path, .. } = file;
    if *dev == ABSTRACT_DEV {
        let known = known_socket::at_name(path);
        return (Subject::Unix { verb, rule: unix::written(path), known }, true);
    }
    if path.is_empty() {
        return (Subject::Other(format!("{verb} a unix socket without a name")), false);
    }
    let seen = context.mounts.visible(*dev, path);
    let reachable = seen.is_some();
    let path = seen.unwrap_or_else(|| path.to_vec());
    let rule = format!("{}{}", unix::PREFIX, escape(&path));
    (Subject::Unix { verb, rule, known: known_socket::at_path(&path) }, reachable)
}

/// A local address as a rule on listening has it. Port 0 is one that the kernel chooses: any.
fn local(net: &Net) -> String {
    let (address, protocol) = (terms::address(net.addr), terms::protocol(net.protocol));
    match net.port {
        0 if address.is_ipv6() => format!("[{address}]/{protocol}"),
        0 => format!("{address}/{protocol}"),
        port => format!("{}/{protocol}", SocketAddr::new(address, port)),
    }
}

fn network(event: u16, why: u16, net: &Net) -> Subject {
    let named = net.addr != [0; 16] || net.port != 0;
    let by_address = !matches!(why, reason::FAMILY | reason::OUTSIDE);
    match event {
        kind::LISTEN if by_address => {
            let verb = if net.sock_type == libc::SOCK_DGRAM as u16 { "bind to" } else { "listen on" };
            return Subject::Listener { verb, rule: local(net) };
        }
        kind::ACCEPT if by_address => {
            return Subject::Listener {
                verb: "take connections that were listened for outside on",
                rule: local(net),
            };
        }
        _ => {}
    }
    let verb = match event {
        kind::CONNECT => "connect to",
        kind::SEND => "send to",
        kind::UNIX => return Subject::Other("use a unix socket without a name".into()),
        kind::LISTEN => "listen with",
        kind::ACCEPT => "take a connection from",
        kind::RECEIVE => "be handed",
        _ => "make",
    };
    if named && event != kind::SOCKET {
        let address = SocketAddr::new(terms::address(net.addr), net.port);
        return Subject::Destination { verb, rule: format!("{address}/{}", terms::protocol(net.protocol)) };
    }
    let (family, kind) = (terms::family(net.family), terms::socket_type(net.sock_type));
    let socket = format!("socket (family {family}, type {kind}, protocol {})", net.protocol);
    Subject::Other(if event == kind::SOCKET {
        format!("make a {socket}")
    } else {
        format!("{verb} a {socket}")
    })
}

fn reason_text(why: u16) -> &'static str {
    match why {
        reason::NO_RULE => "no rule allows it",
        reason::RULE_DENY => "a rule denies it",
        reason::UNKNOWN_FILESYSTEM => "no rule reaches its filesystem",
        reason::NO_NAME => "it has no name in any filesystem",
        reason::PATH_TOO_LONG => "its path is too long or too deep",
        reason::FAMILY => "no rule can allow sockets of this kind",
        reason::DEVICE => "no rule can allow devices",
        reason::OUTSIDE => "it belongs to a process outside the run",
        reason::MOVES_DENIED => "it would move what a rule denies",
        reason::CONFINED => "it would undo the enforcement",
        reason::PRIVILEGE => "the policy does not give it",
        reason::NO_GATE => {
            "it asks a name server, and the policy's DNS gate is not in this network namespace"
        }
        reason::NAME_EXPIRED => {
            "the answer that allowed the address has expired: the name has to be asked for again"
        }
        reason::INTERFACE => "it would not leave by the interface that the policy names",
        _ => "stockade could not decide",
    }
}

#[cfg(test)]
mod tests;
