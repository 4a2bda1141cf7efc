//! The API as others use it: curl, Prometheus, a member of the group, somebody else.

use super::Scenario;
use super::daemon::{self, CI, SOCKET};
use super::exec::{Checked, attempt, ensure, run, said, shell, text};
use super::unit::Workload;

pub const SCENARIOS: &[Scenario] = &[
    ("api_curl_reads_a_status_as_the_schema_says", status),
    ("api_metrics_count_decisions_by_scope", metrics),
    ("api_mode_is_switched_live", mode),
    ("api_shadow_reports_where_policies_differ", shadow),
    ("api_member_runs_but_changes_nothing", member),
    ("api_others_are_refused", others),
];

const SCHEMA: &str = include_str!("../../../docs/schema/status-v1.json");

fn get(path: &str) -> Checked<String> {
    run(&[
        "curl",
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--unix-socket",
        SOCKET,
        &format!("http://x{path}"),
    ])
}

fn status() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("seen.service", "ci.slice", None, "")?;
    workload.report.goes_on()?;
    let status: serde_json::Value = serde_json::from_str(&get("/v1/status")?).map_err(|e| e.to_string())?;
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).map_err(|e| e.to_string())?;
    let validator = jsonschema::validator_for(&schema).map_err(|e| e.to_string())?;
    validator.validate(&status).map_err(|error| format!("{error}: {status}"))?;
    let unknown = attempt(&["curl", "--silent", "--unix-socket", SOCKET, "http://x/v1/scopes/no-such"])?;
    ensure(text(&unknown.stdout).contains("not_found"), || text(&unknown.stdout))
}

fn metrics() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("measured.service", "ci.slice", None, "")?;
    workload.report.goes_on()?;
    let printed = get("/v1/metrics")?;
    let counted = |plane: &str| {
        printed.lines().any(|line| {
            let labels = [r#"scope="ci""#, &format!(r#"plane="{plane}""#), r#"verdict="denied""#];
            labels.iter().all(|label| line.contains(label)) && !line.ends_with(" 0")
        })
    };
    ensure(counted("file") && counted("net"), || printed.clone())
}

/// Audit, and back, without a file changing.
fn mode() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("switched.service", "ci.slice", None, "")?;
    workload.report.goes_on()?;
    workload.report.nothing_wrong()?;
    run(&["stockade", "policy", "mode", "ci", "audit"])?;
    workload.report.goes_on()?;
    workload.report.free()?;
    run(&["stockade", "policy", "mode", "ci", "enforce"])?;
    // What was under way is over after a round.
    workload.report.goes_on()?;
    let before = workload.report.wrong()?;
    workload.report.goes_on()?;
    ensure(workload.report.wrong()? == before, || format!("still free: {}", workload.report.last()))
}

fn shadow() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("compared.service", "ci.slice", None, "")?;
    workload.report.goes_on()?;
    let wider = CI.1.replace("7001/tcp", "7001-7002/tcp");
    std::fs::write("/run/wider.toml", wider).map_err(|e| e.to_string())?;
    run(&["stockade", "policy", "apply", "--shadow", "/run/wider.toml"])?;
    workload.report.goes_on()?;
    let report = get("/v1/scopes/ci/shadow")?;
    ensure(report.contains("127.0.0.1") && report.contains("7002"), || format!("no difference: {report}"))?;
    daemon::reload()?;
    workload.report.nothing_wrong()
}

fn as_user(command: &[&str]) -> Checked<std::process::Output> {
    attempt(&[&["runuser", "--user", "user", "--"], command].concat())
}

fn member() -> Checked {
    daemon::ready(&[CI])?;
    run(&["usermod", "--append", "--groups", "stockade", "user"])?;
    let checked = as_member();
    run(&["gpasswd", "--delete", "user", "stockade"])?;
    checked
}

fn as_member() -> Checked {
    let workload = super::probe::words(Some(25));
    let mut words =
        vec!["stockade", "run", "--allow-net=127.0.0.1:7001/tcp", "--allow-read=/srv/probe/open", "--"];
    words.extend(workload.iter().map(String::as_str));
    let output = as_user(&words)?;
    ensure(output.status.success(), || said(&words, &output))?;
    let output = as_user(&["stockade", "policy", "mode", "ci", "audit"])?;
    ensure(!output.status.success(), || "a member switched a policy".into())?;
    ensure(daemon::scope("ci")?["mode"] == "enforce", || "the mode was switched".into())?;
    let words = ["stockade", "detach", "--all", "--yes"];
    let output = as_user(&words)?;
    ensure(!output.status.success() && daemon::is_active()?, || said(&words, &output))
}

fn others() -> Checked {
    daemon::ready(&[CI])?;
    let words = ["stockade", "status"];
    let output = as_user(&words)?;
    ensure(!output.status.success(), || said(&words, &output))?;
    let mode = shell(&format!("stat --format='%a %U %G' {SOCKET}"))?;
    ensure(mode.trim() == "660 root stockade", || mode)
}
