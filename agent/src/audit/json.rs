//! Events as JSON lines, `stockade/event/v1` (docs/schema/event-v1.json).

use std::net::Ipv6Addr;

use serde_json::{Map, Value, json};
use stockade_common::{
    event::{hook, kind, reason, verdict},
    file::{ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE},
};

use super::decode::{Body, Record};
use crate::policy::{image::RuleInfo, mounts::MountTable};

/// Name and version of the form.
pub const SCHEMA: &str = "stockade/event/v1";

/// What records are explained with.
#[derive(Debug, Default)]
pub struct Context {
    /// By rule id.
    pub rules: Vec<RuleInfo>,
    /// Of the workload.
    pub mounts: MountTable,
    /// Nanoseconds of wall-clock time at boot.
    pub boot_time_ns: i128,
}

/// Bytes as text; what is not UTF-8 is kept as `\xNN`, and a backslash doubled then.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// Path as the workload sees it, or the one inside the filesystem where it is not mounted.
#[must_use]
pub fn visible_path(context: &Context, dev: u32, path: &[u8]) -> Vec<u8> {
    context.mounts.visible(dev, path).unwrap_or_else(|| path.to_vec())
}

/// Names of `ACCESS_*` bits.
#[must_use]
pub fn access_names(access: u32) -> Vec<&'static str> {
    [(ACCESS_READ, "read"), (ACCESS_WRITE, "write"), (ACCESS_EXEC, "exec")]
        .into_iter()
        .filter(|(bit, _)| access & bit != 0)
        .map(|(_, name)| name)
        .collect()
}

/// Address, IPv4 where it is a mapped one.
#[must_use]
pub fn address(addr: [u8; 16]) -> std::net::IpAddr {
    let addr = Ipv6Addr::from(addr);
    addr.to_ipv4_mapped().map_or_else(|| addr.into(), Into::into)
}

/// Name of an event's kind.
#[must_use]
pub fn kind_name(event: u16) -> &'static str {
    match event {
        kind::EXEC => "exec",
        kind::ARGV => "argv",
        kind::FORK => "fork",
        kind::EXIT => "exit",
        kind::PTRACE => "ptrace",
        kind::CONFINE => "confine",
        kind::OPEN => "open",
        kind::CHANGE => "change",
        kind::CONNECT => "connect",
        kind::SEND => "send",
        kind::SOCKET => "socket",
        kind::UNIX => "unix",
        _ => "unknown",
    }
}

/// Name of a reason.
#[must_use]
pub fn reason_name(why: u16) -> &'static str {
    match why {
        reason::RULE_ALLOW => "rule_allow",
        reason::RULE_DENY => "rule_deny",
        reason::NO_RULE => "no_rule",
        reason::UNKNOWN_FILESYSTEM => "unknown_filesystem",
        reason::NO_NAME => "no_name",
        reason::PATH_TOO_LONG => "path_too_long",
        reason::FAMILY => "family",
        reason::DEVICE => "device",
        reason::OUTSIDE => "outside",
        reason::INSIDE => "inside",
        reason::MOVES_DENIED => "moves_denied",
        reason::CONFINED => "confined",
        _ => "internal",
    }
}

/// A record as one JSON object.
#[must_use]
pub fn event(record: &Record, context: &Context) -> Value {
    let header = &record.header;
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("schema", json!(SCHEMA));
    put("time_ns", json!((context.boot_time_ns + i128::from(header.boot_ns)).to_string()));
    put("boot_ns", json!(header.boot_ns));
    put("kind", json!(kind_name(header.kind)));
    put(
        "verdict",
        json!(match header.verdict {
            verdict::ALLOWED => "allowed",
            verdict::DENIED => "denied",
            _ => "would_deny",
        }),
    );
    put("reason", json!(reason_name(header.reason)));
    put("hook", json!(hook::NAMES.get(usize::from(header.hook)).copied().unwrap_or("unknown")));
    put("rule", context.rules.get(header.rule as usize).map_or(Value::Null, |rule| json!(rule)));
    put("cgroup_id", json!(header.cgroup_id));
    let comm = header.comm.split(|byte| *byte == 0).next().unwrap_or_default();
    put(
        "process",
        json!({
            "pid": header.tgid, "tid": header.tid, "ppid": header.ppid, "uid": header.uid, "comm": text(comm),
        }),
    );
    match &record.body {
        Body::File { dev, access, mode, path } => {
            let seen = visible_path(context, *dev, path);
            put(
                "file",
                json!({
                    "path": text(&seen),
                    "path_is_escaped": std::str::from_utf8(&seen).is_err(),
                    "dev": format!("{}:{}", dev >> 20, dev & 0xf_ffff),
                    "fs_path": text(path),
                    "access": access_names(*access),
                    "mode": format!("{mode:o}"),
                }),
            );
        }
        Body::Net { addr, port, protocol, family, sock_type } => {
            put(
                "net",
                json!({
                    "address": address(*addr).to_string(), "port": port, "protocol": protocol, "family": family,
                    "type": sock_type,
                }),
            );
        }
        Body::Argv { bytes, full_len } => {
            let words: Vec<String> =
                bytes.strip_suffix(b"\0").unwrap_or(bytes).split(|byte| *byte == 0).map(text).collect();
            put("argv", json!(words));
            put("truncated", json!((bytes.len() as u64) < u64::from(*full_len)));
        }
        Body::Fork { child } => {
            put("child", json!(child));
        }
        Body::Exit { status } => {
            put("exit", json!({ "code": (status >> 8) & 0xff, "signal": status & 0x7f }));
        }
        Body::Target { pid, detail } => {
            put("target", json!({ "pid": pid, "detail": detail }));
        }
    }
    Value::Object(out)
}

/// A record of records that were lost.
#[must_use]
pub fn gap(denied: u64, other: u64) -> Value {
    json!({ "schema": SCHEMA, "kind": "gap", "lost_denied": denied, "lost_other": other })
}

#[cfg(test)]
mod tests {
    use super::*;
    use stockade_common::event::EventHeader;

    const SCHEMA_TEXT: &str = include_str!("../../../docs/schema/event-v1.json");

    fn header(kind: u16) -> EventHeader {
        EventHeader {
            size: 0,
            kind,
            version: 1,
            boot_ns: 5,
            cgroup_id: 7,
            tgid: 1,
            tid: 1,
            ppid: 0,
            uid: 0,
            slot: 1,
            rule: 0,
            reason: reason::NO_RULE,
            verdict: verdict::DENIED,
            hook: hook::FILE_OPEN,
            pad: 0,
            comm: *b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        }
    }

    #[test]
    fn every_kind_is_as_the_schema_says() {
        let validator = jsonschema::validator_for(&serde_json::from_str(SCHEMA_TEXT).unwrap()).unwrap();
        let context = Context::default();
        let file = || Body::File { dev: 5, access: 3, mode: 0, path: b"/a\n\xff".to_vec() };
        let net = || Body::Net { addr: [0; 16], port: 1, protocol: 6, family: 2, sock_type: 1 };
        let target = || Body::Target { pid: 1, detail: 2 };
        let bodies = [
            (kind::OPEN, file()),
            (kind::CHANGE, file()),
            (kind::EXEC, file()),
            (kind::CONNECT, net()),
            (kind::SEND, net()),
            (kind::SOCKET, net()),
            (kind::UNIX, net()),
            (kind::ARGV, Body::Argv { bytes: b"a\0b\0".to_vec(), full_len: 4 }),
            (kind::FORK, Body::Fork { child: 2 }),
            (kind::EXIT, Body::Exit { status: 256 }),
            (kind::PTRACE, target()),
            (kind::CONFINE, target()),
        ];
        for (kind, body) in bodies {
            let value = event(&Record { header: header(kind), body }, &context);
            assert!(validator.is_valid(&value), "{value}");
            assert!(!value.to_string().contains('\n'), "one line");
        }
        assert!(validator.is_valid(&gap(1, 2)));
        assert!(!validator.is_valid(&json!({ "schema": SCHEMA, "kind": "nonsense" })));
    }

    #[test]
    fn mapped_addresses_are_shown_as_ipv4() {
        assert_eq!(address([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1]).to_string(), "127.0.0.1");
    }
}
