//! Programs on the hooks of `main.rs` that only return: what attaching costs before anything is decided. They are the
//! floor that `cargo xtask bench` compares with, and never part of the agent.
#![no_std]
#![no_main]

use aya_ebpf::{
    btf_maps::Array,
    macros::{btf_map, btf_tracepoint, cgroup_skb, cgroup_sock, cgroup_sock_addr, fentry, lsm},
    programs::{
        BtfTracePointContext, FEntryContext, LsmContext, SkBuffContext, SockAddrContext, SockContext,
    },
};

/// The loader knows a program by its name and says itself where it belongs.
macro_rules! lsm_programs {
    ($($name:ident)+) => {
        $(
            #[lsm]
            pub fn $name(_ctx: LsmContext) -> i32 {
                0
            }
        )+
    };
}
lsm_programs! {
    file_open path_mknod path_mkdir path_rmdir path_unlink path_symlink path_link path_rename path_truncate path_chmod
    path_chown socket_create socket_connect socket_sendmsg socket_listen socket_bind socket_accept socket_setsockopt file_receive
    netlink_send unix_stream_connect unix_may_send ptrace_access_check task_alloc bpf inode_setxattr inode_removexattr
    inode_set_acl inode_remove_acl inode_setattr mmap_file file_mprotect inode_getattr
    inode_readlink inode_getxattr inode_listxattr path_notify inode_get_acl file_ioctl file_ioctl_compat
    capable userns_create sb_mount sb_umount sb_pivotroot move_mount perf_event_open key_alloc key_permission kernel_module_request inode_init_security_anon syslog
    task_kill task_setrlimit task_setscheduler task_setnice task_setioprio file_fcntl ipc_permission shm_alloc_security msg_queue_alloc_security sem_alloc_security sb_remount shm_shmctl msg_queue_msgctl sem_semctl
}

macro_rules! tracepoint_programs {
    ($($name:ident)+) => {
        $(
            #[btf_tracepoint]
            pub fn $name(_ctx: BtfTracePointContext) -> i32 {
                0
            }
        )+
    };
}
tracepoint_programs! { cgroup_mkdir cgroup_rmdir sched_process_exec sched_process_fork sched_process_exit }

macro_rules! sock_addr_programs {
    ($($name:ident)+) => {
        $(
            #[cgroup_sock_addr($name)]
            pub fn $name(_ctx: SockAddrContext) -> i32 {
                1
            }
        )+
    };
}
sock_addr_programs! {
    connect4 connect6 sendmsg4 sendmsg6 recvmsg4 recvmsg6 getpeername4 getpeername6 bind4 bind6
}

/// The loader fills it in.
#[btf_map]
static OVERLAY_CRED: Array<u32, 1> = Array::new();

#[fentry]
pub fn cgroup_attach_task(_ctx: FEntryContext) -> i32 {
    // Never measured: it is here so that the map is.
    i32::from(OVERLAY_CRED.get(0).is_none())
}

#[cgroup_skb(egress)]
pub fn egress(_ctx: SkBuffContext) -> i32 {
    1
}

#[cgroup_sock(sock_create)]
pub fn sock_create(_ctx: SockContext) -> i32 {
    1
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
