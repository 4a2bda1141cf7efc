//! Stopping what already runs in a cgroup while it is looked at.
//!
//! A cgroup that we have frozen carries a mark, so that it can be [let go](release) if we end before it was.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::tree::{Tree, TreeError, failed};

/// Only who is privileged sees or sets it.
const MARK: &CStr = c"trusted.stockade.frozen";
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
    let was_frozen = state.trim() == "1";
    if !was_frozen {
        let directory = tree.directory(path);
        mark(&directory).map_err(failed("marking as frozen", &directory))?;
    }
    let frozen = Frozen { file: file.clone(), was_frozen, thawed: false };
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

/// Thaws a cgroup that carries the mark: who froze it has ended. True: it did.
///
/// # Errors
/// If the kernel refuses.
pub fn release(tree: &Tree, path: &Path) -> Result<bool, TreeError> {
    let directory = tree.directory(path);
    if !is_marked(&directory) {
        return Ok(false);
    }
    let file = directory.join("cgroup.freeze");
    Frozen { file, was_frozen: false, thawed: false }.thaw().map(|()| true)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn mark(directory: &Path) -> io::Result<()> {
    let path = c_path(directory)?;
    // SAFETY: both strings end in NUL, and the value has the length that is given.
    match unsafe { libc::setxattr(path.as_ptr(), MARK.as_ptr(), b"1".as_ptr().cast(), 1, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn is_marked(directory: &Path) -> bool {
    let Ok(path) = c_path(directory) else { return false };
    // SAFETY: both strings end in NUL; nothing is written where the length is 0.
    unsafe { libc::getxattr(path.as_ptr(), MARK.as_ptr(), std::ptr::null_mut(), 0) >= 0 }
}

fn unmark(directory: &Path) {
    let Ok(path) = c_path(directory) else { return };
    // What is gone has no mark. One that stays has a cgroup thawed that does not stand still.
    // SAFETY: both strings end in NUL.
    unsafe { libc::removexattr(path.as_ptr(), MARK.as_ptr()) };
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
            Ok(()) => {
                if let Some(directory) = self.file.parent() {
                    unmark(directory);
                }
                Ok(())
            }
            // Nothing is frozen that is gone.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
            Err(error) => Err(failed("writing 0 to", &self.file)(error)),
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
    fn what_an_ended_process_froze_is_released() {
        let Some((own, tree, path, mut child, dir)) = counting("release") else { return };
        assert!(!release(&tree, &path).unwrap());
        // As if it had been killed.
        std::mem::forget(freeze(&tree, &path, Duration::from_secs(5)).unwrap());
        assert!(is_marked(own.path()) && !runs(dir.path()));
        assert!(release(&tree, &path).unwrap());
        assert!(!is_marked(own.path()) && runs(dir.path()));
        // Others' frozen cgroups have no mark.
        fs::write(own.path().join("cgroup.freeze"), "1").unwrap();
        assert!(!release(&tree, &path).unwrap() && !runs(dir.path()));
        fs::write(own.path().join("cgroup.freeze"), "0").unwrap();
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
        if mark(dir.path()).is_err() {
            return;
        }
        fs::write(dir.path().join("cgroup.freeze"), "0\n").unwrap();
        fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let tree = Tree::at(dir.path());
        let error = freeze(&tree, Path::new("/"), Duration::from_millis(20)).unwrap_err().to_string();
        assert!(error.contains("state D") && error.contains("cgroup.freeze"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.freeze")).unwrap(), "0");
        assert!(freeze(&tree, Path::new("/gone"), Duration::ZERO).is_err());
    }
}
