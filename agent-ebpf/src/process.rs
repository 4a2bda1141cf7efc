//! Exec, fork and exit of tagged processes, for the audit. These observe; they decide nothing.

use aya_ebpf::{
    cty::c_void,
    helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user},
    programs::BtfTracePointContext,
};
use stockade_common::{
    event::{ArgvBody, EventHeader, ExitBody, ForkBody, hook, kind, reason},
    file::ACCESS_EXEC,
    limits::{MAX_ARGV, MAX_PATH},
};

use crate::{
    emit::{self, Actor},
    file::{Decision, Request},
    kernel::{
        self, BPRM_FILE, DENTRY_D_SB, MM_ARG_END, MM_ARG_START, SIGNAL_LIVE, SUPER_BLOCK_S_DEV,
        TASK_EXIT_CODE, TASK_MM, TASK_PID, TASK_SIGNAL, TASK_TGID,
    },
    path::{self, HEAD, PathBuffer},
    tag,
};

#[inline(always)]
fn observed() -> Decision {
    Decision::new(reason::RULE_ALLOW)
}

/// `tp_btf/sched_process_exec(task, old_pid, bprm)`.
#[inline(always)]
pub fn exec(ctx: &BtfTracePointContext) {
    let Some((cgroup_id, slot)) = tag::current() else { return };
    let Some(buffer) = path::claim() else { return };
    let bprm: *const u8 = ctx.arg(2);
    // SAFETY: typed kernel pointers; the buffer was claimed.
    unsafe {
        let dentry = kernel::file_dentry(kernel::field(bprm, &BPRM_FILE));
        let dev = kernel::field::<u32>(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_DEV);
        let mode = kernel::dentry_mode(dentry);
        let start = path::walk(dentry, buffer).start.min(MAX_PATH as u32);
        let request = Request {
            cgroup_id,
            slot,
            access: ACCESS_EXEC,
            mode,
            kind: kind::EXEC,
            hook: hook::SCHED_EXEC,
            refused: 0,
        };
        let flags = emit::slot_flags(slot);
        emit::file(buffer, start, &request, dev, &observed(), flags);
        argv(buffer, &Actor { cgroup_id, slot, ppid: emit::ppid() }, flags);
    }
    path::release(buffer);
}

#[repr(C)]
struct ArgvRecord {
    header: EventHeader,
    body: ArgvBody,
}

/// Sends the new program's command line.
///
/// # Safety
/// `buffer` must be claimed.
#[inline(always)]
unsafe fn argv(buffer: *mut PathBuffer, actor: &Actor, flags: u32) {
    const PREFIX: usize = size_of::<ArgvRecord>();
    const _: () = assert!(PREFIX <= HEAD && PREFIX + MAX_ARGV <= MAX_PATH);
    // SAFETY: typed kernel pointers; sizes are bounded below the buffer's.
    unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>().cast_const();
        let mm: *const u8 = kernel::field(task, &TASK_MM);
        if mm.is_null() {
            return;
        }
        let from: u64 = kernel::field(mm, &MM_ARG_START);
        let to: u64 = kernel::field(mm, &MM_ARG_END);
        let full = to.wrapping_sub(from);
        let length =
            if full >= MAX_ARGV as u64 { MAX_ARGV as u32 - 1 } else { full as u32 } & (MAX_ARGV as u32 - 1);
        let size = PREFIX + length as usize;
        let record = ArgvRecord {
            header: emit::header(kind::ARGV, hook::SCHED_EXEC, size, actor, &observed(), flags),
            body: ArgvBody { len: length, full_len: full as u32 },
        };
        let head = PathBuffer::head(buffer, 0);
        bpf_probe_read_kernel(head.cast(), PREFIX as u32, (&raw const record).cast());
        let text: *mut c_void = head.add(PREFIX).cast();
        if bpf_probe_read_user(text, length, from as *const _) == 0 {
            emit::send(head.cast(), size, false);
        }
    }
}

/// `tp_btf/sched_process_fork(parent, child)`: new processes; threads are left out.
#[inline(always)]
pub fn fork(ctx: &BtfTracePointContext) {
    let Some((cgroup_id, slot)) = tag::current() else { return };
    let child: *const u8 = ctx.arg(1);
    // SAFETY: a typed kernel pointer.
    let (tgid, tid): (u32, u32) =
        unsafe { (kernel::field(child, &TASK_TGID), kernel::field(child, &TASK_PID)) };
    if tgid != tid {
        return;
    }
    let actor = Actor { cgroup_id, slot, ppid: emit::ppid() };
    let body = ForkBody { child_tgid: tgid, child_tid: tid };
    emit::fixed(&actor, kind::FORK, hook::SCHED_FORK, body, &observed(), emit::slot_flags(slot));
}

/// `tp_btf/sched_process_exit(task)`: the process's last thread.
#[inline(always)]
pub fn exit() {
    let Some((cgroup_id, slot)) = tag::current() else { return };
    // SAFETY: typed kernel pointers of the current task.
    let (live, status): (u32, u32) = unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>().cast_const();
        (kernel::field(kernel::field(task, &TASK_SIGNAL), &SIGNAL_LIVE), kernel::field(task, &TASK_EXIT_CODE))
    };
    if live != 0 {
        return;
    }
    let actor = Actor { cgroup_id, slot, ppid: emit::ppid() };
    emit::fixed(
        &actor,
        kind::EXIT,
        hook::SCHED_EXIT,
        ExitBody { status, pad: 0 },
        &observed(),
        emit::slot_flags(slot),
    );
}
