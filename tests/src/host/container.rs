//! Containers of the three runtimes, all made offline from one small Debian in the root's `/srv`.

use std::fs::{self, File};
use std::process::{Child, Command, Output};
use std::sync::OnceLock;

use super::exec::{Checked, attempt, run, said};
use super::probe::Report;

/// Its tree, and the same as an archive.
const TREE: &str = "/srv/container";
const ARCHIVE: &str = "/srv/container.tar";
const IMAGE: &str = "stockade.test/debian:latest";

/// A runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Podman, as root, its cgroups made by systemd.
    Podman,
    /// Docker, likewise.
    Docker,
    /// LXC, privileged.
    Lxc,
}

impl Runtime {
    /// As policies call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
            Self::Lxc => "lxc",
        }
    }

    /// Makes the image, once; the workload is in it.
    pub fn prepare(self) -> Checked {
        static DONE: [OnceLock<Checked>; 3] = [const { OnceLock::new() }; 3];
        DONE[self as usize].get_or_init(|| self.image()).clone()
    }

    /// Makes the image where the runtime keeps them now.
    pub fn image(self) -> Checked {
        match self {
            Self::Podman => run(&["podman", "import", "--quiet", ARCHIVE, IMAGE]).map(drop),
            Self::Docker => {
                run(&["systemctl", "start", "docker"])?;
                run(&["docker", "import", ARCHIVE, IMAGE]).map(drop)
            }
            Self::Lxc => Ok(()),
        }
    }

    /// The command line that runs `command` in a new container and prints what it prints.
    fn words(self, name: &str, command: &[&str]) -> Checked<Vec<String>> {
        self.prepare()?;
        let mut words: Vec<String> = match self {
            Self::Podman | Self::Docker => [
                &[self.name(), "run", "--rm", "--name", name, "--network=host"][..],
                &["--volume=/srv/probe:/srv/probe:ro", IMAGE],
            ]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
            Self::Lxc => {
                let folder = format!("{}/{name}", run(&["lxc-config", "lxc.lxcpath"])?.trim());
                let config = format!(
                    "lxc.uts.name = {name}\nlxc.rootfs.path = dir:{TREE}\nlxc.net.0.type = none\nlxc.console.path = none\n\
                     lxc.apparmor.profile = unconfined\nlxc.mount.auto = proc sys:mixed cgroup:mixed\n\
                     lxc.mount.entry = /srv/probe srv/probe none bind,ro,create=dir 0 0\n"
                );
                fs::create_dir_all(&folder)
                    .and_then(|()| fs::write(format!("{folder}/config"), config))
                    .map_err(|e| format!("{folder}: {e}"))?;
                ["lxc-start", "--foreground", "--logfile=/dev/stderr", "--name", name, "--"]
                    .map(str::to_owned)
                    .to_vec()
            }
        };
        words.extend(command.iter().map(|&word| word.to_owned()));
        Ok(words)
    }

    /// Runs a command in a new container to its end.
    pub fn run(self, name: &str, command: &[&str]) -> Checked<String> {
        let words = self.words(name, command)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output: Output = attempt(&words)?;
        if output.status.success() {
            Ok(super::exec::text(&output.stdout))
        } else {
            Err(said(&words, &output))
        }
    }

    /// Starts the workload in a new container.
    pub fn start(self, name: &str) -> Checked<Container> {
        let report = Report::new(&format!("{}-{name}", self.name()))?;
        let command = super::probe::words(None);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let words = self.words(name, &command)?;
        let start = || -> std::io::Result<Child> {
            let output = File::options().append(true).open(report.file())?;
            Command::new(&words[0]).args(&words[1..]).stderr(output.try_clone()?).stdout(output).spawn()
        };
        let child = start().map_err(|e| format!("starting {}: {e}", words[0]))?;
        Ok(Container { runtime: self, name: name.to_owned(), report, child })
    }
}

/// A container that runs the workload; it ends with its value.
#[derive(Debug)]
pub struct Container {
    runtime: Runtime,
    name: String,
    /// What the workload says.
    pub report: Report,
    child: Child,
}

impl Container {
    /// Runs one more command in it.
    pub fn exec(&self, command: &[&str]) -> Checked<Output> {
        let enter: &[&str] = match self.runtime {
            Runtime::Podman => &["podman", "exec", &self.name],
            Runtime::Docker => &["docker", "exec", &self.name],
            Runtime::Lxc => &["lxc-attach", "--name", &self.name, "--"],
        };
        attempt(&[enter, command].concat())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = match self.runtime {
            Runtime::Podman => attempt(&["podman", "kill", &self.name]),
            Runtime::Docker => attempt(&["docker", "kill", &self.name]),
            Runtime::Lxc => attempt(&["lxc-stop", "--kill", "--name", &self.name]),
        };
        let _ = self.child.wait();
    }
}
