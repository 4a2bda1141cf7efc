//! The decision on a file, and the open hook.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, programs::LsmContext};
use stockade_common::{
    counter::Counter,
    event::{hook, kind, reason},
    file::{
        ACCESS_EXEC, ACCESS_KINDS, ACCESS_MOVE, ACCESS_READ, ACCESS_WRITE, Accept, FS_PROC, FS_REMEMBER,
        FsEntry, NO_RULE,
    },
    limits::MAX_PATH,
    tag::SCOPE_AUDIT_ALL,
};

use crate::{
    automaton::{self, States},
    directory, emit,
    kernel::{
        self, DENTRY_D_SB, FILE_F_FLAGS, FILE_F_MODE, S_IFBLK, S_IFMT, SUPER_BLOCK_S_DEV, SUPER_BLOCK_S_MAGIC,
    },
    maps::{ACCEPTS, AcceptWords, FILESYSTEMS, FsEntryWords, count},
    path::{self, PathBuffer, Walk, walk_error},
    startup,
    tag::{self, Held},
};

const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
const FMODE_EXEC: u32 = 0x20;
/// A file that the kernel opens for itself, which no process gets (kernel 4.19).
const FMODE_NOACCOUNT: u32 = 1 << 29;
/// `FMODE_BACKING`, which is the second of these since 6.14 or so: the file behind a file of a stacked filesystem (overlayfs,
/// kernel 6.5). Before 6.5 its path is the one in the stacked filesystem. The bits mean other things, too, but not of a file
/// that no process gets.
const FMODE_BACKING: u32 = 1 << 25 | 1 << 24;
const O_ACCMODE: u32 = 3;
const O_TRUNC: u32 = 0o1000;
const PIPEFS_MAGIC: u64 = 0x5049_5045;

/// What a program asks of a file.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Request {
    /// What the task is held to.
    pub held: Held,
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

/// A decision before the scope's mode is considered.
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
    tag::candidate().is_none_or(|cgroup_id| judge_open(ctx.arg(0), cgroup_id))
}

/// An open by a process that may be tagged. A function of its own, so that others need not save the registers it uses.
#[inline(never)]
fn judge_open(file: *const u8, cgroup_id: u64) -> bool {
    let Some(tag) = tag::tag_of(cgroup_id) else { return true };
    // SAFETY: a typed kernel pointer.
    let (dentry, flags, fmode) = unsafe {
        (
            kernel::file_dentry(file),
            kernel::field::<u32>(file, &FILE_F_FLAGS),
            kernel::field::<u32>(file, &FILE_F_MODE),
        )
    };
    if startup::goes_on(&tag)
        && (flags & FMODE_EXEC == 0 || startup::executes_starter(dentry) || startup::awaits(&tag))
    {
        return true;
    }
    let held = Held::to(cgroup_id, tag.scope);
    // Whoever opens it has been judged by the name in the stacked filesystem.
    if fmode & FMODE_NOACCOUNT != 0 && fmode & FMODE_BACKING != 0 {
        return true;
    }
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
    if access & ACCESS_WRITE == 0 && refused == 0 && known(dentry, &held, access) {
        count(held.scope, Counter::FileAllowed);
        return true;
    }
    let request = Request { held, access, mode, kind: kind::OPEN, hook: hook::FILE_OPEN, refused };
    check(dentry, &request)
}

/// Whether an open is allowed by what is remembered of its directory, and to be reported to nobody, so that its path is
/// not needed; false says nothing.
#[inline(never)]
fn known(dentry: *const u8, held: &Held, access: u32) -> bool {
    let policy = held.setting;
    if policy.flags() & SCOPE_AUDIT_ALL != 0 {
        return false;
    }
    let Some(buffer) = path::claim(held.scope) else { return false };
    // SAFETY: `dentry` is a typed kernel pointer, the buffer was claimed.
    let allowed = unsafe {
        let access = PathBuffer::forget(buffer, access);
        directory::recall(dentry, buffer, policy)
            .and_then(|(states, last)| automaton::run(policy.slot(), buffer, last, last, states))
            .is_some_and(|way| judge(held, way.end, access).reason == reason::RULE_ALLOW)
    };
    path::release(buffer);
    allowed
}

/// Decides on `dentry` and reports. False: refuse.
#[inline(never)]
pub fn check(dentry: *const u8, request: &Request) -> bool {
    let Some(buffer) = path::claim(request.held.scope) else {
        count(request.held.scope, Counter::FileDenied);
        return !request.held.setting.enforces();
    };
    // SAFETY: `dentry` is a typed kernel pointer, the buffer was claimed.
    let allow = unsafe { check_in(dentry, request, buffer) };
    path::release(buffer);
    allow
}

#[inline(always)]
unsafe fn check_in(dentry: *const u8, request: &Request, buffer: *mut PathBuffer) -> bool {
    let Held { scope, setting, .. } = request.held;
    // verifier: what the hook put in as constants would be followed through all that comes, once for each.
    // SAFETY: as promised by the caller.
    let (access, refused) = unsafe {
        (
            PathBuffer::forget(buffer, request.access),
            PathBuffer::forget(buffer, u32::from(request.refused)) as u8,
        )
    };
    let request = &Request { access, refused, ..*request };
    // SAFETY: as promised by the caller.
    let (dev, walk) = unsafe {
        let dev = kernel::field::<u32>(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_DEV);
        (dev, path::walk(dentry, buffer))
    };
    let mut start = MAX_PATH as u32;
    let mut decision = match walk.start {
        walk_error::NO_NAME => {
            count(scope, Counter::NoName);
            Decision::new(reason::NO_NAME)
        }
        walk_error::TOO_LONG => {
            count(scope, Counter::PathTooLong);
            Decision::new(reason::PATH_TOO_LONG)
        }
        walk_error::FAILED => {
            count(scope, Counter::HelperFailed);
            Decision::new(reason::INTERNAL)
        }
        walk_error::RACED => {
            count(scope, Counter::Raced);
            Decision::new(reason::INTERNAL)
        }
        position => {
            start = position;
            // SAFETY: as promised by the caller.
            unsafe { by_path(dentry, buffer, walk, request, dev) }
        }
    };
    if request.refused != 0 {
        decision = Decision::new(u16::from(request.refused));
    }
    // verifier: all ways to a decision meet here, or the report is verified for each of them.
    // SAFETY: the buffer was claimed.
    let (start, decision) = unsafe {
        let reason = PathBuffer::forget(buffer, u32::from(decision.reason)) as u16;
        let rule = PathBuffer::forget(buffer, decision.rule);
        (PathBuffer::forget(buffer, start), Decision { reason, rule })
    };
    let allow = decision.allows();
    count(scope, if allow { Counter::FileAllowed } else { Counter::FileDenied });
    if !allow || request.access & ACCESS_WRITE != 0 || setting.flags() & SCOPE_AUDIT_ALL != 0 {
        // SAFETY: the buffer was claimed.
        unsafe { emit::file(buffer, start, request, dev, &decision) };
    }
    allow || !setting.enforces()
}

/// What the policy says about the path that was walked.
#[inline(always)]
unsafe fn by_path(
    dentry: *const u8,
    buffer: *mut PathBuffer,
    walk: Walk,
    request: &Request,
    dev: u32,
) -> Decision {
    let policy = request.held.setting;
    let Some(entry) = filesystem_of(policy.slot(), dev) else {
        return Decision::new(reason::UNKNOWN_FILESYSTEM);
    };
    let mut start = walk.start;
    let mut states = States { anchored: entry.anchored, floating: entry.floating };
    if entry.flags & FS_PROC != 0 {
        // SAFETY: as promised by the caller.
        if let Some(after) = unsafe { own_process(buffer, start) } {
            start = after;
            states = States { anchored: entry.anchored_self, floating: entry.floating_self };
        }
    }
    // verifier: both ways meet here with the same knowledge, or the automata are verified for each (6.12: four times).
    // SAFETY: as promised by the caller.
    unsafe {
        start = PathBuffer::forget(buffer, start);
        states.anchored = PathBuffer::forget(buffer, states.anchored);
        states.floating = PathBuffer::forget(buffer, states.floating);
    }
    // SAFETY: as promised by the caller.
    let Some(way) = (unsafe { automaton::run(policy.slot(), buffer, start, walk.last, states) }) else {
        return internal(request.held.scope);
    };
    if entry.flags & FS_REMEMBER != 0 && start < walk.last && walk.sequence & 1 == 0 {
        // SAFETY: these are the states at the path walked.
        unsafe { directory::remember(dentry, policy, walk.sequence, way.before_last) };
    }
    judge(&request.held, way.end, request.access)
}

/// What holds for an access to a path at whose end the automata are in these states.
#[inline(always)]
fn judge(held: &Held, end: States, access: u32) -> Decision {
    let slot = held.setting.slot();
    let (Some(a), Some(f)) = (accept(slot, end.anchored), accept(slot, end.floating)) else {
        return internal(held.scope);
    };
    let denied = (a.deny | f.deny) & access;
    if denied != 0 {
        let rule = rule_for(&a.deny_rule, &f.deny_rule, a.deny, f.deny, access);
        let moves = denied == ACCESS_MOVE;
        return Decision { reason: if moves { reason::MOVES_DENIED } else { reason::RULE_DENY }, rule };
    }
    let wanted = access & !ACCESS_MOVE;
    if (a.allow | f.allow) & wanted == wanted {
        let rule = rule_for(&a.allow_rule, &f.allow_rule, a.allow, f.allow, wanted);
        return Decision { reason: reason::RULE_ALLOW, rule };
    }
    Decision::new(reason::NO_RULE)
}

#[inline(always)]
fn internal(scope: u32) -> Decision {
    count(scope, Counter::BadTable);
    Decision::new(reason::INTERNAL)
}

#[inline(always)]
fn accept(slot: u32, state: u32) -> Option<&'static Accept> {
    let words: *const AcceptWords = ACCEPTS.get_value(slot, &automaton::accept_index(slot, state)?)?;
    // SAFETY: the same words; a map value.
    Some(unsafe { &*words.cast::<Accept>() })
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

/// The filesystem's entry in a policy, for hooks that need its flags.
#[inline(always)]
pub fn filesystem(slot: u32, dentry: *const u8) -> Option<FsEntry> {
    // SAFETY: a typed kernel pointer.
    let dev = unsafe { kernel::field::<u32>(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_DEV) };
    filesystem_of(slot, dev)
}

/// What a slot's tables hold about the path at `start`, by both automata; of rules that of the lowest number.
///
/// # Safety
/// `buffer` must be claimed, and hold a path from `start` on.
#[inline(always)]
pub unsafe fn look_up(slot: u32, buffer: *mut PathBuffer, start: u32, dev: u32) -> Option<Accept> {
    let entry = filesystem_of(slot, dev)?;
    let states = States { anchored: entry.anchored, floating: entry.floating };
    // SAFETY: as promised by the caller.
    let way = unsafe { automaton::run(slot, buffer, start, start, states) }?;
    let (mut found, other) = (*accept(slot, way.end.anchored)?, accept(slot, way.end.floating)?);
    found.allow |= other.allow;
    found.deny |= other.deny;
    // Where there is no rule the number is the highest.
    for kind in 0..ACCESS_KINDS {
        found.allow_rule[kind] = found.allow_rule[kind].min(other.allow_rule[kind]);
        found.deny_rule[kind] = found.deny_rule[kind].min(other.deny_rule[kind]);
    }
    Some(found)
}

#[inline(always)]
fn filesystem_of(slot: u32, dev: u32) -> Option<FsEntry> {
    // SAFETY: the same words; the value is copied out at once.
    unsafe {
        let words: *const FsEntryWords = FILESYSTEMS.get(slot)?.get(&dev)?;
        Some(*words.cast::<FsEntry>())
    }
}
