//! Who is at the other end of a connection, and from within which cgroup.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};

/// Why nothing is said about a process.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The kernel does not say who it is.
    #[error("{step}: {source}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It cannot be seen from here.
    #[error("the process is in a pid namespace that the daemon cannot see into")]
    Invisible,
    /// It has ended, and its id may be another's.
    #[error("process {0} has ended")]
    Gone(u32),
    /// What `/proc` says is not understood.
    #[error("process {0}: /proc does not say {1}")]
    Unclear(u32, &'static str),
}

/// A process, held by its descriptor: its id cannot come to mean another one unnoticed.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

/// Somebody connected.
#[derive(Debug)]
pub struct Peer {
    /// The process that connected.
    pub process: Process,
    /// Its user when it did.
    pub uid: u32,
    /// Its group when it did.
    pub gid: u32,
}

impl Peer {
    /// Of a connected socket. From 6.5 the kernel keeps hold of the process that connected; before that it is taken hold of
    /// here, and there is an instant in which its id could have become another's.
    ///
    /// # Errors
    /// If the kernel doesn't say, or the process is gone.
    pub fn of(socket: &impl AsFd) -> Result<Self, PeerError> {
        let credentials = getsockopt(&socket.as_fd(), PeerCredentials)
            .map_err(|error| PeerError::Step { step: "asking who connected", source: error.into() })?;
        let pid =
            u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0).ok_or(PeerError::Invisible)?;
        let process = match peer_pidfd(socket.as_fd()) {
            Ok(pidfd) => Process { pid, pidfd },
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Process::hold(pid)?,
            // ESRCH from a process that was reaped, ENODATA from a socket without one.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODATA | libc::EINVAL)) =>
            {
                return Err(PeerError::Gone(pid));
            }
            Err(source) => return Err(PeerError::Step { step: "taking hold of who connected", source }),
        };
        Ok(Self { process, uid: credentials.uid(), gid: credentials.gid() })
    }
}

fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes one descriptor to a place that is as long as is said.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Process {
    /// Takes hold of whatever process has this id now.
    ///
    /// # Errors
    /// If there is none.
    pub fn hold(pid: u32) -> Result<Self, PeerError> {
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => {
                // SAFETY: the kernel has just made it for us.
                Ok(Self { pid, pidfd: unsafe { OwnedFd::from_raw_fd(fd) } })
            }
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ESRCH) => Err(PeerError::Gone(pid)),
                source => Err(PeerError::Step { step: "taking hold of a process", source }),
            },
        }
    }

    /// Its id, which is its own as long as it [lives](Self::lives).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its descriptor: readable when it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn lives(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        // What cannot be asked is taken to have ended.
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    /// Reads a file of its `/proc`, which is its own only if it lives still afterwards.
    fn read(&self, file: &str) -> Result<String, PeerError> {
        let text = fs::read(format!("/proc/{}/{file}", self.pid));
        if !self.lives() {
            return Err(PeerError::Gone(self.pid));
        }
        let text = text.map_err(|source| PeerError::Step { step: "reading /proc", source })?;
        // Names in it are anybody's; fields are ASCII.
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Its cgroup, as a path from the root of the v2 hierarchy.
    ///
    /// # Errors
    /// If it is gone, or the path leads out of what the daemon can see.
    pub fn cgroup(&self) -> Result<PathBuf, PeerError> {
        use std::os::unix::ffi::OsStringExt as _;
        let text = fs::read(format!("/proc/{}/cgroup", self.pid));
        if !self.lives() {
            return Err(PeerError::Gone(self.pid));
        }
        let text = text.map_err(|source| PeerError::Step { step: "reading /proc", source })?;
        let path = v2_path(&text).ok_or(PeerError::Unclear(self.pid, "which cgroup it is in"))?;
        Ok(PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())))
    }

    /// Real, effective, saved and filesystem user.
    ///
    /// # Errors
    /// If it is gone.
    pub fn uids(&self) -> Result<[u32; 4], PeerError> {
        let status = self.read("status")?;
        uids(&status).ok_or(PeerError::Unclear(self.pid, "whose it is"))
    }

    /// Its parent.
    ///
    /// # Errors
    /// If it is gone.
    pub fn parent(&self) -> Result<u32, PeerError> {
        let status = self.read("status")?;
        field(&status, "PPid:")
            .and_then(|text| text.trim().parse().ok())
            .ok_or(PeerError::Unclear(self.pid, "who started it"))
    }
}

/// The line of the v2 hierarchy is the one without controllers; hybrid hosts have others beside it.
fn v2_path(text: &[u8]) -> Option<&[u8]> {
    let path = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    // Outside of our cgroup namespace; of a cgroup that was removed.
    let seen = path.starts_with(b"/") && !path.starts_with(b"/..") && !path.ends_with(b" (deleted)");
    seen.then_some(path)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

fn uids(status: &str) -> Option<[u32; 4]> {
    let mut numbers = field(status, "Uid:")?.split_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some([next()?, next()?, next()?, next()?])
}

/// Which cgroups are held to a policy. The core knows.
pub trait Tags: Send + Sync {
    /// Whether a process in this cgroup, a path from the root of the v2 hierarchy, is held to a policy. What cannot be found
    /// out is to be taken as tagged.
    fn is_tagged(&self, cgroup: &Path) -> bool;
}

impl<F: Fn(&Path) -> bool + Send + Sync> Tags for F {
    fn is_tagged(&self, cgroup: &Path) -> bool {
        self(cgroup)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixStream,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn the_v2_line_is_found_on_hybrid_hosts_too() {
        assert_eq!(v2_path(b"0::/a/b\n"), Some(&b"/a/b"[..]));
        assert_eq!(v2_path(b"9:name=systemd:/x\n4:memory:/y\n0::/\n"), Some(&b"/"[..]));
        for unclear in ["", "4:memory:/y\n", "0::/../x\n", "0::/a (deleted)\n", "0::\n"] {
            assert_eq!(v2_path(unclear.as_bytes()), None, "{unclear:?}");
        }
    }

    #[test]
    fn names_cannot_pass_for_fields() {
        let status = "Name:\tUid: 0 0 0 0\nPPid:\t7\nUid:\t1\t2\t3\t4\n";
        assert_eq!(uids(status), Some([1, 2, 3, 4]));
        assert_eq!(field(status, "PPid:"), Some("\t7"));
    }

    #[test]
    fn a_peer_is_who_connected() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer.process.pid(), std::process::id());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert!(peer.process.lives());
        assert!(peer.process.cgroup().unwrap().is_absolute());
        assert_eq!(peer.process.uids().unwrap()[1], peer.uid);
        assert_eq!(peer.process.parent().unwrap(), std::os::unix::process::parent_id());
    }

    #[test]
    fn nothing_is_said_of_a_process_that_has_ended() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let process = Process::hold(child.id()).unwrap();
        assert_eq!(process.parent().unwrap(), std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.lives());
        assert!(matches!(process.cgroup(), Err(PeerError::Gone(_))));
        assert!(matches!(process.uids(), Err(PeerError::Gone(_))));
        assert!(matches!(Process::hold(child.id()), Err(PeerError::Gone(_))));
    }
}
