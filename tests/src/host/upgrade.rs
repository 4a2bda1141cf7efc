//! A second build of the package over the first, and the end of all holding, with a workload that tries all the while.

use std::collections::BTreeSet;

use super::Scenario;
use super::daemon::{self, CI, NEXT_PACKAGE};
use super::exec::{Checked, ensure, run, until};
use super::unit::Workload;

pub const SCENARIOS: &[Scenario] = &[
    ("upgrade_in_place_and_no_verdict_is_wrong", upgraded),
    ("upgrade_again_while_the_daemon_is_dead", while_dead),
    ("upgrade_detach_lets_everything_go", detached),
];

/// One that is large enough for any difference between builds to be in it.
const PROGRAM: &str = "file_open";

fn version() -> Checked<String> {
    run(&["dpkg-query", "--show", "--showformat=${Version}", "stockade"])
}

fn upgraded() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("upgraded.service", "ci.slice", None, "")?;
    workload.report.goes_on()?;
    let (pid, old, programs) = (daemon::pid()?, version()?, programs());
    ensure(!programs.is_empty(), || format!("no program is called {PROGRAM}"))?;
    run(&["dpkg", "--install", NEXT_PACKAGE])?;
    workload.report.goes_on()?;
    ensure(version()? != old, || format!("the package is still {old}"))?;
    ensure(daemon::is_active()? && daemon::pid()? != pid, || format!("no new daemon: {}", daemon::log()))?;
    let adopted = daemon::status()?["adopted"].clone();
    ensure(adopted.as_u64().is_some_and(|count| count > 0), || format!("nothing adopted: {adopted}"))?;
    // Of other instructions, and the earlier ones are gone when the kernel has found the time.
    let gone = until(60, "the earlier programs are gone", || {
        let now = self::programs();
        Ok((!now.is_empty() && now.is_disjoint(&programs)).then_some(()))
    });
    gone.map_err(|e| format!("{e}: {programs:?}, and now {:?}", self::programs()))?;
    workload.report.goes_on()?;
    workload.report.nothing_wrong()
}

/// Tags of the kernel programs of that name, which are made of their instructions.
fn programs() -> BTreeSet<u64> {
    let programs = aya::programs::loaded_programs().flatten();
    programs.filter(|program| program.name_as_str() == Some(PROGRAM)).map(|program| program.tag()).collect()
}

/// The same package over itself: its scripts must bring back a daemon that had died.
fn while_dead() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("waiting.service", "ci.slice", None, "")?;
    workload.report.goes_on()?;
    let dead = daemon::kill()?;
    run(&["dpkg", "--install", NEXT_PACKAGE])?;
    ensure(daemon::is_active()?, || format!("the daemon is not back: {}", daemon::log()))?;
    drop(dead);
    workload.report.goes_on()?;
    workload.report.nothing_wrong()
}

fn detached() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("detached.service", "ci.slice", None, "")?;
    workload.report.goes_on()?;
    workload.report.nothing_wrong()?;
    let unconfirmed = super::exec::shell("stockade detach --all < /dev/null");
    ensure(unconfirmed.is_err(), || "it let go without a confirmation".into())?;
    workload.report.goes_on()?;
    workload.report.nothing_wrong()?;
    // The unit would start it again.
    let dead = daemon::kill()?;
    run(&["stockade", "detach", "--all", "--yes"])?;
    let pinned = std::fs::read_dir(daemon::PINS).map_or(0, Iterator::count);
    ensure(pinned == 0, || format!("{pinned} pins left in {}", daemon::PINS))?;
    // Links go when the kernel finds the time, those of cgroups after the others.
    let free = until(30, "all is let go", || Ok(workload.report.free().ok()))
        .map_err(|e| format!("{e}: {:?}", workload.report.free()));
    drop(dead);
    free
}
