//! The three runtimes without Stockade: what breaks here is not its doing.

use super::Scenario;
use super::container::Runtime;
use super::exec::{Checked, ensure};

pub const SCENARIOS: &[Scenario] = &[
    ("plain_podman_container_runs", || runs(Runtime::Podman)),
    ("plain_docker_container_runs", || runs(Runtime::Docker)),
    ("plain_lxc_container_runs", || runs(Runtime::Lxc)),
];

fn runs(runtime: Runtime) -> Checked {
    let printed = runtime.run("plain", &["/bin/echo", "out", "of", "the", "container"])?;
    ensure(printed.contains("out of the container"), || printed)
}
