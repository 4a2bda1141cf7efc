//! Changes to names and to metadata.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use super::{Verb, text};

pub const VERBS: &[Verb] = &[
    ("unlink", 1, |a| Ok(fs::remove_file(&a[0])?)),
    ("rename", 2, |a| Ok(fs::rename(&a[0], &a[1])?)),
    ("mkdir", 1, |a| Ok(fs::create_dir(&a[0])?)),
    ("rmdir", 1, |a| Ok(fs::remove_dir(&a[0])?)),
    ("symlink", 2, |a| Ok(symlink(&a[0], &a[1])?)),
    ("link", 2, |a| Ok(fs::hard_link(&a[0], &a[1])?)),
    ("mknod-block", 1, |a| {
        let path = text(&a[0])?;
        // Device 7:0 is the first loop device: its number is all that matters here.
        let device = libc::makedev(7, 0);
        sys!(SYS_mknodat, libc::AT_FDCWD, path.as_ptr(), libc::S_IFBLK | 0o600, device).map(drop)
    }),
    ("chmod", 1, |a| Ok(fs::set_permissions(&a[0], fs::Permissions::from_mode(0o644))?)),
    ("chown", 1, |a| {
        // SAFETY: these calls take and return plain numbers.
        let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
        Ok(chown(&a[0], Some(uid), Some(gid))?)
    }),
    ("setxattr", 1, |a| {
        let (path, name) = (text(&a[0])?, text("trusted.stockade")?);
        sys!(SYS_setxattr, path.as_ptr(), name.as_ptr(), b"x".as_ptr(), 1, 0).map(drop)
    }),
    ("removexattr", 1, |a| {
        let (path, name) = (text(&a[0])?, text("trusted.stockade")?);
        match sys!(SYS_removexattr, path.as_ptr(), name.as_ptr()) {
            // There is none: the removal itself was let through.
            Err(super::Failure::Os(nix::errno::Errno::ENODATA)) => Ok(()),
            other => other.map(drop),
        }
    }),
    ("set-acl", 1, |a| {
        let (path, name) = (text(&a[0])?, text("system.posix_acl_access")?);
        // Version 2; owner rw, group r, others rw: a change of mode by another name.
        let entry = |tag: u32, rights: u32| [tag | rights << 16, u32::MAX];
        let acl = [[2].as_slice(), &entry(1, 6), &entry(4, 4), &entry(32, 6)].concat();
        let size = size_of_val(acl.as_slice());
        match sys!(SYS_setxattr, path.as_ptr(), name.as_ptr(), acl.as_ptr(), size, 0) {
            Err(super::Failure::Os(nix::errno::Errno::EOPNOTSUPP)) => {
                Err(super::Failure::Skip("no access control lists on this filesystem".into()))
            }
            other => other.map(drop),
        }
    }),
    ("truncate", 1, |a| {
        let path = text(&a[0])?;
        sys!(SYS_truncate, path.as_ptr(), 0).map(drop)
    }),
];
