//! Running a program.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null;

use nix::errno::Errno;

use super::open::open;
use super::process::wait;
use super::{Attempt, Failure, Verb, own, text};

pub const VERBS: &[Verb] = &[
    ("exec", 1, |a| {
        let path = text(&a[0])?;
        spawn(libc::AT_FDCWD, &path, 0)
    }),
    ("execveat-fd", 1, |a| by_descriptor(&open(&a[0], libc::O_PATH)?)),
    ("memfd-exec", 1, |a| {
        let name = text("program")?;
        let held = own(sys!(SYS_memfd_create, name.as_ptr(), libc::MFD_CLOEXEC)?);
        let program = fs::read(&a[0])?;
        fs::File::from(held.try_clone()?).write_all(&program)?;
        by_descriptor(&held)
    }),
    ("map-exec", 1, |a| map(&open(&a[0], libc::O_RDONLY)?, libc::PROT_READ | libc::PROT_EXEC).map(drop)),
    ("map-exec-shared", 1, |a| {
        map_as(&open(&a[0], libc::O_RDONLY)?, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED).map(drop)
    }),
    ("map-exec-later", 1, |a| {
        let at = map(&open(&a[0], libc::O_RDONLY)?, libc::PROT_READ)?;
        sys!(SYS_mprotect, at, PAGE, libc::PROT_READ | libc::PROT_EXEC).map(drop)
    }),
    ("memfd-map-exec", 0, |_| {
        let name = text("program")?;
        let held = own(sys!(SYS_memfd_create, name.as_ptr(), libc::MFD_CLOEXEC)?);
        sys!(SYS_ftruncate, held.as_raw_fd(), PAGE)?;
        map(&held, libc::PROT_READ | libc::PROT_EXEC).map(drop)
    }),
    ("map-exec-anonymous", 0, |_| {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        sys!(SYS_mmap, 0, PAGE, protection, flags, -1i32, 0).map(drop)
    }),
];

const PAGE: usize = 4096;

fn map(file: &OwnedFd, protection: i32) -> Result<i64, Failure> {
    map_as(file, protection, libc::MAP_PRIVATE)
}

fn map_as(file: &OwnedFd, protection: i32, flags: i32) -> Result<i64, Failure> {
    Ok(sys!(SYS_mmap, 0, PAGE, protection, flags, file.as_raw_fd(), 0)?)
}

fn by_descriptor(program: &OwnedFd) -> Attempt {
    spawn(program.as_raw_fd(), &text("")?, libc::AT_EMPTY_PATH)
}

/// Runs a program in a child; a close-on-exec pipe carries back the errno of a refused exec.
fn spawn(dir: i32, path: &std::ffi::CStr, flags: i32) -> Attempt {
    let mut ends = [0i32; 2];
    sys!(SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC)?;
    let (reader, writer) = (own(ends[0].into()), own(ends[1].into()));
    // SAFETY: this process has one thread, so the child may do anything.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let _ = fs::File::open("/dev/null").and_then(|quiet| {
            sys!(SYS_dup3, quiet.as_raw_fd(), 1, 0).map(drop).map_err(|_| std::io::ErrorKind::Other.into())
        });
        let argv = [c"true".as_ptr(), null()];
        let envp: [*const libc::c_char; 1] = [null()];
        let _ = sys!(SYS_execveat, dir, path.as_ptr(), argv.as_ptr(), envp.as_ptr(), flags);
        let errno = Errno::last_raw();
        let _ = fs::File::from(writer).write_all(&errno.to_ne_bytes());
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(127) };
    }
    drop(writer);
    let mut errno = [0; 4];
    let refused = std::io::Read::read(&mut fs::File::from(reader), &mut errno)? == 4;
    wait(pid)?;
    if refused { Err(Failure::Os(Errno::from_raw(i32::from_ne_bytes(errno)))) } else { Ok(()) }
}
