//! What is outside the run, read once when it starts: the host, and who started us.

use std::{
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};
use procfs::process::Process;

/// Ancestors of ours that are named.
const MAX_ANCESTORS: usize = 16;
/// Bytes kept of an ancestor's command line.
const MAX_ARGV: u64 = 4096;

/// A process that led to this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starter {
    /// Its id.
    pub pid: i32,
    /// Path of its program, if it may be known.
    pub exe: Option<Vec<u8>>,
    /// Its command line, each word ended by a NUL; the beginning of it.
    pub argv: Option<Vec<u8>>,
}

/// The host, and who started us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// Where we were started.
    pub cwd: Option<Vec<u8>>,
    /// The user who started us; through sudo, who called it.
    pub uid: u32,
    /// Our parent, its parent, and so on.
    pub started_by: Vec<Starter>,
}

impl Origin {
    /// Reads it all.
    #[must_use]
    pub fn read(uid: u32) -> Self {
        let mut started_by = Vec::new();
        let mut pid = nix::unistd::getppid().as_raw();
        while pid > 0 && started_by.len() < MAX_ANCESTORS {
            let Ok(process) = Process::new(pid) else { break };
            let Ok(stat) = process.stat() else { break };
            started_by.push(starter(&process));
            pid = stat.ppid;
        }
        Self {
            boot_id: procfs::sys::kernel::random::boot_id().unwrap_or_default().trim().to_owned(),
            kernel: nix::sys::utsname::uname()
                .map(|uname| uname.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            cwd: std::env::current_dir().ok().map(|cwd| cwd.as_os_str().as_bytes().to_vec()),
            uid,
            started_by,
        }
    }
}

fn starter(process: &Process) -> Starter {
    // Not `Process::cmdline`, which wants UTF-8.
    let argv = process.open_relative("cmdline").ok().and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MAX_ARGV).read_to_end(&mut bytes).ok().map(|_| bytes)
    });
    let exe = process.exe().ok().map(|path| path.as_os_str().as_bytes().to_vec());
    Starter { pid: process.pid(), exe, argv }
}

/// Nanoseconds since boot, suspend included: the clock of the kernel programs.
#[must_use]
pub fn boot_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned())
}

/// Wall-clock time of boot.
#[must_use]
pub fn boot_time() -> SystemTime {
    SystemTime::now().checked_sub(std::time::Duration::from_nanos(boot_ns())).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_runner_started_this() {
        let origin = Origin::read(0);
        assert_eq!(origin.started_by[0].pid, nix::unistd::getppid().as_raw());
        assert!(origin.started_by[0].argv.as_ref().is_some_and(|argv| !argv.is_empty()));
        assert_eq!(origin.boot_id.len(), 36, "{:?}", origin.boot_id);
        assert!(!origin.kernel.is_empty());
    }
}
