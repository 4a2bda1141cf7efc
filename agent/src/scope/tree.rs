//! The cgroup-v2 tree of this host: what cgroups there are, and what is in them.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use nix::sys::stat::fstat;

use super::cgroup::{self, CgroupError};

/// What is wrong with the tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// No tree.
    #[error("{0}")]
    NoHierarchy(#[from] CgroupError),
    /// The kernel refused.
    #[error("{step} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of the kernel says what it never does.
    #[error("{path} is not in the kernel's format: {text:?}", path = path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// The line.
        text: String,
    },
}

pub(super) fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TreeError {
    move |source| TreeError::Io { step, path: path.to_path_buf(), source }
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// From the root of the hierarchy, beginning with `/`.
    pub path: PathBuf,
    /// Kernel id: the number of the inode.
    pub id: u64,
}

/// The hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    mount: PathBuf,
}

impl Tree {
    /// Finds it by its mount, on hybrid hosts too.
    ///
    /// # Errors
    /// If it is mounted nowhere.
    pub fn find() -> Result<Self, TreeError> {
        Ok(Self { mount: cgroup::hierarchy()? })
    }

    /// One that is mounted at a known place.
    #[must_use]
    pub fn at(mount: impl Into<PathBuf>) -> Self {
        Self { mount: mount.into() }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The directory of a cgroup.
    #[must_use]
    pub fn directory(&self, path: &Path) -> PathBuf {
        self.mount.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A cgroup's kernel id.
    ///
    /// # Errors
    /// If it is gone.
    pub fn id(&self, path: &Path) -> Result<u64, TreeError> {
        let state = fstat(self.open(path)?).map_err(|error| failed("reading", path)(error.into()))?;
        Ok(state.st_ino)
    }

    /// Whether processes are in a cgroup or below it.
    ///
    /// # Errors
    /// If it is gone. The root has no such file, and always has.
    pub fn is_populated(&self, path: &Path) -> Result<bool, TreeError> {
        Ok(self.event(path, "populated")?.unwrap_or(true))
    }

    /// A value in `cgroup.events`.
    pub(super) fn event(&self, path: &Path, key: &str) -> Result<Option<bool>, TreeError> {
        let file = self.directory(path).join("cgroup.events");
        let text = fs::read_to_string(&file).map_err(failed("reading", &file))?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        match value {
            None => Ok(None),
            Some("0") => Ok(Some(false)),
            Some("1") => Ok(Some(true)),
            Some(other) => Err(TreeError::Format { path: file, text: other.to_owned() }),
        }
    }

    /// The cgroup this process is in.
    ///
    /// # Errors
    /// If /proc does not say.
    pub fn own(&self) -> Result<PathBuf, TreeError> {
        let file = Path::new("/proc/self/cgroup");
        let text = fs::read(file).map_err(failed("reading", file))?;
        of_proc_file(&text).ok_or_else(|| TreeError::Format {
            path: file.into(),
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }
}

/// The v2 cgroup in the text of `/proc/PID/cgroup`; `None` if there is none, or it is outside of our cgroup namespace.
#[must_use]
pub fn of_proc_file(text: &[u8]) -> Option<PathBuf> {
    let path = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let is_inside = path.starts_with(b"/") && !path.split(|byte| *byte == b'/').any(|name| name == b"..");
    is_inside.then(|| PathBuf::from(std::ffi::OsStr::from_bytes(path)))
}

/// Whether the kernel says that a cgroup is gone.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    // ENODEV: removed while the file was open.
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

pub(super) fn numbers(text: &str, path: &Path) -> Result<BTreeSet<u32>, TreeError> {
    let mut all = BTreeSet::new();
    for line in text.lines() {
        let number = line.parse::<u32>();
        let number =
            number.map_err(|_| TreeError::Format { path: path.to_path_buf(), text: line.to_owned() })?;
        // What has no number in our process namespace is shown as 0.
        if number != 0 {
            all.insert(number);
        }
    }
    Ok(all)
}

/// The process a thread belongs to, if it is still there.
pub(super) fn process_of(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_are_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        let tree = Tree::at(dir.path());
        fs::write(dir.path().join("a/cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert!(tree.is_populated(Path::new("/a")).unwrap());
        assert_eq!(tree.event(Path::new("/a"), "frozen").unwrap(), Some(false));
        assert!(tree.is_populated(Path::new("/gone")).is_err());
    }

    #[test]
    fn the_v2_line_is_read_on_hybrid_hosts_too() {
        let of = |text: &str| of_proc_file(text.as_bytes()).map(|path| path.display().to_string());
        assert_eq!(of("0::/a.slice/b\n").as_deref(), Some("/a.slice/b"));
        assert_eq!(of("9:name=systemd:/x\n1:cpu:/\n0::/\n").as_deref(), Some("/"));
        assert_eq!(of("0::/a (deleted)\n").as_deref(), Some("/a"));
        for bad in ["", "1:cpu:/a\n", "0::/../b\n", "0::b\n"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_proc_file_is_too_strange(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let path = of_proc_file(&[b"0::".as_slice(), &text].concat());
            prop_assert!(path.is_none_or(|path| path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir)));
        }
    }

    #[test]
    fn a_cgroup_of_this_host_is_found_with_its_processes() {
        let Ok(tree) = Tree::find() else { return };
        let Ok(own) = cgroup::OwnCgroup::create(&format!("stockade-tree-test-{}", std::process::id())) else {
            return;
        };
        let path = Path::new("/").join(own.path().strip_prefix(tree.mount()).unwrap());
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let below = own.child("below").unwrap();
        assert!(!tree.is_populated(&path).unwrap());
        below.add(child.id()).unwrap();
        assert_eq!(tree.all_processes(&path, None).unwrap().0, BTreeSet::from([child.id()]));
        assert!(tree.processes(&path).unwrap().is_empty() && tree.is_populated(&path).unwrap());
        let nodes = tree.walk(&path).unwrap().nodes;
        assert_eq!(nodes.len(), 2);
        assert_eq!((nodes[0].id, nodes[1].id), (own.id().unwrap(), below.id().unwrap()));
        // In a threaded cgroup processes cannot be listed, but threads can.
        own.add(child.id()).unwrap();
        fs::write(below.path().join("cgroup.type"), "threaded").unwrap();
        fs::write(below.path().join("cgroup.threads"), child.id().to_string()).unwrap();
        assert!(fs::read_to_string(below.path().join("cgroup.procs")).is_err());
        assert_eq!(tree.processes(&nodes[1].path).unwrap(), BTreeSet::from([child.id()]));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
