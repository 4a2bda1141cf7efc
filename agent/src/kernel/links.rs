//! Links and their pins.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use aya::programs::ProgramFd;

use super::KernelError;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_LINK_CREATE: libc::c_long = 28;

/// An attached program. Dropping it detaches, unless it is pinned. Made here and not by aya, whose 0.14 generation keeps
/// the descriptors of cgroup links to itself, while these must be pinned.
#[derive(Debug)]
pub(super) struct Link {
    name: &'static str,
    fd: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<RawFd> {
    // SAFETY: `attr` is a `#[repr(C)]` prefix of `union bpf_attr`, whose size is given; the kernel only reads it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

impl Link {
    /// An LSM or tracepoint program: what it attaches to was said when it was loaded (kernel 5.7).
    pub(super) fn traced(name: &'static str, program: &ProgramFd) -> Result<Self, KernelError> {
        let attr = RawTracepointOpen { name: 0, prog_fd: program.as_fd().as_raw_fd() as u32, pad: 0 };
        Self::create(name, BPF_RAW_TRACEPOINT_OPEN, &attr)
    }

    /// A cgroup program. Flags 0 on a link mean that programs of ancestors and other owners run as well (kernel 5.7).
    pub(super) fn cgroup(
        name: &'static str,
        program: &ProgramFd,
        cgroup: &File,
        attach_type: u32,
    ) -> Result<Self, KernelError> {
        let attr = LinkCreate {
            prog_fd: program.as_fd().as_raw_fd() as u32,
            target_fd: cgroup.as_raw_fd() as u32,
            attach_type,
            flags: 0,
        };
        Self::create(name, BPF_LINK_CREATE, &attr)
    }

    fn create<T>(name: &'static str, command: libc::c_long, attr: &T) -> Result<Self, KernelError> {
        let fd = bpf(command, attr).map_err(|source| KernelError::System {
            step: "attaching program",
            object: name.to_owned(),
            source,
        })?;
        // SAFETY: a descriptor the kernel has just given out.
        Ok(Self { name, fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    fn pin(&self, path: &Path) -> io::Result<()> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let attr =
            ObjPin { pathname: name.as_ptr() as u64, bpf_fd: self.fd.as_raw_fd() as u32, file_flags: 0 };
        bpf(BPF_OBJ_PIN, &attr).map(|_| ())
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
fn remove_pins(directory: &Path) -> io::Result<()> {
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

/// Removes the pins of runs that are over: those directories below `base` for which `is_live` says no. Returns what
/// was removed.
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
        if entry.file_name().to_str().is_some_and(|name| !is_live(name)) {
            remove_pins(&entry.path())?;
            removed.push(entry.path());
        }
    }
    Ok(removed)
}
