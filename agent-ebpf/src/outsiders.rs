//! What would act on processes outside the tag without touching their memory: signals, priorities, limits, IPC.

use aya_ebpf::{helpers::generated::bpf_get_current_task_btf, programs::LsmContext};
use stockade_common::{
    event::{TargetBody, hook, kind, reason},
    process::{ALLOW_IPC, ALLOW_SCHEDULING, ALLOW_SIGNALS},
};

use crate::{
    confine,
    kernel::{
        self, IPC_NAMESPACE_NS_INUM, NSPROXY_IPC_NS, TASK_CRED, TASK_NSPROXY, TASK_REAL_CRED, TASK_TGID,
    },
    privilege, startup,
    tag::{self, Held},
};

const F_SETOWN: u32 = 8;
const F_SETOWN_EX: u32 = 15;
/// `PROC_IPC_INIT_INO`: the host's IPC namespace. The number is part of the kernel's ABI.
const HOST_IPC: u32 = 0xefff_ffff;

/// Whether a task is of the same scope, and no longer starting.
#[inline(always)]
fn is_own(held: &Held, task: *const u8) -> (bool, u32) {
    // SAFETY: a typed kernel pointer.
    let (cgroup, tgid) = unsafe { (kernel::task_cgroup_id(task), kernel::field(task, &TASK_TGID)) };
    (tag::scope_of(cgroup) == Some(held.scope) && !startup::is_starter(tgid), tgid)
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
    if own || others || privilege::gives(&held, ALLOW_SIGNALS) {
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
    // SAFETY: a typed pointer to the current task.
    let own: u32 = unsafe { kernel::field(bpf_get_current_task_btf().cast::<u8>().cast_const(), &TASK_TGID) };
    if to.is_some_and(|to| to == 0 || to == own) || privilege::gives(&held, ALLOW_SIGNALS) {
        return true;
    }
    let body = TargetBody { target_tgid: to.unwrap_or(0), detail: command };
    confine::refuse(held, kind::SIGNAL, hook, body, reason::OUTSIDE)
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
