//! Reporting: records into the ring, losses into counters. No decision waits for, or depends on, a record.

use aya_ebpf::{
    bindings::task_struct,
    cty::c_void,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{
            bpf_get_current_task_btf, bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_ringbuf_output,
        },
    },
};
use stockade_common::{
    counter::Counter,
    event::{EVENT_VERSION, EventHeader, FileBody, NetBody, kind, reason, verdict},
    limits::MAX_PATH,
};

use crate::{
    debug,
    file::{Decision, Request},
    kernel::{self, TASK_REAL_PARENT, TASK_TGID},
    maps::{EVENTS, count, reports},
    path::{HEAD, PathBuffer},
    tag::Held,
};

/// Who acts, beside the task itself.
#[derive(Clone, Copy)]
pub struct Actor {
    pub held: Held,
    pub ppid: u32,
}

/// Parent's process id. Not for cgroup programs, which on 6.1 may not ask for the task.
#[inline(always)]
pub fn ppid() -> u32 {
    // SAFETY: the current task has a parent; typed loads.
    unsafe {
        let task: *mut task_struct = bpf_get_current_task_btf();
        kernel::field(kernel::field(task.cast::<u8>().cast_const(), &TASK_REAL_PARENT), &TASK_TGID)
    }
}

/// The header of a record of the current task.
#[inline(always)]
pub fn header(kind: u16, hook: u8, size: usize, actor: &Actor, decision: &Decision) -> EventHeader {
    let ids = bpf_get_current_pid_tgid();
    let verdict = match (decision.allows(), actor.held.setting.enforces()) {
        (true, _) => verdict::ALLOWED,
        (false, true) => verdict::DENIED,
        (false, false) => verdict::WOULD_DENY,
    };
    if verdict != verdict::ALLOWED {
        debug::refused(actor.held.scope, kind, hook, decision.reason);
    }
    EventHeader {
        size: size as u32,
        kind,
        version: EVENT_VERSION,
        // SAFETY: takes no arguments.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        cgroup_id: actor.held.cgroup_id,
        tgid: (ids >> 32) as u32,
        tid: ids as u32,
        ppid: actor.ppid,
        uid: bpf_get_current_uid_gid() as u32,
        slot: actor.held.setting.slot(),
        rule: decision.rule,
        reason: decision.reason,
        verdict,
        hook,
        scope: actor.held.scope,
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
    }
}

/// The header of a record of a packet, whose sender need not be the current task. `maker` is process and user that made its
/// socket, 0 if that is not known.
#[inline(always)]
fn packet_header(
    kind: u16,
    hook: u8,
    size: usize,
    actor: &Actor,
    maker: [u32; 2],
    decision: &Decision,
) -> EventHeader {
    let [tgid, uid] = maker;
    let verdict = if actor.held.setting.enforces() { verdict::DENIED } else { verdict::WOULD_DENY };
    debug::refused(actor.held.scope, kind, hook, decision.reason);
    EventHeader {
        size: size as u32,
        kind,
        version: EVENT_VERSION,
        // SAFETY: takes no arguments.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        cgroup_id: actor.held.cgroup_id,
        tgid,
        tid: tgid,
        ppid: actor.ppid,
        uid,
        slot: actor.held.setting.slot(),
        rule: decision.rule,
        reason: decision.reason,
        verdict,
        hook,
        scope: actor.held.scope,
        comm: [0; 16],
    }
}

/// Sends `size` bytes at `record`.
///
/// # Safety
/// They must be readable and initialised.
#[inline(always)]
pub unsafe fn send(record: *const c_void, size: usize, scope: u32, denied: bool) {
    if !reports() {
        return;
    }
    // SAFETY: as promised by the caller.
    let sent = unsafe {
        bpf_ringbuf_output((&raw const EVENTS).cast_mut().cast(), record.cast_mut(), size as u64, 0)
    };
    if sent != 0 {
        count(scope, if denied { Counter::LostDenied } else { Counter::LostOther });
    }
}

/// The decision that events have which are not decisions.
#[inline(always)]
pub fn observed() -> Decision {
    Decision::new(reason::RULE_ALLOW)
}

/// Sends a file record of a request.
///
/// # Safety
/// As [`path`].
#[inline(always)]
pub unsafe fn file(buffer: *mut PathBuffer, start: u32, request: &Request, dev: u32, decision: &Decision) {
    let actor = Actor { held: request.held, ppid: ppid() };
    let body = FileBody { dev, access: request.access, mode: request.mode, path_len: 0 };
    // SAFETY: as promised by the caller.
    unsafe { path(buffer, start, &actor, request.kind, request.hook, body, decision) };
}

/// Sends a record with a path: header and body are put in front of the path, which is already in the buffer.
///
/// # Safety
/// `buffer` must be claimed, and hold a path from `start` on.
#[inline(always)]
pub unsafe fn path(
    buffer: *mut PathBuffer,
    start: u32,
    actor: &Actor,
    kind: u16,
    hook: u8,
    body: FileBody,
    decision: &Decision,
) {
    let length = (MAX_PATH as u32).wrapping_sub(start) & (MAX_PATH as u32 - 1);
    // `start` is MAX_PATH when there is no path; its position is then masked to 0 and nothing is sent of the area.
    let size = HEAD + length as usize;
    let record = FileRecord {
        header: header(kind, hook, size, actor, decision),
        body: FileBody { path_len: length, ..body },
    };
    // SAFETY: the head area lies in front of every position; the helper copies unaligned.
    unsafe {
        let head = PathBuffer::head(buffer, start);
        bpf_probe_read_kernel(head.cast(), HEAD as u32, (&raw const record).cast());
        send(head.cast(), size, actor.held.scope, !decision.allows());
    }
}

#[repr(C)]
struct FileRecord {
    header: EventHeader,
    body: FileBody,
}

#[repr(C)]
struct NetRecord {
    header: EventHeader,
    body: NetBody,
}

/// Sends a network record.
#[inline(always)]
pub fn net(actor: &Actor, kind: u16, hook: u8, body: NetBody, decision: &Decision) {
    let size = size_of::<NetRecord>();
    let record = NetRecord { header: header(kind, hook, size, actor, decision), body };
    // SAFETY: a local without padding.
    unsafe { send((&raw const record).cast(), size, actor.held.scope, !decision.allows()) };
}

/// Sends a record of a packet that is not allowed.
#[inline(always)]
pub fn packet(actor: &Actor, maker: [u32; 2], kind: u16, hook: u8, body: NetBody, decision: &Decision) {
    let size = size_of::<NetRecord>();
    let record = NetRecord { header: packet_header(kind, hook, size, actor, maker, decision), body };
    // SAFETY: a local without padding.
    unsafe { send((&raw const record).cast(), size, actor.held.scope, true) };
}

/// Sends a record with a small fixed body.
#[inline(always)]
pub fn fixed<B: Copy>(actor: &Actor, kind: u16, hook: u8, body: B, decision: &Decision) {
    #[repr(C)]
    struct Record<B> {
        header: EventHeader,
        body: B,
    }
    let size = size_of::<Record<B>>();
    let record = Record { header: header(kind, hook, size, actor, decision), body };
    // SAFETY: a local; bodies and header have no padding.
    unsafe { send((&raw const record).cast(), size, actor.held.scope, !decision.allows()) };
}

/// Whether an allowed network operation of this kind is reported by default.
#[inline(always)]
pub fn always_reported(event: u16) -> bool {
    event == kind::CONNECT || event == kind::LISTEN
}
