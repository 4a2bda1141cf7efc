//! Changes that are not opens: all of them are `write`. The dentry names the object; its mount plays no part.

use core::arch::asm;

use aya_ebpf::{Global, programs::LsmContext};
use stockade_common::{
    event::{hook, kind, reason},
    file::{ACCESS_MOVE, ACCESS_READ, ACCESS_WRITE, FS_STRICT_RENAME},
};

use crate::{
    file::{self, Request},
    kernel::{self, DENTRY_D_PARENT, IATTR_VALID, PATH_DENTRY, S_IFBLK, S_IFCHR, S_IFDIR, S_IFMT},
    overlay, rules,
    tag::{self, Held},
};

/// A second name gives whoever uses it the rights of the place it is in, so the first must have granted them too.
const ALIAS: u32 = ACCESS_READ | ACCESS_WRITE;
const RENAME_EXCHANGE: u32 = 2;
/// Not 0: `inode_setattr` is told of the mount's ids first, as it is from some kernel between 6.1 and 6.12 on.
#[unsafe(no_mangle)]
pub static SETATTR_IDMAP: Global<u32> = Global::new(0);

#[inline(always)]
fn request(held: Held, access: u32, mode: u32, hook: u8) -> Request {
    Request { held, access, mode, kind: kind::CHANGE, hook, refused: 0 }
}

#[inline(always)]
fn change(dentry: *const u8, access: u32, hook: u8) -> bool {
    let Some(held) = tag::current() else { return true };
    judge(dentry, held, access, hook)
}

#[inline(always)]
fn judge(dentry: *const u8, held: Held, access: u32, hook: u8) -> bool {
    // SAFETY: a typed kernel pointer.
    let mode = unsafe {
        overlay::note(dentry);
        kernel::dentry_mode(dentry)
    };
    file::check(dentry, &request(held, access, mode, hook))
}

#[inline(always)]
fn path_dentry(path: *const u8) -> *const u8 {
    // SAFETY: a typed kernel pointer.
    unsafe { kernel::field(path, &PATH_DENTRY) }
}

/// `lsm/path_mknod(dir, dentry, mode, dev)`: also every file that an open is about to create, before it exists.
#[inline(always)]
pub fn mknod(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let mode = ctx.arg::<u32>(2) & 0xffff;
    let mut request = request(held, ACCESS_WRITE, mode, hook::PATH_MKNOD);
    if mode & S_IFMT == S_IFBLK || mode & S_IFMT == S_IFCHR {
        // A device node is another name for the device.
        request.refused = reason::DEVICE as u8;
    }
    let dentry = ctx.arg(1);
    // SAFETY: a typed kernel pointer.
    unsafe { overlay::note(dentry) };
    file::check(dentry, &request)
}

/// `lsm/path_mkdir(dir, dentry, mode)`.
#[inline(always)]
pub fn mkdir(ctx: &LsmContext) -> bool {
    change(ctx.arg(1), ACCESS_WRITE, hook::PATH_MKDIR)
}

/// `lsm/path_rmdir(dir, dentry)`.
#[inline(always)]
pub fn rmdir(ctx: &LsmContext) -> bool {
    change(ctx.arg(1), ACCESS_WRITE | ACCESS_MOVE, hook::PATH_RMDIR)
}

/// `lsm/path_unlink(dir, dentry)`.
#[inline(always)]
pub fn unlink(ctx: &LsmContext) -> bool {
    change(ctx.arg(1), ACCESS_WRITE, hook::PATH_UNLINK)
}

/// `lsm/path_symlink(dir, dentry, old_name)`: what it points to is judged when it is followed.
#[inline(always)]
pub fn symlink(ctx: &LsmContext) -> bool {
    change(ctx.arg(1), ACCESS_WRITE, hook::PATH_SYMLINK)
}

/// `lsm/path_truncate(path)`.
#[inline(always)]
pub fn truncate(ctx: &LsmContext) -> bool {
    change(path_dentry(ctx.arg(0)), ACCESS_WRITE, hook::PATH_TRUNCATE)
}

/// `lsm/path_chmod(path, mode)`.
#[inline(always)]
pub fn chmod(ctx: &LsmContext) -> bool {
    change(path_dentry(ctx.arg(0)), ACCESS_WRITE, hook::PATH_CHMOD)
}

/// `lsm/path_chown(path, uid, gid)`.
#[inline(always)]
pub fn chown(ctx: &LsmContext) -> bool {
    change(path_dentry(ctx.arg(0)), ACCESS_WRITE, hook::PATH_CHOWN)
}

/// `lsm/inode_setxattr(idmap, dentry, name, ...)`, and what else changes attributes of a dentry given second.
#[inline(always)]
pub fn attribute(ctx: &LsmContext, hook: u8) -> bool {
    let Some(held) = tag::current() else { return true };
    // The hooks on paths are for whoever asks; these are for what an overlay does in its layers, too.
    overlay::acts(&held) || judge(ctx.arg(1), held, ACCESS_WRITE, hook)
}

/// `ATTR_*` of `iattr.ia_valid`: what the hooks on paths have judged already.
const JUDGED: u32 = 0xf;
/// Times of access and change of content.
const TIMES: u32 = 0x30;

/// `lsm/inode_setattr([idmap,] dentry, attr)`: times; all else that it changes has a hook on paths.
#[inline(always)]
pub fn times(ctx: &LsmContext) -> bool {
    if SETATTR_IDMAP.load() == 0 {
        let (dentry, attributes) = (ctx.arg(0), ctx.arg(1));
        // verifier: without this the compiler makes one load of both, at a place that it computes, which 6.1 refuses.
        // SAFETY: no instruction.
        unsafe { asm!("", options(nostack)) };
        return change_of_times(dentry, attributes);
    }
    change_of_times(ctx.arg(1), ctx.arg(2))
}

#[inline(never)]
fn change_of_times(dentry: *const u8, attributes: *const u8) -> bool {
    // SAFETY: a typed kernel pointer.
    let valid: u32 = unsafe { kernel::field(attributes, &IATTR_VALID) };
    if valid & TIMES == 0 || valid & JUDGED != 0 {
        return true;
    }
    let Some(held) = tag::current() else { return true };
    overlay::acts(&held) || judge(dentry, held, ACCESS_WRITE, hook::INODE_SETATTR)
}

/// `lsm/path_link(old_dentry, new_dir, new_dentry)`.
#[inline(always)]
pub fn link(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let (old, new): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(2));
    // SAFETY: a typed kernel pointer.
    let mode = unsafe {
        overlay::note(old);
        kernel::dentry_mode(old)
    };
    file::check(old, &request(held, ALIAS, mode, hook::PATH_LINK))
        && file::check(new, &request(held, ACCESS_WRITE, mode, hook::PATH_LINK))
}

/// `lsm/path_rename(old_dir, old_dentry, new_dir, new_dentry, flags)`. An exchange is seen as two calls on 6.1 and as
/// one from 6.12 on; either way both ends are judged.
#[inline(always)]
pub fn rename(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let (old, new): (*const u8, *const u8) = (ctx.arg(1), ctx.arg(3));
    let flags: u32 = ctx.arg(4);
    // SAFETY: typed kernel pointers.
    let (mode, new_mode, same_parent) = unsafe {
        overlay::note(old);
        let parents: (*const u8, *const u8) =
            (kernel::field(old, &DENTRY_D_PARENT), kernel::field(new, &DENTRY_D_PARENT));
        (kernel::dentry_mode(old), kernel::dentry_mode(new), parents.0 == parents.1)
    };
    let mut from = request(held, ALIAS, mode, hook::PATH_RENAME);
    let mut to = request(held, ALIAS, new_mode, hook::PATH_RENAME);
    let exchange = flags & RENAME_EXCHANGE != 0;
    let moves_directory = mode & S_IFMT == S_IFDIR || (exchange && new_mode & S_IFMT == S_IFDIR);
    if moves_directory {
        from.access |= ACCESS_MOVE;
        to.access |= ACCESS_MOVE;
        let strict =
            rules::filesystem(held.setting.slot(), old).is_none_or(|fs| fs.flags & FS_STRICT_RENAME != 0);
        if strict && !same_parent {
            from.refused = reason::MOVES_DENIED as u8;
        }
    }
    file::check(old, &from) && file::check(new, &to)
}
