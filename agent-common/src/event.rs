//! Event records of the ring buffer. Every record is an [`EventHeader`], then the body of its kind, then for some kinds
//! a run of bytes whose length the body gives. The JSON form is separate (`agent/src/audit`).

use crate::{assert_size, pod};

/// Raised when a record's layout changes.
pub const EVENT_VERSION: u16 = 3;

/// Kinds, numbered by family: 1xx process, 2xx file, 3xx network.
pub mod kind {
    /// Body [`super::FileBody`] and a path, then [`super::ArgvBody`] and a command line, its words NUL-terminated: a
    /// program was executed (after the fact).
    pub const EXEC: u16 = 100;
    /// Body [`super::ForkBody`].
    pub const FORK: u16 = 102;
    /// Body [`super::ExitBody`]: the last thread of a process is gone.
    pub const EXIT: u16 = 103;
    /// Body [`super::TargetBody`]: another process was reached for by ptrace and its like.
    pub const PTRACE: u16 = 104;
    /// Body [`super::TargetBody`]: an operation that would undo the enforcement (bpf(), leaving the cgroup), or that takes a
    /// privilege or a facility of the kernel which the policy does not give.
    pub const CONFINE: u16 = 105;
    /// Body [`super::FileBody`] and a path: a cgroup was tagged when it was made, because of its path. The header's cgroup
    /// is the new one.
    pub const CGROUP: u16 = 106;
    /// Body [`super::TargetBody`]: a signal to another process, or a change of its priority or limits.
    pub const SIGNAL: u16 = 108;
    /// Body of an [`EXEC`]: a workload was executed whose policy or mounts are not known yet. It is stopped before its first
    /// instruction, until userspace has found out.
    pub const STARTED: u16 = 107;
    /// Body [`super::FileBody`] and a path: an open.
    pub const OPEN: u16 = 200;
    /// Body [`super::FileBody`] and a path: a change that is not an open (create, rename, unlink, ...).
    pub const CHANGE: u16 = 201;
    /// Body [`super::NetBody`]: a connect.
    pub const CONNECT: u16 = 300;
    /// Body [`super::NetBody`]: a send that names its destination.
    pub const SEND: u16 = 301;
    /// Body [`super::NetBody`]: the creation of a socket.
    pub const SOCKET: u16 = 302;
    /// Body [`super::NetBody`]: a connect or send to a unix socket without a name, or to one made inside the tag.
    pub const UNIX: u16 = 303;
    /// Body [`super::FileBody`] and the socket's path, or with [`crate::limits::ABSTRACT_DEV`] its abstract name: a connect
    /// or send to a unix socket made outside the tag. The body's mode is the socket's type.
    pub const UNIX_NAMED: u16 = 304;
    /// Body [`super::NetBody`], the address being the local one: a socket is made to listen, or a datagram socket bound to
    /// a port.
    pub const LISTEN: u16 = 305;
    /// Body [`super::NetBody`], the address being the local one: a connection is taken from a listener made outside the tag.
    pub const ACCEPT: u16 = 306;
    /// Body [`super::NetBody`]: a socket made outside the tag is handed in (SCM_RIGHTS, pidfd_getfd).
    pub const RECEIVE: u16 = 307;
}

/// Outcomes.
pub mod verdict {
    /// Went on.
    pub const ALLOWED: u8 = 0;
    /// Refused with EPERM.
    pub const DENIED: u8 = 1;
    /// Audit mode: went on, would have been refused.
    pub const WOULD_DENY: u8 = 2;
}

/// Why a verdict came about.
pub mod reason {
    /// An allow rule, or for events that are not decisions nothing.
    pub const RULE_ALLOW: u16 = 0;
    /// A deny rule.
    pub const RULE_DENY: u16 = 1;
    /// No rule covers it.
    pub const NO_RULE: u16 = 2;
    /// The file is on a filesystem no rule reaches.
    pub const UNKNOWN_FILESYSTEM: u16 = 3;
    /// The file has no name in its filesystem: detached, disconnected or anonymous.
    pub const NO_NAME: u16 = 4;
    /// The path is past the limits.
    pub const PATH_TOO_LONG: u16 = 5;
    /// A helper failed, a buffer was missing or a table was inconsistent.
    pub const INTERNAL: u16 = 6;
    /// A socket family, type or protocol that no rule can name.
    pub const FAMILY: u16 = 7;
    /// A device node no rule can name.
    pub const DEVICE: u16 = 8;
    /// The peer or target is outside the tag.
    pub const OUTSIDE: u16 = 9;
    /// The peer is inside the tag.
    pub const INSIDE: u16 = 10;
    /// Would move what a deny rule covers.
    pub const MOVES_DENIED: u16 = 11;
    /// Confinement of the tag itself.
    pub const CONFINED: u16 = 12;
    /// The loopback port is one that the tag itself listens on.
    pub const OWN_LISTENER: u16 = 13;
    /// A question to a name server; it is carried to the DNS gate, which decides on the name.
    pub const DNS_GATE: u16 = 14;
    /// A question to a name server, and the scope has no gate in this network namespace.
    pub const NO_GATE: u16 = 15;
    /// A name allowed the address, for a time that is over.
    pub const NAME_EXPIRED: u16 = 16;
    /// It would not leave by the interface that the policy names.
    pub const INTERFACE: u16 = 17;
    /// A privilege or a facility of the kernel that the policy does not give.
    pub const PRIVILEGE: u16 = 18;
}

/// Where a record was made.
pub mod hook {
    /// Names in index order; an event's `hook` indexes this.
    pub const NAMES: [&str; 79] = [
        "none",
        "lsm/file_open",
        "lsm/path_mknod",
        "lsm/path_mkdir",
        "lsm/path_rmdir",
        "lsm/path_unlink",
        "lsm/path_symlink",
        "lsm/path_link",
        "lsm/path_rename",
        "lsm/path_truncate",
        "lsm/path_chmod",
        "lsm/path_chown",
        "lsm/socket_create",
        "lsm/socket_connect",
        "lsm/socket_sendmsg",
        "lsm/unix_stream_connect",
        "lsm/unix_may_send",
        "lsm/ptrace_access_check",
        "lsm/task_alloc",
        "lsm/bpf",
        "lsm/netlink_send",
        "lsm/file_receive",
        "cgroup/connect4",
        "cgroup/connect6",
        "cgroup/sendmsg4",
        "cgroup/sendmsg6",
        "cgroup/sock_create",
        "tp/sched_process_exec",
        "tp/sched_process_fork",
        "tp/sched_process_exit",
        "lsm/inode_setxattr",
        "lsm/inode_removexattr",
        "lsm/inode_set_acl",
        "lsm/inode_remove_acl",
        "lsm/file_ioctl",
        "lsm/file_ioctl_compat",
        "tp/cgroup_mkdir",
        "lsm/socket_listen",
        "lsm/socket_bind",
        "lsm/socket_accept",
        "cgroup/bind4",
        "cgroup/bind6",
        "cgroup/egress",
        "lsm/socket_setsockopt",
        "lsm/mmap_file",
        "lsm/file_mprotect",
        "lsm/inode_setattr",
        "lsm/inode_getattr",
        "lsm/inode_readlink",
        "lsm/inode_getxattr",
        "lsm/inode_listxattr",
        "lsm/path_notify",
        "lsm/inode_get_acl",
        "lsm/capable",
        "lsm/userns_create",
        "lsm/sb_mount",
        "lsm/sb_umount",
        "lsm/sb_pivotroot",
        "lsm/move_mount",
        "lsm/perf_event_open",
        "lsm/key_alloc",
        "lsm/key_permission",
        "lsm/kernel_module_request",
        "lsm/inode_init_security_anon",
        "lsm/syslog",
        "lsm/task_kill",
        "lsm/task_setrlimit",
        "lsm/task_setscheduler",
        "lsm/task_setnice",
        "lsm/task_setioprio",
        "lsm/file_fcntl",
        "lsm/ipc_permission",
        "lsm/shm_shmctl",
        "lsm/msg_queue_msgctl",
        "lsm/sem_semctl",
        "lsm/shm_alloc_security",
        "lsm/msg_queue_alloc_security",
        "lsm/sem_alloc_security",
        "lsm/sb_remount",
    ];

    macro_rules! hooks {
        ($($name:ident = $index:expr),+ $(,)?) => {
            $(#[doc = concat!("Index of the hook in [`NAMES`]: ", stringify!($name))] pub const $name: u8 = $index;)+
        };
    }
    hooks! {
        NONE = 0, FILE_OPEN = 1, PATH_MKNOD = 2, PATH_MKDIR = 3, PATH_RMDIR = 4, PATH_UNLINK = 5, PATH_SYMLINK = 6,
        PATH_LINK = 7, PATH_RENAME = 8, PATH_TRUNCATE = 9, PATH_CHMOD = 10, PATH_CHOWN = 11, SOCKET_CREATE = 12,
        SOCKET_CONNECT = 13, SOCKET_SENDMSG = 14, UNIX_STREAM_CONNECT = 15, UNIX_MAY_SEND = 16,
        PTRACE_ACCESS_CHECK = 17, TASK_ALLOC = 18, BPF = 19, NETLINK_SEND = 20, FILE_RECEIVE = 21, CONNECT4 = 22,
        CONNECT6 = 23, SENDMSG4 = 24, SENDMSG6 = 25, SOCK_CREATE = 26, SCHED_EXEC = 27, SCHED_FORK = 28,
        SCHED_EXIT = 29, INODE_SETXATTR = 30, INODE_REMOVEXATTR = 31, INODE_SET_ACL = 32, INODE_REMOVE_ACL = 33,
        FILE_IOCTL = 34, FILE_IOCTL_COMPAT = 35, CGROUP_MKDIR = 36, SOCKET_LISTEN = 37, SOCKET_BIND = 38,
        SOCKET_ACCEPT = 39, BIND4 = 40, BIND6 = 41, EGRESS = 42, SOCKET_SETSOCKOPT = 43,
        MMAP_FILE = 44, FILE_MPROTECT = 45, INODE_SETATTR = 46, INODE_GETATTR = 47, INODE_READLINK = 48,
        INODE_GETXATTR = 49, INODE_LISTXATTR = 50, PATH_NOTIFY = 51, INODE_GET_ACL = 52,
        CAPABLE = 53, USERNS_CREATE = 54, SB_MOUNT = 55, SB_UMOUNT = 56, SB_PIVOTROOT = 57, MOVE_MOUNT = 58,
        PERF_EVENT_OPEN = 59, KEY_ALLOC = 60, KEY_PERMISSION = 61, KERNEL_MODULE_REQUEST = 62,
        INODE_INIT_SECURITY_ANON = 63, SYSLOG = 64, TASK_KILL = 65, TASK_SETRLIMIT = 66,
        TASK_SETSCHEDULER = 67, TASK_SETNICE = 68, TASK_SETIOPRIO = 69, FILE_FCNTL = 70, IPC_PERMISSION = 71,
        SHM_SHMCTL = 72, MSG_QUEUE_MSGCTL = 73, SEM_SEMCTL = 74,
        SHM_ALLOC_SECURITY = 75, MSG_QUEUE_ALLOC_SECURITY = 76, SEM_ALLOC_SECURITY = 77, SB_REMOUNT = 78,
    }
}

/// First part of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHeader {
    /// Bytes of the whole record.
    pub size: u32,
    /// One of [`kind`].
    pub kind: u16,
    /// [`EVENT_VERSION`].
    pub version: u16,
    /// Nanoseconds since boot, suspend included.
    pub boot_ns: u64,
    /// Cgroup of the task.
    pub cgroup_id: u64,
    /// Process id in the initial namespace.
    pub tgid: u32,
    /// Thread id in the initial namespace.
    pub tid: u32,
    /// Parent's process id.
    pub ppid: u32,
    /// Effective user id in the initial namespace.
    pub uid: u32,
    /// Policy slot: which policy decided.
    pub slot: u32,
    /// The rule that decided, or [`crate::file::NO_RULE`].
    pub rule: u32,
    /// One of [`reason`].
    pub reason: u16,
    /// One of [`verdict`].
    pub verdict: u8,
    /// One of [`hook`].
    pub hook: u8,
    /// The scope its cgroup belongs to.
    pub scope: u32,
    /// Task's name, NUL-padded; not to be trusted, the task can set it.
    pub comm: [u8; 16],
}
assert_size!(EventHeader, 72);

/// Body of file events; `path_len` bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileBody {
    /// Filesystem, see [`crate::file::FsKey::dev`]; 0 with an empty path where the file has no name.
    pub dev: u32,
    /// `ACCESS_*` bits asked for.
    pub access: u32,
    /// `inode.i_mode`, 0 if the file does not exist yet.
    pub mode: u32,
    /// Bytes of path after this body: the path inside the filesystem.
    pub path_len: u32,
}
assert_size!(FileBody, 16);

/// Body of network events.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetBody {
    /// Destination as IPv6, IPv4 mapped; zero where there is none.
    pub addr: [u8; 16],
    /// Destination port, host order.
    pub port: u16,
    /// `IPPROTO_*`.
    pub protocol: u16,
    /// `AF_*` of the socket.
    pub family: u16,
    /// `SOCK_*` of the socket.
    pub sock_type: u16,
}
assert_size!(NetBody, 24);

/// Second part of [`kind::EXEC`], behind the path and so at any alignment; `len` bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgvBody {
    /// Bytes that follow; fewer than `full_len` where the command line was cut or could not be read.
    pub len: u32,
    /// Bytes the command line has.
    pub full_len: u32,
}
assert_size!(ArgvBody, 8);

/// Body of [`kind::FORK`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkBody {
    /// The new process.
    pub child_tgid: u32,
    /// Its first thread.
    pub child_tid: u32,
}
assert_size!(ForkBody, 8);

/// Body of [`kind::EXIT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitBody {
    /// Wait status as `waitpid` gives it.
    pub status: u32,
    /// Zero.
    pub pad: u32,
}
assert_size!(ExitBody, 8);

/// Body of [`kind::PTRACE`], [`kind::SIGNAL`] and [`kind::CONFINE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetBody {
    /// Process reached for, or 0.
    pub target_tgid: u32,
    /// Hook's own detail: the ptrace mode, the bpf command, the capability, the signal.
    pub detail: u32,
}
assert_size!(TargetBody, 8);

pod!(EventHeader, FileBody, NetBody, ArgvBody, ForkBody, ExitBody, TargetBody);
