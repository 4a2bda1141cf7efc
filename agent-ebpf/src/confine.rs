//! What would make every other rule worthless: reaching into processes outside the tag, leaving the cgroup, bpf().

use aya_ebpf::programs::LsmContext;
use stockade_common::{
    counter::Counter,
    event::{TargetBody, hook, kind, reason},
};

use crate::{
    emit::{self, Actor},
    file::Decision,
    kernel::{self, TASK_TGID},
    maps::count,
    outsiders, startup,
    tag::{self, Held},
};

/// Ioctls that type into a terminal: what they type is read by the shell that started the run.
const TYPING: [u32; 2] = [0x5412, 0x541c];
/// `FIOSETOWN`, `SIOCSPGRP`.
const OWNER: [u32; 2] = [0x8901, 0x8902];
/// `PTRACE_MODE_NOAUDIT`
const NO_AUDIT: u32 = 4;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Counts, reports, and says whether it goes on all the same.
#[inline(always)]
pub fn refuse(held: Held, event: u16, hook: u8, body: TargetBody, why: u16) -> bool {
    let actor = Actor { held, ppid: emit::ppid() };
    count(held.scope, Counter::ProcessDenied);
    emit::fixed(&actor, event, hook, body, &Decision::new(why));
    !held.setting.enforces()
}

/// `lsm/ptrace_access_check(child, mode)`: also `/proc/PID/{mem,maps,fd,root}`, process_vm_* and pidfd_getfd.
#[inline(always)]
pub fn ptrace(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let target: *const u8 = ctx.arg(0);
    let mode: u32 = ctx.arg(1);
    // SAFETY: a typed kernel pointer.
    let (target_cgroup, target_tgid) =
        unsafe { (kernel::task_cgroup_id(target), kernel::field(target, &TASK_TGID)) };
    // What starts a workload in the same cgroup is outside code still.
    if tag::scope_of(target_cgroup) == Some(held.scope) && !startup::is_starter(target_tgid) {
        return true;
    }
    // What the kernel asks for every process whose state is listed, and goes on with less.
    if mode & NO_AUDIT != 0 {
        return !held.setting.enforces();
    }
    let body = TargetBody { target_tgid, detail: mode };
    refuse(held, kind::PTRACE, hook::PTRACE_ACCESS_CHECK, body, reason::OUTSIDE)
}

/// `lsm/task_alloc(task, clone_flags)`: a child in another cgroup would start its life outside the tag.
#[inline(always)]
pub fn task_alloc(ctx: &LsmContext) -> bool {
    let flags: u64 = ctx.arg(1);
    if flags & CLONE_INTO_CGROUP == 0 {
        return true;
    }
    let Some(held) = tag::current() else { return true };
    let body = TargetBody { target_tgid: 0, detail: 0 };
    refuse(held, kind::CONFINE, hook::TASK_ALLOC, body, reason::CONFINED)
}

/// `lsm/bpf(cmd, attr, size)`.
#[inline(always)]
pub fn bpf(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let body = TargetBody { target_tgid: 0, detail: ctx.arg(0) };
    refuse(held, kind::CONFINE, hook::BPF, body, reason::CONFINED)
}

/// `lsm/file_ioctl(file, cmd, arg)`: `TIOCSTI` and `TIOCLINUX`, which type into a terminal that outsiders read; and what says
/// who gets a socket's signals.
#[inline(always)]
pub fn ioctl(ctx: &LsmContext, hook: u8) -> bool {
    let command: u32 = ctx.arg(1);
    if command == OWNER[0] || command == OWNER[1] {
        return outsiders::owner(hook, command, None);
    }
    if command != TYPING[0] && command != TYPING[1] {
        return true;
    }
    let Some(held) = tag::current() else { return true };
    let body = TargetBody { target_tgid: 0, detail: command };
    refuse(held, kind::CONFINE, hook, body, reason::CONFINED)
}
