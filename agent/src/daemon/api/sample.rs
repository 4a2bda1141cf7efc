//! A status with something of everything, for tests.

use crate::{
    daemon::command::{
        BrokenPolicies, CgroupStatus, Decisions, Difference, Lost, MapFill, PolicySet, PolicySource,
        ProgramStatus, Reloads, ScopeKind, ScopeStatus, ShadowReport, Status, Verdicts,
    },
    policy::checked::Mode,
};

/// A policy's scope, a run of user 1000 and one of user 1001.
pub fn status() -> Status {
    Status {
        version: "1.2.3".into(),
        pid: 17,
        since: "2026-01-02T03:04:05Z".into(),
        kernel: "6.12.1".into(),
        guarantees: vec!["file_read".into(), "tcp4".into()],
        degraded: false,
        adopted: Some(1),
        reloads: Reloads { applied: 3, refused: 1 },
        policies: PolicySet {
            source: PolicySource::LastGood,
            digest: Some(format!("sha256:{}", "cd".repeat(32))),
            broken: Some(BrokenPolicies {
                since: "2026-01-02T03:04:05Z".into(),
                error: "ci.toml:3: unknown field\n  help: write `read`".into(),
                nothing_allowed: Vec::new(),
            }),
            unkept: None,
        },
        maps: vec![MapFill { name: "TAGS".into(), used: 2, limit: 4096 }],
        programs: vec![ProgramStatus { name: "file_open".into(), runs: 10, run_ns: 2_500_000_000 }],
        scopes: vec![scope("ci", None), scope("run-1000", Some(1000)), scope("run-1001", Some(1001))],
    }
}

fn scope(name: &str, uid: Option<u32>) -> ScopeStatus {
    let difference = Difference {
        kind: "open".into(),
        object: "/home/b/secret".into(),
        access: "read".into(),
        active: "allowed by /home/**".into(),
        shadow: "denied: no rule".into(),
        times: 5,
    };
    ScopeStatus {
        name: name.into(),
        kind: if uid.is_some() { ScopeKind::Run } else { ScopeKind::Policy },
        policy: "ci".into(),
        digest: format!("sha256:{}", "ab".repeat(32)),
        mode: Mode::Enforce,
        source: Some("/etc/stockade/policies.d/ci.toml".into()),
        uid,
        cgroups: vec![CgroupStatus {
            path: "/ci.slice/runner.service".into(),
            id: 42,
            processes: 4,
            stale: false,
            since: "2026-01-02T03:04:06Z".into(),
            how: "running".into(),
            window: vec!["2 sockets were connected before".into()],
        }],
        decisions: Decisions {
            file: Verdicts { allowed: 1, denied: 2 },
            net: Verdicts { allowed: 3, denied: 4 },
            process: Verdicts { allowed: 5, denied: 6 },
        },
        lost: Lost { denied: 1, other: 2, undecoded: 3, unwritten: 4 },
        shadow: Some(ShadowReport { compared: 100, missed: 1, differences: vec![difference], more: false }),
    }
}
