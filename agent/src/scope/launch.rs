//! Starting the command: tagged before exec, so there is no unpoliced instant.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{
    private_tmp::PrivateTmp,
    user::{self, User},
};

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
    /// Capabilities that a root command keeps; bit n is capability n.
    pub capabilities: u64,
    /// It gets a System V IPC namespace of its own, if we may make one: what is in the host's it cannot use.
    pub own_ipc: bool,
    /// Where it is to put temporary files, if that is a directory of its own.
    pub tmp: Option<&'a Path>,
    /// How it gets into the tagged cgroup.
    pub join: Join,
}

/// How a command gets into its cgroup.
#[derive(Debug)]
pub enum Join {
    /// By itself: `cgroup.procs` of the tagged cgroup.
    Procs(File),
    /// Somebody else moves it, while it waits.
    Gate(Gate),
}

/// Where a child waits. [`gate`] makes one.
#[derive(Debug)]
pub struct Gate(UnixStream);

/// Who lets the child through, in another thread than the one that starts it.
#[derive(Debug)]
pub struct Keeper(UnixStream);

/// A gate and its keeper.
///
/// # Errors
/// If there are no descriptors left.
pub fn gate() -> io::Result<(Gate, Keeper)> {
    let (gate, keeper) = UnixStream::pair()?;
    Ok((Gate(gate), Keeper(keeper)))
}

impl Keeper {
    /// Waits until the child is at the gate, and says its process id.
    ///
    /// # Errors
    /// If it does not come: it could not be started.
    pub fn arrival(&mut self) -> io::Result<u32> {
        let mut pid = [0; 4];
        self.0.read_exact(&mut pid)?;
        Ok(u32::from_ne_bytes(pid))
    }

    /// Lets it through, or sends it away: then starting it fails.
    ///
    /// # Errors
    /// If it is gone.
    pub fn decide(&mut self, through: bool) -> io::Result<()> {
        self.0.write_all(&[u8::from(through)])
    }
}

/// In the child: says that it is there and waits for what the keeper decides. Makes system calls only. Should the keeper be
/// killed, the child is too; it holds both ends of the gate and would wait for ever.
fn wait_at(gate: i32, keepers: libc::pid_t) -> io::Result<()> {
    // SAFETY: they take numbers, or memory of ours that is as long as is said.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        if libc::getppid() != keepers {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let pid = libc::getpid();
        check(libc::write(gate, (&raw const pid).cast(), size_of_val(&pid)) as i64)?;
        let mut through = 0u8;
        loop {
            match check(libc::read(gate, (&raw mut through).cast(), 1) as i64) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
                Ok(()) if through == 1 => return Ok(()),
                Ok(()) => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
            }
        }
    }
}

/// Why a command was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step of ours failed, and the command was not reached.
    #[error("starting the command: {step}: {source}")]
    Own {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refuses to execute it.
    #[error("{}: {source}", .program.display())]
    Exec {
        /// What.
        program: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What the child does before it executes the command, in this order.
const STEPS: [&str; 9] = [
    "forking",
    "unblocking signals",
    "joining the cgroup",
    "setting groups",
    "setting ids",
    "dropping capabilities",
    "setting no_new_privs",
    "tying its life to ours",
    "closing descriptors",
];

impl Launch<'_> {
    /// Forks, joins the tagged cgroup, drops rights and executes. To be called while there is one thread, or one more that
    /// keeps the gate; the command lives no longer than the thread that calls.
    ///
    /// # Errors
    /// Of any of these steps; the child is gone then.
    pub fn start(self) -> Result<Child, LaunchError> {
        let own = |step| move |source: io::Error| LaunchError::Own { step, source };
        // Counts the steps that succeeded; goes with exec.
        let passed = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| own("counting steps")(error.into()))?;
        let mut command = Command::new(self.program);
        if let Some((first, rest)) = self.words.split_first() {
            command.arg0(first).args(rest);
        }
        if let Some(user) = self.user {
            let (set, removed) = user::environment(user);
            command.envs(set);
            for name in removed {
                command.env_remove(name);
            }
        }
        command.envs(self.tmp.into_iter().flat_map(PrivateTmp::environment));
        let counter = passed.as_raw_fd();
        let groups: Vec<libc::gid_t> = self.user.map(|user| user.groups.clone()).unwrap_or_default();
        let ids = self.user.map(|user| (user.uid, user.gid));
        let own_ipc = self.own_ipc;
        let (join, capabilities, own_pid) = (self.join, self.capabilities, std::process::id().cast_signed());
        let nothing: libc::sigset_t = *nix::sys::signal::SigSet::empty().as_ref();
        // SAFETY: the closure runs between fork and exec of a single-threaded process; it makes system calls only, and
        // what it refers to was allocated before.
        unsafe {
            command.pre_exec(move || {
                let done = || {
                    let one = 1u64;
                    check(libc::write(counter, (&raw const one).cast(), size_of::<u64>()) as i64)
                };
                done()?;
                // We block the signals that we pass on; the command must get them.
                check(libc::sigprocmask(libc::SIG_SETMASK, &raw const nothing, std::ptr::null_mut()))?;
                done()?;
                // Where there can be none the host's stays, and the programs refuse to use it.
                let _ = own_ipc && libc::unshare(libc::CLONE_NEWIPC) == 0;
                match &join {
                    Join::Procs(procs) => {
                        check(libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) as i64)?;
                    }
                    Join::Gate(Gate(gate)) => wait_at(gate.as_raw_fd(), own_pid)?,
                }
                done()?;
                if let Some((_, gid)) = ids {
                    check(libc::setgroups(groups.len(), groups.as_ptr()))?;
                    check(libc::setresgid(gid, gid, gid))?;
                }
                done()?;
                if let Some((uid, _)) = ids {
                    check(libc::setresuid(uid, uid, uid))?;
                }
                done()?;
                if libc::geteuid() == 0 && capabilities != u64::MAX {
                    drop_capabilities(capabilities)?;
                }
                done()?;
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
                done()?;
                // The pins keep it policed if we are killed; this ends it.
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
                done()?;
                check(libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC))?;
                done()
            });
        }
        command.spawn().map_err(|source| {
            let steps = passed.read().unwrap_or(0);
            match STEPS.get(steps as usize) {
                Some(step) => LaunchError::Own { step, source },
                None => LaunchError::Exec { program: self.program.to_path_buf(), source },
            }
        })
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

/// Keeps `kept` in the bounding, permitted, effective and inheritable sets; nothing in the ambient one.
fn drop_capabilities(kept: u64) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    for capability in 0..=LAST_CAPABILITY {
        if kept & 1 << capability == 0 {
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
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    let sets = [[low; 3], [high; 3]];
    // SAFETY: both structs are as capset(2) wants them for version 3, and are only read.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const sets) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use nix::sys::signal::{SigSet, SigmaskHow, Signal};

    use super::*;

    /// Joining is a write to whatever file `procs` is.
    fn launched(program: &str, script: &str, procs: &str, user: Option<&User>) -> Result<Child, LaunchError> {
        let words = ["sh", "-c", script].map(OsString::from);
        let procs = std::fs::OpenOptions::new().read(true).write(procs == "/dev/null").open(procs).unwrap();
        joined(program, &words, Join::Procs(procs), user)
    }

    fn joined(
        program: &str,
        words: &[OsString],
        join: Join,
        user: Option<&User>,
    ) -> Result<Child, LaunchError> {
        Launch {
            program: Path::new(program),
            words,
            user,
            capabilities: u64::MAX,
            own_ipc: false,
            tmp: None,
            join,
        }
        .start()
    }

    #[test]
    fn who_is_not_let_through_the_gate_never_runs() {
        let folder = tempfile::tempdir().unwrap();
        let words = ["sh", "-c", "echo > \"$0\""].map(OsString::from).to_vec();
        for through in [true, false] {
            let proof = folder.path().join(through.to_string());
            let (gate, mut keeper) = gate().unwrap();
            let keeping = std::thread::spawn(move || {
                let pid = keeper.arrival().unwrap();
                keeper.decide(through).unwrap();
                pid
            });
            let words = [words.clone(), vec![proof.clone().into()]].concat();
            let child = joined("/bin/sh", &words, Join::Gate(gate), None);
            let pid = keeping.join().unwrap();
            match child {
                Ok(mut child) => {
                    assert_eq!((through, child.id(), child.wait().unwrap().code()), (true, pid, Some(0)));
                }
                Err(error) => {
                    assert!(!through && matches!(error, LaunchError::Own { step: "joining the cgroup", .. }));
                }
            }
            assert_eq!(proof.exists(), through);
        }
    }

    #[test]
    fn a_keeper_hears_of_a_child_that_does_not_come() {
        let (gate, mut keeper) = gate().unwrap();
        let keeping = std::thread::spawn(move || keeper.arrival());
        drop(gate);
        assert!(keeping.join().unwrap().is_err());
    }

    #[test]
    fn blocked_signals_do_not_reach_the_command() {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
        let status = launched("/bin/sh", "kill -TERM $$; exit 0", "/dev/null", None).unwrap().wait().unwrap();
        before.thread_set_mask().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn a_step_of_ours_is_told_from_a_failed_exec() {
        let own = launched("/bin/sh", "", "/etc/passwd", None).unwrap_err();
        assert!(matches!(own, LaunchError::Own { step: "joining the cgroup", .. }), "{own}");
        let exec = launched("/etc/passwd", "", "/dev/null", None).unwrap_err();
        assert!(matches!(exec, LaunchError::Exec { .. }), "{exec}");
    }
}
