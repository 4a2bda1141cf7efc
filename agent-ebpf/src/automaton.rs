//! Stepping a path through a policy's automata.

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
// an inner loop multiplies what follows: 64 bytes take over a million instructions to verify on 6.12.
const CHUNK: u32 = 4;
/// Legs of the way: each automaton as far as the last component, then each through it.
const LEGS: u32 = 4;

/// Where a policy's two automata stand.
#[derive(Clone, Copy)]
pub struct States {
    /// Rules that begin with a literal component.
    pub anchored: u32,
    /// Rules that begin with `**`.
    pub floating: u32,
}

#[repr(C)]
struct Stepper {
    next: *const u64,
    states: *const u64,
    buffer: *mut PathBuffer,
    /// Where the path starts.
    start: u32,
    /// Where its last component starts.
    last: u32,
    leg: u32,
    position: u32,
    /// Of the automaton that runs in this leg, and of the other.
    state: u32,
    other: u32,
    /// At the end of the second leg.
    anchored_before_last: u32,
    floating_before_last: u32,
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

/// Steps over at most [`CHUNK`] bytes, and goes over to the next leg when one is done. True after the last.
#[inline(always)]
unsafe fn chunk(stepper: &mut Stepper) -> bool {
    let (next, states, buffer) = (stepper.next, stepper.states, stepper.buffer);
    let (mut position, mut state) = (stepper.position, stepper.state);
    let end = if stepper.leg < LEGS / 2 { stepper.last } else { MAX_PATH as u32 };
    for _ in 0..CHUNK {
        if position >= end || state & STOP != 0 {
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
    }
    if stepper.position < end && stepper.state & STOP == 0 {
        return false;
    }
    // The automata take turns, whatever the leg.
    let state = stepper.state;
    stepper.state = stepper.other;
    stepper.other = state;
    stepper.leg += 1;
    if stepper.leg == LEGS / 2 {
        stepper.anchored_before_last = stepper.state;
        stepper.floating_before_last = stepper.other;
    }
    stepper.position = if stepper.leg < LEGS / 2 { stepper.start } else { stepper.last };
    stepper.leg >= LEGS
}

unsafe extern "C" fn turn(_index: u64, stepper: *mut c_void) -> u64 {
    // SAFETY: `run` passes its own stepper.
    u64::from(unsafe { chunk(&mut *stepper.cast::<Stepper>()) })
}

/// The one element of a table. Not `&0`: a reference to a constant becomes a place in `.rodata`, and the linker makes of it
/// the place of the first global there.
#[inline(always)]
fn first() -> u32 {
    core::hint::black_box(0)
}

#[inline(always)]
fn states_of(slot: u32) -> Option<*const u64> {
    STATES.get_value_ptr_mut(slot, &first()).map(|table| table.cast::<u64>().cast_const())
}

#[inline(always)]
fn next_of(slot: u32) -> Option<*const u64> {
    NEXT.get_value_ptr_mut(slot, &first()).map(|table| table.cast::<u64>().cast_const())
}

/// The path's way through the automata.
#[derive(Clone, Copy)]
pub struct Way {
    /// Where they stood before the last component.
    pub before_last: States,
    /// Where they stand at the end.
    pub end: States,
}

/// Steps the path at `start`, whose last component is at `last`, through a policy's automata, from `states` on. With `start` at `last` only that
/// component is stepped. `None` if the tables are missing.
///
/// # Safety
/// `buffer` must come from [`crate::path::claim`].
#[inline(always)]
pub unsafe fn run(slot: u32, buffer: *mut PathBuffer, start: u32, last: u32, states: States) -> Option<Way> {
    let (table, next) = (states_of(slot)?, next_of(slot)?);
    // A process's own id counts as stepped already, and may be all there is.
    let last = if last < start { start } else { last };
    let mut stepper = Stepper {
        next,
        states: table,
        buffer,
        start,
        last,
        leg: if start >= last { LEGS / 2 } else { 0 },
        position: start,
        state: states.anchored,
        other: states.floating,
        anchored_before_last: states.anchored,
        floating_before_last: states.floating,
    };
    // Each leg may end in a chunk that is not full.
    let turns = 2 * MAX_PATH as u32 / CHUNK + LEGS;
    // SAFETY: the callback takes what it is given here.
    unsafe { bpf_loop(turns, turn as *mut c_void, (&raw mut stepper).cast(), 0) };
    // verifier: one way out, however many turns it took.
    // SAFETY: as promised by the caller.
    let forget = |state| unsafe { PathBuffer::forget(buffer, state) };
    Some(Way {
        before_last: States {
            anchored: forget(stepper.anchored_before_last),
            floating: forget(stepper.floating_before_last),
        },
        end: States { anchored: forget(stepper.state), floating: forget(stepper.other) },
    })
}

/// Index into `ACCEPTS` of what holds when a path ends in `state`.
#[inline(always)]
pub fn accept_index(slot: u32, state: u32) -> Option<u32> {
    let states = states_of(slot)?;
    // SAFETY: masked to the size of the table.
    Some((unsafe { *states.add(masked::<STATE_MASK>(state)) } >> 32) as u32)
}
