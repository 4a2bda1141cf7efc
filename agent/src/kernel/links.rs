//! Links and their pins.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::programs::ProgramFd;

use super::{KernelError, pins::is_daemons, sys};

/// An attached program. Dropping it detaches, unless it is pinned. Made here and not by aya, whose 0.14 generation keeps
/// the descriptors of cgroup links to itself, while these must be pinned.
#[derive(Debug)]
pub(super) struct Link {
    name: &'static str,
    fd: OwnedFd,
}

impl Link {
    /// An LSM or tracepoint program.
    pub(super) fn traced(name: &'static str, program: &ProgramFd) -> Result<Self, KernelError> {
        Self::new(name, sys::attach_traced(program.as_fd()))
    }

    /// A cgroup program.
    pub(super) fn cgroup(
        name: &'static str,
        program: &ProgramFd,
        cgroup: &File,
        attach_type: u32,
    ) -> Result<Self, KernelError> {
        Self::new(name, sys::attach_cgroup(program.as_fd(), cgroup.as_fd(), attach_type))
    }

    fn new(name: &'static str, fd: io::Result<OwnedFd>) -> Result<Self, KernelError> {
        let failed =
            |source| KernelError::System { step: "attaching program", object: name.to_owned(), source };
        fd.map(|fd| Self { name, fd }).map_err(failed)
    }

    /// The program's.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// What the kernel says about the program.
    pub(super) fn program(&self) -> io::Result<sys::ProgramInfo> {
        sys::program_info(sys::link_info(self.fd.as_fd())?.program)
    }

    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        sys::pin(self.fd.as_fd(), path)
    }
}

/// A directory of pinned links; removed when dropped.
#[derive(Debug)]
pub struct PinnedDirectory {
    path: PathBuf,
}

impl PinnedDirectory {
    pub(super) fn create(path: &Path, links: &[Link]) -> Result<Self, KernelError> {
        let failed = |step, object: &Path| {
            let object = object.display().to_string();
            move |source| KernelError::System { step, object, source }
        };
        fs::create_dir_all(path).map_err(failed("creating", path))?;
        let directory = Self { path: path.to_path_buf() };
        for (index, link) in links.iter().enumerate() {
            let pin = path.join(format!("{index}-{}", link.name));
            link.pin(&pin).map_err(failed("pinning", &pin))?;
        }
        Ok(directory)
    }
}

impl Drop for PinnedDirectory {
    fn drop(&mut self) {
        if let Err(error) = remove_pins(&self.path) {
            eprintln!("stockade: removing pins in {}: {error}", self.path.display());
        }
    }
}

/// Another run may be at it too.
pub(super) fn remove_pins(directory: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return gone(Err(error)),
    };
    for entry in entries {
        gone(fs::remove_file(entry?.path()))?;
    }
    gone(fs::remove_dir(directory))
}

/// Removes the pins of runs that are over: those directories below `base` for which `is_live` says no. The daemon's are
/// its own business. Returns what was removed.
///
/// # Errors
/// The first directory that could not be removed.
pub fn remove_stale_pins(base: &Path, is_live: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| !is_daemons(name) && !is_live(name)) {
            remove_pins(&entry.path())?;
            removed.push(entry.path());
        }
    }
    Ok(removed)
}
