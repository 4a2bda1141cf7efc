//! The live proof: a child in a tagged cgroup without any rule attempts what must be refused. That a hook is listed, loaded
//! and attached says nothing: where `bpf` is no active LSM all three succeed and it never runs.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpStream, UdpSocket},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use crate::{
    kernel::{Enforcer, Slot},
    scope::cgroup::OwnCgroup,
};

/// One guarantee: name, what it means, and whether it needs LSM hooks.
#[derive(Debug)]
pub struct Guarantee {
    /// Stable name.
    pub name: &'static str,
    /// For people.
    pub text: &'static str,
    /// Not provable with cgroup programs alone.
    pub lsm: bool,
}

/// All of them, in the order they are attempted.
pub const GUARANTEES: [Guarantee; 6] = [
    Guarantee { name: "file_read", text: "files no rule names cannot be opened", lsm: true },
    Guarantee { name: "file_create", text: "files no rule names cannot be created", lsm: true },
    Guarantee { name: "raw_socket", text: "raw sockets cannot be made", lsm: false },
    Guarantee { name: "tcp4", text: "IPv4 destinations no rule names cannot be connected to", lsm: false },
    Guarantee { name: "tcp6", text: "IPv6 destinations no rule names cannot be connected to", lsm: false },
    Guarantee { name: "udp4", text: "datagrams cannot be sent to destinations no rule names", lsm: false },
];

fn errno(result: io::Result<()>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

fn raw_socket() -> io::Result<()> {
    // SAFETY: takes numbers only; a descriptor is closed at once.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given out.
    unsafe { libc::close(fd) };
    Ok(())
}

fn attempts() -> Answers {
    let created = format!("/tmp/.stockade-probe-{}", std::process::id());
    let create = errno(OpenOptions::new().write(true).create_new(true).open(&created).map(|_| ()));
    // An empty file left behind by a refused open would be a creation all the same.
    let create = if create != 0 && fs::symlink_metadata(&created).is_ok() { 0 } else { create };
    let _ = fs::remove_file(&created);
    let tcp = |address: &str| {
        let address = address.parse().map_err(io::Error::other)?;
        TcpStream::connect_timeout(&address, Duration::from_secs(2)).map(|_| ())
    };
    let udp = || UdpSocket::bind("0.0.0.0:0")?.send_to(b"probe", "127.0.0.1:9").map(|_| ());
    [
        errno(File::open("/proc/version").map(|_| ())),
        create,
        errno(raw_socket()),
        errno(tcp("127.0.0.1:1")),
        errno(tcp("[::1]:1")),
        errno(udp()),
    ]
}

/// The hidden verb: one line of error numbers for each line on standard input.
#[must_use]
pub fn child() -> u8 {
    for line in io::stdin().lines() {
        if line.is_err() {
            break;
        }
        let words: Vec<String> = attempts().iter().map(i32::to_string).collect();
        println!("{}", words.join(" "));
        if io::stdout().flush().is_err() {
            break;
        }
    }
    0
}

/// What [`GUARANTEES`] were answered with: an error number each, 0 for an attempt that went through.
pub type Answers = [i32; GUARANTEES.len()];

/// The child that attempts, untagged until it is moved; ended when dropped.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Probe {
    /// Starts it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start() -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("__probe")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { child, input, output: BufReader::new(output) }),
            _ => Err(io::Error::other("the probe has no pipes")),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has everything attempted once.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn attempt(&mut self) -> io::Result<Answers> {
        self.input.write_all(b"go\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let answers: Vec<i32> = line
            .split_whitespace()
            .map(|word| word.parse().map_err(io::Error::other))
            .collect::<io::Result<_>>()?;
        answers.try_into().map_err(|_| io::Error::other(format!("the probe answered {line:?}")))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Attempts everything outside and then inside a tag. Returns for each guarantee whether it holds.
///
/// # Errors
/// If the attempts could not be made.
pub fn prove(enforcer: &mut Enforcer, cgroup: &OwnCgroup, slot: Slot) -> io::Result<[Result<(), String>; 6]> {
    let mut probe = Probe::start()?;
    let outside = probe.attempt()?;
    enforcer.tag(cgroup.id().map_err(io::Error::other)?, slot).map_err(io::Error::other)?;
    cgroup.add(probe.pid()).map_err(io::Error::other)?;
    let inside = probe.attempt()?;
    let mut results = [const { Ok(()) }; 6];
    for (result, answers) in results.iter_mut().zip(outside.into_iter().zip(inside)) {
        *result = match answers {
            (libc::EPERM, _) => Err("refused outside the tag as well, so nothing is proved".into()),
            (_, libc::EPERM) => Ok(()),
            (_, 0) => Err("the forbidden attempt went through".into()),
            (_, other) => Err(format!("the attempt ended with error {other} instead of EPERM")),
        };
    }
    Ok(results)
}
