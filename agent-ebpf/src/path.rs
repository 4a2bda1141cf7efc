//! A file's name: the path inside its own filesystem, built right to left from dentries, mounts ignored.

use core::arch::asm;

use aya_ebpf::{
    cty::c_void,
    helpers::generated::{bpf_loop, bpf_probe_read_kernel},
};
use stockade_common::{
    counter::Counter,
    event::{EventHeader, FileBody},
    limits::{MAX_DEPTH, MAX_NAME, MAX_PATH, PATH_BUFFERS_PER_CPU},
};

use crate::{
    directory::{RENAME_LOCK, rename_sequence},
    kernel::{self, DENTRY_D_NAME_LEN, DENTRY_D_NAME_NAME, DENTRY_D_PARENT, DENTRY_D_SB, SUPER_BLOCK_S_ROOT},
    maps::{PATH_BUFFERS, count},
};

/// Bytes kept free before the path, so that an event's header can be put right in front of it.
pub const HEAD: usize = size_of::<EventHeader>() + size_of::<FileBody>();
/// Room behind the last byte a path may start at: for the longest path (an event is sent from its start).
const BYTES: usize = HEAD + 2 * MAX_PATH + 8;

/// `value & MASK`, as an instruction the compiler cannot reason away.
// verifier: a mask that the compiler drops, because a comparison has bounded the value already, is one the verifier
// (6.12) misses where the comparison was on a 32-bit half.
#[inline(always)]
pub fn masked<const MASK: u32>(value: u32) -> usize {
    let mut value = u64::from(value);
    // SAFETY: one arithmetic instruction.
    unsafe { asm!("{0} &= {1}", inout(reg) value, const MASK, options(pure, nomem, nostack)) };
    value as usize
}

#[inline(always)]
fn at(position: u32) -> usize {
    masked::<{ MAX_PATH as u32 - 1 }>(position)
}

/// A path under construction. Byte `n` of the path area is `bytes[HEAD + n]`; the path ends at `MAX_PATH`.
#[repr(C)]
pub struct PathBuffer {
    busy: u64,
    scratch: u32,
    pad: u32,
    bytes: [u8; BYTES],
}

impl PathBuffer {
    /// Address of path byte `position`.
    ///
    /// # Safety
    /// `this` must be a buffer from [`claim`].
    #[inline(always)]
    pub unsafe fn byte(this: *mut Self, position: u32) -> *mut u8 {
        // SAFETY: masked into the path area.
        unsafe { (&raw mut (*this).bytes).cast::<u8>().add(HEAD + at(position)) }
    }

    /// `value`, of which the verifier then knows nothing.
    // verifier: every way out of a loop carries another range for its variables, and all that follows is verified once
    // for each (64 ways times 64 ways: minutes). What comes back from memory is the same for all, and they merge.
    ///
    /// # Safety
    /// As [`Self::byte`].
    #[inline(always)]
    pub unsafe fn forget(this: *mut Self, value: u32) -> u32 {
        // SAFETY: a field of a claimed buffer.
        unsafe {
            let scratch = &raw mut (*this).scratch;
            scratch.write_volatile(value);
            scratch.read_volatile()
        }
    }

    /// Address `HEAD` bytes before path byte `position`.
    ///
    /// # Safety
    /// As [`Self::byte`].
    #[inline(always)]
    pub unsafe fn head(this: *mut Self, position: u32) -> *mut u8 {
        // SAFETY: masked into the path area, in front of which `HEAD` bytes lie.
        unsafe { (&raw mut (*this).bytes).cast::<u8>().add(at(position)) }
    }
}

/// Atomically sets `busy`, and returns what it was. (`core` has no atomics for this target.)
///
/// # Safety
/// `buffer` must point to a map value.
#[inline(always)]
unsafe fn exchange(buffer: *mut PathBuffer, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: one instruction on a field of the map value (5.12, atomic exchange).
    unsafe {
        asm!("{value} = xchg_64({busy} + 0, {value})", value = inout(reg) value, busy = in(reg) &raw mut (*buffer).busy);
    }
    value
}

/// Takes a free buffer of this CPU. Programs cannot migrate, but may be preempted by a task that runs one too, in any
/// order; so a buffer is claimed, not indexed by depth.
#[inline(always)]
pub fn claim(scope: u32) -> Option<*mut PathBuffer> {
    for index in 0..PATH_BUFFERS_PER_CPU as u32 {
        if let Some(buffer) = PATH_BUFFERS.get_ptr_mut(index) {
            // SAFETY: a valid map value.
            if unsafe { exchange(buffer, 1) } == 0 {
                return Some(buffer);
            }
        }
    }
    count(scope, Counter::NoBuffer);
    None
}

/// Gives a buffer back.
#[inline(always)]
pub fn release(buffer: *mut PathBuffer) {
    // SAFETY: from `claim`.
    unsafe { exchange(buffer, 0) };
}

/// How [`walk`] failed; anything below is the position where the path starts.
pub mod walk_error {
    /// The dentry's root is not its filesystem's: detached, disconnected or anonymous.
    pub const NO_NAME: u32 = u32::MAX;
    /// Past the limits.
    pub const TOO_LONG: u32 = u32::MAX - 1;
    /// A helper failed.
    pub const FAILED: u32 = u32::MAX - 2;
    /// Something was being renamed all the time.
    pub const RACED: u32 = u32::MAX - 3;
}

/// A path in a buffer.
#[derive(Clone, Copy)]
pub struct Walk {
    /// Where it starts, or a [`walk_error`].
    pub start: u32,
    /// Where its last component starts.
    pub last: u32,
    /// Sequence of renames at which this was its path; odd if that is not known.
    pub sequence: u32,
}

/// Times a walk is begun anew because something was renamed meanwhile. The kernel's own path walks try for ever.
const ATTEMPTS: u32 = 1 << 18;
/// No sequence: an even one is not that of a rename going on.
const UNKNOWN: u32 = 1;

#[repr(C)]
struct Walker {
    dentry: *const u8,
    buffer: *mut PathBuffer,
    walk: Walk,
}

unsafe extern "C" fn attempt(_index: u64, walker: *mut c_void) -> u64 {
    // SAFETY: `walk` passes its own walker.
    unsafe {
        let walker = &mut *walker.cast::<Walker>();
        let before = rename_sequence().unwrap_or(UNKNOWN);
        let start = PathBuffer::forget(walker.buffer, climb(walker.dentry, walker.buffer));
        let known = RENAME_LOCK.load() != 0;
        if known && (before & 1 != 0 || rename_sequence() != Some(before)) {
            return 0;
        }
        let length: u32 = kernel::field(walker.dentry, &DENTRY_D_NAME_LEN);
        let last = (MAX_PATH as u32).wrapping_sub(length + 1);
        walker.walk = Walk { start, last: if last > start { last } else { start }, sequence: before };
        1
    }
}

/// Writes the path of `dentry` to the end of `buffer`.
///
/// # Safety
/// `dentry` must be a typed kernel pointer, `buffer` come from [`claim`].
#[inline(always)]
pub unsafe fn walk(dentry: *const u8, buffer: *mut PathBuffer) -> Walk {
    let mut walker =
        Walker { dentry, buffer, walk: Walk { start: walk_error::RACED, last: 0, sequence: UNKNOWN } };
    // SAFETY: the callback takes what it is given here.
    unsafe {
        bpf_loop(ATTEMPTS, attempt as *mut c_void, (&raw mut walker).cast(), 0);
        let Walk { start, last, sequence } = walker.walk;
        Walk {
            start: PathBuffer::forget(buffer, start),
            last: PathBuffer::forget(buffer, last),
            sequence: PathBuffer::forget(buffer, sequence),
        }
    }
}

/// Writes the last component of the path of `dentry`, with its slash, to the end of `buffer`. Returns where it starts;
/// `None` for a root, and for what [`walk`] will find to be wrong.
///
/// # Safety
/// As [`walk`].
#[inline(always)]
pub unsafe fn last_component(dentry: *const u8, buffer: *mut PathBuffer) -> Option<u32> {
    // SAFETY: typed loads checked by the verifier; buffer positions are masked.
    unsafe {
        if kernel::field::<*const u8>(dentry, &DENTRY_D_PARENT) == dentry {
            return None;
        }
        let position = prepend(dentry, buffer, MAX_PATH as u32);
        let position = PathBuffer::forget(buffer, position);
        (position < MAX_PATH as u32).then_some(position)
    }
}

/// Writes the name of `dentry`, with a slash before it, in front of `position`. Returns where it starts, or a
/// [`walk_error`].
#[inline(always)]
unsafe fn prepend(dentry: *const u8, buffer: *mut PathBuffer, position: u32) -> u32 {
    // SAFETY: typed loads checked by the verifier; buffer positions are masked.
    unsafe {
        let length: u32 = kernel::field(dentry, &DENTRY_D_NAME_LEN);
        if length == 0 || length > MAX_NAME as u32 || position <= length {
            return walk_error::TOO_LONG;
        }
        let position = position - (length + 1);
        let slash = PathBuffer::byte(buffer, position);
        *slash = b'/';
        let name: u64 = kernel::field(dentry, &DENTRY_D_NAME_NAME);
        let length = masked::<{ MAX_NAME as u32 }>(length) as u32;
        if bpf_probe_read_kernel(slash.add(1).cast(), length, name as *const _) != 0 {
            return walk_error::FAILED;
        }
        position
    }
}

/// A walk on its way up.
#[repr(C)]
struct Climber {
    dentry: *const u8,
    root: *const u8,
    buffer: *mut PathBuffer,
    /// Where the path starts so far; at the end that, or a [`walk_error`].
    position: u32,
}

/// One component. 1 when there is nothing more to do.
// verifier: an unrolled loop over 64 components is verified 64 times, and on 6.4 to 6.18 each typed load looks a name up
// in all of the kernel's BTF: 13 thousand million machine instructions for the programs together, in a loop of its own
// a few hundred million.
unsafe extern "C" fn component(_index: u64, climber: *mut c_void) -> u64 {
    // SAFETY: `climb` passes its own climber; typed loads checked by the verifier; buffer positions are masked.
    unsafe {
        let climber = &mut *climber.cast::<Climber>();
        let (dentry, buffer) = (climber.dentry, climber.buffer);
        if dentry == climber.root {
            return 1;
        }
        let parent: *const u8 = kernel::field(dentry, &DENTRY_D_PARENT);
        climber.position = if parent == dentry {
            walk_error::NO_NAME
        } else {
            PathBuffer::forget(buffer, prepend(dentry, buffer, climber.position))
        };
        climber.dentry = parent;
        u64::from(climber.position > MAX_PATH as u32)
    }
}

/// Writes the path of `dentry`, whatever is renamed meanwhile. Returns where it starts, or a [`walk_error`].
#[inline(always)]
unsafe fn climb(dentry: *const u8, buffer: *mut PathBuffer) -> u32 {
    // SAFETY: typed loads checked by the verifier; the callback takes what it is given here.
    unsafe {
        let root: *const u8 = kernel::field(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_ROOT);
        let mut climber = Climber { dentry, root, buffer, position: MAX_PATH as u32 };
        bpf_loop(MAX_DEPTH as u32, component as *mut c_void, (&raw mut climber).cast(), 0);
        let position = PathBuffer::forget(buffer, climber.position);
        if position > MAX_PATH as u32 {
            position
        } else if climber.dentry != root {
            walk_error::TOO_LONG
        } else if position == MAX_PATH as u32 {
            *PathBuffer::byte(buffer, position - 1) = b'/';
            position - 1
        } else {
            position
        }
    }
}
