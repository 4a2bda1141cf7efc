//! Containers started after the daemon: their start-up works, and nothing of their payload runs unpoliced.

use super::Scenario;
use super::container::Runtime;
use super::daemon;
use super::exec::{Checked, ensure, text, until};

pub const SCENARIOS: &[Scenario] = &[
    ("contained_podman_payload_is_held_from_its_first_instruction", || strict(Runtime::Podman)),
    ("contained_docker_payload_is_held_from_its_first_instruction", || strict(Runtime::Docker)),
    ("contained_lxc_payload_is_held_from_its_first_instruction", || strict(Runtime::Lxc)),
    ("contained_podman_container_is_held_by_name", || named(Runtime::Podman)),
    ("contained_docker_container_is_held_by_name", || named(Runtime::Docker)),
    ("contained_lxc_container_is_held_by_name", || named(Runtime::Lxc)),
];

fn policy(runtime: Runtime, name: &str) -> String {
    policy_for(&format!(r#"containers = [{{ runtime = "{}"{name} }}]"#, runtime.name()))
}

/// What containers may, where a rule holds.
pub fn policy_for(rule: &str) -> String {
    format!(
        r#"version = 1
name = "jobs"
[scope]
{rule}
[network]
allow = ["127.0.0.1:7001/tcp"]
[files]
read = ["/**"]
exec = ["/**"]
deny = ["**/secret"]
"#
    )
}

/// By runtime alone, which the kernel tags as the cgroup is made.
fn strict(runtime: Runtime) -> Checked {
    daemon::ready(&[("jobs.toml", &policy(runtime, ""))])?;
    held(runtime)
}

/// Containers of that runtime are held from their first instruction, and do what they should.
pub fn held(runtime: Runtime) -> Checked {
    runtime.prepare()?;
    let workload = super::probe::words(Some(1));
    let workload: Vec<&str> = workload.iter().map(String::as_str).collect();
    for round in 0..3 {
        // Its status is 1 if a verdict was wrong.
        runtime
            .run(&format!("first-{round}"), &workload)
            .map_err(|e| format!("{e}: {}", daemon::denied()))?;
    }
    let printed = runtime.run("plain", &["/bin/echo", "out", "of", "the", "container"])?;
    ensure(printed.contains("out of the container"), || printed)
}

/// By name: held once its state was read; another container is free; what is executed in it later is held as well.
fn named(runtime: Runtime) -> Checked {
    told_apart(runtime, "job-*", "job-1", "other")
}

/// Of two containers the one is held whose name is asked for, and the other is free.
pub fn told_apart(runtime: Runtime, asked: &str, job: &str, other: &str) -> Checked {
    runtime.prepare()?;
    daemon::ready(&[("jobs.toml", &policy(runtime, &format!(r#", name = "{asked}""#)))])?;
    let job = runtime.start(job)?;
    let other = runtime.start(other)?;
    until(60, "a container's first round", || {
        Ok((job.report.rounds()? > 0 && other.report.rounds()? > 0).then_some(()))
    })
    .map_err(|e| format!("{e}: {} / {}", job.report.last(), other.report.last()))?;
    until(30, "the container's tag", || {
        let scope = daemon::scope("jobs")?;
        Ok(scope["cgroups"].as_array().is_some_and(|cgroups| !cgroups.is_empty()).then_some(()))
    })?;
    other.report.free()?;
    let output = job.exec(&["cat", super::probe::SECRET])?;
    ensure(!output.status.success() && text(&output.stdout).is_empty(), || {
        format!("exec is free: {output:?}")
    })?;
    let output = job.exec(&["cat", super::probe::OPEN])?;
    ensure(text(&output.stdout) == "for everybody", || format!("exec is broken: {output:?}"))?;
    let before = job.report.wrong()?;
    job.report.goes_on()?;
    ensure(job.report.wrong()? == before, || format!("tagged and free: {}", job.report.last()))
}
