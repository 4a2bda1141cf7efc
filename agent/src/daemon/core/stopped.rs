//! A process that was stopped before its first instruction.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::scope::tree::of_proc_file;

/// Between two looks whether it is.
const TURN: Duration = Duration::from_millis(5);

/// A process, whatever becomes of its number.
#[derive(Debug)]
pub(super) struct Process(OwnedFd);

impl Process {
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: takes numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor the kernel has just given out.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    pub(super) fn send(&self, signal: Signal) -> io::Result<()> {
        let nothing: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: takes a descriptor and numbers; no information is given.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal as i32, nothing, 0)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Whether a process is stopped. The signal that stops it may be on its way.
pub(super) fn stands(pid: u32, turns: u32) -> bool {
    for turn in 1..=turns {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
            Some('T') => return true,
            Some('R' | 'S' | 'D') if turn < turns => std::thread::sleep(TURN),
            _ => return false,
        }
    }
    false
}

pub(super) fn cgroup_of(pid: u32) -> Option<PathBuf> {
    of_proc_file(&std::fs::read(format!("/proc/{pid}/cgroup")).ok()?)
}
