//! A workload whose files do not answer: its filesystem's server takes each question, and says nothing.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::daemon::{Daemon, PATIENCE, TREE, holds, stockade, text};

/// The word that makes such a server of this program: `DIRECTORY CGROUP`.
pub const STALLER: &str = "__staller";
const OWN: &str = "/daemon/own";
/// `FUSE_INIT`, and its minor version of 2016: its answer has 64 bytes.
const INIT: u32 = 26;
const MINOR: u32 = 26;

/// Serves a filesystem that says nothing, and starts a workload that sees it in a cgroup. Comes back with what failed.
pub fn stall(mut words: impl Iterator<Item = String>) -> io::Error {
    let (Some(directory), Some(cgroup)) = (words.next(), words.next()) else {
        return io::ErrorKind::InvalidInput.into();
    };
    match serve(&directory, &cgroup) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn serve(directory: &str, cgroup: &str) -> io::Result<std::convert::Infallible> {
    let mut server = File::options().read(true).write(true).open("/dev/fuse")?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(nothing, "/", nothing, private, nothing)?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    let options = CString::new(options)?;
    nix::mount::mount(
        Some("stall"),
        directory,
        Some("fuse"),
        nix::mount::MsFlags::empty(),
        Some(options.as_c_str()),
    )?;
    let procs = format!("{cgroup}/cgroup.procs");
    let mut workload = Command::new("/bin/sh");
    workload.args(["-c", "echo ran"]);
    // SAFETY: only makes system calls of one thread, in a child that has no others.
    unsafe { workload.pre_exec(move || fs::write(&procs, "0")) };
    std::thread::spawn(move || workload.status());
    let mut question = vec![0; 1 << 16];
    loop {
        let length = server.read(&mut question)?;
        let word = |at: usize| question[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
        if length >= 56 && word(4) == INIT {
            let mut answer = Vec::new();
            answer.extend(80u32.to_ne_bytes());
            answer.extend(0u32.to_ne_bytes());
            answer.extend(&question[8..16]);
            // Versions, read-ahead, flags, background, congestion, most bytes, granularity; the rest is not used.
            for value in [7, MINOR, 0, 0, 0, 4096, 1, 0] {
                answer.extend(u32::to_ne_bytes(value));
            }
            answer.resize(80, 0);
            server.write_all(&answer)?;
        } else {
            println!("asked {}", word(4));
        }
    }
}

/// The workload stands, and is killed when it takes too long; the daemon answers meanwhile, holds others, and even killed lets
/// another one begin.
pub fn hanging() -> Result<(), String> {
    if !fs::exists("/dev/fuse").map_err(text)? {
        return Err("skipped: this kernel has no FUSE".into());
    }
    fs::create_dir_all(OWN).map_err(text)?;
    let daemon = Daemon::start(&format!("write = [\"{OWN}/deep/**\"]"))?;
    let folder = format!("{TREE}/ci/stalled");
    fs::create_dir_all(&folder).map_err(text)?;
    let program = std::env::current_exe().map_err(text)?;
    let mut server =
        Command::new(program).args([STALLER, OWN, &folder]).stdout(Stdio::piped()).spawn().map_err(text)?;
    let begin = Instant::now();
    let tried = while_hanging(begin);
    // The thread that asked cannot be killed: its process stays, and another daemon comes all the same.
    let Daemon(child) = &daemon;
    let pid = child.id();
    let killed =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
    let again = tried.and_then(|()| killed.map_err(text)).and_then(|()| {
        let again = Daemon::again()?;
        holds("ci/under-another")?;
        Ok(again)
    });
    // That lets it end.
    let _ = server.kill();
    let _ = server.wait();
    drop(daemon);
    again.map(drop)
}

fn while_hanging(begin: Instant) -> Result<(), String> {
    let end = begin + PATIENCE;
    let refused =
        || stockade(&["events", "--format", "json"]).map(|events| events.contains("\"start_refused\""));
    let mut slowest = Duration::ZERO;
    let mut rounds = 0;
    while Instant::now() < end && !refused()? {
        let asked = Instant::now();
        stockade(&["status"])?;
        slowest = slowest.max(asked.elapsed());
        holds("ci/beside")?;
        rounds += 1;
        sleep(Duration::from_millis(100));
    }
    if !refused()? {
        return Err("the workload was not refused in time".into());
    }
    if rounds < 2 || slowest > Duration::from_secs(8) {
        return Err(format!("the daemon was held up: {rounds} rounds, an answer took {slowest:?}"));
    }
    Ok(())
}
