//! What is remembered of directories: where the automata stand at their paths, so that an open in a known directory steps
//! through one name. Good for as long as nothing has been renamed anywhere.
//!
//! Every move of a dentry, by whatever filesystem for whatever reason, happens under the kernel's `rename_lock`
//! (fs/dcache.c), whose sequence therefore tells whether a path may have changed. Where its address is not known, nothing
//! is remembered and the names of a path are read one after the other, as if renames did not happen.
//!
//! A directory is known by filesystem, inode number and inode generation: only filesystems are remembered that give each
//! new inode another pair (`FS_REMEMBER`). Inode storage would do without, but from some kernel between 6.18 and 7.3 on the
//! verifier takes no inode that was found through a parent.

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_jiffies64, bpf_probe_read_kernel},
};
use stockade_common::{limits::REMEMBERED_DIRECTORIES, tag::Setting};

use crate::{
    automaton::States,
    kernel::{
        self, DENTRY_D_INODE, DENTRY_D_PARENT, DENTRY_D_SB, INODE_I_FLAGS, INODE_I_GENERATION, INODE_I_INO,
        SEQCOUNT_SEQUENCE, SUPER_BLOCK_S_DEV,
    },
    maps::DIRECTORIES,
    path::{self, PathBuffer},
};

/// Address of the kernel's `rename_lock`, a `seqlock_t`, whose first member is the sequence count; 0 if not known.
#[unsafe(no_mangle)]
pub static RENAME_LOCK: Global<u64> = Global::new(0);
/// An odd random number: nobody can choose inodes or moments that give the same tag.
#[unsafe(no_mangle)]
pub static TAG_KEY: Global<u64> = Global::new(1);

/// Jiffies after which what was remembered is void, as a power of two: some minutes. The sequence has 32 bits, and comes
/// round after two thousand million renames, which take longer.
const EPOCH_SHIFT: u64 = 16;
/// `S_ENCRYPTED`, `S_CASEFOLD`: names below depend on keys and on how they were first looked up.
const UNSTEADY: u32 = 1 << 14 | 1 << 15;

/// The states of the automata, and the same exclusive-or the tag they are good for. Two words written by two tasks at
/// once may end up mixed: then they give a tag that is nobody's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memory {
    states: u64,
    sealed: u64,
}

/// Mixes `value` in; for any `hash` different values give different results.
#[inline(always)]
fn mix(hash: u64, value: u64) -> u64 {
    let product = (hash ^ value).wrapping_mul(TAG_KEY.load());
    product ^ product >> 32
}

/// The directory of `dentry`, in an epoch and for a policy slot, as a number.
#[inline(always)]
unsafe fn place(dentry: *const u8, policy: Setting, inode: *const u8) -> u64 {
    // SAFETY: typed loads checked by the verifier.
    unsafe {
        let dev: u32 = kernel::field(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_DEV);
        let generation: u32 = kernel::field(inode, &INODE_I_GENERATION);
        let epoch = bpf_jiffies64() >> EPOCH_SHIFT;
        let hash = mix(epoch << 16 | u64::from(policy.slot()), kernel::field(inode, &INODE_I_INO));
        mix(hash, u64::from(dev) << 32 | u64::from(generation))
    }
}

/// The tag of what is remembered of a place at a moment.
#[inline(always)]
fn tag(place: u64, policy: Setting, sequence: u32) -> u64 {
    mix(place, u64::from(policy.generation()) << 32 | u64::from(sequence))
}

/// Where a place is remembered, if it is.
#[inline(always)]
fn memory(place: u64) -> Option<*mut Memory> {
    DIRECTORIES.get_ptr_mut(place as u32 & (REMEMBERED_DIRECTORIES as u32 - 1))
}

/// The sequence of `rename_lock`; odd while something is being renamed. `None` if it cannot be read.
#[inline(always)]
pub fn rename_sequence() -> Option<u32> {
    let lock = RENAME_LOCK.load();
    if lock == 0 {
        return None;
    }
    let mut sequence = 0u32;
    let from = lock + u64::from(SEQCOUNT_SEQUENCE.load());
    // SAFETY: a local of that size; a bad address makes the helper fail.
    let read = unsafe { bpf_probe_read_kernel((&raw mut sequence).cast(), 4, from as *const _) };
    (read == 0).then_some(sequence)
}

#[inline(always)]
unsafe fn parent_inode(dentry: *const u8) -> *const u8 {
    // SAFETY: typed loads checked by the verifier.
    unsafe { kernel::field(kernel::field(dentry, &DENTRY_D_PARENT), &DENTRY_D_INODE) }
}

/// Where the automata stand at the directory of `dentry`, and where in `buffer` its own name has been put.
///
/// # Safety
/// `dentry` must be a typed kernel pointer, `buffer` claimed.
#[inline(always)]
pub unsafe fn recall(dentry: *const u8, buffer: *mut PathBuffer, policy: Setting) -> Option<(States, u32)> {
    if RENAME_LOCK.load() == 0 {
        return None;
    }
    // SAFETY: typed loads checked by the verifier; null is checked; `memory` is a map value.
    unsafe {
        let inode = parent_inode(dentry);
        if inode.is_null() {
            return None;
        }
        let place = place(dentry, policy, inode);
        let memory = memory(place)?;
        let states = (&raw const (*memory).states).read_volatile();
        let sealed = (&raw const (*memory).sealed).read_volatile();
        let last = path::last_component(dentry, buffer)?;
        // Read at the end: if nothing has been renamed since the states were remembered, nothing was while the parent, the
        // states and the name were read.
        let sequence = rename_sequence()?;
        if states ^ sealed != tag(place, policy, sequence) {
            return None;
        }
        Some((States { anchored: (states >> 32) as u32, floating: states as u32 }, last))
    }
}

/// Remembers where the automata stand at the directory of `dentry`.
///
/// # Safety
/// `dentry` must be a typed kernel pointer, and `states` those of the path it had at `sequence`.
#[inline(always)]
pub unsafe fn remember(dentry: *const u8, policy: Setting, sequence: u32, states: States) {
    // SAFETY: typed loads checked by the verifier; null is checked; `memory` is a map value.
    unsafe {
        let inode = parent_inode(dentry);
        if inode.is_null() || kernel::field::<u32>(inode, &INODE_I_FLAGS) & UNSTEADY != 0 {
            return;
        }
        let place = place(dentry, policy, inode);
        let Some(memory) = memory(place) else { return };
        let states = u64::from(states.anchored) << 32 | u64::from(states.floating);
        (&raw mut (*memory).states).write_volatile(states);
        (&raw mut (*memory).sealed).write_volatile(states ^ tag(place, policy, sequence));
    }
}
