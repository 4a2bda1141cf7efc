//! What would act on processes outside the tag without touching their memory: signals, priorities, limits, IPC.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_task_btf, bpf_probe_read_kernel},
    },
    programs::LsmContext,
};
use stockade_common::{
    event::{TargetBody, hook, kind, reason},
    process::{ALLOW_IPC, ALLOW_SCHEDULING, ALLOW_SIGNALS},
};

use crate::{
    confine,
    kernel::{
        self, IPC_NAMESPACE_NS_INUM, NSPROXY_IPC_NS, PID_LEVEL, PID_NUMBERS, TASK_CRED, TASK_GROUP_LEADER,
        TASK_NSPROXY, TASK_REAL_CRED, TASK_TGID, TASK_THREAD_PID,
    },
    privilege, startup,
    tag::{self, Held},
};

/// `struct upid`: a number, and the namespace that it is of.
const UPID_BYTES: u64 = 16;
const F_SETOWN: u32 = 8;
const F_SETOWN_EX: u32 = 15;
/// `PROC_IPC_INIT_INO`: the host's IPC namespace. The number is part of the kernel's ABI.
const HOST_IPC: u32 = 0xefff_ffff;

/// Whether a task is of the same scope, and no longer starting.
#[inline(always)]
fn is_own(held: &Held, task: *const u8) -> (bool, u32) {
    // SAFETY: a typed kernel pointer.
    let (cgroup, tgid): (u64, u32) =
        unsafe { (kernel::task_cgroup_id(task), kernel::field(task, &TASK_TGID)) };
    if tgid == (bpf_get_current_pid_tgid() >> 32) as u32 {
        return (true, tgid);
    }
    // A cgroup whose tag was lost is held by its ancestor's, and not found by its own.
    let own = cgroup == held.cgroup_id || tag::scope_of(cgroup) == Some(held.scope);
    (own && !startup::is_starter(tgid), tgid)
}

/// `lsm/task_kill(task, info, signal, cred)`: signals that a process sends. Those that the kernel sends are not asked about,
/// but for a USB device's, which come while anybody runs, with the credentials of who asked for them.
#[inline(always)]
pub fn kill(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let credentials: u64 = ctx.arg(3);
    let (own, target_tgid) = is_own(&held, ctx.arg(0));
    // SAFETY: typed pointers of the current task.
    let others = credentials != 0
        && unsafe {
            let task = bpf_get_current_task_btf().cast::<u8>().cast_const();
            credentials != kernel::field::<u64>(task, &TASK_CRED)
                && credentials != kernel::field::<u64>(task, &TASK_REAL_CRED)
        };
    // No signal says that somebody is there, as a refusal would.
    if own || others || ctx.arg::<u32>(2) == 0 || privilege::gives(&held, ALLOW_SIGNALS) {
        return true;
    }
    let body = TargetBody { target_tgid, detail: ctx.arg(2) };
    confine::refuse(held, kind::SIGNAL, hook::TASK_KILL, body, reason::OUTSIDE)
}

/// Hooks whose first argument is the task of which something is set.
#[inline(always)]
pub fn set(ctx: &LsmContext, hook: u8) -> bool {
    let Some(held) = tag::current() else { return true };
    let (own, target_tgid) = is_own(&held, ctx.arg(0));
    if own || privilege::gives(&held, ALLOW_SCHEDULING) {
        return true;
    }
    confine::refuse(held, kind::SIGNAL, hook, TargetBody { target_tgid, detail: 0 }, reason::OUTSIDE)
}

/// `lsm/file_fcntl(file, cmd, arg)`: who is sent signals when something can be read from a file. The kernel sends them, and
/// asks then whether the owner of the file might, by user only.
#[inline(always)]
pub fn fcntl(ctx: &LsmContext) -> bool {
    let command: u32 = ctx.arg(1);
    let to: u64 = ctx.arg(2);
    match command {
        F_SETOWN => owner(hook::FILE_FCNTL, command, Some(to as u32)),
        F_SETOWN_EX => owner(hook::FILE_FCNTL, command, None),
        _ => true,
    }
}

/// A file's owner is set: a process id, or a group's, or something that only user space knows.
#[inline(always)]
pub fn owner(hook: u8, command: u32, to: Option<u32>) -> bool {
    let Some(held) = tag::current() else { return true };
    if to.is_some_and(|to| to == 0 || to == own_number()) || privilege::gives(&held, ALLOW_SIGNALS) {
        return true;
    }
    let body = TargetBody { target_tgid: to.unwrap_or(0), detail: command };
    confine::refuse(held, kind::SIGNAL, hook, body, reason::OUTSIDE)
}

/// The current process's number in its own PID namespace, by which it calls itself; 0 if that cannot be read.
#[inline(always)]
fn own_number() -> u32 {
    let mut number = 0u32;
    // SAFETY: typed kernel pointers, and a local of that size; numbers are an array with one for each level.
    unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>().cast_const();
        let pid: *const u8 = kernel::field(kernel::field(task, &TASK_GROUP_LEADER), &TASK_THREAD_PID);
        if pid.is_null() {
            return 0;
        }
        let level: u32 = kernel::field(pid, &PID_LEVEL);
        let at = pid as u64 + u64::from(PID_NUMBERS.load()) + u64::from(level) * UPID_BYTES;
        bpf_probe_read_kernel((&raw mut number).cast(), 4, at as *const _);
    }
    number
}

/// System V IPC: objects do not say who made them, so those of the host's namespace count as others'.
#[inline(always)]
pub fn ipc(hook: u8) -> bool {
    let Some(held) = tag::current() else { return true };
    // SAFETY: typed kernel pointers.
    let own = unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>().cast_const();
        let namespaces: *const u8 = kernel::field(task, &TASK_NSPROXY);
        !namespaces.is_null()
            && kernel::field::<u32>(kernel::field(namespaces, &NSPROXY_IPC_NS), &IPC_NAMESPACE_NS_INUM)
                != HOST_IPC
    };
    if own || privilege::gives(&held, ALLOW_IPC) {
        return true;
    }
    confine::refuse(held, kind::CONFINE, hook, TargetBody { target_tgid: 0, detail: 0 }, reason::OUTSIDE)
}
