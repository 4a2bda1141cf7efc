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
    ("times", 1, |a| {
        let times = [libc::timespec { tv_sec: 1, tv_nsec: 0 }, libc::timespec { tv_sec: 1, tv_nsec: 0 }];
        let path = text(&a[0])?;
        sys!(SYS_utimensat, libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0).map(drop)
    }),
    ("times-now", 1, |a| {
        let path = text(&a[0])?;
        sys!(SYS_utimensat, libc::AT_FDCWD, path.as_ptr(), 0, 0).map(drop)
    }),
    ("chown", 1, |a| {
        // SAFETY: these calls take and return plain numbers.
        let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
        Ok(chown(&a[0], Some(uid), Some(gid))?)
    }),
    ("truncate", 1, |a| {
        let path = text(&a[0])?;
        sys!(SYS_truncate, path.as_ptr(), 0).map(drop)
    }),
];
