//! Reading kernel structs: offsets found in BTF at load, and typed loads at them.

use aya_ebpf::Global;

/// `-EPERM`.
pub const DENY: i32 = -1;

macro_rules! offset {
    ($name:ident) => {
        // Never left at zero: the agent refuses to load when a field is missing from BTF.
        #[unsafe(no_mangle)]
        pub static $name: Global<u32> = Global::new(0);
    };
}
stockade_common::declare_offsets!(offset);

/// Loads the field at `offset` of the kernel object `base`.
///
/// The offset is a frozen constant to the verifier, so the load is a typed one: a pointer stays a typed pointer, and a
/// wrong offset fails the load of the program instead of reading something else.
///
/// # Safety
/// `base` must be a kernel pointer the verifier knows the type of, and not null.
#[inline(always)]
pub unsafe fn field<T: Copy>(base: *const u8, offset: &Global<u32>) -> T {
    // SAFETY: the verifier checks type and bounds of this load.
    unsafe { core::ptr::read_volatile(base.add(offset.load() as usize).cast::<T>()) }
}

/// Address of an embedded struct.
///
/// # Safety
/// As [`field`].
#[inline(always)]
pub unsafe fn embedded(base: *const u8, offset: &Global<u32>) -> *const u8 {
    // SAFETY: as for `field`.
    unsafe { base.add(offset.load() as usize) }
}

/// `file.f_path.dentry`.
///
/// # Safety
/// `file` must be a typed kernel pointer.
#[inline(always)]
pub unsafe fn file_dentry(file: *const u8) -> *const u8 {
    // SAFETY: checked by the verifier.
    unsafe { field(embedded(file, &FILE_F_PATH), &PATH_DENTRY) }
}

/// `dentry.d_inode.i_mode`, 0 for a dentry without an inode.
///
/// # Safety
/// `dentry` must be a typed kernel pointer.
#[inline(always)]
pub unsafe fn dentry_mode(dentry: *const u8) -> u32 {
    // SAFETY: checked by the verifier; null is checked here.
    unsafe {
        let inode: *const u8 = field(dentry, &DENTRY_D_INODE);
        if inode.is_null() { 0 } else { u32::from(field::<u16>(inode, &INODE_I_MODE)) }
    }
}

/// Kernel id of a cgroup.
///
/// # Safety
/// `cgroup` must be a typed kernel pointer.
#[inline(always)]
pub unsafe fn cgroup_id(cgroup: *const u8) -> u64 {
    // SAFETY: checked by the verifier.
    unsafe { field(field(cgroup, &CGROUP_KN), &KERNFS_NODE_ID) }
}

/// Id of the cgroup-v2 group a task is in.
///
/// # Safety
/// `task` must be a typed kernel pointer.
#[inline(always)]
pub unsafe fn task_cgroup_id(task: *const u8) -> u64 {
    // SAFETY: checked by the verifier.
    unsafe { cgroup_id(field(field(task, &TASK_CGROUPS), &CSS_SET_DFL_CGRP)) }
}

/// `S_IFMT` and its values.
pub const S_IFMT: u32 = 0o170_000;
/// Directory.
pub const S_IFDIR: u32 = 0o040_000;
/// Block device.
pub const S_IFBLK: u32 = 0o060_000;
/// Character device.
pub const S_IFCHR: u32 = 0o020_000;
