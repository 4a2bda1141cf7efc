//! Runtimes that keep their state elsewhere, and put their containers elsewhere, than they do by themselves.

use std::fs;

use super::Scenario;
use super::contained::{held, policy_for, told_apart};
use super::container::Runtime;
use super::daemon;
use super::exec::{Checked, attempt, ensure, run, until};

pub const SCENARIOS: &[Scenario] = &[
    ("moved_docker_state_is_found_by_its_configuration", docker_by_configuration),
    ("moved_docker_state_by_a_flag_counts_as_a_match", docker_by_flag),
    ("moved_docker_parent_by_configuration_or_flag_is_held", docker_parent),
    ("moved_podman_state_is_found", podman),
    ("moved_lxc_state_is_found", lxc),
];

/// As the root's recipe has it.
const DOCKER: &str =
    r#""bridge": "none", "iptables": false, "ip6tables": false, "storage-driver": "overlay2""#;

/// A file with other content until this is dropped.
struct Changed {
    file: &'static str,
    before: Option<String>,
}

impl Changed {
    fn new(file: &'static str, text: &str) -> Checked<Self> {
        let before = fs::read_to_string(file).ok();
        fs::write(file, text).map_err(|e| format!("{file}: {e}"))?;
        Ok(Self { file, before })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = match &self.before {
            Some(text) => fs::write(self.file, text),
            None => fs::remove_file(self.file),
        };
    }
}

/// Docker with more in its configuration, and flags of its daemon, for as long as `check` takes.
fn docker(more: &str, flags: &str, check: impl FnOnce() -> Checked) -> Checked {
    Runtime::Docker.prepare()?;
    let start = || {
        // Starts in quick succession are what this is about, and not a sign of something broken.
        attempt(&["systemctl", "reset-failed", "docker.service", "docker.socket"])?;
        run(&["systemctl", "restart", "docker.service"]).map(drop)
    };
    let changed = (
        Changed::new("/etc/docker/daemon.json", &format!("{{ {DOCKER}{more} }}"))?,
        Changed::new("/etc/default/docker", &format!("DOCKER_OPTS=\"{flags}\"\n"))?,
    );
    let checked = start().and_then(|()| check());
    drop(changed);
    checked.and(start())
}

fn docker_by_configuration() -> Checked {
    docker(r#", "data-root": "/srv/docker-configured""#, "", || {
        Runtime::Docker.image()?;
        told_apart(Runtime::Docker, "job-*", "job-1", "other")
    })
}

/// What cannot be known counts as a match: rather held than not.
fn docker_by_flag() -> Checked {
    docker("", "--data-root=/srv/docker-flag", || {
        Runtime::Docker.image()?;
        let rule = r#"containers = [{ runtime = "docker", name = "job-*" }]"#;
        daemon::ready(&[("jobs.toml", &policy_for(rule))])?;
        let mark = daemon::mark()?;
        let other = Runtime::Docker.start("other")?;
        other.report.goes_on()?;
        let before = other.report.wrong()?;
        other.report.goes_on()?;
        let after = other.report.wrong()?;
        ensure(before == after, || format!("free: {}", other.report.last()))?;
        until(20, "a warning that names the container", || {
            Ok(daemon::log_since(&mark)?.contains("no state of Docker container").then_some(()))
        })
    })
}

/// Containers in the slice of the policy, wherever it was said.
fn docker_parent() -> Checked {
    daemon::ready(&[("jobs.toml", &policy_for(r#"slices = ["ci.slice"]"#))])?;
    docker(r#", "cgroup-parent": "ci.slice""#, "", || held(Runtime::Docker))?;
    docker("", "--cgroup-parent=ci.slice", || held(Runtime::Docker))
}

fn podman() -> Checked {
    Runtime::Podman.prepare()?;
    let text =
        "[storage]\ndriver = \"overlay\"\nrunroot = \"/run/podman-moved\"\ngraphroot = \"/srv/podman\"\n";
    let changed = Changed::new("/etc/containers/storage.conf", text)?;
    let checked =
        Runtime::Podman.image().and_then(|()| told_apart(Runtime::Podman, "job-*", "job-1", "other"));
    drop(changed);
    checked
}

/// LXC's state is asked whether `job-1` is a container of that name, or the second cgroup of a `job`, which the rule means and
/// which is not there.
fn lxc() -> Checked {
    let changed = Changed::new("/etc/lxc/lxc.conf", "lxc.lxcpath = /srv/lxc\n")?;
    let checked = told_apart(Runtime::Lxc, "jo?", "joy", "job-1");
    drop(changed);
    checked
}
