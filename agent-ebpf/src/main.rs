//! Stockade's kernel programs. This file lists the entry points; each concern has a file of its own.
//!
//! Every decision follows one order: find the tag of the current task's cgroup (a miss costs a filter look-up and
//! ends there), look the operation up in that slot's tables, report, return a constant. Whatever cannot be decided is
//! denied and counted.
#![no_std]
#![no_main]
// For the one atomic exchange in `path`; aya-ebpf needs the same gate.
#![feature(asm_experimental_arch)]

mod askers;
mod automaton;
mod change;
mod confine;
mod debug;
mod directory;
mod egress;
mod emit;
mod file;
mod inherit;
mod interface;
mod kernel;
mod listen;
mod look;
mod mapping;
mod maps;
mod net;
mod outsiders;
mod overlay;
mod own;
mod path;
mod peers;
mod privilege;
mod process;
mod receive;
mod rules;
mod sock_addr;
mod socket;
mod sockets;
mod startup;
mod tag;
mod unix;

use aya_ebpf::{
    macros::{btf_tracepoint, cgroup_skb, cgroup_sock, cgroup_sock_addr, fentry, lsm, socket_filter},
    programs::{
        BtfTracePointContext, FEntryContext, LsmContext, SkBuffContext, SockAddrContext, SockContext,
    },
};
use stockade_common::{
    event::hook,
    process::{
        ALLOW_KERNEL_LOG, ALLOW_KEYRINGS, ALLOW_MODULES, ALLOW_MOUNTS, ALLOW_PERF, ALLOW_USER_NAMESPACES,
    },
};

#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    verdict(file::open(&ctx))
}
#[lsm(hook = "path_mknod")]
pub fn path_mknod(ctx: LsmContext) -> i32 {
    verdict(change::mknod(&ctx))
}
#[lsm(hook = "path_mkdir")]
pub fn path_mkdir(ctx: LsmContext) -> i32 {
    verdict(change::mkdir(&ctx))
}
#[lsm(hook = "path_rmdir")]
pub fn path_rmdir(ctx: LsmContext) -> i32 {
    verdict(change::rmdir(&ctx))
}
#[lsm(hook = "path_unlink")]
pub fn path_unlink(ctx: LsmContext) -> i32 {
    verdict(change::unlink(&ctx))
}
#[lsm(hook = "path_symlink")]
pub fn path_symlink(ctx: LsmContext) -> i32 {
    verdict(change::symlink(&ctx))
}
#[lsm(hook = "path_link")]
pub fn path_link(ctx: LsmContext) -> i32 {
    verdict(change::link(&ctx))
}
#[lsm(hook = "path_rename")]
pub fn path_rename(ctx: LsmContext) -> i32 {
    verdict(change::rename(&ctx))
}
#[lsm(hook = "path_truncate")]
pub fn path_truncate(ctx: LsmContext) -> i32 {
    verdict(change::truncate(&ctx))
}
#[lsm(hook = "path_chmod")]
pub fn path_chmod(ctx: LsmContext) -> i32 {
    verdict(change::chmod(&ctx))
}
#[lsm(hook = "path_chown")]
pub fn path_chown(ctx: LsmContext) -> i32 {
    verdict(change::chown(&ctx))
}
#[lsm(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    verdict(socket::create(&ctx))
}
#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    verdict(socket::connect(&ctx))
}
#[lsm(hook = "socket_sendmsg")]
pub fn socket_sendmsg(ctx: LsmContext) -> i32 {
    verdict(socket::sendmsg(&ctx))
}
#[lsm(hook = "socket_listen")]
pub fn socket_listen(ctx: LsmContext) -> i32 {
    verdict(listen::listen(&ctx))
}
#[lsm(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    verdict(listen::bind(&ctx))
}
#[lsm(hook = "socket_accept")]
pub fn socket_accept(ctx: LsmContext) -> i32 {
    verdict(listen::accept(&ctx))
}
#[lsm(hook = "file_receive")]
pub fn file_receive(ctx: LsmContext) -> i32 {
    verdict(receive::receive(&ctx))
}
#[lsm(hook = "socket_setsockopt")]
pub fn socket_setsockopt(ctx: LsmContext) -> i32 {
    verdict(interface::setsockopt(&ctx))
}
#[lsm(hook = "netlink_send")]
pub fn netlink_send(ctx: LsmContext) -> i32 {
    verdict(socket::netlink_send(&ctx))
}
#[lsm(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    verdict(unix::stream_connect(&ctx))
}
#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    verdict(unix::may_send(&ctx))
}
#[lsm(hook = "ptrace_access_check")]
pub fn ptrace_access_check(ctx: LsmContext) -> i32 {
    verdict(confine::ptrace(&ctx))
}
#[lsm(hook = "task_alloc")]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    verdict(confine::task_alloc(&ctx))
}
#[lsm(hook = "bpf")]
pub fn bpf(ctx: LsmContext) -> i32 {
    verdict(confine::bpf(&ctx))
}
#[lsm(hook = "inode_setxattr")]
pub fn inode_setxattr(ctx: LsmContext) -> i32 {
    verdict(change::attribute(&ctx, hook::INODE_SETXATTR))
}
#[lsm(hook = "inode_removexattr")]
pub fn inode_removexattr(ctx: LsmContext) -> i32 {
    verdict(change::attribute(&ctx, hook::INODE_REMOVEXATTR))
}
#[lsm(hook = "inode_set_acl")]
pub fn inode_set_acl(ctx: LsmContext) -> i32 {
    verdict(change::attribute(&ctx, hook::INODE_SET_ACL))
}
#[lsm(hook = "inode_remove_acl")]
pub fn inode_remove_acl(ctx: LsmContext) -> i32 {
    verdict(change::attribute(&ctx, hook::INODE_REMOVE_ACL))
}
#[lsm(hook = "inode_setattr")]
pub fn inode_setattr(ctx: LsmContext) -> i32 {
    verdict(change::times(&ctx))
}
#[lsm(hook = "inode_getattr")]
pub fn inode_getattr(ctx: LsmContext) -> i32 {
    verdict(look::at_path(&ctx, hook::INODE_GETATTR))
}
#[lsm(hook = "path_notify")]
pub fn path_notify(ctx: LsmContext) -> i32 {
    verdict(look::at_path(&ctx, hook::PATH_NOTIFY))
}
#[lsm(hook = "inode_readlink")]
pub fn inode_readlink(ctx: LsmContext) -> i32 {
    verdict(look::at_dentry(&ctx, hook::INODE_READLINK))
}
#[lsm(hook = "inode_getxattr")]
pub fn inode_getxattr(ctx: LsmContext) -> i32 {
    verdict(look::at_dentry(&ctx, hook::INODE_GETXATTR))
}
#[lsm(hook = "inode_listxattr")]
pub fn inode_listxattr(ctx: LsmContext) -> i32 {
    verdict(look::at_dentry(&ctx, hook::INODE_LISTXATTR))
}
#[lsm(hook = "inode_get_acl")]
pub fn inode_get_acl(ctx: LsmContext) -> i32 {
    verdict(look::acl(&ctx))
}
#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    verdict(mapping::mmap(&ctx))
}
#[lsm(hook = "file_mprotect")]
pub fn file_mprotect(ctx: LsmContext) -> i32 {
    verdict(mapping::mprotect(&ctx))
}
#[lsm(hook = "file_ioctl")]
pub fn file_ioctl(ctx: LsmContext) -> i32 {
    verdict(confine::ioctl(&ctx, hook::FILE_IOCTL))
}
#[lsm(hook = "file_ioctl_compat")]
pub fn file_ioctl_compat(ctx: LsmContext) -> i32 {
    verdict(confine::ioctl(&ctx, hook::FILE_IOCTL_COMPAT))
}

#[lsm(hook = "capable")]
pub fn capable(ctx: LsmContext) -> i32 {
    verdict(privilege::capable(&ctx))
}
#[lsm(hook = "userns_create")]
pub fn userns_create(_ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_USER_NAMESPACES, hook::USERNS_CREATE, 0))
}
#[lsm(hook = "sb_mount")]
pub fn sb_mount(_ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_MOUNTS, hook::SB_MOUNT, 0))
}
#[lsm(hook = "sb_umount")]
pub fn sb_umount(_ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_MOUNTS, hook::SB_UMOUNT, 0))
}
#[lsm(hook = "sb_pivotroot")]
pub fn sb_pivotroot(_ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_MOUNTS, hook::SB_PIVOTROOT, 0))
}
#[lsm(hook = "move_mount")]
pub fn move_mount(_ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_MOUNTS, hook::MOVE_MOUNT, 0))
}
#[lsm(hook = "perf_event_open")]
pub fn perf_event_open(_ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_PERF, hook::PERF_EVENT_OPEN, 0))
}
#[lsm(hook = "key_alloc")]
pub fn key_alloc(_ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_KEYRINGS, hook::KEY_ALLOC, 0))
}
#[lsm(hook = "key_permission")]
pub fn key_permission(_ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_KEYRINGS, hook::KEY_PERMISSION, 0))
}
#[lsm(hook = "kernel_module_request")]
pub fn kernel_module_request(_ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_MODULES, hook::KERNEL_MODULE_REQUEST, 0))
}
#[lsm(hook = "inode_init_security_anon")]
pub fn inode_init_security_anon(ctx: LsmContext) -> i32 {
    verdict(privilege::anonymous(&ctx))
}
#[lsm(hook = "syslog")]
pub fn syslog(ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_KERNEL_LOG, hook::SYSLOG, ctx.arg(0)))
}
#[lsm(hook = "task_kill")]
pub fn task_kill(ctx: LsmContext) -> i32 {
    verdict(outsiders::kill(&ctx))
}
#[lsm(hook = "task_setrlimit")]
pub fn task_setrlimit(ctx: LsmContext) -> i32 {
    verdict(outsiders::set(&ctx, hook::TASK_SETRLIMIT))
}
#[lsm(hook = "task_setscheduler")]
pub fn task_setscheduler(ctx: LsmContext) -> i32 {
    verdict(outsiders::set(&ctx, hook::TASK_SETSCHEDULER))
}
#[lsm(hook = "task_setnice")]
pub fn task_setnice(ctx: LsmContext) -> i32 {
    verdict(outsiders::set(&ctx, hook::TASK_SETNICE))
}
#[lsm(hook = "task_setioprio")]
pub fn task_setioprio(ctx: LsmContext) -> i32 {
    verdict(outsiders::set(&ctx, hook::TASK_SETIOPRIO))
}
#[lsm(hook = "file_fcntl")]
pub fn file_fcntl(ctx: LsmContext) -> i32 {
    verdict(outsiders::fcntl(&ctx))
}
#[lsm(hook = "ipc_permission")]
pub fn ipc_permission(_ctx: LsmContext) -> i32 {
    verdict(outsiders::ipc(hook::IPC_PERMISSION))
}
#[lsm(hook = "shm_shmctl")]
pub fn shm_shmctl(_ctx: LsmContext) -> i32 {
    verdict(outsiders::ipc(hook::SHM_SHMCTL))
}
#[lsm(hook = "msg_queue_msgctl")]
pub fn msg_queue_msgctl(_ctx: LsmContext) -> i32 {
    verdict(outsiders::ipc(hook::MSG_QUEUE_MSGCTL))
}
#[lsm(hook = "sem_semctl")]
pub fn sem_semctl(_ctx: LsmContext) -> i32 {
    verdict(outsiders::ipc(hook::SEM_SEMCTL))
}

#[lsm(hook = "shm_alloc_security")]
pub fn shm_alloc_security(_ctx: LsmContext) -> i32 {
    verdict(outsiders::ipc(hook::SHM_ALLOC_SECURITY))
}
#[lsm(hook = "msg_queue_alloc_security")]
pub fn msg_queue_alloc_security(_ctx: LsmContext) -> i32 {
    verdict(outsiders::ipc(hook::MSG_QUEUE_ALLOC_SECURITY))
}
#[lsm(hook = "sem_alloc_security")]
pub fn sem_alloc_security(_ctx: LsmContext) -> i32 {
    verdict(outsiders::ipc(hook::SEM_ALLOC_SECURITY))
}
#[lsm(hook = "sb_remount")]
pub fn sb_remount(_ctx: LsmContext) -> i32 {
    verdict(privilege::needs(ALLOW_MOUNTS, hook::SB_REMOUNT, 0))
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    sock_addr::connect4(&ctx).into()
}
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    sock_addr::connect6(&ctx).into()
}
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sock_addr::sendmsg4(&ctx).into()
}
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sock_addr::sendmsg6(&ctx).into()
}
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    sock_addr::received4(&ctx);
    1
}
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    sock_addr::received6(&ctx);
    1
}
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    sock_addr::put_back4(&ctx);
    1
}
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    sock_addr::put_back6(&ctx);
    1
}
#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    egress::egress(&ctx)
}
#[socket_filter]
pub fn gate_filter(ctx: SkBuffContext) -> i64 {
    askers::filter(&ctx)
}
#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    sock_addr::bind4(&ctx).into()
}
#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    sock_addr::bind6(&ctx).into()
}
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    sock_addr::sock_create(&ctx).into()
}

#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    inherit::cgroup_mkdir(&ctx);
    0
}
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: BtfTracePointContext) -> i32 {
    inherit::cgroup_rmdir(&ctx);
    0
}
#[fentry(function = "cgroup_attach_task")]
pub fn cgroup_attach_task(ctx: FEntryContext) -> i32 {
    startup::moved(&ctx);
    0
}
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    process::exec(&ctx);
    0
}
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    process::fork(&ctx);
    0
}
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(_ctx: BtfTracePointContext) -> i32 {
    process::exit();
    0
}

/// The value an LSM program returns.
// verifier: from 6.12 the range of an LSM program's return value is checked, so it is one of two constants.
#[inline(always)]
fn verdict(allow: bool) -> i32 {
    if allow { 0 } else { kernel::DENY }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
