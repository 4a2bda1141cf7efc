//! What the daemon counts, as Prometheus reads it (OpenMetrics text).

use std::{fmt, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use super::{
    command::{
        Decisions, Lost, MapFill, PolicySet, PolicySource, ProgramStatus, Reloads, ScopeKind, ScopeStatus,
        Status, Verdicts,
    },
    hub::Hub,
};

/// Of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Seconds = Family<Labels, Counter<f64, AtomicU64>>;
type Gauges = Family<Labels, Gauge>;

/// A family of counters or gauges that is shown under a name.
fn counters(registry: &mut Registry, name: &str, help: &str) -> Counters {
    let family = Counters::default();
    registry.register(name, help, family.clone());
    family
}

fn gauges(registry: &mut Registry, name: &str, help: &str) -> Gauges {
    let family = Gauges::default();
    registry.register(name, help, family.clone());
    family
}

fn set(family: &Gauges, labels: Labels, value: u64) {
    family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
}

fn add(family: &Counters, labels: Labels, value: u64) {
    family.get_or_create(&labels).inc_by(value);
}

/// All of it. The core counts; here it is written down at each scrape, so what is gone leaves nothing behind.
///
/// # Errors
/// None that a string gives.
pub fn render(status: &Status, hub: &Hub) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("stockade");
    let Status {
        version,
        pid: _,
        since: _,
        kernel,
        guarantees,
        degraded,
        adopted: _,
        reloads,
        policies,
        maps,
        programs,
        scopes,
    } = status;
    let build = Info::new(vec![("version", version.clone()), ("kernel", kernel.clone())]);
    registry.register("build", "Version of the daemon and of the kernel", build);
    let simple = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let family = gauges(registry, name, help);
        set(&family, Vec::new(), value);
    };
    simple(&mut registry, "degraded", "1 if files are not policed", u64::from(*degraded));
    let proved = "Guarantees that were proved when the daemon started";
    simple(&mut registry, "guarantees", proved, guarantees.len() as u64);
    simple(&mut registry, "event_readers", "Readers of events connected now", hub.readers() as u64);
    let dropped = counters(&mut registry, "event_lines_dropped", "Events that readers were too slow for");
    add(&dropped, Vec::new(), hub.dropped());

    let family = counters(&mut registry, "reloads", "Reloads of the policies, by what came of them");
    let Reloads { applied, refused } = *reloads;
    for (result, number) in [("applied", applied), ("refused", refused)] {
        add(&family, vec![("result", result.into())], number);
    }
    self::policies(&mut registry, policies);
    self::maps(&mut registry, maps);
    self::programs(&mut registry, programs);
    self::scopes(&mut registry, scopes);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn policies(registry: &mut Registry, policies: &PolicySet) {
    let PolicySet { source, digest, broken, unkept } = policies;
    let mut simple = |name: &str, help: &str, value: bool| {
        set(&gauges(registry, name, help), Vec::new(), u64::from(value));
    };
    simple("policies_broken", "1 if policies.d has errors, and something else is in force", broken.is_some());
    let help = "1 if the policies could not be kept for a start at which policies.d has errors";
    simple("policies_unkept", help, unkept.is_some());
    let family =
        gauges(registry, "policies", "1, with where the policies in force come from, and their digest");
    let source = match source {
        PolicySource::PoliciesD => "policies_d",
        PolicySource::LastGood => "last_good",
        PolicySource::Readable => "readable",
        PolicySource::EarlierDaemon => "earlier_daemon",
    };
    set(&family, vec![("source", source.into()), ("digest", digest.clone().unwrap_or_default())], 1);
}

fn maps(registry: &mut Registry, maps: &[MapFill]) {
    let entries = gauges(registry, "map_entries", "Entries of kernel tables");
    let limits = gauges(registry, "map_limit", "Most entries that kernel tables take");
    for MapFill { name, used, limit } in maps {
        set(&entries, vec![("map", name.clone())], *used);
        set(&limits, vec![("map", name.clone())], *limit);
    }
}

fn programs(registry: &mut Registry, programs: &[ProgramStatus]) {
    let help = "Runs of kernel programs; 0 unless kernel.bpf_stats_enabled";
    let runs = counters(registry, "program_runs", help);
    let time = Seconds::default();
    let help = "Time in kernel programs; 0 unless kernel.bpf_stats_enabled";
    registry.register_with_unit("program_run", help, Unit::Seconds, time.clone());
    for ProgramStatus { name, runs: number, run_ns } in programs {
        add(&runs, vec![("program", name.clone())], *number);
        time.get_or_create(&vec![("program", name.clone())]).inc_by(*run_ns as f64 / 1e9);
    }
}

fn scopes(registry: &mut Registry, scopes: &[ScopeStatus]) {
    let decided = counters(registry, "decisions", "Operations decided; in audit mode denied ones went on");
    let missing = counters(registry, "events_lost", "Events that are missing, by cause");
    let cgroups = gauges(registry, "cgroups", "Tagged cgroups");
    let processes = gauges(registry, "processes", "Processes in tagged cgroups, children of these included");
    let policies = gauges(registry, "scope", "1 for each scope, with its policy");
    for scope in scopes {
        let kind = match scope.kind {
            ScopeKind::Policy => "policy",
            ScopeKind::Run => "run",
        };
        let labels = |more: &[(&'static str, &str)]| {
            let mut labels: Labels = vec![("scope", scope.name.clone()), ("kind", kind.into())];
            labels.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
            labels
        };
        let Decisions { file, net, process } = scope.decisions;
        for (plane, Verdicts { allowed, denied }) in [("file", file), ("net", net), ("process", process)] {
            add(&decided, labels(&[("plane", plane), ("verdict", "allowed")]), allowed);
            add(&decided, labels(&[("plane", plane), ("verdict", "denied")]), denied);
        }
        let Lost { denied, other, undecoded, unwritten } = scope.lost;
        for (cause, number) in [
            ("ring_full_denied", denied),
            ("ring_full_other", other),
            ("undecoded", undecoded),
            ("unwritten", unwritten),
        ] {
            add(&missing, labels(&[("cause", cause)]), number);
        }
        set(&cgroups, labels(&[]), scope.cgroups.len() as u64);
        let number = scope.cgroups.iter().map(|cgroup| u64::from(cgroup.processes)).sum();
        set(&processes, labels(&[]), number);
        let mode = crate::audit::digest::mode_name(scope.mode);
        set(&policies, labels(&[("policy", &scope.policy), ("digest", &scope.digest), ("mode", mode)]), 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::api::sample;

    #[test]
    fn everything_that_is_counted_is_shown() {
        let text = render(&sample::status(), &Hub::default()).unwrap();
        for line in [
            r#"stockade_build_info{version="1.2.3",kernel="6.12.1"} 1"#,
            "stockade_degraded 0",
            r#"stockade_reloads_total{result="applied"} 3"#,
            r#"stockade_reloads_total{result="refused"} 1"#,
            r#"stockade_map_entries{map="TAGS"} 2"#,
            r#"stockade_map_limit{map="TAGS"} 4096"#,
            r#"stockade_program_runs_total{program="file_open"} 10"#,
            r#"stockade_program_run_seconds_total{program="file_open"} 2.5"#,
            r#"stockade_decisions_total{scope="ci",kind="policy",plane="file",verdict="denied"} 2"#,
            r#"stockade_decisions_total{scope="ci",kind="policy",plane="net",verdict="allowed"} 3"#,
            r#"stockade_events_lost_total{scope="ci",kind="policy",cause="ring_full_denied"} 1"#,
            r#"stockade_cgroups{scope="ci",kind="policy"} 1"#,
            r#"stockade_processes{scope="ci",kind="policy"} 4"#,
            "stockade_policies_broken 1",
            "stockade_policies_unkept 0",
            "stockade_event_readers 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("stockade_policies{source=\"last_good\",digest=\"sha256:cdcd"), "{text}");
        for family in ["stockade_decisions", "stockade_map_entries", "stockade_program_run_seconds"] {
            assert_eq!(text.matches(&format!("# TYPE {family} ")).count(), 1, "{family}");
        }
    }

    #[test]
    fn names_cannot_end_their_quotes() {
        let mut status = sample::status();
        status.scopes[0].name = "a\"} 1\nevil 2".into();
        let text = render(&status, &Hub::default()).unwrap();
        assert!(!text.lines().any(|line| line.starts_with("evil")), "{text}");
    }
}
