//! What can be wrong with a host: a clear error, nothing lost, nothing open. A workload tries all the while.

use std::fs;
use std::path::{Path, PathBuf};

use super::Scenario;
use super::daemon::{self, CI, PINS, POLICIES, UNIT};
use super::exec::{Checked, attempt, ensure, run, said, shell};
use super::unit::Workload;

pub const SCENARIOS: &[Scenario] = &[
    ("input_broken_policy_is_refused_at_reload", broken_reload),
    ("input_broken_policy_at_start_opens_nothing", broken_start),
    ("input_too_many_policies_are_refused", full),
    ("input_second_daemon_is_refused", second),
    ("input_read_only_etc_is_no_hindrance", read_only),
    ("input_clock_set_back_is_no_hindrance", clock),
    ("input_foreign_pins_are_not_touched", foreign),
    ("input_missing_bpffs_is_told_or_mended", no_bpffs),
];

/// A workload that is held, whose verdicts must all have been right when `trouble` is over.
fn held(name: &str, trouble: impl FnOnce(&Workload) -> Checked) -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start(&format!("{name}.service"), "ci.slice", None, "")?;
    workload.report.goes_on()?;
    let troubled = trouble(&workload);
    let goes_on = workload.report.goes_on();
    let right = workload.report.nothing_wrong();
    troubled.and(goes_on).and(right)
}

const BROKEN: (&str, &str) =
    ("broken.toml", "version = 1\nname = \"broken\"\n[files]\nread = [\"no/slash\"]\n");

/// A reload that must fail, say `names`, and change nothing.
fn refused(policies: &[(&str, &str)], names: &str) -> Checked {
    let before = daemon::scope("ci")?["digest"].clone();
    daemon::place(policies)?;
    let mark = daemon::mark()?;
    let words = ["systemctl", "reload", UNIT];
    let output = attempt(&words)?;
    let log = daemon::log_since(&mark)?;
    daemon::place(&[CI])?;
    ensure(!output.status.success(), || format!("the reload succeeded: {log}"))?;
    ensure(log.contains(names), || format!("the journal does not name {names}: {log}"))?;
    let after = daemon::scope("ci")?["digest"].clone();
    ensure(before == after, || format!("the digest was {before} and is {after}"))
}

fn broken_reload() -> Checked {
    // The right file beside it is changed as well: all or nothing.
    let wider = CI.1.replace("7001/tcp", "7001-7002/tcp");
    held("broken-reload", |_| refused(&[("ci.toml", &wider), BROKEN], "broken.toml"))
}

/// Whether the daemon starts or not: what is held stays held, and the file is named.
fn broken_start() -> Checked {
    held("broken-start", |workload| {
        let mark = daemon::mark()?;
        let dead = daemon::kill()?;
        daemon::place(&[CI, BROKEN])?;
        let _ = attempt(&["systemctl", "start", UNIT])?;
        let log = daemon::log_since(&mark)?;
        workload.report.goes_on()?;
        daemon::place(&[CI])?;
        drop(dead);
        ensure(log.contains("broken.toml"), || format!("the journal does not name broken.toml: {log}"))?;
        ensure(daemon::is_active()?, || format!("it does not recover: {}", daemon::log()))
    })
}

/// The kernel side has room for 64 policies.
fn full() -> Checked {
    held("full", |_| {
        let policies: Vec<(String, String)> = (0..70)
            .map(|n| {
                let policy =
                    CI.1.replace("\"ci\"", &format!("\"many-{n}\""))
                        .replace("ci.slice", &format!("many{n}.slice"));
                (format!("many-{n}.toml"), policy)
            })
            .collect();
        let mut all = vec![CI];
        all.extend(policies.iter().map(|(name, policy)| (name.as_str(), policy.as_str())));
        // Tables are memory of the service's: 8 MiB and more each.
        run(&["systemctl", "set-property", "--runtime", UNIT, "MemoryMax=400M"])?;
        let refused = refused(&all, "allocate memory");
        run(&["systemctl", "set-property", "--runtime", UNIT, "MemoryMax=infinity"])?;
        refused
    })
}

fn second() -> Checked {
    held("second", |_| {
        let pid = daemon::pid()?;
        let words = ["timeout", "60", "/usr/bin/stockade", "daemon"];
        let output = attempt(&words)?;
        ensure(!matches!(output.status.code(), Some(0 | 124)), || {
            format!("it runs: {}", said(&words, &output))
        })?;
        ensure(said(&words, &output).contains("another daemon"), || {
            format!("unclear: {}", said(&words, &output))
        })?;
        ensure(daemon::pid()? == pid, || "the first daemon was replaced".into())?;
        daemon::status().map(drop)
    })
}

fn read_only() -> Checked {
    held("read-only", |workload| {
        shell("mount --bind /etc /etc && mount -o remount,bind,ro /etc")?;
        let restarted = run(&["systemctl", "restart", UNIT]).map_err(|e| format!("{e}: {}", daemon::log()));
        let reloaded = restarted.and_then(|_| daemon::reload()).and_then(|()| workload.report.goes_on());
        // Somebody may have a file of it open.
        run(&["umount", "--lazy", "/etc"])?;
        reloaded
    })
}

fn clock() -> Checked {
    held("clock", |workload| {
        let pid = daemon::pid()?;
        shell("date --set='-1 day'")?;
        let checked = daemon::reload().and_then(|()| workload.report.goes_on()).and_then(|()| {
            let fresh = Workload::start("yesterday.service", "ci.slice", Some(1), "")?;
            fresh.finish()?;
            fresh.report.nothing_wrong()?;
            let since = daemon::status()?["since"].clone();
            ensure(since.is_string(), || format!("since: {since}"))
        });
        shell("date --set='+1 day'")?;
        checked?;
        ensure(daemon::pid()? == pid, || format!("the daemon was restarted: {}", daemon::log()))
    })
}

/// Maps pinned under each other's names, as another program or an older build might have left them.
fn foreign() -> Checked {
    held("foreign", |workload| {
        let dead = daemon::kill()?;
        let (one, other) = two_pins(Path::new(PINS)).ok_or_else(|| format!("no two pins below {PINS}"))?;
        swap(&one, &other)?;
        let mark = daemon::mark()?;
        let output = attempt(&["systemctl", "start", UNIT])?;
        let log = daemon::log_since(&mark)?;
        let goes_on = workload.report.goes_on();
        swap(&one, &other)?;
        drop(dead);
        ensure(!output.status.success(), || format!("it adopted what is not its own: {log}"))?;
        ensure(log.contains(PINS), || format!("the journal does not name the pin: {log}"))?;
        goes_on?;
        ensure(daemon::is_active()?, || format!("it does not recover: {}", daemon::log()))
    })
}

/// The first and the last map, which are of different shapes.
fn two_pins(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let (folders, pins): (Vec<_>, Vec<_>) = entries.into_iter().partition(|path| path.is_dir());
    match &pins[..] {
        [one, .., other] if folder.ends_with("maps") => Some((one.clone(), other.clone())),
        _ => folders.iter().find_map(|folder| two_pins(folder)),
    }
}

fn swap(one: &Path, other: &Path) -> Checked {
    let aside = one.with_file_name("aside");
    fs::rename(one, &aside)
        .and_then(|()| fs::rename(other, one))
        .and_then(|()| fs::rename(&aside, other))
        .map_err(|e| format!("swapping {} and {}: {e}", one.display(), other.display()))
}

/// With nothing pinned: it either says what is missing, or mounts it and holds.
fn no_bpffs() -> Checked {
    daemon::ready(&[CI])?;
    let dead = daemon::kill()?;
    run(&["stockade", "detach", "--all", "--yes"])?;
    run(&["umount", "--lazy", "/sys/fs/bpf"])?;
    let mark = daemon::mark()?;
    let output = attempt(&["systemctl", "start", UNIT])?;
    let log = daemon::log_since(&mark)?;
    let checked = if output.status.success() {
        let workload = Workload::start("no-bpffs.service", "ci.slice", Some(1), "")?;
        workload.finish().and_then(|()| workload.report.nothing_wrong())
    } else {
        ensure(log.contains("/sys/fs/bpf"), || format!("the journal does not name /sys/fs/bpf: {log}"))
    };
    let mounted = shell("mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf");
    drop(dead);
    mounted?;
    ensure(daemon::is_active()?, || format!("it does not recover: {}", daemon::log()))?;
    ensure(Path::new(POLICIES).exists(), || format!("{POLICIES} is gone"))?;
    checked
}
