//! Every way to open a file by a name.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{Attempt, Failure, Verb, or_skip, own, text};

pub const VERBS: &[Verb] = &[
    ("read-open", 1, |a| read(open(&a[0], libc::O_RDONLY)?)),
    ("write-open", 1, |a| open(&a[0], libc::O_WRONLY).map(drop)),
    ("rdwr-open", 1, |a| open(&a[0], libc::O_RDWR).map(drop)),
    ("append", 1, |a| open(&a[0], libc::O_WRONLY | libc::O_APPEND).map(drop)),
    ("trunc-open", 1, |a| open(&a[0], libc::O_RDONLY | libc::O_TRUNC).map(drop)),
    ("list", 1, |a| Ok(fs::read_dir(&a[0]).map(|entries| entries.for_each(drop))?)),
    ("create", 1, create),
    ("openat-dirfd", 2, |a| {
        let dir = open(&a[0], libc::O_PATH | libc::O_DIRECTORY)?;
        read(open_at(dir.as_raw_fd(), &a[1], libc::O_RDONLY)?)
    }),
    ("openat2", 1, openat2),
    ("relative", 1, relative),
    ("opath-reopen", 1, |a| {
        let held = open(&a[0], libc::O_PATH)?;
        read(open(&format!("/proc/self/fd/{}", held.as_raw_fd()), libc::O_RDONLY)?)
    }),
    ("proc-self-fd", 1, |a| {
        let (dir, name) = split(&a[0])?;
        let held = open(dir, libc::O_PATH)?;
        read(open(&format!("/proc/self/fd/{}/{name}", held.as_raw_fd()), libc::O_RDONLY)?)
    }),
    ("open-while-renamed", 3, while_renamed),
    ("proc-self-root", 1, |a| read(open(&format!("/proc/self/root{}", a[0]), libc::O_RDONLY)?)),
];

/// `openat(2)` from the working directory.
pub fn open(path: &str, flags: i32) -> Attempt<OwnedFd> {
    open_at(libc::AT_FDCWD, path, flags)
}

/// `openat(2)`.
pub fn open_at(dir: i32, path: &str, flags: i32) -> Attempt<OwnedFd> {
    let path = text(path)?;
    sys!(SYS_openat, dir, path.as_ptr(), flags | libc::O_CLOEXEC, 0o644).map(own)
}

/// Uses a descriptor, since an open that yields nothing would prove nothing.
pub fn read(fd: OwnedFd) -> Attempt {
    let _end_of_file_is_fine_too = File::from(fd).read(&mut [0; 1])?;
    Ok(())
}

/// A path's directory and last name.
pub fn split(path: &str) -> Attempt<(&str, &str)> {
    match path.rsplit_once('/') {
        Some(("", name)) => Ok(("/", name)),
        Some(parts) => Ok(parts),
        None => Err(Failure::Usage(format!("not an absolute path: {path}"))),
    }
}

fn create(args: &[String]) -> Attempt {
    let made = open(&args[0], libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL);
    if made.is_err() && Path::new(&args[0]).exists() {
        eprintln!("attempt: {} exists although its creation failed", args[0]);
    }
    made.map(drop)
}

fn openat2(args: &[String]) -> Attempt {
    let path = text(&args[0])?;
    // struct open_how: flags, mode, resolve.
    let how = [libc::O_RDONLY as u64, 0, 0];
    let fd = sys!(SYS_openat2, libc::AT_FDCWD, path.as_ptr(), how.as_ptr(), size_of_val(&how));
    read(own(or_skip(fd, "openat2")?))
}

/// For two seconds opens two names of one allowed file, either of which may be gone, and a denied file; what each
/// answers must never be the other's.
fn while_renamed(args: &[String]) -> Attempt {
    let end = Instant::now() + Duration::from_secs(2);
    let (mut opened, mut refused) = (0, 0);
    while Instant::now() < end {
        for name in &args[..2] {
            match open(name, libc::O_RDONLY) {
                Ok(_) => opened += 1,
                Err(Failure::Os(Errno::ENOENT)) => {}
                Err(wrong) => return Err(wrong),
            }
        }
        match open(&args[2], libc::O_RDONLY) {
            Ok(_) => return Err(Failure::Usage("the denied file was opened".into())),
            Err(Failure::Os(Errno::EPERM | Errno::EACCES)) => refused += 1,
            // The way there leads through the directory that moves.
            Err(Failure::Os(Errno::ENOENT)) => {}
            Err(wrong) => return Err(wrong),
        }
    }
    if opened > 0 && refused > 0 {
        return Ok(());
    }
    Err(Failure::Skip(format!("proves nothing: {opened} opened, {refused} refused")))
}

fn relative(args: &[String]) -> Attempt {
    let (dir, name) = split(&args[0])?;
    std::env::set_current_dir(dir)?;
    read(open(name, libc::O_RDONLY)?)
}
