//! A unit in a slice, through the life of the daemon.

use std::fs;

use super::Scenario;
use super::daemon::{self, CI};
use super::exec::{Checked, attempt, ensure, run, said, text, until};
use super::probe::SECRET;
use super::unit::{Workload, property};

pub const SCENARIOS: &[Scenario] = &[
    ("life_package_installs_and_daemon_runs", installs),
    ("life_unit_in_slice_is_held_from_its_first_instruction", held),
    ("life_unit_elsewhere_is_free", elsewhere),
    ("life_unit_by_name_is_held", by_name),
    ("life_status_and_events_tell", told),
    ("life_killed_daemon_leaves_all_held", killed),
    ("life_reload_takes_effect_and_no_verdict_is_wrong", reloaded),
    ("life_audit_mode_is_switched_by_reload", audited),
    ("life_running_unit_is_tagged_and_untagged_by_hand", by_hand),
    ("life_run_goes_through_the_daemon", by_run),
    ("life_tagged_root_cannot_ask_the_daemon", no_say),
];

const SLICE: &str = "ci.slice";

fn installs() -> Checked {
    daemon::ready(&[CI])?;
    ensure(daemon::is_active()?, daemon::log)?;
    ensure(property(daemon::UNIT, "UnitFileState")? == "enabled", || "the unit is not enabled".into())?;
    let status = daemon::status()?;
    let proved = status["guarantees"].as_array().map_or(0, Vec::len);
    ensure(proved > 0 && status["degraded"] == false, || format!("not all is enforced: {status}"))?;
    let pid = status["pid"].as_u64().map(|pid| pid.to_string());
    ensure(pid == Some(daemon::pid()?), || format!("another daemon answers: {status}"))
}

fn held() -> Checked {
    daemon::ready(&[CI])?;
    for round in 0..3 {
        let workload = Workload::start(&format!("first-{round}.service"), SLICE, Some(1), "")?;
        workload.finish()?;
        workload.report.nothing_wrong()?;
    }
    Ok(())
}

/// The control: what is denied in the slice is allowed beside it.
fn elsewhere() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("elsewhere.service", "system.slice", Some(1), "")?;
    workload.finish()?;
    workload.report.free()
}

fn by_name() -> Checked {
    let policy = CI.1.replace(r#"slices = ["ci.slice"]"#, r#"units = ["named-*.service"]"#);
    daemon::ready(&[("ci.toml", &policy)])?;
    let workload = Workload::start("named-1.service", "system.slice", Some(1), "")?;
    workload.finish()?;
    workload.report.nothing_wrong()
}

fn told() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("told.service", SLICE, None, "")?;
    workload.report.goes_on()?;
    daemon::tagged("ci", "/ci.slice")?;
    let scope = daemon::scope("ci")?;
    let denied = |plane: &str| scope["decisions"][plane]["denied"].as_u64().unwrap_or(0);
    ensure(denied("file") > 0 && denied("net") > 0, || format!("no denials counted: {scope}"))?;
    let words = ["timeout", "8", "stockade", "events", "--follow", "--denied", "--format", "json"];
    let output = attempt(&words)?;
    let printed = text(&output.stdout);
    ensure(printed.contains(SECRET) && printed.contains("7002"), || said(&words, &output))?;
    workload.report.nothing_wrong()
}

/// With the daemon dead: what runs is held, and so are a new process, a new unit, and a new cgroup in the tagged one.
fn killed() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("survivor.service", SLICE, None, "")?;
    workload.report.goes_on()?;
    let dead = daemon::kill()?;
    // New processes are among what it tries.
    workload.report.goes_on()?;
    let fresh = Workload::start("fresh.service", SLICE, Some(1), "")?;
    fresh.finish()?;
    let child = format!("/sys/fs/cgroup{}/child", property(&workload.unit, "ControlGroup")?);
    fs::create_dir(&child).map_err(|e| format!("{child}: {e}"))?;
    fs::write(format!("{child}/cgroup.procs"), workload.report.pid()?)
        .map_err(|e| format!("{child}: {e}"))?;
    workload.report.goes_on()?;
    ensure(!daemon::is_active()?, || "the daemon was back: this proves nothing".into())?;
    drop(dead);
    until(60, "a new daemon", || daemon::is_active().map(|active| active.then_some(())))?;
    let status = daemon::status()?;
    ensure(status["adopted"].as_u64().is_some_and(|count| count > 0), || {
        format!("nothing adopted: {status}")
    })?;
    workload.report.goes_on()?;
    fresh.report.nothing_wrong()?;
    workload.report.nothing_wrong()
}

/// Many reloads between two policies that agree on what the workload tries, then one that does not.
fn reloaded() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("reloaded.service", SLICE, None, "")?;
    let other = CI.1.replace("[network]", "[network]\ndeny = [\"192.0.2.0/24\"]");
    let before = daemon::status()?["reloads"]["applied"].as_u64().unwrap_or(0);
    for round in 0..20 {
        daemon::place(&[("ci.toml", if round % 2 == 0 { &other } else { CI.1 })])?;
        daemon::reload()?;
    }
    workload.report.goes_on()?;
    workload.report.nothing_wrong()?;
    let after = daemon::status()?["reloads"]["applied"].as_u64().unwrap_or(0);
    ensure(after >= before + 20, || format!("{before} reloads, then {after}"))?;
    let wider = CI.1.replace("7001/tcp", "7001-7002/tcp").replace("/srv/probe/open", "/srv/probe/*");
    daemon::place(&[("ci.toml", &wider)])?;
    daemon::reload()?;
    workload.report.goes_on()?;
    workload.report.free()
}

fn audited() -> Checked {
    daemon::ready(&[CI])?;
    let workload = Workload::start("audited.service", SLICE, None, "")?;
    workload.report.goes_on()?;
    workload.report.nothing_wrong()?;
    daemon::ready(&[("ci.toml", &CI.1.replace("version = 1", "version = 1\nmode = \"audit\""))])?;
    workload.report.goes_on()?;
    workload.report.free()
}

fn by_hand() -> Checked {
    let policy = CI.1.replace("[scope]\nslices = [\"ci.slice\"]\n", "");
    daemon::ready(&[("ci.toml", &policy)])?;
    let workload = Workload::start("by-hand.service", "system.slice", None, "")?;
    workload.report.goes_on()?;
    workload.report.free()?;
    run(&["stockade", "tag", &workload.unit, "--policy", "ci"])?;
    // What it had tried before the tag it may say after it.
    workload.report.goes_on()?;
    let wrong = workload.report.wrong()?;
    workload.report.goes_on()?;
    ensure(workload.report.wrong()? == wrong, || format!("tagged and free: {}", workload.report.last()))?;
    run(&["stockade", "untag", &workload.unit])?;
    workload.report.goes_on()?;
    ensure(workload.report.wrong()? > wrong, || format!("untagged and held: {}", workload.report.last()))
}

fn by_run() -> Checked {
    daemon::ready(&[CI])?;
    let workload = super::probe::words(Some(3000));
    let mut words =
        vec!["stockade", "run", "--allow-net=127.0.0.1:7001/tcp", "--allow-read=/srv/probe/open", "--"];
    words.extend(workload.iter().map(String::as_str));
    let child = super::exec::limited(&words)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .map_err(|e| format!("starting stockade: {e}"))?;
    let seen = until(60, "the run among the daemon's scopes", || {
        let status = daemon::status()?;
        let mut scopes = status["scopes"].as_array().into_iter().flatten();
        Ok(scopes.any(|scope| scope["kind"] == "run").then_some(()))
    });
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    seen.map_err(|e| format!("{e}: {}", said(&words, &output)))?;
    ensure(output.status.success(), || said(&words, &output))
}

/// Root inside a tag may not use the socket.
fn no_say() -> Checked {
    let policy = CI.1.replace(
        "exec = [\"/srv/probe/host\"]",
        "exec = [\"/usr/bin/**\"]\nwrite = [\"/run/stockade/**\"]\nread = [\"/etc/**\", \"/usr/**\", \"/proc/**\"]",
    );
    let policy = policy.replace("read = [\"/srv/probe/open\"]\n", "");
    daemon::ready(&[("ci.toml", &policy)])?;
    let inside = |command: &[&str]| {
        attempt(
            &[&["systemd-run", "--wait", "--collect", "--pipe", "--quiet", "--slice=ci.slice"], command]
                .concat(),
        )
    };
    let truth = inside(&["/usr/bin/true"])?;
    ensure(truth.status.success(), || format!("nothing runs there, which proves nothing: {truth:?}"))?;
    let asked = inside(&["/usr/bin/stockade", "status"])?;
    ensure(!asked.status.success(), || format!("it was answered: {asked:?}"))?;
    run(&["stockade", "status"]).map(drop)
}
