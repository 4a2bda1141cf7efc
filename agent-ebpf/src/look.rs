//! Looking at what a file is without opening it: `stat`, `readlink`, extended attributes, watches.
//!
//! What is denied cannot be looked at, unless the policy says `metadata = "open"`; with `"guarded"` nothing can that no rule
//! names. Names are not hidden by that: whoever asks for one learns whether there is such a file.

use aya_ebpf::programs::LsmContext;
use stockade_common::{
    event::{hook, kind},
    file::ACCESS_LOOK,
    tag::{SCOPE_GUARDED, SCOPE_LOOK},
};

use crate::{
    file::{self, Request},
    kernel::{self, PATH_DENTRY},
    overlay, tag,
};

/// `lsm/inode_getattr(path)`, `lsm/path_notify(path, mask, type)`.
#[inline(always)]
pub fn at_path(ctx: &LsmContext, hook: u8) -> bool {
    // SAFETY: a typed kernel pointer.
    judge(unsafe { kernel::field(ctx.arg(0), &PATH_DENTRY) }, hook)
}

/// `lsm/inode_readlink(dentry)`, `lsm/inode_getxattr(dentry, name)`, `lsm/inode_listxattr(dentry)`.
#[inline(always)]
pub fn at_dentry(ctx: &LsmContext, hook: u8) -> bool {
    judge(ctx.arg(0), hook)
}

/// `lsm/inode_get_acl(idmap, dentry, name)` (kernel 6.2; before, access control lists are extended attributes).
#[inline(always)]
pub fn acl(ctx: &LsmContext) -> bool {
    judge(ctx.arg(1), hook::INODE_GET_ACL)
}

#[inline(always)]
fn judge(dentry: *const u8, hook: u8) -> bool {
    let Some(held) = tag::current() else { return true };
    if held.setting.flags() & (SCOPE_LOOK | SCOPE_GUARDED) == 0 {
        return true;
    }
    // SAFETY: a typed kernel pointer.
    let mode = unsafe {
        overlay::note(dentry);
        kernel::dentry_mode(dentry)
    };
    // An overlay looks at its layers for whoever looks at its names.
    if overlay::acts(&held) {
        return true;
    }
    let request = Request { held, access: ACCESS_LOOK, mode, kind: kind::OPEN, hook, refused: 0 };
    file::remembered(dentry, &held, ACCESS_LOOK) || file::check(dentry, &request)
}
