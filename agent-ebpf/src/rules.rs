//! What a policy's tables say about a path.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use stockade_common::{
    counter::Counter,
    event::reason,
    file::{
        ACCESS_KINDS, ACCESS_LOOK, ACCESS_MOVE, ACCESS_READ, Accept, FS_PROC, FS_REMEMBER, FsEntry, NO_RULE,
    },
    limits::MAX_PATH,
    tag::SCOPE_GUARDED,
};

use crate::{
    automaton::{self, States},
    directory,
    file::{Decision, Request},
    kernel::{self, DENTRY_D_SB, SUPER_BLOCK_S_DEV},
    maps::{ACCEPTS, AcceptWords, FILESYSTEMS, FsEntryWords, count},
    path::{PathBuffer, Walk},
    tag::Held,
};

/// What the policy says about the path that was walked.
///
/// # Safety
/// `dentry` must be a typed kernel pointer, `buffer` claimed and hold the path that `walk` tells of.
#[inline(always)]
pub unsafe fn by_path(
    dentry: *const u8,
    buffer: *mut PathBuffer,
    walk: Walk,
    request: &Request,
    dev: u32,
) -> Decision {
    let policy = request.held.setting;
    let Some(entry) = filesystem_of(policy.slot(), dev) else {
        // What nobody can have denied is only guarded.
        let shown = request.access == ACCESS_LOOK && policy.flags() & SCOPE_GUARDED == 0;
        return Decision::new(if shown { reason::RULE_ALLOW } else { reason::UNKNOWN_FILESYSTEM });
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
pub fn judge(held: &Held, end: States, access: u32) -> Decision {
    let slot = held.setting.slot();
    let (Some(a), Some(f)) = (accept(slot, end.anchored), accept(slot, end.floating)) else {
        return internal(held.scope);
    };
    if access == ACCESS_LOOK {
        let shown = held.setting.flags() & SCOPE_GUARDED == 0 || a.allow | f.allow != 0;
        if (a.deny | f.deny) & ACCESS_READ == 0 {
            return Decision::new(if shown { reason::RULE_ALLOW } else { reason::NO_RULE });
        }
    }
    let access = if access == ACCESS_LOOK { ACCESS_READ } else { access };
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

/// The tables contradict themselves.
#[inline(always)]
pub fn internal(scope: u32) -> Decision {
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
    kind!(4);
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

/// A filesystem's entry in a policy.
#[inline(always)]
pub fn filesystem_of(slot: u32, dev: u32) -> Option<FsEntry> {
    // SAFETY: the same words; the value is copied out at once.
    unsafe {
        let words: *const FsEntryWords = FILESYSTEMS.get(slot)?.get(&dev)?;
        Some(*words.cast::<FsEntry>())
    }
}
