//! Stepping a path through a policy's automaton.

use aya_ebpf::{cty::c_void, helpers::generated::bpf_loop};
use stockade_common::{
    file::{STATE_MASK, STOP},
    limits::MAX_PATH,
};

use crate::{
    maps::{NEXT, STATES},
    path::{PathBuffer, masked},
};

/// Bytes per turn of the outer loop.
// verifier: a plain loop over 4096 bytes is refused ("sequence of 8193 jumps is too complex", 6.1), and each way out of
// an inner loop multiplies what follows: 64 bytes take over a million instructions to verify on 6.12. With 4, and no
// turn outside `bpf_loop`, a program that names one file takes 51,000; with 8 and a turn before it 164,000.
const CHUNK: u32 = 4;

#[repr(C)]
struct Stepper {
    next: *const u64,
    states: *const u64,
    buffer: *mut PathBuffer,
    position: u32,
    state: u32,
}

/// `same` if `difference` is 0, else `other`.
// verifier: a branch here would leave two ranges behind at each of the bytes, and the ways through the loop would
// multiply; this is the same arithmetic for both.
#[inline(always)]
fn select(difference: u64, same: u32, other: u32) -> u32 {
    let mut negated = difference;
    // SAFETY: one arithmetic instruction; written out, because the compiler would turn it back into a branch.
    unsafe { core::arch::asm!("{0} = -{0}", inout(reg) negated, options(pure, nomem, nostack)) };
    // All ones if there is a difference: both fit 32 bits, so the difference's negative has its top bit set.
    let differs = ((negated as i64) >> 63) as u32;
    same ^ ((same ^ other) & differs)
}

/// Steps over at most [`CHUNK`] bytes. True when there is nothing more to do.
#[inline(always)]
unsafe fn chunk(stepper: &mut Stepper) -> bool {
    let (next, states, buffer) = (stepper.next, stepper.states, stepper.buffer);
    let (mut position, mut state) = (stepper.position, stepper.state);
    let mut done = false;
    for _ in 0..CHUNK {
        if position >= MAX_PATH as u32 || state & STOP != 0 {
            done = true;
            break;
        }
        // SAFETY: indices are masked to the size of the tables and of the path area.
        unsafe {
            let byte = u32::from(*PathBuffer::byte(buffer, position));
            let entry = *next.add(masked::<STATE_MASK>(state + byte));
            let default = *states.add(masked::<STATE_MASK>(state));
            state = select((entry >> 32) ^ u64::from(state), entry as u32, default as u32);
        }
        position += 1;
    }
    // SAFETY: as promised by the caller.
    unsafe {
        stepper.position = PathBuffer::forget(buffer, position);
        stepper.state = PathBuffer::forget(buffer, state);
        PathBuffer::forget(buffer, u32::from(done)) != 0
    }
}

unsafe extern "C" fn turn(_index: u64, stepper: *mut c_void) -> u64 {
    // SAFETY: `run` passes its own stepper.
    u64::from(unsafe { chunk(&mut *stepper.cast::<Stepper>()) })
}

/// The state after the path from `position` on; `None` if the tables are missing.
///
/// # Safety
/// `buffer` must come from [`crate::path::claim`].
#[inline(always)]
pub unsafe fn run(buffer: *mut PathBuffer, position: u32, state: u32) -> Option<u32> {
    let next = NEXT.get_ptr(0)?.cast::<u64>();
    let states = STATES.get_ptr(0)?.cast::<u64>();
    let mut stepper = Stepper { next, states, buffer, position, state };
    // SAFETY: the callback takes what it is given here.
    unsafe { bpf_loop(MAX_PATH as u32 / CHUNK, turn as *mut c_void, (&raw mut stepper).cast(), 0) };
    // verifier: one way out, whether the first chunk was enough or not.
    // SAFETY: as promised by the caller.
    Some(unsafe { PathBuffer::forget(buffer, stepper.state) })
}

/// Index into `ACCEPTS` of what holds when a path ends in `state`.
#[inline(always)]
pub fn accept_index(state: u32) -> Option<u32> {
    let states = STATES.get_ptr(0)?.cast::<u64>();
    // SAFETY: masked to the size of the table.
    Some((unsafe { *states.add(masked::<STATE_MASK>(state)) } >> 32) as u32)
}
