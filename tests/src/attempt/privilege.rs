//! Processes outside, and facilities of the kernel that reach beyond a tag.

use std::os::fd::AsRawFd;
use std::ptr::{null, null_mut};

use nix::errno::Errno;

use super::process::wait;
use super::{Attempt, Failure, Verb, number, or_skip, own, text};

pub const VERBS: &[Verb] = &[
    ("signal-thread", 1, |a| {
        let pid: i32 = number(&a[0])?;
        sys!(SYS_tgkill, pid, pid, libc::SIGURG).map(drop)
    }),
    ("signal-queue", 1, |a| {
        let pid: i32 = number(&a[0])?;
        // siginfo_t: the number, an error, the code SI_QUEUE (-1).
        let mut info = [0i32; 32];
        (info[0], info[2]) = (libc::SIGCONT, -1);
        sys!(SYS_rt_sigqueueinfo, pid, libc::SIGCONT, info.as_ptr()).map(drop)
    }),
    ("signal-pidfd", 1, |a| {
        let pid: i32 = number(&a[0])?;
        let pidfd = own(or_skip(sys!(SYS_pidfd_open, pid, 0), "pidfd_open")?);
        sys!(SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGURG, null::<u8>(), 0).map(drop)
    }),
    ("signal-nothing", 1, |a| {
        let pid: i32 = number(&a[0])?;
        sys!(SYS_kill, pid, 0).map(drop)
    }),
    // In a PID namespace, where it has another number than outside.
    ("own-file-owner", 0, |_| {
        sys!(SYS_unshare, libc::CLONE_NEWPID)?;
        // SAFETY: the child ends by itself.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let owned = std::io::pipe().is_ok_and(|(reader, _writer)| {
                sys!(SYS_fcntl, reader.as_raw_fd(), libc::F_SETOWN, std::process::id()).is_ok()
            });
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(i32::from(!owned)) };
        }
        if wait(pid)? == 0 { Ok(()) } else { Err(Failure::Os(Errno::EPERM)) }
    }),
    ("own-signals", 0, |_| {
        // SAFETY: the child does nothing but wait for the signal.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            loop {
                // SAFETY: takes nothing.
                unsafe { libc::pause() };
            }
        }
        sys!(SYS_kill, pid, libc::SIGKILL)?;
        wait(pid).map(drop)
    }),
    ("file-owner", 1, |a| {
        let pid: i32 = number(&a[0])?;
        let (reader, _writer) = std::io::pipe()?;
        sys!(SYS_fcntl, reader.as_raw_fd(), libc::F_SETOWN, pid).map(drop)
    }),
    ("file-owner-ex", 1, |a| {
        let pid: i32 = number(&a[0])?;
        let (reader, _writer) = std::io::pipe()?;
        // F_SETOWN_EX with an f_owner_ex of type F_OWNER_PID.
        let owner = [1i32, pid];
        sys!(SYS_fcntl, reader.as_raw_fd(), 15, owner.as_ptr()).map(drop)
    }),
    ("socket-owner", 1, |a| {
        let pid: i32 = number(&a[0])?;
        let socket = std::os::unix::net::UnixDatagram::unbound()?;
        // FIOSETOWN
        sys!(SYS_ioctl, socket.as_raw_fd(), 0x8901, &raw const pid).map(drop)
    }),
    ("limit", 1, |a| {
        let pid: i32 = number(&a[0])?;
        let mut limit = [0u64; 2];
        sys!(SYS_prlimit64, pid, libc::RLIMIT_CORE, null::<u8>(), limit.as_mut_ptr())?;
        sys!(SYS_prlimit64, pid, libc::RLIMIT_CORE, limit.as_ptr(), null_mut::<u8>()).map(drop)
    }),
    ("scheduler", 1, |a| {
        let pid: i32 = number(&a[0])?;
        let priority = 0i32;
        sys!(SYS_sched_setscheduler, pid, libc::SCHED_BATCH, &raw const priority).map(drop)
    }),
    ("affinity", 1, |a| {
        let pid: i32 = number(&a[0])?;
        let cpus = 1u64;
        sys!(SYS_sched_setaffinity, pid, size_of::<u64>(), &raw const cpus).map(drop)
    }),
    ("nice", 1, |a| {
        let pid: i32 = number(&a[0])?;
        sys!(SYS_setpriority, libc::PRIO_PROCESS, pid, 19).map(drop)
    }),
    ("io-priority", 1, |a| {
        let pid: i32 = number(&a[0])?;
        // IOPRIO_WHO_PROCESS, and the lowest priority of the class "best effort".
        sys!(SYS_ioprio_set, 1, pid, 2 << 13 | 7).map(drop)
    }),
    ("user-namespace", 0, |_| or_skip(sys!(SYS_unshare, libc::CLONE_NEWUSER), "unshare").map(drop)),
    ("user-namespace-bind", 0, |_| {
        sys!(SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
        mount("/proc", "/proc", None, libc::MS_BIND | libc::MS_REC)
    }),
    ("user-namespace-clone", 0, |_| {
        // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal.
        let mut clone = [0u64; 11];
        (clone[0], clone[4]) = (libc::CLONE_NEWUSER as u64, libc::SIGCHLD as u64);
        let pid = sys!(SYS_clone3, clone.as_ptr(), size_of_val(&clone))?;
        if pid == 0 {
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(0) };
        }
        wait(pid as i32).map(drop)
    }),
    ("mount", 1, |a| {
        apart()?;
        mount("tmpfs", &a[0], Some("tmpfs"), 0)
    }),
    ("remount", 0, |_| {
        apart()?;
        mount("none", "/", None, libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY)
    }),
    ("umount", 0, |_| {
        apart()?;
        let path = text("/proc")?;
        sys!(SYS_umount2, path.as_ptr(), libc::MNT_DETACH).map(drop)
    }),
    ("move-mount", 1, |a| {
        apart()?;
        let kind = text("tmpfs")?;
        let context = own(or_skip(sys!(SYS_fsopen, kind.as_ptr(), 0), "fsopen")?);
        // FSCONFIG_CMD_CREATE
        sys!(SYS_fsconfig, context.as_raw_fd(), 6, null::<u8>(), null::<u8>(), 0)?;
        let mount = own(sys!(SYS_fsmount, context.as_raw_fd(), 0, 0)?);
        let (empty, to) = (text("")?, text(&a[0])?);
        // MOVE_MOUNT_F_EMPTY_PATH
        sys!(SYS_move_mount, mount.as_raw_fd(), empty.as_ptr(), libc::AT_FDCWD, to.as_ptr(), 4).map(drop)
    }),
    ("io_uring-setup", 0, |_| {
        let mut parameters = [0u8; 120];
        or_skip(sys!(SYS_io_uring_setup, 1, parameters.as_mut_ptr()), "io_uring").map(|fd| drop(own(fd)))
    }),
    // UFFD_USER_MODE_ONLY: what anybody may.
    ("userfaultfd", 0, |_| or_skip(sys!(SYS_userfaultfd, 1), "userfaultfd").map(|fd| drop(own(fd)))),
    ("eventfd", 0, |_| sys!(SYS_eventfd2, 0, 0).map(|fd| drop(own(fd)))),
    ("add-key", 0, |_| {
        let (kind, name) = (text("user")?, text("stockade")?);
        // KEY_SPEC_PROCESS_KEYRING
        or_skip(sys!(SYS_add_key, kind.as_ptr(), name.as_ptr(), name.as_ptr(), 1, -2isize), "keys").map(drop)
    }),
    // KEYCTL_JOIN_SESSION_KEYRING of one without a name.
    ("session-keyring", 0, |_| or_skip(sys!(SYS_keyctl, 1, null::<u8>()), "keys").map(drop)),
    ("perf", 0, |_| {
        // struct perf_event_attr of its first version: PERF_TYPE_SOFTWARE, 64 bytes.
        let mut attributes = [0u32; 16];
        (attributes[0], attributes[1]) = (1, 64);
        or_skip(sys!(SYS_perf_event_open, attributes.as_ptr(), 0, -1isize, -1isize, 0), "perf")
            .map(|fd| drop(own(fd)))
    }),
    ("kernel-log", 0, |_| {
        let mut buffer = [0u8; 64];
        sys!(SYS_syslog, 3, buffer.as_mut_ptr(), buffer.len()).map(drop)
    }),
    ("shared-memory", 1, |a| {
        let key: i32 = number(&a[0])?;
        let segment = sys!(SYS_shmget, key, 0, 0)?;
        sys!(SYS_shmat, segment, null::<u8>(), libc::SHM_RDONLY).map(drop)
    }),
    ("shared-memory-set", 1, |a| {
        // By number, not by key: IPC_STAT, then IPC_SET of the same.
        let mut state = [0u64; 16];
        let segment: i32 = number(&a[0])?;
        sys!(SYS_shmctl, segment, 2, state.as_mut_ptr())?;
        sys!(SYS_shmctl, segment, 1, state.as_mut_ptr()).map(drop)
    }),
    ("own-semaphore", 0, |_| {
        let semaphore = sys!(SYS_semget, libc::IPC_PRIVATE, 1, 0o600)?;
        // One semaphore up by one.
        let operation = [0i16, 1, 0];
        let used = sys!(SYS_semop, semaphore, operation.as_ptr(), 1);
        sys!(SYS_semctl, semaphore, 0, libc::IPC_RMID)?;
        used.map(drop)
    }),
    ("message-queue", 1, |a| {
        let name = text(&a[0])?;
        or_skip(sys!(SYS_mq_open, name.as_ptr(), libc::O_RDONLY, 0, null::<u8>()), "mqueue")
            .map(|fd| drop(own(fd)))
    }),
    ("pivot-root", 1, |a| {
        apart()?;
        // EINVAL: it is no mount point, which is looked at when the hook has been asked.
        let path = text(&a[0])?;
        match sys!(SYS_pivot_root, path.as_ptr(), path.as_ptr()) {
            Err(Failure::Os(Errno::EINVAL | Errno::EBUSY)) => Ok(()),
            other => other.map(drop),
        }
    }),
    ("capability", 1, |a| capability(&a[0])),
];

/// In a mount namespace of its own, whose mounts nobody else sees or misses: in a guest's nothing is shared.
fn apart() -> Attempt {
    sys!(SYS_unshare, libc::CLONE_NEWNS).map(drop)
}

fn mount(source: &str, target: &str, kind: Option<&str>, flags: u64) -> Attempt {
    let (source, target) = (text(source)?, text(target)?);
    let kind = kind.map(text).transpose()?;
    let kind = kind.as_ref().map_or(null(), |kind| kind.as_ptr());
    sys!(SYS_mount, source.as_ptr(), target.as_ptr(), kind, flags, null::<u8>()).map(drop)
}

/// Something that only this capability allows, and that changes nothing.
fn capability(name: &str) -> Attempt {
    match name {
        // The name that is there already.
        "sys_admin" => {
            let mut state = [0u8; 390];
            sys!(SYS_uname, state.as_mut_ptr())?;
            let host = &state[65..130];
            let length = host.iter().position(|byte| *byte == 0).unwrap_or(0);
            sys!(SYS_sethostname, host.as_ptr(), length).map(drop)
        }
        "sys_chroot" => {
            let root = text("/")?;
            sys!(SYS_chroot, root.as_ptr()).map(drop)
        }
        "sys_time" => {
            let mut now = [0i64; 2];
            sys!(SYS_clock_gettime, 0, now.as_mut_ptr())?;
            sys!(SYS_clock_settime, 0, now.as_ptr()).map(drop)
        }
        // iopl(0) is nothing that needs it; ioperm on one port does.
        "sys_rawio" => sys!(SYS_ioperm, 0x80, 1, 1).map(drop),
        // LINUX_REBOOT_CMD_CAD_OFF
        "sys_boot" => sys!(SYS_reboot, 0xfee1_deadu32, 672_274_793, 0, 0).map(drop),
        // Not a module: what is asked first is who may load one.
        "sys_module" => match sys!(SYS_delete_module, text("no-such-module")?.as_ptr(), 0) {
            Err(Failure::Os(Errno::ENOENT)) => Ok(()),
            other => other.map(drop),
        },
        "net_raw" => sys!(SYS_socket, libc::AF_INET, libc::SOCK_RAW, 1).map(|fd| drop(own(fd))),
        "net_admin" => {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
            let mark = 1u32;
            let (level, name) = (libc::SOL_SOCKET, libc::SO_MARK);
            sys!(SYS_setsockopt, socket.as_raw_fd(), level, name, &raw const mark, 4).map(drop)
        }
        "sys_nice" => sys!(SYS_setpriority, libc::PRIO_PROCESS, 0, -1isize).map(drop),
        "sys_resource" => {
            let mut limit = [0u64; 2];
            sys!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, null::<u8>(), limit.as_mut_ptr())?;
            limit[1] += 1;
            sys!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, limit.as_ptr(), null_mut::<u8>()).map(drop)
        }
        "setuid" => sys!(SYS_setresuid, 1, 1, 1).map(drop),
        other => Err(Failure::Usage(format!("no attempt at {other}"))),
    }
}
