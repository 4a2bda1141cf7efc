//! Events of the daemon itself, in the form of docs/schema/event-v1.json: what it does to cgroups and policies, and whom it
//! refuses.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::policies::Boot;
use crate::{
    audit::{json::SCHEMA, name::escape},
    scope::flows::Flow,
};

fn event(kind: &str, boot: &Boot, boot_ns: u64) -> Map<String, Value> {
    let time = boot.time + std::time::Duration::from_nanos(boot_ns);
    let mut out = Map::new();
    out.insert("schema".into(), json!(SCHEMA));
    out.insert("kind".into(), json!(kind));
    out.insert("time".into(), json!(humantime::format_rfc3339_nanos(time).to_string()));
    out.insert("boot_ns".into(), json!(boot_ns));
    out.insert("boot_id".into(), json!(boot.id));
    out
}

/// What happens to the daemon: `started`, `reloaded`, `reload_refused`, `policies_broken`, `detached`, `stopping`.
#[must_use]
pub fn daemon(boot: &Boot, boot_ns: u64, state: &str, message: &str) -> Value {
    let mut out = event("daemon", boot, boot_ns);
    out.insert("state".into(), json!(state));
    out.insert("message".into(), json!(message));
    out.insert("pid".into(), json!(std::process::id()));
    out.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
    Value::Object(out)
}

/// What is said of a cgroup.
#[derive(Debug)]
pub struct CgroupEvent<'a> {
    /// `tag` or `untag`.
    pub kind: &'a str,
    /// The scope.
    pub scope: &'a str,
    /// Kernel id.
    pub id: u64,
    /// From the root of the v2 hierarchy.
    pub path: &'a Path,
    /// How: see [`super::command::CgroupStatus::how`].
    pub how: &'a str,
    /// What may have happened before, or is still untouched.
    pub window: &'a [String],
}

/// A cgroup was tagged, or let go.
#[must_use]
pub fn cgroup(boot: &Boot, boot_ns: u64, said: &CgroupEvent<'_>) -> Value {
    let CgroupEvent { kind, scope, id, path, how, window } = said;
    let mut out = event(kind, boot, boot_ns);
    out.insert("scope".into(), json!(scope));
    out.insert("cgroup_id".into(), json!(id));
    out.insert("cgroup".into(), json!(escape(path.as_os_str().as_encoded_bytes())));
    out.insert("how".into(), json!(how));
    out.insert("window".into(), json!(window));
    Value::Object(out)
}

/// A connection was ended that a new policy does not allow.
#[must_use]
pub fn flow(boot: &Boot, boot_ns: u64, scope: &str, flow: &Flow) -> Value {
    let mut out = event("flow_ended", boot, boot_ns);
    out.insert("scope".into(), json!(scope));
    out.insert("cgroup_id".into(), json!(flow.cgroup_id));
    out.insert("protocol".into(), json!(if flow.protocol == 6 { "tcp" } else { "udp" }));
    out.insert("local".into(), json!(flow.local.to_string()));
    out.insert("remote".into(), json!(flow.remote.to_string()));
    Value::Object(out)
}

/// A workload was killed before its first instruction.
#[must_use]
pub fn start_refused(
    boot: &Boot,
    boot_ns: u64,
    scope: &str,
    pid: u32,
    cgroup_id: u64,
    cgroup: &Path,
    why: &str,
) -> Value {
    let mut out = event("start_refused", boot, boot_ns);
    out.insert("scope".into(), json!(scope));
    out.insert("pid".into(), json!(pid));
    out.insert("cgroup_id".into(), json!(cgroup_id));
    out.insert("cgroup".into(), json!(escape(cgroup.as_os_str().as_encoded_bytes())));
    out.insert("why".into(), json!(why));
    Value::Object(out)
}

/// Somebody asked the daemon who may not.
#[must_use]
pub fn peer(boot: &Boot, boot_ns: u64, pid: u32, uid: u32, cgroup: Option<&Path>, why: &str) -> Value {
    let mut out = event("peer_refused", boot, boot_ns);
    out.insert("pid".into(), json!(pid));
    out.insert("uid".into(), json!(uid));
    out.insert("cgroup".into(), json!(cgroup.map(|path| escape(path.as_os_str().as_encoded_bytes()))));
    out.insert("why".into(), json!(why));
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{audit::schema::complaints, daemon::core::how_names};

    /// One event of each kind, and each way to say it.
    fn events() -> Vec<Value> {
        let boot = Boot {
            id: "01234567-89ab-cdef-0123-456789abcdef".into(),
            time: std::time::SystemTime::UNIX_EPOCH,
            names: crate::gates::Names::default(),
        };
        let path = Path::new("/ci.slice/a\\\n\u{9b}");
        let mut events: Vec<Value> = [
            "started",
            "reloaded",
            "reload_refused",
            "policies_broken",
            "mode",
            "shadow",
            "detached",
            "stopping",
        ]
        .map(|state| daemon(&boot, 1, state, "a\nmessage"))
        .into();
        for kind in ["tag", "untag"] {
            for how in how_names() {
                let window = ["its processes ran before it was tagged".to_owned()];
                let said = CgroupEvent { kind, scope: "ci", id: 7, path, how, window: &window };
                events.push(cgroup(&boot, 2, &said));
            }
        }
        events.push(start_refused(&boot, 3, "ci", 7, 8, path, "no rule"));
        events.push(peer(&boot, 4, 7, 1000, Some(path), "it is held to a policy"));
        events.push(peer(&boot, 4, 7, 1000, None, "it has ended"));
        events
    }

    #[test]
    fn every_event_is_as_the_schema_says() {
        for event in events() {
            assert_eq!(complaints(&event), Vec::<String>::new(), "{event:#}");
            assert!(!event.to_string().contains('\n'), "one line");
        }
    }

    #[test]
    fn the_schema_knows_no_more_and_no_less() {
        for event in events() {
            for field in event.as_object().unwrap().keys() {
                let mut cut = event.clone();
                cut.as_object_mut().unwrap().remove(field);
                assert!(!complaints(&cut).is_empty(), "{} without {field}", event["kind"]);
            }
            let mut more = event.clone();
            more["nonsense"] = json!(1);
            assert!(!complaints(&more).is_empty(), "{}", event["kind"]);
        }
    }
}
