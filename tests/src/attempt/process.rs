//! Reaching other processes, cgroups, the bpf system call, and inherited descriptors.

use std::fs;
use std::os::fd::AsRawFd;
use std::ptr::null;

use super::open::open;
use super::{Attempt, Failure, Verb, number, or_skip};

pub const VERBS: &[Verb] = &[
    ("none", 0, |_| Ok(())),
    ("ptrace", 1, |a| {
        let pid: i32 = number(&a[0])?;
        sys!(SYS_ptrace, libc::PTRACE_SEIZE, pid, 0, 0).map(drop)
    }),
    ("proc-mem", 1, |a| {
        let pid: i32 = number(&a[0])?;
        open(&format!("/proc/{pid}/mem"), libc::O_RDWR).map(drop)
    }),
    ("signal", 1, |a| {
        let pid: i32 = number(&a[0])?;
        sys!(SYS_kill, pid, libc::SIGURG).map(drop)
    }),
    ("into-cgroup", 1, |a| Ok(fs::write(format!("{}/cgroup.procs", a[0]), "0")?)),
    ("clone-into-cgroup", 1, clone_into),
    ("bpf-cmd", 0, |_| {
        // BPF_PROG_GET_NEXT_ID is 11; the union's first words are start_id and next_id.
        let mut attr = [0u32; 4];
        match or_skip(sys!(SYS_bpf, 11, attr.as_mut_ptr(), size_of_val(&attr)), "bpf") {
            // No program is loaded: the command itself was carried out.
            Err(Failure::Os(nix::errno::Errno::ENOENT)) => Ok(()),
            other => other.map(drop),
        }
    }),
    ("inherited-fd", 1, |a| {
        let fd: i32 = number(&a[0])?;
        let mut byte = [0u8; 1];
        sys!(SYS_read, fd, byte.as_mut_ptr(), 1).map(drop)
    }),
];

/// Waits for a child and returns its raw status.
pub fn wait(pid: i32) -> Attempt<i32> {
    let mut status = 0i32;
    sys!(SYS_wait4, pid, &raw mut status, 0, null::<u8>())?;
    Ok(status)
}

fn clone_into(args: &[String]) -> Attempt {
    // An O_PATH descriptor is no open of the file, and enough here.
    let cgroup = open(&args[0], libc::O_PATH | libc::O_DIRECTORY)?;
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
    // set_tid, set_tid_size, cgroup. CLONE_INTO_CGROUP is bit 33.
    let mut clone = [0u64; 11];
    clone[0] = 1 << 33;
    clone[4] = libc::SIGCHLD as u64;
    clone[10] = cgroup.as_raw_fd() as u64;
    let pid = or_skip(sys!(SYS_clone3, clone.as_ptr(), size_of_val(&clone)), "clone3")?;
    if pid == 0 {
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(0) };
    }
    if wait(pid as i32)? == 0 { Ok(()) } else { Err(Failure::Skip("the child died".into())) }
}
