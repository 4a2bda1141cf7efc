//! Cgroup-v2 directories of our own.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};

use crate::policy::mounts::MountTable;

/// Turns of 10 ms that are waited for a killed cgroup to empty.
const EMPTYING_TURNS: u32 = 500;

/// An operation on a cgroup failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}: {source}")]
pub struct CgroupError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError { step, path: path.to_path_buf(), source }
}

/// A directory made by us; what is in it is killed, and it is removed, when this is dropped.
#[derive(Debug)]
pub struct OwnCgroup {
    path: PathBuf,
    /// Says that whoever made it is alive: the kernel lets go of it when this process ends, however it does.
    alive: Option<Flock<File>>,
}

impl OwnCgroup {
    /// Makes `name` below the caller's own cgroup, or where that can't be below the root of the hierarchy. The mount is
    /// found by its type, so hybrid hosts work too.
    ///
    /// # Errors
    /// No cgroup-v2 mount, or the directory cannot be made.
    pub fn create(name: &str) -> Result<Self, CgroupError> {
        let root = hierarchy()?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).filter(|own| !own.starts_with(".."));
        let mut refused = None;
        for parent in own.map(|own| root.join(own)).into_iter().chain([root]) {
            match Self::make(parent.join(name)) {
                Ok(mut cgroup) => {
                    cgroup.alive = Some(lock(&cgroup.path).map_err(failed("locking", &cgroup.path))?);
                    // Bounds what the workload can make below; not there on every controller setting.
                    let _ = fs::write(cgroup.path.join("cgroup.max.descendants"), "4096");
                    let _ = fs::write(cgroup.path.join("cgroup.max.depth"), "16");
                    return Ok(cgroup);
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused
            .unwrap_or_else(|| failed("creating cgroup", Path::new(name))(io::ErrorKind::NotFound.into())))
    }

    /// One that was made before, by a process that is gone.
    ///
    /// # Errors
    /// If it is gone too, or somebody else has taken it on.
    pub fn adopt(path: PathBuf) -> Result<Self, CgroupError> {
        let alive = lock(&path).map_err(failed("locking", &path))?;
        Ok(Self { path, alive: Some(alive) })
    }

    /// Leaves it as it is, for who [adopts](Self::adopt) it.
    pub fn leave(mut self) {
        self.alive = None;
        std::mem::forget(self);
    }

    /// Whether processes are in it or below.
    ///
    /// # Errors
    /// If it is gone.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        populated(&self.path)
    }

    /// Makes a cgroup below this one, where the programs attached to this one run too.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn child(&self, name: &str) -> Result<Self, CgroupError> {
        Self::make(self.path.join(name))
    }

    fn make(path: PathBuf) -> Result<Self, CgroupError> {
        fs::create_dir(&path).map_err(failed("creating cgroup", &path))?;
        Ok(Self { path, alive: None })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kernel id.
    ///
    /// # Errors
    /// If the directory is gone.
    pub fn id(&self) -> Result<u64, CgroupError> {
        fs::metadata(&self.path).map(|metadata| metadata.ino()).map_err(failed("reading", &self.path))
    }

    /// The directory, opened for attaching programs.
    ///
    /// # Errors
    /// If it is gone.
    pub fn directory(&self) -> Result<File, CgroupError> {
        File::open(&self.path).map_err(failed("opening", &self.path))
    }

    /// `cgroup.procs`, opened for joining.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn procs(&self) -> Result<File, CgroupError> {
        let path = self.path.join("cgroup.procs");
        OpenOptions::new().write(true).open(&path).map_err(failed("opening", &path))
    }

    /// Moves a process in.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        let path = self.path.join("cgroup.procs");
        fs::write(&path, pid.to_string()).map_err(failed("writing", &path))
    }

    /// Kills what is in it, waits until it is empty, and removes it with its children.
    ///
    /// # Errors
    /// If something survives.
    pub fn kill_and_remove(&self) -> Result<(), CgroupError> {
        if !self.path.exists() {
            return Ok(());
        }
        let kill = self.path.join("cgroup.kill");
        for _ in 0..EMPTYING_TURNS {
            fs::write(&kill, "1").map_err(failed("writing", &kill))?;
            if !populated(&self.path)? {
                return remove(&self.path).map_err(failed("removing", &self.path));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(failed("emptying", &self.path)(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        if let Err(error) = self.kill_and_remove() {
            eprintln!("stockade: {error}");
        }
    }
}

/// Where cgroup v2 is mounted.
///
/// # Errors
/// If it is not.
pub fn hierarchy() -> Result<PathBuf, CgroupError> {
    let mountinfo = Path::new("/proc/self/mountinfo");
    let text = fs::read(mountinfo).map_err(failed("reading", mountinfo))?;
    let none = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no cgroup2 filesystem is mounted: mount -t cgroup2 none /sys/fs/cgroup, or on a hybrid host a directory below it",
        )
    };
    let table =
        MountTable::parse(&text).map_err(|error| failed("reading", mountinfo)(io::Error::other(error)))?;
    let mount = table.mounts.iter().find(|mount| mount.fs_type == "cgroup2");
    mount
        .and_then(|mount| std::str::from_utf8(&mount.point).ok())
        .map(PathBuf::from)
        .ok_or_else(|| failed("looking for cgroup2 in", mountinfo)(none()))
}

/// Whether a run that made a cgroup of this name may still need what polices it: the run is alive, or something that it
/// started is. If neither, the cgroup is removed.
///
/// # Errors
/// If that cannot be found out, or the cgroup cannot be removed.
pub fn in_use(name: &str) -> Result<bool, CgroupError> {
    let root = hierarchy()?;
    let Some(path) = search(&root, name).map_err(failed("searching", &root))? else { return Ok(false) };
    // Held until the cgroup is gone, so that no other run clears it away at the same time.
    let _alive = match lock(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
        Err(error) => return Err(failed("locking", &path)(error)),
    };
    if populated(&path)? {
        return Ok(true);
    }
    remove(&path).map_err(failed("removing", &path)).map(|()| false)
}

fn lock(path: &Path) -> io::Result<Flock<File>> {
    Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

fn populated(path: &Path) -> Result<bool, CgroupError> {
    let events = path.join("cgroup.events");
    let state = fs::read_to_string(&events).map_err(failed("reading", &events))?;
    Ok(!state.lines().any(|line| line == "populated 0"))
}

fn search(path: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(path)?.flatten() {
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let found = if entry.file_name() == name { Some(entry.path()) } else { search(&entry.path(), name)? };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
