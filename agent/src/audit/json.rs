//! Events as JSON, `stockade/event/v1` (docs/schema/event-v1.json): what the kernel programs recorded.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use stockade_common::{
    event::{hook, kind, reason},
    file::ACCESS_EXEC,
    limits::ABSTRACT_DEV,
};

use super::{
    decode::{Body, File, Net, Record},
    name::escape,
    operation::{self, Need, Operation},
    process::Descent,
    terms,
};
use crate::{
    gates::Names,
    policy::{image::RuleInfo, mounts::MountTable},
};

/// Name and version of the form.
pub const SCHEMA: &str = "stockade/event/v1";

/// Which policy a run was held to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyId {
    /// As the policy calls itself.
    pub name: String,
    /// See [`super::digest`].
    pub digest: String,
    /// `enforce` or `audit`.
    pub mode: &'static str,
}

/// What records are explained with.
#[derive(Debug, Clone)]
pub struct Context {
    /// The policy.
    pub policy: PolicyId,
    /// By rule id.
    pub rules: Vec<RuleInfo>,
    /// Of the workload.
    pub mounts: MountTable,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// Wall-clock time of boot.
    pub boot_time: SystemTime,
    /// The daemon's scope.
    pub scope: Option<String>,
    /// For what names addresses were allowed.
    pub names: Names,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            policy: PolicyId::default(),
            rules: Vec::new(),
            mounts: MountTable::default(),
            boot_id: String::new(),
            boot_time: UNIX_EPOCH,
            scope: None,
            names: Names::default(),
        }
    }
}

impl Context {
    /// Path as the workload sees it, or the one inside the filesystem where it is not mounted.
    #[must_use]
    pub fn visible(&self, dev: u32, path: &Bytes) -> Bytes {
        self.mounts.visible(dev, path).map_or_else(|| path.clone(), Into::into)
    }

    /// What every event has.
    pub(super) fn common(&self, kind: &str, boot_ns: u64) -> Map<String, Value> {
        let time = self.boot_time + Duration::from_nanos(boot_ns);
        let mut out = Map::new();
        out.insert("schema".into(), json!(SCHEMA));
        out.insert("kind".into(), json!(kind));
        out.insert("time".into(), json!(humantime::format_rfc3339_nanos(time).to_string()));
        out.insert("boot_ns".into(), json!(boot_ns));
        out.insert("boot_id".into(), json!(self.boot_id));
        if let Some(scope) = &self.scope {
            out.insert("scope".into(), json!(scope));
        }
        let PolicyId { name, digest, mode } = &self.policy;
        out.insert("policy".into(), json!({ "name": name, "digest": digest, "mode": mode }));
        out
    }
}

/// A record as one JSON object.
#[must_use]
pub fn event(record: &Record, actor: &Descent, context: &Context) -> Value {
    let header = &record.header;
    let mut out = context.common(terms::kind_name(header.kind), header.boot_ns);
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    match header.kind {
        // These tell of what has happened; nothing was decided.
        kind::FORK | kind::EXIT => {}
        kind::EXEC | kind::STARTED => {
            put("verdict", json!(terms::verdict_name(header.verdict)));
        }
        _ => {
            put("verdict", json!(terms::verdict_name(header.verdict)));
            put("reason", json!(terms::reason_name(header.reason)));
            put("rule", context.rules.get(header.rule as usize).map_or(Value::Null, |rule| json!(rule)));
        }
    }
    put("hook", json!(hook::NAMES.get(usize::from(header.hook)).copied().unwrap_or("unknown")));
    put("cgroup_id", json!(header.cgroup_id));
    put("process", process(record, actor));
    match &record.body {
        Body::File(named) if header.kind == kind::UNIX_NAMED => {
            put("socket", named_socket(named, context));
        }
        Body::File(opened) => {
            put("file", file(opened, context));
        }
        Body::Exec { file: program, argv, full_len } => {
            put("file", file(&File { access: ACCESS_EXEC, ..program.clone() }, context));
            put("argv", json!(words(argv)));
            put("truncated", json!((argv.len() as u64) < u64::from(*full_len)));
        }
        Body::Net(net) if matches!(header.kind, kind::CONNECT | kind::SEND) => {
            let name = context.names.name_of(header.scope, net.addr, header.rule);
            // Refused for its family: what the address is was not looked at.
            let mut net = address(net, net.addr != [0; 16] || net.port != 0);
            net["name"] = json!(name);
            put("net", net);
        }
        Body::Net(net) if matches!(header.kind, kind::LISTEN | kind::ACCEPT) => {
            put("net", address(net, !matches!(header.reason, reason::FAMILY | reason::OUTSIDE)));
        }
        Body::Net(net) => {
            put("socket", socket(net));
        }
        Body::Fork { child } => {
            put("child", json!(child));
        }
        Body::Exit { status } => {
            put("exit", wait_status(*status));
        }
        Body::Target { pid, detail } if header.kind == kind::PTRACE => {
            put("target", json!({ "pid": pid, "mode": detail }));
        }
        Body::Target { pid, detail } => {
            if header.kind == kind::SIGNAL {
                put("target", json!({ "pid": pid }));
            }
            put("operation", operation(&operation::of(record), *detail));
        }
    }
    Value::Object(out)
}

fn process(record: &Record, actor: &Descent) -> Value {
    let header = &record.header;
    let comm = header.comm.split(|byte| *byte == 0).next().unwrap_or_default();
    let exe = |exe: &Option<Bytes>| exe.as_ref().map(|exe| escape(exe));
    let ancestors: Vec<Value> =
        actor.ancestors.iter().map(|one| json!({ "pid": one.pid, "exe": exe(&one.exe) })).collect();
    json!({
        "pid": header.tgid, "tid": header.tid, "ppid": header.ppid, "uid": header.uid, "comm": escape(comm),
        "exe": exe(&actor.exe), "ancestors": ancestors, "ancestors_truncated": actor.truncated,
    })
}

fn file(file: &File, context: &Context) -> Value {
    let File { dev, access, mode, path } = file;
    // A root has a name, `/`; no name at all means that the programs found none.
    let named = (!path.is_empty()).then_some(path);
    json!({
        "path": named.map(|path| escape(&context.visible(*dev, path))),
        "dev": format!("{}:{}", dev >> 20, dev & 0xf_ffff),
        "fs_path": named.map(|path| escape(path)),
        "access": terms::access_names(*access),
        "mode": format!("{mode:o}"),
    })
}

fn address(net: &Net, known: bool) -> Value {
    json!({
        "address": known.then(|| terms::address(net.addr).to_string()), "port": known.then_some(net.port),
        "protocol": terms::protocol(net.protocol), "family": terms::family(net.family),
        "type": terms::socket_type(net.sock_type),
    })
}

fn socket(net: &Net) -> Value {
    json!({
        "family": terms::family(net.family), "type": terms::socket_type(net.sock_type), "protocol": net.protocol,
    })
}

/// A unix socket that has a name.
fn named_socket(File { dev, access: _, mode, path }: &File, context: &Context) -> Value {
    let sock_type = terms::socket_type(*mode as u16);
    if *dev == ABSTRACT_DEV {
        return json!({ "family": "unix", "type": sock_type, "protocol": 0, "abstract": escape(path) });
    }
    let named = (!path.is_empty()).then_some(path);
    json!({
        "family": "unix", "type": sock_type, "protocol": 0,
        "path": named.map(|path| escape(&context.visible(*dev, path))),
        "dev": format!("{}:{}", dev >> 20, dev & 0xf_ffff),
        "fs_path": named.map(|path| escape(path)),
    })
}

/// The words of a command line, each ended by a NUL; the last may be cut.
#[must_use]
pub fn words(argv: &[u8]) -> Vec<String> {
    if argv.is_empty() {
        return Vec::new();
    }
    argv.strip_suffix(b"\0").unwrap_or(argv).split(|byte| *byte == 0).map(escape).collect()
}

/// A status as `waitpid` gives it: the code, or the signal.
#[must_use]
pub fn wait_status(status: u32) -> Value {
    let signal = status & 0x7f;
    json!({ "code": (signal == 0).then_some((status >> 8) & 0xff), "signal": (signal != 0).then_some(signal) })
}

fn operation(operation: &Operation, detail: u32) -> Value {
    let needs = match operation.needs {
        Need::Nothing => None,
        Need::Facility(name) => Some(format!("process {name}")),
        Need::Capability(name) => Some(format!("capability {name}")),
    };
    json!({ "name": operation.name, "command": detail, "needs": needs })
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    fn shown(kind: u16) -> Value {
        let records = sample::each_kind();
        let record = records.iter().find(|record| record.header.kind == kind).unwrap();
        event(record, &Descent::default(), &Context::default())
    }

    #[test]
    fn time_is_wall_clock_time_of_the_boot_clock() {
        let context = Context { boot_time: UNIX_EPOCH + Duration::from_secs(86_400), ..Context::default() };
        let record = &sample::each_kind()[0];
        let event = event(record, &Descent::default(), &context);
        assert_eq!(event["time"], "1970-01-02T00:00:05.000000000Z");
        assert_eq!(event["boot_ns"], 5_000_000_000u64);
    }

    #[test]
    fn names_are_escaped_everywhere_alike() {
        let open = shown(kind::OPEN);
        assert_eq!(open["file"]["path"], r"/a\x0a\xff\\");
        assert_eq!(open["file"]["fs_path"], r"/a\x0a\xff\\");
        assert_eq!(open["process"]["comm"], r"sh\\\xff");
        assert_eq!(shown(kind::EXEC)["argv"], json!(["a", r"\xff", "b"]));
    }

    #[test]
    fn command_lines_are_split_at_each_nul() {
        assert_eq!(words(b""), Vec::<String>::new());
        assert_eq!(words(b"\0"), [""]);
        assert_eq!(words(b"sh\0\0-c\0"), ["sh", "", "-c"]);
        assert_eq!(words(b"sh\0cut"), ["sh", "cut"]);
    }

    #[test]
    fn only_decisions_have_reasons() {
        assert_eq!(shown(kind::CONNECT)["reason"], "no_rule");
        assert_eq!(shown(kind::EXEC).get("reason"), None);
        assert_eq!(shown(kind::EXIT).get("verdict"), None);
        assert_eq!(shown(kind::EXIT)["exit"], json!({ "code": 1, "signal": null }));
        assert_eq!(wait_status(9), json!({ "code": null, "signal": 9 }));
    }
}
