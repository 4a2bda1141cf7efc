//! Stopping what already runs in a cgroup while it is tagged and looked at.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::tree::{Tree, TreeError, failed};

/// Between two looks at whether all are frozen.
const TURN: Duration = Duration::from_millis(2);

/// A cgroup whose processes, with those below, don't run until this is dropped, however that comes about.
#[derive(Debug)]
#[must_use = "it is thawed when this is dropped"]
pub struct Frozen {
    file: PathBuf,
    /// Somebody else had frozen it: it stays so.
    was_frozen: bool,
    thawed: bool,
}

/// Freezes a cgroup and waits until all of it stands still. Processes that join it meanwhile are frozen as well.
///
/// # Errors
/// If the kernel refuses, or something does not stop in time: it is thawed then.
pub fn freeze(tree: &Tree, path: &Path, limit: Duration) -> Result<Frozen, TreeError> {
    let file = tree.directory(path).join("cgroup.freeze");
    let state = fs::read_to_string(&file).map_err(failed("reading", &file))?;
    let frozen = Frozen { file: file.clone(), was_frozen: state.trim() == "1", thawed: false };
    fs::write(&file, "1").map_err(failed("writing 1 to", &file))?;
    let end = Instant::now() + limit;
    while tree.event(path, "frozen")? != Some(true) {
        if Instant::now() >= end {
            let why = "not all processes stopped in time: look for state D in `ps`, and try again";
            return Err(failed("freezing by", &file)(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        thread::sleep(TURN);
    }
    Ok(frozen)
}

impl Frozen {
    /// Lets it run on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn thaw(mut self) -> Result<(), TreeError> {
        self.release()
    }

    fn release(&mut self) -> Result<(), TreeError> {
        if self.thawed || self.was_frozen {
            return Ok(());
        }
        self.thawed = true;
        match fs::write(&self.file, "0") {
            // Nothing is frozen that is gone.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
            written => written.map_err(failed("writing 0 to", &self.file)),
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            eprintln!("stockade: {error}: thaw it by hand");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::scope::cgroup::OwnCgroup;

    /// A cgroup with a process that counts in a file, where cgroups can be made.
    fn counting(name: &str) -> Option<(OwnCgroup, Tree, PathBuf, Child, tempfile::TempDir)> {
        let tree = Tree::find().ok()?;
        let own = OwnCgroup::create(&format!("stockade-{name}-test-{}", std::process::id())).ok()?;
        let path = Path::new("/").join(own.path().strip_prefix(tree.mount()).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let script = "i=0; while :; do i=$((i+1)); echo $i > count; sleep 0.01; done";
        let child = Command::new("sh").args(["-c", script]).current_dir(dir.path()).spawn().unwrap();
        own.add(child.id()).unwrap();
        Some((own, tree, path, child, dir))
    }

    fn runs(dir: &Path) -> bool {
        let count = || fs::read_to_string(dir.join("count")).unwrap_or_default();
        let end = Instant::now() + Duration::from_millis(300);
        let before = count();
        while Instant::now() < end {
            if !count().is_empty() && count() != before {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    #[test]
    fn what_is_frozen_stands_still_until_it_is_dropped() {
        let Some((_own, tree, path, mut child, dir)) = counting("freeze") else { return };
        assert!(runs(dir.path()));
        let frozen = freeze(&tree, &path, Duration::from_secs(5)).unwrap();
        assert!(!runs(dir.path()));
        drop(frozen);
        assert!(runs(dir.path()));
        freeze(&tree, &path, Duration::from_secs(5)).unwrap().thaw().unwrap();
        assert!(runs(dir.path()));
        let panicked = std::panic::catch_unwind(|| {
            let _frozen = freeze(&tree, &path, Duration::from_secs(5)).unwrap();
            panic!("while it is frozen");
        });
        assert!(panicked.is_err() && runs(dir.path()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_others_froze_stays_so() {
        let Some((own, tree, path, mut child, dir)) = counting("refreeze") else { return };
        fs::write(own.path().join("cgroup.freeze"), "1").unwrap();
        drop(freeze(&tree, &path, Duration::from_secs(5)).unwrap());
        assert!(!runs(dir.path()));
        fs::write(own.path().join("cgroup.freeze"), "0").unwrap();
        assert!(runs(dir.path()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_does_not_stop_is_let_go_and_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.freeze"), "0\n").unwrap();
        fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let tree = Tree::at(dir.path());
        let error = freeze(&tree, Path::new("/"), Duration::from_millis(20)).unwrap_err().to_string();
        assert!(error.contains("state D") && error.contains("cgroup.freeze"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.freeze")).unwrap(), "0");
        assert!(freeze(&tree, Path::new("/gone"), Duration::ZERO).is_err());
    }
}
