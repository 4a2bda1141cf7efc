//! Exec, fork and exit of tagged processes, for the audit. These observe; they decide nothing.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user},
    programs::BtfTracePointContext,
};
use stockade_common::{
    counter::Counter,
    event::{ArgvBody, EventHeader, ExitBody, FileBody, ForkBody, hook, kind},
    file::ACCESS_EXEC,
    limits::{MAX_ARGV, MAX_PATH},
};

use crate::{
    emit::{self, Actor},
    kernel::{
        self, BPRM_FILE, DENTRY_D_SB, MM_ARG_END, MM_ARG_START, SIGNAL_LIVE, SUPER_BLOCK_S_DEV,
        TASK_EXIT_CODE, TASK_MM, TASK_PID, TASK_SIGNAL, TASK_TGID,
    },
    maps::count,
    path::{self, HEAD, PathBuffer},
    startup,
    tag::{self, Held},
};

/// `tp_btf/sched_process_exec(task, old_pid, bprm)`.
#[inline(always)]
pub fn exec(ctx: &BtfTracePointContext) {
    let Some((cgroup_id, tag)) = tag::candidate().and_then(|id| tag::tag_of(id).map(|tag| (id, tag))) else {
        return;
    };
    let bprm: *const u8 = ctx.arg(2);
    // SAFETY: typed kernel pointers.
    let dentry = unsafe { kernel::file_dentry(kernel::field(bprm, &BPRM_FILE)) };
    let mut event = kind::EXEC;
    if startup::goes_on(&tag) {
        if startup::executed(dentry) {
            return;
        }
        if startup::awaits(&tag) {
            startup::hold(cgroup_id);
            event = kind::STARTED;
        }
    }
    let held = Held::to(cgroup_id, tag.scope);
    let Some(buffer) = path::claim(held.scope) else {
        count(held.scope, Counter::LostOther);
        return;
    };
    // SAFETY: typed kernel pointers; the buffer was claimed.
    unsafe {
        let dev = kernel::field::<u32>(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_DEV);
        let mode = kernel::dentry_mode(dentry);
        let start = path::walk(dentry, buffer).start.min(MAX_PATH as u32);
        let body = FileBody { dev, access: ACCESS_EXEC, mode, path_len: 0 };
        report_exec(buffer, event, start, body, &Actor { held, ppid: emit::ppid() });
    }
    path::release(buffer);
}

#[repr(C)]
struct ExecHead {
    header: EventHeader,
    body: FileBody,
}
const ARGV: usize = size_of::<ArgvBody>();
const _: () = assert!(size_of::<ExecHead>() == HEAD && ARGV + MAX_ARGV <= MAX_PATH + 8);

/// Sends the path that starts at `start`, and the new program's command line behind it.
///
/// # Safety
/// `buffer` must be claimed, and hold a path from `start` on.
#[inline(always)]
unsafe fn report_exec(buffer: *mut PathBuffer, event: u16, start: u32, body: FileBody, actor: &Actor) {
    let path_len = (MAX_PATH as u32).wrapping_sub(start) & (MAX_PATH as u32 - 1);
    // SAFETY: the path is moved to the front, forwards, as the helper copies; all lengths are masked, and their sum is
    // below the buffer's.
    unsafe {
        // verifier: bounds of a position and of a length behind it add up past the buffer, as it doesn't know that they
        // depend on each other; so the record starts at a constant position.
        let head = PathBuffer::head(buffer, 0);
        let text = head.add(HEAD);
        bpf_probe_read_kernel(text.cast(), path_len, PathBuffer::byte(buffer, start).cast());
        let argv = text.add(path_len as usize);
        let (len, full_len) = command_line(argv.add(ARGV));
        let argv_body = ArgvBody { len, full_len };
        bpf_probe_read_kernel(argv.cast(), ARGV as u32, (&raw const argv_body).cast());
        let size = HEAD + ARGV + path_len as usize + len as usize;
        let record = ExecHead {
            header: emit::header(event, hook::SCHED_EXEC, size, actor, &emit::observed()),
            body: FileBody { path_len, ..body },
        };
        bpf_probe_read_kernel(head.cast(), HEAD as u32, (&raw const record).cast());
        emit::send(head.cast(), size, actor.held.scope, false);
    }
}

/// Copies the current task's command line. Returns the bytes copied and the bytes there are.
///
/// # Safety
/// `to` must have room for [`MAX_ARGV`] bytes.
#[inline(always)]
unsafe fn command_line(to: *mut u8) -> (u32, u32) {
    // SAFETY: typed kernel pointers; the length is masked.
    unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>().cast_const();
        let mm: *const u8 = kernel::field(task, &TASK_MM);
        if mm.is_null() {
            return (0, 0);
        }
        let from: u64 = kernel::field(mm, &MM_ARG_START);
        let end: u64 = kernel::field(mm, &MM_ARG_END);
        let full = end.wrapping_sub(from);
        let length =
            if full >= MAX_ARGV as u64 { MAX_ARGV as u32 - 1 } else { full as u32 } & (MAX_ARGV as u32 - 1);
        let read = bpf_probe_read_user(to.cast(), length, from as *const _);
        (if read == 0 { length } else { 0 }, full as u32)
    }
}

/// `tp_btf/sched_process_fork(parent, child)`: new processes; threads are left out.
#[inline(always)]
pub fn fork(ctx: &BtfTracePointContext) {
    let child: *const u8 = ctx.arg(1);
    startup::forked(child);
    let Some(held) = tag::current() else { return };
    // SAFETY: a typed kernel pointer.
    let (tgid, tid): (u32, u32) =
        unsafe { (kernel::field(child, &TASK_TGID), kernel::field(child, &TASK_PID)) };
    if tgid != tid {
        return;
    }
    let actor = Actor { held, ppid: emit::ppid() };
    let body = ForkBody { child_tgid: tgid, child_tid: tid };
    emit::fixed(&actor, kind::FORK, hook::SCHED_FORK, body, &emit::observed());
}

/// `tp_btf/sched_process_exit(task)`: the process's last thread.
#[inline(always)]
pub fn exit() {
    let Some((cgroup_id, tag)) = tag::candidate().and_then(|id| tag::tag_of(id).map(|tag| (id, tag))) else {
        return;
    };
    // SAFETY: typed kernel pointers of the current task.
    let (live, status): (u32, u32) = unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>().cast_const();
        (kernel::field(kernel::field(task, &TASK_SIGNAL), &SIGNAL_LIVE), kernel::field(task, &TASK_EXIT_CODE))
    };
    if live != 0 {
        return;
    }
    let starting = startup::goes_on(&tag);
    startup::ended();
    if starting {
        return;
    }
    let held = Held::to(cgroup_id, tag.scope);
    let actor = Actor { held, ppid: emit::ppid() };
    emit::fixed(&actor, kind::EXIT, hook::SCHED_EXIT, ExitBody { status, pad: 0 }, &emit::observed());
}
