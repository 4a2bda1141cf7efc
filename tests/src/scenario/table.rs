//! The scenarios over single operations.

/// One operation that must be denied, allowed by its twin, and allowed outside.
///
/// In `op`, `{file}` is a file outside the workspace, `{new}` a free name beside it, `{dir}` their
/// directory, `{empty}` an empty directory there, `{program}` a program there, `{work}` the
/// workspace, `{port}` the listeners' port, `{socket}` their unix socket, `{outsider}` their process and `{descriptor}` a
/// socket there, `{fellow}` a process of the same user.
pub struct Scenario {
    pub name: &'static str,
    pub op: &'static str,
    /// Some rule can allow it; the rest is refused to a policed process whatever its rules.
    pub twin: bool,
    /// Only root can do it even outside.
    pub root_only: bool,
    /// What `[process]` gives: tried where it gives nothing. All else is tried where it gives everything, so that the hook which
    /// is meant is what refuses.
    pub power: bool,
}

const fn rule(name: &'static str, op: &'static str) -> Scenario {
    Scenario { name, op, twin: true, root_only: false, power: false }
}

const fn never(name: &'static str, op: &'static str) -> Scenario {
    Scenario { name, op, twin: false, root_only: false, power: false }
}

const fn root(name: &'static str, op: &'static str) -> Scenario {
    Scenario { name, op, twin: false, root_only: true, power: false }
}

const fn power(name: &'static str, op: &'static str) -> Scenario {
    Scenario { name, op, twin: true, root_only: false, power: true }
}

const fn root_power(name: &'static str, op: &'static str) -> Scenario {
    Scenario { name, op, twin: true, root_only: true, power: true }
}

pub const SCENARIOS: &[Scenario] = &[
    rule("file_read", "read-open {file}"),
    rule("file_write", "write-open {file}"),
    rule("file_read_write", "rdwr-open {file}"),
    rule("file_append", "append {file}"),
    rule("file_open_truncate", "trunc-open {file}"),
    rule("file_create", "create {new}"),
    rule("file_openat_dirfd", "openat-dirfd {dir} file"),
    rule("file_openat2", "openat2 {file}"),
    rule("file_relative", "relative {file}"),
    rule("file_opath_reopen", "opath-reopen {file}"),
    rule("file_proc_self_fd", "proc-self-fd {file}"),
    rule("file_proc_self_root", "proc-self-root {file}"),
    rule("file_symlink_open", "symlink-open {work} {file}"),
    never("file_hardlink_open", "hardlink-open {work} {file}"),
    rule("file_rename_into", "rename-into {work} {file}"),
    root("file_handle_open", "handle-open {file}"),
    rule("file_io_uring_open", "io_uring-open {file}"),
    rule("file_io_uring_sqpoll_open", "io_uring-open-sqpoll {file}"),
    never("file_userns_bind", "userns-bind {work} {file}"),
    never("file_userns_overlay", "userns-overlay {work} {file}"),
    never("file_userns_overlay_copy", "userns-overlay-copy {work} {file}"),
    root("file_bind", "bind {work} {file}"),
    root("file_open_tree_clone", "open_tree-clone {file}"),
    root("file_chroot_open", "chroot-open {file}"),
    rule("change_unlink", "unlink {file}"),
    rule("change_rename", "rename {file} {new}"),
    rule("change_mkdir", "mkdir {new}"),
    rule("change_rmdir", "rmdir {empty}"),
    rule("change_symlink", "symlink {file} {new}"),
    rule("change_link", "link {file} {new}"),
    rule("change_chmod", "chmod {file}"),
    rule("change_chown", "chown {file}"),
    rule("change_times", "times {file}"),
    rule("change_times_now", "times-now {file}"),
    rule("change_truncate", "truncate {file}"),
    rule("change_setxattr", "setxattr {file}"),
    rule("change_removexattr", "removexattr {file}"),
    rule("change_acl", "set-acl {file}"),
    root("change_mknod_block", "mknod-block {new}"),
    rule("exec_path", "exec {program}"),
    rule("exec_execveat_fd", "execveat-fd {program}"),
    rule("exec_map", "map-exec {program}"),
    rule("exec_map_shared", "map-exec-shared {program}"),
    rule("exec_map_later", "map-exec-later {program}"),
    never("exec_map_memfd", "memfd-map-exec"),
    never("exec_memfd", "memfd-exec {program}"),
    rule("net_tcp4", "tcp4 127.0.0.1 {port}"),
    rule("net_tcp6", "tcp6 ::1 {port}"),
    rule("net_tcp4_mapped", "tcp4-mapped 127.0.0.1 {port}"),
    rule("net_tcp_fastopen", "tcp-fastopen 127.0.0.1 {port}"),
    rule("net_tcp_fastopen_connect", "tcp-fastopen-connect 127.0.0.1 {port}"),
    never("net_mptcp", "mptcp 127.0.0.1 {port}"),
    rule("net_zero", "zero {port}"),
    rule("net_udp4", "udp4 127.0.0.1 {port}"),
    rule("net_udp4_connected", "udp4-connected 127.0.0.1 {port}"),
    rule("net_udp6", "udp6 ::1 {port}"),
    rule("net_udp6_mapped", "udp6-mapped 127.0.0.1 {port}"),
    rule("net_udp_unspec", "udp-unspec 127.0.0.1 {port}"),
    rule("net_sendmmsg", "sendmmsg 127.0.0.1 {port}"),
    rule("net_io_uring_connect", "io_uring-connect 127.0.0.1 {port}"),
    rule("net_io_uring_sqpoll_connect", "io_uring-connect-sqpoll 127.0.0.1 {port}"),
    rule("net_udp_gso", "udp-gso 127.0.0.1 {port}"),
    rule("net_udp_gso_connected", "udp-gso-connected 127.0.0.1 {port}"),
    rule("net_io_uring_sendmsg", "io_uring-sendmsg 127.0.0.1 {port}"),
    rule("net_io_uring_sqpoll_sendmsg", "io_uring-sendmsg-sqpoll 127.0.0.1 {port}"),
    root("socket_raw_icmp", "raw-icmp"),
    root("socket_packet", "packet"),
    never("socket_vsock", "vsock"),
    never("socket_alg", "alg"),
    never("socket_sctp", "sctp-socket"),
    never("socket_dccp", "dccp-socket"),
    never("socket_udplite", "udplite 127.0.0.1 {port}"),
    root("receive_by_pidfd", "pidfd-getfd {outsider} {descriptor}"),
    rule("listen_tcp4", "listen-tcp 0.0.0.0 0"),
    rule("listen_tcp6", "listen-tcp :: 0"),
    rule("listen_unbound4", "listen-unbound 4"),
    rule("listen_unbound6", "listen-unbound 6"),
    rule("listen_udp4", "bind-udp 0.0.0.0 8099"),
    rule("listen_udp6", "bind-udp :: 8099"),
    rule("unix_stream", "unix-stream {socket}"),
    rule("unix_dgram", "unix-dgram {socket}-dgram"),
    rule("unix_abstract", "unix-abstract stockade-outside"),
    power("process_signal", "signal {fellow}"),
    power("process_signal_thread", "signal-thread {fellow}"),
    power("process_signal_queue", "signal-queue {fellow}"),
    power("process_signal_pidfd", "signal-pidfd {fellow}"),
    power("process_signal_by_file", "file-owner {fellow}"),
    power("process_signal_by_file_ex", "file-owner-ex {fellow}"),
    power("process_signal_by_socket", "socket-owner {fellow}"),
    power("process_limit", "limit {fellow}"),
    power("process_scheduler", "scheduler {fellow}"),
    power("process_affinity", "affinity {fellow}"),
    power("process_nice", "nice {fellow}"),
    power("process_io_priority", "io-priority {fellow}"),
    power("process_user_namespace", "user-namespace"),
    power("process_user_namespace_clone", "user-namespace-clone"),
    root_power("process_mount", "mount {empty}"),
    root_power("process_remount", "remount"),
    root_power("process_umount", "umount"),
    root_power("process_move_mount", "move-mount {empty}"),
    root_power("process_pivot_root", "pivot-root {empty}"),
    power("process_io_uring", "io_uring-setup"),
    power("process_userfaultfd", "userfaultfd"),
    power("process_add_key", "add-key"),
    power("process_session_keyring", "session-keyring"),
    root_power("process_perf", "perf"),
    root_power("process_kernel_log", "kernel-log"),
    root("process_ptrace", "ptrace {outsider}"),
    root("process_bpf", "bpf-cmd"),
    root("escape_clone_into_cgroup", "clone-into-cgroup /sys/fs/cgroup"),
    root("escape_cgroup", "into-cgroup /sys/fs/cgroup"),
];
