//! The same operations through `io_uring`, where no system call of the opener shows them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use super::net::Address;
use super::open::read;
use super::{Attempt, Failure, Verb, or_skip, own, text};

pub const VERBS: &[Verb] = &[
    ("io_uring-open", 1, |a| open(&a[0], 0)),
    ("io_uring-open-sqpoll", 1, |a| open(&a[0], SETUP_SQPOLL)),
    ("io_uring-connect", 2, |a| connect(a, 0)),
    ("io_uring-connect-sqpoll", 2, |a| connect(a, SETUP_SQPOLL)),
    ("io_uring-sendmsg", 2, |a| sendmsg(a, 0)),
    ("io_uring-sendmsg-sqpoll", 2, |a| sendmsg(a, SETUP_SQPOLL)),
];

/// The kernel polls for entries, in a thread of its own.
pub const SETUP_SQPOLL: u32 = 1 << 1;
const OP_SENDMSG: u8 = 9;
const OP_CONNECT: u8 = 16;
const OP_OPENAT: u8 = 18;
const ENTER_GETEVENTS_WAKEUP: u32 = 1 | 2;

/// `struct io_uring_sqe`, as words of eight bytes.
type Entry = [u64; 8];

fn entry(op: u8, fd: i32, address: usize, length: u32, offset: u64) -> Entry {
    let mut sqe = [0; 8];
    sqe[0] = u64::from(op) | u64::from(fd as u32) << 32;
    sqe[1] = offset;
    sqe[2] = address as u64;
    sqe[3] = u64::from(length);
    sqe
}

fn open(path: &str, setup: u32) -> Attempt {
    let path = text(path)?;
    let sqe = entry(OP_OPENAT, libc::AT_FDCWD, path.as_ptr() as usize, 0, 0);
    read(own(submit(sqe, setup)?.into()))
}

fn connect(args: &[String], setup: u32) -> Attempt {
    let to = Address::parse(args, false)?;
    connect_to(&to.socket(libc::SOCK_STREAM, 0)?, &to, setup)
}

/// Connects a socket.
pub fn connect_to(socket: &OwnedFd, to: &Address, setup: u32) -> Attempt {
    let sqe = entry(OP_CONNECT, socket.as_raw_fd(), to.bytes.as_ptr() as usize, 0, to.length as u64);
    submit(sqe, setup).map(drop)
}

fn sendmsg(args: &[String], setup: u32) -> Attempt {
    let to = Address::parse(args, false)?;
    send_to(&to.socket(libc::SOCK_DGRAM, 0)?, &to, b"x", setup)
}

/// Sends a datagram.
pub fn send_to(socket: &OwnedFd, to: &Address, data: &[u8], setup: u32) -> Attempt {
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = to.bytes.as_ptr().cast_mut().cast();
    message.msg_namelen = to.length as u32;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    let sqe = entry(OP_SENDMSG, socket.as_raw_fd(), (&raw const message) as usize, 1, 0);
    submit(sqe, setup).map(drop)
}

fn map(ring: &OwnedFd, length: usize, offset: i64) -> Attempt<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: a fresh shared mapping at an address the kernel chooses; it lives until the process ends.
    let address = unsafe { libc::mmap(null_mut(), length, protection, flags, ring.as_raw_fd(), offset) };
    if address == libc::MAP_FAILED { Err(Errno::last().into()) } else { Ok(address.cast()) }
}

/// Submits one entry and waits for its result.
fn submit(sqe: Entry, setup: u32) -> Attempt<i32> {
    // struct io_uring_params: 10 words, then sq_off at byte 40 and cq_off at byte 80.
    let mut params = [0u32; 30];
    params[2] = setup;
    params[4] = 50;
    let ring = own(or_skip(sys!(SYS_io_uring_setup, 4, params.as_mut_ptr()), "io_uring")?);
    let (sq_tail, sq_array) = (params[11] as usize, params[16] as usize);
    let (cq_tail, cq_entries) = (params[21] as usize, params[25] as usize);
    let sq = map(&ring, sq_array + params[0] as usize * 4, 0)?;
    let cq = map(&ring, cq_entries + params[1] as usize * 16, 0x800_0000)?;
    let entries = map(&ring, params[0] as usize * 64, 0x1000_0000)?;
    // SAFETY: the offsets are the kernel's own, inside the mappings made above, and aligned by it.
    let (submitted, completed) = unsafe {
        entries.cast::<Entry>().write(sqe);
        sq.add(sq_array).cast::<u32>().write(0);
        (&*sq.add(sq_tail).cast::<AtomicU32>(), &*cq.add(cq_tail).cast::<AtomicU32>())
    };
    submitted.store(1, Ordering::Release);
    sys!(SYS_io_uring_enter, ring.as_raw_fd(), 1, 1, ENTER_GETEVENTS_WAKEUP, 0, 0)?;
    if completed.load(Ordering::Acquire) == 0 {
        return Err(Failure::Os(Errno::ETIMEDOUT));
    }
    // SAFETY: the first completion entry is filled in: user data (8 bytes), then the result.
    let result = unsafe { cq.add(cq_entries + 8).cast::<i32>().read() };
    if result < 0 { Err(Errno::from_raw(-result).into()) } else { Ok(result) }
}
