//! What an overlay does in its layers for somebody whom it was judged for by the overlay's own names: it opens the layers'
//! directories to list them, and copies what is to be changed into its upper layer.
//!
//! It does so under credentials of its own, a copy made when it was mounted (`ovl_fs.creator_cred`), which no task ever has:
//! who acts under that very copy is the overlay. io_uring acts under other credentials, too, but only under some that a task
//! has had. Only overlays that the policy knows count: of one that the workload has mounted itself anything could be a layer.

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel};

use crate::{
    kernel::{
        self, DENTRY_D_SB, SUPER_BLOCK_S_DEV, SUPER_BLOCK_S_FS_INFO, SUPER_BLOCK_S_MAGIC, TASK_CRED,
        TASK_REAL_CRED,
    },
    maps::{OVERLAY_CRED, OVERLAYS},
    rules,
    tag::Held,
};

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// Reads a word at an address that may be anything.
#[inline(always)]
fn word(address: u64) -> Option<u64> {
    let mut value = 0u64;
    // SAFETY: a local of that size; a bad address makes the helper fail.
    let read = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const _) };
    (read == 0).then_some(value)
}

/// The credentials of the overlay that `fs_info` tells of, if it is known where they are.
#[inline(always)]
fn creator(fs_info: u64) -> Option<u64> {
    let offset = OVERLAY_CRED.get(0).copied().filter(|offset| *offset != 0)?;
    word(fs_info + u64::from(offset))
}

/// Takes note of an overlay of which a name is about to be judged: whatever it does in its layers comes after.
///
/// # Safety
/// `dentry` must be a typed kernel pointer.
#[inline(always)]
pub unsafe fn note(dentry: *const u8) {
    // SAFETY: typed loads checked by the verifier.
    let (super_block, magic) = unsafe {
        let super_block: *const u8 = kernel::field(dentry, &DENTRY_D_SB);
        (super_block, kernel::field::<u64>(super_block, &SUPER_BLOCK_S_MAGIC))
    };
    if magic == OVERLAYFS_MAGIC {
        // SAFETY: as above.
        unsafe { remember(super_block) };
    }
}

/// # Safety
/// `super_block` must be an overlay's.
#[inline(never)]
unsafe fn remember(super_block: *const u8) -> u32 {
    // SAFETY: typed loads checked by the verifier.
    let fs_info: u64 = unsafe { kernel::field(super_block, &SUPER_BLOCK_S_FS_INFO) };
    let Some(creator) = creator(fs_info) else { return 0 };
    let address = super_block as u64;
    // SAFETY: the value is copied out at once.
    if unsafe { OVERLAYS.get(&creator) }.copied() != Some(address) {
        // Without a place what it does in its layers is judged by the layers' names.
        let _ = OVERLAYS.insert(&creator, &address, 0);
    }
    0
}

/// Whether an overlay that the policy knows acts here, for somebody who was judged by its names.
#[inline(never)]
pub fn acts(held: &Held) -> bool {
    // SAFETY: typed loads checked by the verifier.
    let (own, other): (u64, u64) = unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>().cast_const();
        (kernel::field(task, &TASK_REAL_CRED), kernel::field(task, &TASK_CRED))
    };
    if own == other {
        return false;
    }
    // SAFETY: the value is copied out at once.
    let Some(super_block) = unsafe { OVERLAYS.get(&other) }.copied() else { return false };
    let at = |offset: u32| word(super_block + u64::from(offset));
    // What is remembered may be of an overlay that is no more: then there is something else.
    let still = at(SUPER_BLOCK_S_MAGIC.load()) == Some(OVERLAYFS_MAGIC)
        && at(SUPER_BLOCK_S_FS_INFO.load()).and_then(creator) == Some(other);
    let dev = at(SUPER_BLOCK_S_DEV.load()).map(|dev| dev as u32);
    still && dev.is_some_and(|dev| rules::filesystem_of(held.setting.slot(), dev).is_some())
}
