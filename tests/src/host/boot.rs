//! The host itself: what else is tested is worth nothing if this does not hold.

use super::Scenario;
use super::exec::{Checked, attempt, ensure, run, said, text};
use super::unit::Workload;

pub const SCENARIOS: &[Scenario] = &[
    ("boot_reaches_running", running),
    ("boot_doctor_enforces_everything", doctor),
    ("boot_run_holds_a_command", held),
    ("boot_workload_without_policy_is_free", free),
];

const STOCKADE: &str = "/payload/stockade";

fn running() -> Checked {
    let state = attempt(&["systemctl", "is-system-running", "--wait"])?;
    let failed = run(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure(text(&state.stdout) == "running", || format!("{}: failed: {failed}", text(&state.stdout)))
}

fn doctor() -> Checked {
    let words = [STOCKADE, "doctor", "--json"];
    let output = attempt(&words)?;
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("{e}: {}", said(&words, &output)))?;
    let guarantees = report["guarantees"].as_array().cloned().unwrap_or_default();
    let others: Vec<_> = guarantees.iter().filter(|g| g["state"] != "ENFORCED").collect();
    ensure(output.status.success() && guarantees.len() >= 19 && others.is_empty(), || {
        format!("{}: {} guarantees, not enforced: {others:?}", output.status, guarantees.len())
    })
}

/// `stockade run` without a daemon: some rounds of the workload, no verdict wrong.
fn held() -> Checked {
    let workload = super::probe::words(Some(25));
    let mut words =
        vec![STOCKADE, "run", "--allow-net=127.0.0.1:7001/tcp", "--allow-read=/srv/probe/open", "--"];
    words.extend(workload.iter().map(String::as_str));
    run(&words).map(drop)
}

/// The control for everything that is denied later.
fn free() -> Checked {
    let workload = Workload::start("free.service", "system.slice", Some(1), "")?;
    workload.finish()?;
    workload.report.free()
}
