//! Handing a descriptor to another process.

use std::io;
use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Sends a descriptor, with one byte.
///
/// # Errors
/// The kernel's.
pub fn send(stream: &UnixStream, fd: &impl AsRawFd) -> io::Result<()> {
    let mut byte = [b'x'];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // A cmsghdr of 20 bytes, padded to 24: length, level and type, the descriptor.
    let level_and_kind = (libc::SCM_RIGHTS as u64) << 32 | libc::SOL_SOCKET as u64;
    let mut control = [20u64, level_and_kind, fd.as_raw_fd() as u64];
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message refers to live values of the sizes it gives.
    if unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
