//! Local sockets.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::Path;

use super::open::read;
use super::{Attempt, Failure, Verb, own};

pub const VERBS: &[Verb] = &[
    ("unix-stream", 1, |a| Ok(UnixStream::connect(&a[0]).map(drop)?)),
    ("unix-dgram", 1, |a| Ok(UnixDatagram::unbound()?.send_to(b"x", &a[0]).map(drop)?)),
    ("unix-dgram-connected", 1, |a| {
        let socket = UnixDatagram::unbound()?;
        socket.connect(&a[0])?;
        Ok(socket.send(b"x").map(drop)?)
    }),
    ("unix-seqpacket", 1, |a| seqpacket(&a[0])),
    ("unix-relative", 1, |a| {
        let (folder, name) = split(&a[0])?;
        std::env::set_current_dir(folder)?;
        Ok(UnixStream::connect(name).map(drop)?)
    }),
    ("unix-proc-fd", 1, |a| {
        let fd = sys!(SYS_open, super::text(&a[0])?.as_ptr(), libc::O_PATH).map(own)?;
        Ok(UnixStream::connect(format!("/proc/self/fd/{}", fd.as_raw_fd())).map(drop)?)
    }),
    ("unix-symlink", 2, |a| {
        let link = format!("{}/link.{}", a[0], std::process::id());
        std::os::unix::fs::symlink(&a[1], &link)?;
        Ok(UnixStream::connect(&link).map(drop)?)
    }),
    ("unix-abstract-hex", 1, |a| {
        let digit = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
        let name: Option<Vec<u8>> = a[0].as_bytes().chunks(2).map(digit).collect();
        let name = name.ok_or_else(|| Failure::Usage(format!("not hexadecimal: {}", a[0])))?;
        Ok(UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop)?)
    }),
    ("unix-abstract-dgram", 1, |a| {
        let name = SocketAddr::from_abstract_name(&a[0])?;
        Ok(UnixDatagram::unbound()?.send_to_addr(b"x", &name).map(drop)?)
    }),
    ("unix-abstract", 1, |a| {
        let name = SocketAddr::from_abstract_name(&a[0])?;
        Ok(UnixStream::connect_addr(&name).map(drop)?)
    }),
    ("scm-rights", 1, |a| read(receive(&UnixStream::connect(&a[0])?)?)),
];

fn split(path: &str) -> Attempt<(&Path, String)> {
    let path = Path::new(path);
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok((folder, name.to_string_lossy().into_owned())),
        _ => Err(Failure::Usage(format!("not the path of a socket: {}", path.display()))),
    }
}

fn seqpacket(path: &str) -> Attempt {
    let socket = sys!(SYS_socket, libc::AF_UNIX, libc::SOCK_SEQPACKET, 0).map(own)?;
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    sys!(SYS_connect, socket.as_raw_fd(), &raw const address, size_of::<libc::sockaddr_un>()).map(drop)
}

/// Receives one descriptor.
pub fn receive(stream: &UnixStream) -> Attempt<OwnedFd> {
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
