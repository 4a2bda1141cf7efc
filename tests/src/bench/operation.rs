//! The operations, and the clock: the time-stamp counter, which counts guest instructions under `-icount shift=0`.

use std::{
    arch::x86_64::{_mm_lfence, _rdtsc},
    fs::{self, File},
    io::{self, Read as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
};

use super::{FILE, MOVED, PORT, PROGRAM};

/// One operation: name, samples, and what is timed.
struct Operation<'a> {
    name: &'static str,
    samples: usize,
    run: Box<dyn FnMut() -> io::Result<u64> + 'a>,
}

fn now() -> u64 {
    // SAFETY: both instructions are part of x86-64; the fences keep what is timed between the two readings.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// Measures every operation and prints `R CONFIGURATION OPERATION MEDIAN MINIMUM`.
pub fn measure_all(configuration: &str) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", PORT))?;
    let receiver = UdpSocket::bind(("127.0.0.1", PORT))?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    let empty = median(&mut samples(1001, &mut || {
        let start = now();
        Ok(now() - start)
    })?);
    let operations = [
        Operation { name: "open", samples: 2001, run: Box::new(open) },
        Operation { name: "open_after_rename", samples: 1001, run: Box::new(open_after_rename) },
        Operation { name: "stat", samples: 2001, run: Box::new(stat) },
        Operation { name: "rename", samples: 1001, run: Box::new(rename) },
        Operation { name: "signal", samples: 1001, run: Box::new(signal) },
        Operation { name: "connect", samples: 501, run: Box::new(|| connect(&listener)) },
        Operation { name: "send", samples: 1001, run: Box::new(|| send(&sender, &receiver)) },
        Operation { name: "exec", samples: 101, run: Box::new(exec) },
    ];
    for mut operation in operations {
        samples(operation.samples / 10, &mut operation.run)?;
        let mut all = samples(operation.samples, &mut operation.run)?;
        let median = median(&mut all).saturating_sub(empty);
        let minimum = all[0].saturating_sub(empty);
        println!("R {configuration} {} {median} {minimum}", operation.name);
    }
    Ok(())
}

fn samples(count: usize, run: &mut dyn FnMut() -> io::Result<u64>) -> io::Result<Vec<u64>> {
    (0..count).map(|_| run()).collect()
}

/// Sorts.
fn median(samples: &mut [u64]) -> u64 {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// `openat` and `close`.
fn open() -> io::Result<u64> {
    let start = now();
    drop(File::open(FILE)?);
    Ok(now() - start)
}

/// The same, when something on the host has just been renamed: what is remembered of directories is void then.
fn open_after_rename() -> io::Result<u64> {
    let [from, to] = MOVED;
    fs::rename(from, to)?;
    fs::rename(to, from)?;
    open()
}

/// `statx` of a path.
fn stat() -> io::Result<u64> {
    let start = now();
    fs::metadata(FILE)?;
    Ok(now() - start)
}

/// `rename` to another name in the same directory.
fn rename() -> io::Result<u64> {
    let [from, to] = MOVED;
    let start = now();
    fs::rename(from, to)?;
    let ticks = now() - start;
    fs::rename(to, from)?;
    Ok(ticks)
}

/// `kill` of oneself with no signal.
fn signal() -> io::Result<u64> {
    let start = now();
    // SAFETY: takes numbers only.
    let sent = unsafe { libc::kill(std::process::id().cast_signed(), 0) };
    let ticks = now() - start;
    if sent == 0 { Ok(ticks) } else { Err(io::Error::last_os_error()) }
}

/// `socket`, `connect` and `close`; the close resets, so that nothing piles up.
fn connect(listener: &TcpListener) -> io::Result<u64> {
    let start = now();
    let stream = TcpStream::connect(("127.0.0.1", PORT))?;
    let reset = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: passes a live struct of the size given.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const reset).cast(),
            size_of::<libc::linger>() as u32,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    drop(stream);
    let ticks = now() - start;
    drop(listener.accept()?);
    Ok(ticks)
}

/// One `sendto` of 64 bytes.
fn send(sender: &UdpSocket, receiver: &UdpSocket) -> io::Result<u64> {
    let start = now();
    sender.send_to(&[0; 64], ("127.0.0.1", PORT))?;
    let ticks = now() - start;
    receiver.recv(&mut [0; 64])?;
    Ok(ticks)
}

/// `fork`, `exec`, and the wait for the end.
fn exec() -> io::Result<u64> {
    let start = now();
    let mut child = Command::new(PROGRAM).arg("true").env_clear().stdin(Stdio::null()).spawn()?;
    let status = child.wait()?;
    let ticks = now() - start;
    if status.success() { Ok(ticks) } else { Err(io::Error::other(format!("{PROGRAM}: {status}"))) }
}

/// Makes the files, on a filesystem as hosts have them: the guest's own root is none of those that are remembered.
pub fn prepare() -> io::Result<()> {
    fs::create_dir_all("/perf")?;
    let (kind, point) = (c"tmpfs".as_ptr(), c"/perf".as_ptr());
    // SAFETY: passes strings that end with NUL.
    if unsafe { libc::mount(kind, point, kind, 0, std::ptr::null()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    fs::create_dir_all(super::FOLDER)?;
    fs::write(FILE, "x")?;
    fs::create_dir_all("/perf/moved")?;
    fs::write(MOVED[0], "x")?;
    File::open(FILE)?.read_exact(&mut [0])
}
