//! What ends or stops the daemon from outside, and a thousand reloads: a workload tries all the while, and is held all the while.

use std::fs;
use std::time::Instant;

use super::Scenario;
use super::daemon::{self, CI, UNIT};
use super::exec::{Checked, attempt, ensure, run, shell, until};
use super::unit::{self, Workload, property};

pub const SCENARIOS: &[Scenario] = &[
    ("survival_killed_for_memory", no_memory),
    ("survival_hanging_daemon_is_replaced", hangs),
    ("survival_thousand_reloads_and_no_verdict_is_wrong", reloads),
    ("survival_unit_with_drop_in_does_not_start_unheld", drop_in),
];

const SLICE: &str = "ci.slice";
/// In the package: these roots leave documentation out when they install one.
const DROP_IN: &str = "./usr/share/doc/stockade/examples/stockade-tag.conf";
/// How often in a row a reload may be refused because the machine is too busy to look at filesystems in time.
const PATIENCE: u32 = 5;

/// A unit that is started now is held from its first instruction.
fn fresh(unit: &str) -> Checked {
    let fresh = Workload::start(unit, SLICE, Some(1), "")?;
    fresh.finish()?;
    fresh.report.nothing_wrong()
}

/// The kernel's own killer is let loose, and takes the daemon because it is told that it is the one to take.
fn no_memory() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("no-memory.service", SLICE, None, "")?;
    workload.report.goes_on()?;
    let pid = daemon::pid()?;
    let score = format!("/proc/{pid}/oom_score_adj");
    fs::write(&score, "1000").map_err(|e| format!("{score}: {e}"))?;
    fs::write("/proc/sysrq-trigger", "f").map_err(|e| format!("/proc/sysrq-trigger: {e}"))?;
    until(30, "the daemon is killed", || Ok((property(UNIT, "MainPID")? != pid).then_some(())))?;
    fresh("while-it-is-dead.service")?;
    let killed = format!("Killed process {pid} (stockade)");
    until(30, &killed, || Ok(shell("dmesg")?.contains(&killed).then_some(())))?;
    daemon::another(&pid)?;
    workload.report.goes_on()?;
    fresh("after-memory.service")?;
    workload.report.nothing_wrong()
}

/// It says nothing any more: the watchdog ends it, and systemd starts it again.
fn hangs() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("hangs.service", SLICE, None, "")?;
    workload.report.goes_on()?;
    let pid = daemon::pid()?;
    let restarts = property(UNIT, "NRestarts")?;
    run(&["kill", "-STOP", &pid])?;
    let begin = Instant::now();
    fresh("while-it-hangs.service")?;
    ensure(daemon::pid()? == pid, || "it was gone before that unit had ended: this proves nothing".into())?;
    daemon::another(&pid)?;
    println!("   replaced after {:.0} s", begin.elapsed().as_secs_f32());
    ensure(property(UNIT, "NRestarts")? != restarts, || "not systemd has started it".into())?;
    workload.report.goes_on()?;
    fresh("after-it-hung.service")?;
    workload.report.nothing_wrong()
}

/// Reloads, one behind the other, of policies that agree on what the workload tries and differ elsewhere.
fn reloads() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("thousand.service", SLICE, None, "")?;
    workload.report.goes_on()?;
    let other = CI.1.replace("[network]", "[network]\ndeny = [\"192.0.2.0/24\"]");
    let applied = || Ok::<_, String>(daemon::status()?["reloads"]["applied"].as_u64().unwrap_or(0));
    let (before, rounds, begin) = (applied()?, workload.report.rounds()?, Instant::now());
    let (count, mut late) = (count()?, 0);
    for round in 0..count {
        daemon::place(&[("ci.toml", if round % 2 == 0 { &other } else { CI.1 })])?;
        let mut refused = 0;
        while let Err(why) = daemon::reload_by_request() {
            refused += 1;
            // Nothing has changed then, and the workload must see the policy before; every other refusal is a failure.
            ensure(refused <= PATIENCE && why.contains("no answer in time"), || why)?;
        }
        late += refused;
    }
    println!("   {late} reloads were refused for lack of time, and asked for again");
    let (took, rounds) = (begin.elapsed(), workload.report.rounds()? - rounds);
    println!("   {count} reloads in {:.0} s, {rounds} rounds of the workload", took.as_secs_f32());
    ensure(applied()? == before + count, || format!("{before} reloads, then {:?}", applied()))?;
    ensure(rounds >= count / 4, || format!("the workload had {rounds} rounds only: this proves little"))?;
    workload.report.goes_on()?;
    workload.report.nothing_wrong()
}

/// On 6.1 each change of an array of maps waits for all programs, several times a reload.
fn count() -> Checked<u64> {
    let release = run(&["uname", "-r"])?;
    Ok(if release.starts_with("6.1.") { 300 } else { 1000 })
}

/// Without a daemon, and with nothing pinned, a unit with the drop-in of the package does not start; with one it is held.
fn drop_in() -> Checked {
    let by_hand = CI.1.replace("[scope]\nslices = [\"ci.slice\"]\n", "");
    daemon::ready(&[("ci.toml", &by_hand)])?;
    let name = "guarded.service";
    let text = shell(&format!("dpkg-deb --fsys-tarfile {} | tar -xO {DROP_IN}", daemon::PACKAGE))?;
    let text = text.replace("--policy gitlab-runner", "--policy ci");
    let folder = format!("/run/systemd/system/{name}.d");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(format!("{folder}/stockade-tag.conf"), text))
        .map_err(|e| format!("{folder}: {e}"))?;
    let checked = guarded(name, &by_hand);
    let _ = fs::remove_dir_all(&folder);
    let _ = run(&["systemctl", "daemon-reload"]);
    // Its failure to start is what was wanted, and would be told of the host to the end.
    let _ = run(&["systemctl", "reset-failed", name]);
    checked
}

fn guarded(name: &str, by_hand: &str) -> Checked {
    let held = Workload::start(name, "system.slice", None, "")?;
    held.report.goes_on()?;
    held.report.nothing_wrong()?;
    drop(held);
    let dead = daemon::kill()?;
    run(&["stockade", "detach", "--all", "--yes"])?;
    // Nothing that it has kept may take the place of the file.
    shell(&format!("rm -rf {}/*", daemon::STATE))?;
    daemon::place(&[("ci.toml", "version = 1\n[scope\n")])?;
    let unit = format!("[Service]\nType=exec\nExecStart=/usr/bin/touch /run/{name}.ran\n");
    unit::write(name, &unit)?;
    let started = attempt(&["systemctl", "start", name])?;
    let ran = fs::exists(format!("/run/{name}.ran")).unwrap_or(true);
    daemon::place(&[("ci.toml", by_hand)])?;
    drop(dead);
    let _ = fs::remove_file(format!("/run/systemd/system/{name}"));
    ensure(!started.status.success() && !ran, || format!("it ran: {started:?}"))?;
    ensure(daemon::is_active()?, || format!("the daemon does not recover: {}", daemon::log()))
}
