//! The decision on a file, and the open hook.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, programs::LsmContext};
use stockade_common::{
    counter::Counter,
    event::{hook, kind, reason},
    file::{
        ACCESS_EXEC, ACCESS_KINDS, ACCESS_MOVE, ACCESS_READ, ACCESS_WRITE, Accept, FS_PROC, FsEntry, FsKey,
        NO_RULE,
    },
    limits::MAX_PATH,
    tag::{SLOT_AUDIT_ALL, SLOT_ENFORCE},
};

use crate::{
    automaton, emit,
    kernel::{
        self, DENTRY_D_SB, FILE_F_FLAGS, FILE_F_MODE, S_IFBLK, S_IFMT, SUPER_BLOCK_S_DEV, SUPER_BLOCK_S_MAGIC,
    },
    maps::{ACCEPTS, FILESYSTEMS, count},
    path::{self, PathBuffer, walk_error},
    tag,
};

const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
const FMODE_EXEC: u32 = 0x20;
const O_ACCMODE: u32 = 3;
const O_TRUNC: u32 = 0o1000;
const PIPEFS_MAGIC: u64 = 0x5049_5045;

/// What a program asks of a file.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Request {
    /// Cgroup of the task.
    pub cgroup_id: u64,
    /// Its slot.
    pub slot: u32,
    /// `ACCESS_*` bits.
    pub access: u32,
    /// `inode.i_mode`, or the mode of what is to be made.
    pub mode: u32,
    /// Event kind.
    pub kind: u16,
    /// Event hook.
    pub hook: u8,
    /// Never allowed, whatever the rules: the hook has already found a reason to refuse.
    pub refused: u8,
}

/// A decision before the slot's mode is considered.
#[derive(Clone, Copy)]
pub struct Decision {
    pub reason: u16,
    pub rule: u32,
}

impl Decision {
    #[inline(always)]
    pub fn new(reason: u16) -> Self {
        Self { reason, rule: NO_RULE }
    }
    #[inline(always)]
    pub fn allows(self) -> bool {
        self.reason == reason::RULE_ALLOW || self.reason == reason::INSIDE
    }
}

/// `lsm/file_open(file)`.
#[inline(always)]
pub fn open(ctx: &LsmContext) -> bool {
    let Some((cgroup_id, slot)) = tag::current() else { return true };
    let file: *const u8 = ctx.arg(0);
    // SAFETY: a typed kernel pointer.
    let (dentry, flags, fmode) = unsafe {
        (
            kernel::file_dentry(file),
            kernel::field::<u32>(file, &FILE_F_FLAGS),
            kernel::field::<u32>(file, &FILE_F_MODE),
        )
    };
    let mut access = 0;
    if flags & FMODE_EXEC != 0 {
        access |= ACCESS_EXEC;
    } else if fmode & FMODE_READ != 0 {
        access |= ACCESS_READ;
    }
    // O_RDONLY | O_TRUNC does truncate.
    if fmode & FMODE_WRITE != 0 || flags & O_TRUNC != 0 {
        access |= ACCESS_WRITE;
    }
    // Access mode 3 opens for neither, but lets ioctl through to drivers.
    if flags & O_ACCMODE == O_ACCMODE {
        access |= ACCESS_READ | ACCESS_WRITE;
    }
    if access == 0 {
        access = ACCESS_READ;
    }
    // SAFETY: as above.
    let mode = unsafe { kernel::dentry_mode(dentry) };
    // SAFETY: as above. A pipe has no content at rest; one of another process is out of reach, because following
    // /proc/PID/fd needs ptrace access, which is refused outside the tag.
    if unsafe { kernel::field::<u64>(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_MAGIC) }
        == PIPEFS_MAGIC
    {
        return true;
    }
    let refused = if mode & S_IFMT == S_IFBLK { reason::DEVICE as u8 } else { 0 };
    let request = Request { cgroup_id, slot, access, mode, kind: kind::OPEN, hook: hook::FILE_OPEN, refused };
    check(dentry, &request)
}

/// Decides on `dentry` and reports. False: refuse.
#[inline(never)]
pub fn check(dentry: *const u8, request: &Request) -> bool {
    let Some(buffer) = path::claim() else {
        count(Counter::Denied);
        return !emit::enforces(request.slot);
    };
    // SAFETY: `dentry` is a typed kernel pointer, the buffer was claimed.
    let allow = unsafe { check_in(dentry, request, buffer) };
    path::release(buffer);
    allow
}

#[inline(always)]
unsafe fn check_in(dentry: *const u8, request: &Request, buffer: *mut PathBuffer) -> bool {
    // SAFETY: as promised by the caller.
    let (dev, walk) = unsafe {
        let dev = kernel::field::<u32>(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_DEV);
        (dev, path::walk(dentry, buffer))
    };
    let mut start = MAX_PATH as u32;
    let mut decision = match walk {
        walk_error::NO_NAME => {
            count(Counter::NoName);
            Decision::new(reason::NO_NAME)
        }
        walk_error::TOO_LONG => {
            count(Counter::PathTooLong);
            Decision::new(reason::PATH_TOO_LONG)
        }
        walk_error::FAILED => {
            count(Counter::HelperFailed);
            Decision::new(reason::INTERNAL)
        }
        position => {
            start = position;
            // SAFETY: as promised by the caller.
            unsafe { by_path(buffer, position, request, dev) }
        }
    };
    if request.refused != 0 {
        decision = Decision::new(u16::from(request.refused));
    }
    let flags = emit::slot_flags(request.slot);
    let allow = decision.allows();
    count(if allow { Counter::Allowed } else { Counter::Denied });
    if !allow || request.access & ACCESS_WRITE != 0 || flags & SLOT_AUDIT_ALL != 0 {
        // SAFETY: the buffer was claimed.
        unsafe { emit::file(buffer, start, request, dev, &decision, flags) };
    }
    allow || flags & SLOT_ENFORCE == 0
}

/// What the policy says about the path at `position` of the buffer.
#[inline(always)]
unsafe fn by_path(buffer: *mut PathBuffer, position: u32, request: &Request, dev: u32) -> Decision {
    let key = FsKey { slot: request.slot, dev };
    // SAFETY: the value is copied out at once.
    let Some(entry) = unsafe { FILESYSTEMS.get(&key) }.copied() else {
        return Decision::new(reason::UNKNOWN_FILESYSTEM);
    };
    let (mut position, mut anchored, mut floating) = (position, entry.anchored, entry.floating);
    if entry.flags & FS_PROC != 0 {
        // SAFETY: as promised by the caller.
        if let Some(after) = unsafe { own_process(buffer, position) } {
            position = after;
            anchored = entry.anchored_self;
            floating = entry.floating_self;
        }
    }
    // verifier: both ways meet here with the same knowledge, or the automata are verified for each (6.12: four times).
    // SAFETY: as promised by the caller.
    unsafe {
        position = PathBuffer::forget(buffer, position);
        anchored = PathBuffer::forget(buffer, anchored);
        floating = PathBuffer::forget(buffer, floating);
    }
    // SAFETY: as promised by the caller.
    let states =
        unsafe { (automaton::run(buffer, position, anchored), automaton::run(buffer, position, floating)) };
    let (Some(anchored), Some(floating)) = states else { return internal() };
    let (Some(a), Some(f)) = (accept(anchored), accept(floating)) else { return internal() };

    let denied = (a.deny | f.deny) & request.access;
    if denied != 0 {
        let rule = rule_for(&a.deny_rule, &f.deny_rule, a.deny, f.deny, request.access);
        let moves = denied == ACCESS_MOVE;
        return Decision { reason: if moves { reason::MOVES_DENIED } else { reason::RULE_DENY }, rule };
    }
    let wanted = request.access & !ACCESS_MOVE;
    if (a.allow | f.allow) & wanted == wanted {
        let rule = rule_for(&a.allow_rule, &f.allow_rule, a.allow, f.allow, wanted);
        return Decision { reason: reason::RULE_ALLOW, rule };
    }
    Decision::new(reason::NO_RULE)
}

#[inline(always)]
fn internal() -> Decision {
    count(Counter::BadTable);
    Decision::new(reason::INTERNAL)
}

#[inline(always)]
fn accept(state: u32) -> Option<&'static Accept> {
    ACCEPTS.get(automaton::accept_index(state)?)
}

/// The rule to name: that of the first access kind asked for which either automaton decides.
#[inline(always)]
fn rule_for(
    anchored: &[u32; ACCESS_KINDS],
    floating: &[u32; ACCESS_KINDS],
    anchored_mask: u32,
    floating_mask: u32,
    access: u32,
) -> u32 {
    macro_rules! kind {
        ($index:literal) => {
            if access & anchored_mask & (1 << $index) != 0 {
                return anchored[$index];
            }
            if access & floating_mask & (1 << $index) != 0 {
                return floating[$index];
            }
        };
    }
    kind!(0);
    kind!(1);
    kind!(2);
    kind!(3);
    NO_RULE
}

/// If the path starts with the caller's own process id, the position behind it.
#[inline(always)]
unsafe fn own_process(buffer: *mut PathBuffer, position: u32) -> Option<u32> {
    let own = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut number = 0u32;
    let mut at = position + 1;
    let first = at;
    for _ in 0..10 {
        if at >= MAX_PATH as u32 {
            break;
        }
        // SAFETY: masked into the path area.
        let byte = unsafe { *PathBuffer::byte(buffer, at) };
        if !byte.is_ascii_digit() {
            break;
        }
        number = number.wrapping_mul(10).wrapping_add(u32::from(byte - b'0'));
        at += 1;
    }
    // SAFETY: as promised by the caller.
    let (at, number) = unsafe { (PathBuffer::forget(buffer, at), PathBuffer::forget(buffer, number)) };
    // SAFETY: masked into the path area.
    let ends = at >= MAX_PATH as u32 || unsafe { *PathBuffer::byte(buffer, at) } == b'/';
    (ends && number == own && at > first).then_some(at)
}

/// The filesystem's entry in a slot, for hooks that need its flags.
#[inline(always)]
pub fn filesystem(slot: u32, dentry: *const u8) -> Option<FsEntry> {
    // SAFETY: a typed kernel pointer.
    let dev = unsafe { kernel::field::<u32>(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_DEV) };
    // SAFETY: the value is copied out at once.
    unsafe { FILESYSTEMS.get(&FsKey { slot, dev }) }.copied()
}
