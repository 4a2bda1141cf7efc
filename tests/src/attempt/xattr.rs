//! Extended attributes and access control lists: metadata that is written without opening the file.

use std::ffi::CStr;

use nix::errno::Errno;

use super::{Attempt, Failure, Verb, text};

pub const VERBS: &[Verb] = &[
    ("setxattr", 1, |a| {
        let path = text(&a[0])?;
        named(|name| set(&path, name, b"x"))
    }),
    ("removexattr", 1, |a| {
        let path = text(&a[0])?;
        named(|name| match sys!(SYS_removexattr, path.as_ptr(), name.as_ptr()) {
            // It was let through to the filesystem, which has no such attribute there.
            Err(Failure::Os(Errno::ENODATA)) => Ok(()),
            other => other.map(drop),
        })
    }),
    ("set-acl", 1, |a| {
        // Version 2, then tag, permissions and id of the owner, the group and the others.
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, permissions) in [(1u16, 6u16), (4, 4), (0x20, 4)] {
            acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
            acl.extend(u32::MAX.to_le_bytes());
        }
        supported(set(&text(&a[0])?, c"system.posix_acl_access", &acl))
    }),
];

fn set(path: &CStr, name: &CStr, value: &[u8]) -> Attempt {
    sys!(SYS_setxattr, path.as_ptr(), name.as_ptr(), value.as_ptr(), value.len(), 0).map(drop)
}

/// With a user's attribute, or a trusted one where the filesystem has none (tmpfs before 6.6).
fn named(change: impl Fn(&CStr) -> Attempt) -> Attempt {
    match change(c"user.stockade") {
        // SAFETY: takes nothing and returns a number.
        Err(Failure::Os(Errno::EOPNOTSUPP)) if unsafe { libc::geteuid() } == 0 => {
            supported(change(c"trusted.stockade"))
        }
        other => supported(other),
    }
}

fn supported(result: Attempt) -> Attempt {
    match result {
        Err(Failure::Os(Errno::EOPNOTSUPP)) => {
            Err(Failure::Skip("no such attribute on this filesystem".into()))
        }
        other => other,
    }
}
