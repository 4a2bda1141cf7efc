//! Starting the command: tagged before exec, so there is no unpoliced instant.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::fd::AsRawFd as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command},
};

use super::user::User;

/// Capabilities that stay with a command that runs as root: those that reach no further than its own files and users.
/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, AUDIT_WRITE, SETFCAP.
const KEPT: u64 =
    1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 29 | 1 << 31;
const LAST_CAPABILITY: u32 = 63;

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Absolute path.
    pub program: &'a Path,
    /// Argument 0 as the user wrote it, then the others.
    pub words: &'a [OsString],
    /// Whom to become.
    pub user: Option<&'a User>,
    /// Leave a root command all capabilities.
    pub keep_capabilities: bool,
    /// `cgroup.procs` of the tagged cgroup.
    pub procs: File,
}

impl Launch<'_> {
    /// Forks, joins the tagged cgroup, drops rights and executes.
    ///
    /// # Errors
    /// Of any of these steps; the child is gone then.
    pub fn start(self) -> io::Result<Child> {
        let mut command = Command::new(self.program);
        if let Some((first, rest)) = self.words.split_first() {
            command.arg0(first).args(rest);
        }
        if let Some(user) = self.user {
            command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name);
        }
        let groups: Vec<libc::gid_t> = self.user.map(|user| user.groups.clone()).unwrap_or_default();
        let ids = self.user.map(|user| (user.uid, user.gid));
        let (procs, keep) = (self.procs, self.keep_capabilities);
        let nothing: libc::sigset_t = *nix::sys::signal::SigSet::empty().as_ref();
        // SAFETY: the closure runs between fork and exec of a single-threaded process; it makes system calls only, and
        // what it refers to was allocated before.
        unsafe {
            command.pre_exec(move || {
                // We block the signals that we pass on; the command must get them.
                check(libc::sigprocmask(libc::SIG_SETMASK, &raw const nothing, std::ptr::null_mut()))?;
                check(libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) as i64)?;
                if let Some((uid, gid)) = ids {
                    check(libc::setgroups(groups.len(), groups.as_ptr()))?;
                    check(libc::setresgid(gid, gid, gid))?;
                    check(libc::setresuid(uid, uid, uid))?;
                }
                if libc::geteuid() == 0 && !keep {
                    drop_capabilities()?;
                }
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
                // The pins keep it policed if we are killed; this ends it.
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
                check(libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC))?;
                Ok(())
            });
        }
        command.spawn()
    }
}

fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// Keeps [`KEPT`] in the bounding, permitted, effective and inheritable sets; nothing in the ambient one.
fn drop_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    for capability in 0..=LAST_CAPABILITY {
        if KEPT & 1 << capability == 0 {
            // SAFETY: takes numbers only; EINVAL says that the kernel has no such capability.
            let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
            if result != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
                return Err(io::Error::last_os_error());
            }
        }
    }
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?;
    let header = CapabilityHeader { version: VERSION_3, pid: 0 };
    let low = KEPT as u32;
    let sets: [[u32; 3]; 2] = [[low, low, low], [0, 0, 0]];
    // SAFETY: both structs are as capset(2) wants them for version 3, and are only read.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const sets) })
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, SigmaskHow, Signal};

    use super::*;

    #[test]
    fn blocked_signals_do_not_reach_the_command() {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
        let words = ["sh", "-c", "kill -TERM $$; exit 0"].map(OsString::from);
        // Joining is a write to whatever file this is.
        let procs = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        let launch = Launch {
            program: Path::new("/bin/sh"),
            words: &words,
            user: None,
            keep_capabilities: true,
            procs,
        };
        let status = launch.start().unwrap().wait().unwrap();
        before.thread_set_mask().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
    }
}
