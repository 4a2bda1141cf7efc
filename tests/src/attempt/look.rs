//! Looking at what a file is, without opening it for reading.

use std::ffi::CStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use nix::errno::Errno;

use super::open::open;
use super::{Attempt, Failure, Verb, own, text};

pub const VERBS: &[Verb] = &[
    ("stat", 1, |a| Ok(fs::metadata(&a[0]).map(drop)?)),
    ("lstat", 1, |a| Ok(fs::symlink_metadata(&a[0]).map(drop)?)),
    ("fstat-opath", 1, |a| {
        let file = open(&a[0], libc::O_PATH | libc::O_NOFOLLOW)?;
        let mut found = MaybeUninit::<libc::stat>::uninit();
        sys!(SYS_fstat, file.as_raw_fd(), found.as_mut_ptr()).map(drop)
    }),
    ("readlink", 1, |a| Ok(fs::read_link(&a[0]).map(drop)?)),
    ("listxattr", 1, |a| {
        let path = text(&a[0])?;
        sys!(SYS_listxattr, path.as_ptr(), null_mut::<u8>(), 0).map(drop)
    }),
    ("getxattr", 1, |a| {
        let path = text(&a[0])?;
        get(&path, c"user.none")
    }),
    ("get-acl", 1, |a| {
        let path = text(&a[0])?;
        get(&path, c"system.posix_acl_access")
    }),
    ("watch", 1, |a| watch(&a[0])),
];

/// That there is no such attribute is an answer, too.
fn get(path: &CStr, name: &CStr) -> Attempt {
    match sys!(SYS_getxattr, path.as_ptr(), name.as_ptr(), null_mut::<u8>(), 0) {
        Err(Failure::Os(Errno::ENODATA | Errno::ENOTSUP)) => Ok(()),
        other => other.map(drop),
    }
}

fn watch(path: &str) -> Attempt {
    let path = text(path)?;
    let queue = own(sys!(SYS_inotify_init1, libc::IN_CLOEXEC)?);
    sys!(SYS_inotify_add_watch, queue.as_raw_fd(), path.as_ptr(), libc::IN_ATTRIB).map(drop)
}
