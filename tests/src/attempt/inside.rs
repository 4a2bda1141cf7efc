//! What stays within one process tree: sockets it made itself, and its own children.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::id;

use super::process::wait;
use super::{Attempt, Failure, Verb};

pub const VERBS: &[Verb] = &[
    ("own-unix-stream", 1, |a| {
        let path = format!("{}/stream.{}", a[0], id());
        let _listener = UnixListener::bind(&path)?;
        Ok(UnixStream::connect(&path).map(drop)?)
    }),
    ("own-unix-dgram", 1, |a| {
        let path = format!("{}/dgram.{}", a[0], id());
        let _inbox = UnixDatagram::bind(&path)?;
        Ok(UnixDatagram::unbound()?.send_to(b"x", &path).map(drop)?)
    }),
    ("own-unix-abstract", 0, |_| {
        let name = SocketAddr::from_abstract_name(format!("stockade-inside.{}", id()))?;
        let _listener = UnixListener::bind_addr(&name)?;
        Ok(UnixStream::connect_addr(&name).map(drop)?)
    }),
    ("ptrace-child", 0, |_| trace()),
    // TIOCSTI is 0x5412.
    ("tiocsti", 0, |_| on_terminal(0x5412)),
];

fn trace() -> Attempt {
    // SAFETY: this process has one thread; the child only waits to be killed.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        loop {
            // SAFETY: takes nothing.
            unsafe { libc::pause() };
        }
    }
    let traced = sys!(SYS_ptrace, libc::PTRACE_SEIZE, pid, 0, 0).map(drop);
    sys!(SYS_kill, pid, libc::SIGKILL)?;
    wait(pid)?;
    traced
}

/// An ioctl that puts a character in, on a terminal of this process alone.
fn on_terminal(request: u64) -> Attempt {
    let (mut master, mut slave) = (0, 0);
    // SAFETY: both are written on success; no name, settings or size is asked for.
    let made = unsafe {
        libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), std::ptr::null())
    };
    if made != 0 {
        return Err(Failure::Usage("there is no terminal to try it on".into()));
    }
    sys!(SYS_setsid)?;
    sys!(SYS_ioctl, slave, libc::TIOCSCTTY, 0)?;
    sys!(SYS_ioctl, slave, request, b"x".as_ptr()).map(drop)
}
