//! Attempts at what must be refused. All of them leave everything as it was, also where they go through.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    os::linux::net::SocketAddrExt as _,
    os::unix::{
        fs::PermissionsExt as _,
        net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream},
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

/// What the attempts are made on: all of it made outside, by the parent.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// A file; its neighbours of the same name with something behind are free.
    pub file: PathBuf,
    /// Abstract name of a listening stream socket; with `-dgram` behind, of a datagram one.
    pub socket: String,
}

const TIMEOUT: Duration = Duration::from_secs(2);
const NLMSG_NOOP: u16 = 1;
const BPF_MAP_GET_NEXT_ID: libc::c_long = 12;

impl Place {
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(suffix);
        name.into()
    }
}

pub(super) fn read(_: &Place) -> io::Result<()> {
    File::open("/proc/version").map(|_| ())
}

pub(super) fn create(place: &Place) -> io::Result<()> {
    let path = place.beside("-new");
    let result = OpenOptions::new().write(true).create_new(true).open(&path).map(|_| ());
    // An empty file left behind by a refused open is a creation all the same.
    let exists = fs::symlink_metadata(&path).is_ok();
    let _ = fs::remove_file(&path);
    if exists { Ok(()) } else { result }
}

pub(super) fn delete(place: &Place) -> io::Result<()> {
    fs::remove_file(&place.file)?;
    File::create_new(&place.file).map(|_| ())
}

pub(super) fn rename(place: &Place) -> io::Result<()> {
    let to = place.beside("-renamed");
    fs::rename(&place.file, &to)?;
    fs::rename(&to, &place.file)
}

pub(super) fn link(place: &Place) -> io::Result<()> {
    let to = place.beside("-link");
    fs::hard_link(&place.file, &to)?;
    fs::remove_file(&to)
}

pub(super) fn chmod(place: &Place) -> io::Result<()> {
    fs::set_permissions(&place.file, Permissions::from_mode(0o600))
}

pub(super) fn exec(_: &Place) -> io::Result<()> {
    // Pipes: /dev/null could not be opened inside, and that is not what is tried.
    let mut command = Command::new("/proc/self/exe");
    command.arg("--version").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.output().map(|_| ())
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given out.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn raw_socket(_: &Place) -> io::Result<()> {
    socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).map(|_| ())
}

pub(super) fn mptcp(_: &Place) -> io::Result<()> {
    socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP).map(|_| ())
}

pub(super) fn tcp4(_: &Place) -> io::Result<()> {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), TIMEOUT).map(|_| ())
}

pub(super) fn tcp6(_: &Place) -> io::Result<()> {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv6Addr::LOCALHOST, 1)), TIMEOUT).map(|_| ())
}

pub(super) fn udp4(_: &Place) -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"probe", (Ipv4Addr::LOCALHOST, 9)).map(|_| ())
}

pub(super) fn udp6(_: &Place) -> io::Result<()> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?.send_to(b"probe", (Ipv6Addr::LOCALHOST, 9)).map(|_| ())
}

pub(super) fn listen(_: &Place) -> io::Result<()> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map(|_| ())
}

pub(super) fn netlink(_: &Place) -> io::Result<()> {
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let mut message = [0u8; 16];
    message[..4].copy_from_slice(&16u32.to_ne_bytes());
    message[4..6].copy_from_slice(&NLMSG_NOOP.to_ne_bytes());
    // SAFETY: reads that many bytes of a local.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn unix_stream(place: &Place) -> io::Result<()> {
    UnixStream::connect_addr(&UnixAddr::from_abstract_name(&place.socket)?).map(|_| ())
}

pub(super) fn unix_datagram(place: &Place) -> io::Result<()> {
    let to = UnixAddr::from_abstract_name(format!("{}-dgram", place.socket))?;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(b"probe", &to).map(|_| ())
}

/// Asks for what only those may know who may trace the parent.
pub(super) fn ptrace(_: &Place) -> io::Result<()> {
    let (mut head, mut length) = (0usize, 0usize);
    // SAFETY: the kernel writes two words, to locals of that size.
    let result =
        unsafe { libc::syscall(libc::SYS_get_robust_list, libc::getppid(), &raw mut head, &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One that is ignored unless somebody waits for it.
pub(super) fn signal(_: &Place) -> io::Result<()> {
    // SAFETY: takes numbers only.
    if unsafe { libc::kill(libc::getppid(), libc::SIGURG) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A mark on a socket that sends nothing: it takes CAP_NET_ADMIN, which the programs have been loaded with.
pub(super) fn capability(_: &Place) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let mark = 1u32;
    // SAFETY: passes a live number of the size given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const mark).cast(),
            size_of_val(&mark) as libc::socklen_t,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks for the first map's id; that there is none is an answer, too.
pub(super) fn bpf(_: &Place) -> io::Result<()> {
    let mut attributes = [0u32; 3];
    // SAFETY: the prefix of `union bpf_attr` that this command reads and writes, of the size given.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_GET_NEXT_ID, &raw mut attributes, size_of_val(&attributes))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
