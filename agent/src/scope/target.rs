//! What `stockade tag` names: a cgroup, a unit or a process, resolved to a cgroup of the tree.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use super::tree::{Node, Tree, TreeError, of_proc_file};
use crate::{
    daemon::command::Target,
    policy::{rule::Refusal, scope::OWN_SLICE, unit},
};

/// Most candidates that a message lists.
const LISTED: usize = 8;

/// Why a target is none.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It makes no sense.
    #[error("{message}; {help}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// What to do.
        help: String,
    },
    /// There is nothing of that name.
    #[error("{message}; {help}")]
    NotFound {
        /// What is missing.
        message: String,
        /// What to do.
        help: String,
    },
    /// The tree cannot be read.
    #[error("{0}")]
    Tree(#[from] TreeError),
}

fn invalid<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, TargetError> {
    Err(TargetError::Invalid { message: message.into(), help: help.into() })
}

fn not_found<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, TargetError> {
    Err(TargetError::NotFound { message: message.into(), help: help.into() })
}

/// The cgroup that is meant. Never the root, never the daemon's own or one above it.
///
/// # Errors
/// If there is none, more than one, or one that must not be tagged.
pub fn resolve(tree: &Tree, target: &Target) -> Result<Node, TargetError> {
    resolve_beside(tree, target, &tree.own()?, Path::new("/proc"))
}

fn resolve_beside(tree: &Tree, target: &Target, own: &Path, proc: &Path) -> Result<Node, TargetError> {
    let path = match target {
        Target::Cgroup(path) => cgroup(tree, path)?,
        Target::Unit(name) => unit(tree, name)?,
        Target::Pid(pid) => process(*pid, proc)?,
    };
    allowed(&path, own)?;
    let id = match tree.id(&path) {
        Err(TreeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return not_found(format!("there is no cgroup {}", path.display()), LIST);
        }
        id => id?,
    };
    Ok(Node { path, id })
}

const LIST: &str = "`systemd-cgls` lists what there is; paths begin at the root of the v2 hierarchy";

/// Refuses what the daemon would be held to itself.
fn allowed(path: &Path, own: &Path) -> Result<(), TargetError> {
    if path == Path::new("/") {
        return invalid(
            "that is the root cgroup, the whole host",
            "name a cgroup below it, or move the process into one",
        );
    }
    let own_slice = Path::new("/").join(OWN_SLICE);
    if own.starts_with(path) || path == own_slice {
        return invalid(
            format!("the daemon itself is in {}", path.display()),
            "name a cgroup that it is not in: nobody could let go of it then",
        );
    }
    if path == Path::new("/init.scope") {
        return invalid("process 1 is in /init.scope", "name the unit or slice of the workload");
    }
    Ok(())
}

fn cgroup(tree: &Tree, path: &Path) -> Result<PathBuf, TargetError> {
    if !path.is_absolute()
        || path.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir))
    {
        return invalid(
            format!("{} is no path from the root of the v2 hierarchy", path.display()),
            "write it as /proc/PID/cgroup shows it behind `0::`",
        );
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return invalid("a path holds no NUL byte", "take it out");
    }
    // As a person copies it from the file system.
    let inside = path.strip_prefix(tree.mount()).map(|rest| Path::new("/").join(rest));
    let path: PathBuf = inside.unwrap_or_else(|_| path.to_path_buf()).components().collect();
    let metadata = fs::symlink_metadata(tree.directory(&path));
    if !metadata.is_ok_and(|metadata| metadata.is_dir()) {
        return not_found(format!("there is no cgroup {}", path.display()), LIST);
    }
    Ok(path)
}

fn unit(tree: &Tree, name: &str) -> Result<PathBuf, TargetError> {
    let cgroup =
        unit::single(name).or_else(|Refusal { message, help }| invalid(message, help.unwrap_or_default()))?;
    let mut found: Vec<PathBuf> = tree
        .walk(Path::new("/"))?
        .nodes
        .into_iter()
        .filter(|node| node.path.file_name().is_some_and(|name| name == cgroup.as_str()))
        .map(|node| node.path)
        .collect();
    match found.len() {
        0 => not_found(
            format!("no cgroup is that of {name}"),
            "start it first: a unit has a cgroup only while it runs; `systemctl status` shows it",
        ),
        1 => Ok(found.remove(0)),
        count => {
            let mut listed: Vec<String> =
                found.iter().take(LISTED).map(|path| path.display().to_string()).collect();
            if count > LISTED {
                listed.push(format!("and {} more", count - LISTED));
            }
            invalid(
                format!("{count} cgroups are called {name}: {}", listed.join(", ")),
                "name one of them by its path",
            )
        }
    }
}

fn process(pid: u32, proc: &Path) -> Result<PathBuf, TargetError> {
    let gone = || not_found(format!("there is no process {pid}"), "it may have ended: look with `ps`");
    let file = proc.join(pid.to_string()).join("cgroup");
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return gone(),
        Err(source) => return Err(TreeError::Io { step: "reading", path: file, source }.into()),
    };
    if text.is_empty() {
        return gone();
    }
    let mut lines = text.split(|byte| *byte == b'\n');
    if lines.any(|line| line.starts_with(b"0::") && line.ends_with(b" (deleted)")) {
        return not_found(format!("the cgroup of process {pid} was removed"), "it has ended");
    }
    let Some(path) = of_proc_file(&text) else {
        return invalid(
            format!("process {pid} is in no cgroup of the v2 hierarchy that is seen from here"),
            "run the daemon in the host's own cgroup namespace, with cgroup v2 mounted",
        );
    };
    if path == Path::new("/") {
        return invalid(
            format!("process {pid} is in the root cgroup, as all of the host may be"),
            "move it into a cgroup of its own: `systemd-run --scope` starts a command in one",
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "/stockade.slice/stockade.service";

    struct Host {
        _dir: tempfile::TempDir,
        tree: Tree,
        proc: PathBuf,
    }

    fn host() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("cgroup");
        for name in [
            "system.slice/web.service",
            "system.slice/_cpu.service",
            r"system.slice/dev\x2dtool.service",
            "system.slice/system-job.slice/job@1.service",
            "user.slice/user-1.slice/user@1.service/app.slice/web.service",
            "ci.slice/ci-linux.slice",
            "init.scope",
            &OWN[1..],
        ] {
            fs::create_dir_all(mount.join(name)).unwrap();
        }
        let proc = dir.path().join("proc");
        Host { tree: Tree::at(mount), _dir: dir, proc }
    }

    impl Host {
        fn resolved(&self, target: &Target) -> Result<String, String> {
            let node = resolve_beside(&self.tree, target, Path::new(OWN), &self.proc);
            node.map(|node| {
                assert_eq!(node.id, self.tree.id(&node.path).unwrap());
                node.path.display().to_string()
            })
            .map_err(|error| error.to_string())
        }

        fn process(&self, pid: u32, text: &str) {
            let dir = self.proc.join(pid.to_string());
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup"), text).unwrap();
        }
    }

    #[test]
    fn cgroups_are_named_from_the_root() {
        let host = host();
        let of = |path: &str| host.resolved(&Target::Cgroup(path.into()));
        assert_eq!(of("/ci.slice//ci-linux.slice/").unwrap(), "/ci.slice/ci-linux.slice");
        let whole = host.tree.mount().join("ci.slice");
        assert_eq!(host.resolved(&Target::Cgroup(whole)).unwrap(), "/ci.slice");
        for (path, why) in [
            ("ci.slice", "no path"),
            ("/ci.slice/../init.scope", "no path"),
            ("/", "root cgroup"),
            ("/gone", "no cgroup /gone"),
            ("/init.scope", "process 1"),
            ("/stockade.slice", "daemon itself"),
            (OWN, "daemon itself"),
        ] {
            let message = of(path).unwrap_err();
            assert!(message.contains(why), "{path}: {message}");
        }
        fs::write(host.tree.mount().join("cgroup.procs"), "").unwrap();
        assert!(of("/cgroup.procs").is_err());
    }

    #[test]
    fn units_are_found_anywhere() {
        let host = host();
        let of = |name: &str| host.resolved(&Target::Unit(name.into()));
        assert_eq!(of("job@1.service").unwrap(), "/system.slice/system-job.slice/job@1.service");
        assert_eq!(of("cpu.service").unwrap(), "/system.slice/_cpu.service");
        assert_eq!(of(r"dev\x2dtool.service").unwrap(), r"/system.slice/dev\x2dtool.service");
        assert_eq!(of("ci-linux.slice").unwrap(), "/ci.slice/ci-linux.slice");
        for (name, why) in [
            ("web.service", "2 cgroups are called web.service: /system.slice/web.service, /user.slice"),
            ("gone.service", "start it first"),
            ("web", "web.service"),
            ("job@*.service", "glob"),
            ("stockade.service", "daemon itself"),
            ("a.timer", "no processes"),
            ("-.slice", "whole host"),
        ] {
            let message = of(name).unwrap_err();
            assert!(message.contains(why), "{name}: {message}");
        }
    }

    #[test]
    fn a_process_stands_for_its_cgroup() {
        let host = host();
        host.process(7, "1:cpu:/x\n0::/system.slice/web.service\n");
        host.process(8, "0::/\n");
        host.process(9, "1:cpu:/x\n");
        host.process(10, "0::/../x\n");
        host.process(11, &format!("0::{OWN}\n"));
        host.process(12, "0::/gone (deleted)\n");
        host.process(13, "");
        let of = |pid: u32| host.resolved(&Target::Pid(pid));
        assert_eq!(of(7).unwrap(), "/system.slice/web.service");
        for (pid, why) in [
            (8, "root cgroup"),
            (9, "no cgroup of the v2"),
            (10, "no cgroup of the v2"),
            (11, "daemon itself"),
            (12, "was removed"),
            (13, "no process 13"),
            (14, "no process 14"),
        ] {
            let message = of(pid).unwrap_err();
            assert!(message.contains(why), "{pid}: {message}");
        }
        assert!(resolve(&Tree::at("/nonexistent"), &Target::Pid(u32::MAX)).is_err());
    }
}
