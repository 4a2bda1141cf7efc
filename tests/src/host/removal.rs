//! The package taken away: the host is as it was before.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::Scenario;
use super::daemon::{self, CI};
use super::exec::{Checked, attempt, ensure, run, shell, text, until};
use super::unit::Workload;

pub const SCENARIOS: &[Scenario] = &[
    ("removal_lets_everything_go_and_keeps_the_policies", removed),
    ("removal_purge_leaves_the_host_as_before", purged),
];

/// What can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Traces {
    /// Files and directories called after the package, pins and cgroups included, and those of `/etc/stockade`.
    files: BTreeSet<String>,
    /// Unit files by state, users and groups.
    entries: BTreeSet<String>,
    /// Kernel programs by name, those of others included.
    programs: Vec<String>,
}

static BEFORE: OnceLock<Traces> = OnceLock::new();

/// Notes how the host is before the package is installed.
pub fn remember() -> Checked {
    // `stockade run` was here without the package, and leaves its empty folder.
    let _ = std::fs::remove_dir(daemon::PINS);
    let traces = traces()?;
    BEFORE.get_or_init(|| traces);
    Ok(())
}

fn traces() -> Checked<Traces> {
    // Journal and dpkg's log tell what was, and are to.
    let files = shell(
        "find / -xdev \\( -path /proc -o -path /payload -o -path /var/log/journal \\) -prune -o -name '*stockade*' -print; \
         find /run /sys/fs/bpf /sys/fs/cgroup /dev/shm -name '*stockade*' -not -path '/run/systemd/*' -not -path '/run/log/*'; \
         find /etc/systemd/system /etc/stockade /lib/systemd/system-preset 2> /dev/null || true",
    )?;
    let entries = shell(
        "cat /etc/passwd /etc/group; systemctl list-unit-files --plain --no-legend | grep -i stockade || true",
    )?;
    let lines = |text: String| text.lines().map(str::to_owned).collect();
    Ok(Traces { files: lines(files), entries: lines(entries), programs: programs() })
}

fn programs() -> Vec<String> {
    let mut programs: Vec<String> = aya::programs::loaded_programs()
        .filter_map(|program| program.ok()?.name_as_str().map(str::to_owned))
        // systemd's own come and go with its units.
        .filter(|name| !name.starts_with("sd_"))
        .collect();
    programs.sort();
    programs
}

fn removed() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("left.service", "ci.slice", None, "")?;
    workload.report.goes_on()?;
    workload.report.nothing_wrong()?;
    run(&["dpkg", "--remove", "stockade"])?;
    workload.report.goes_on()?;
    workload.report.free()?;
    let kept = std::fs::exists(format!("{}/ci.toml", daemon::POLICIES)).unwrap_or(false);
    ensure(kept, || "removing took the administrator's policies as well".into())
}

fn purged() -> Checked {
    let before = match BEFORE.get() {
        Some(before) => before,
        None => {
            daemon::install()?;
            BEFORE.get().ok_or("the package was there before the scenarios")?
        }
    };
    run(&["dpkg", "--purge", "stockade"])?;
    // What the kernel no longer needs, it frees when it finds the time.
    until(20, "all kernel programs are gone", || {
        Ok((programs().len() <= before.programs.len()).then_some(()))
    })
    .map_err(|e| format!("{e}: {:?}", programs()))?;
    let after = traces()?;
    let left =
        |now: &BTreeSet<String>, then: &BTreeSet<String>| now.difference(then).cloned().collect::<Vec<_>>();
    let more = [left(&after.files, &before.files), left(&after.entries, &before.entries)].concat();
    let less = [left(&before.files, &after.files), left(&before.entries, &after.entries)].concat();
    ensure(more.is_empty() && less.is_empty(), || format!("left behind: {more:?}; gone: {less:?}"))?;
    let state = attempt(&["systemctl", "is-system-running"])?;
    let failed = run(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure(text(&state.stdout) == "running", || format!("{}: failed: {failed}", text(&state.stdout)))
}
