//! A file's name: the path inside its own filesystem, built right to left from dentries, mounts ignored.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use stockade_common::{
    counter::Counter,
    event::{EventHeader, FileBody},
    limits::{MAX_DEPTH, MAX_NAME, MAX_PATH, PATH_BUFFERS_PER_CPU},
};

use crate::{
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
pub fn claim() -> Option<*mut PathBuffer> {
    for index in 0..PATH_BUFFERS_PER_CPU as u32 {
        if let Some(buffer) = PATH_BUFFERS.get_ptr_mut(index) {
            // SAFETY: a valid map value.
            if unsafe { exchange(buffer, 1) } == 0 {
                return Some(buffer);
            }
        }
    }
    count(Counter::NoBuffer);
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
}

/// Writes the path of `dentry` to the end of `buffer`. Returns the position where it starts, or a [`walk_error`].
///
/// # Safety
/// `dentry` must be a typed kernel pointer, `buffer` come from [`claim`].
#[inline(always)]
pub unsafe fn walk(dentry: *const u8, buffer: *mut PathBuffer) -> u32 {
    // SAFETY: as promised by the caller.
    unsafe { PathBuffer::forget(buffer, climb(dentry, buffer)) }
}

#[inline(always)]
unsafe fn climb(dentry: *const u8, buffer: *mut PathBuffer) -> u32 {
    // SAFETY: typed loads checked by the verifier; buffer positions are masked.
    unsafe {
        let root: *const u8 = kernel::field(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_ROOT);
        let mut dentry = dentry;
        let mut position = MAX_PATH as u32;
        for _ in 0..MAX_DEPTH {
            if dentry == root {
                if position == MAX_PATH as u32 {
                    position -= 1;
                    *PathBuffer::byte(buffer, position) = b'/';
                }
                return position;
            }
            let parent: *const u8 = kernel::field(dentry, &DENTRY_D_PARENT);
            if parent == dentry {
                return walk_error::NO_NAME;
            }
            let length: u32 = kernel::field(dentry, &DENTRY_D_NAME_LEN);
            if length == 0 || length > MAX_NAME as u32 || position <= length {
                return walk_error::TOO_LONG;
            }
            position -= length + 1;
            let slash = PathBuffer::byte(buffer, position);
            *slash = b'/';
            let name: u64 = kernel::field(dentry, &DENTRY_D_NAME_NAME);
            let length = masked::<{ MAX_NAME as u32 }>(length) as u32;
            if bpf_probe_read_kernel(slash.add(1).cast(), length, name as *const _) != 0 {
                return walk_error::FAILED;
            }
            dentry = parent;
        }
        walk_error::TOO_LONG
    }
}
