//! Local sockets.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use super::open::read;
use super::{Attempt, Failure, Verb, own};

pub const VERBS: &[Verb] = &[
    ("unix-stream", 1, |a| Ok(UnixStream::connect(&a[0]).map(drop)?)),
    ("unix-dgram", 1, |a| Ok(UnixDatagram::unbound()?.send_to(b"x", &a[0]).map(drop)?)),
    ("unix-abstract", 1, |a| {
        let name = SocketAddr::from_abstract_name(&a[0])?;
        Ok(UnixStream::connect_addr(&name).map(drop)?)
    }),
    ("scm-rights", 1, |a| read(receive(&UnixStream::connect(&a[0])?)?)),
];

/// Receives one descriptor.
fn receive(stream: &UnixStream) -> Attempt<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // Room for a cmsghdr and one descriptor, aligned as a cmsghdr is.
    let mut control = [0u64; 4];
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    sys!(SYS_recvmsg, stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)?;
    // A cmsghdr is a length, then level and type; the data follows at byte 16.
    if control[0] < 20 || message.msg_controllen < 20 {
        return Err(Failure::Os(nix::errno::Errno::EACCES));
    }
    Ok(own((control[2] as u32).into()))
}
