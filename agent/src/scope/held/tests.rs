use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

use stockade_common::file::{ACCESS_READ, ACCESS_WRITE};

use super::*;

fn held(pids: &BTreeSet<u32>, allowed: &dyn Fn(&Path, u32) -> bool, limit: usize) -> Report {
    let mut search = Search::new(pids, allowed, Instant::now() + Duration::from_secs(60));
    search.descriptors_of_all();
    search.rest();
    search.report(limit)
}

/// A process that has the descriptors it is given and has said that it runs.
struct Holding(Child);

impl Holding {
    fn start(descriptors: &[&dyn std::os::fd::AsFd], environment: &[(&str, &str)]) -> Self {
        let numbers: Vec<i32> = descriptors.iter().map(|descriptor| descriptor.as_fd().as_raw_fd()).collect();
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo up; read x"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .envs(environment.iter().copied());
        // SAFETY: only fcntl is called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for number in &numbers {
                    if libc::fcntl(*number, libc::F_SETFD, 0) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self(child)
    }

    fn lines(&self, limit: usize) -> Vec<String> {
        // What the test itself was started with is no matter here.
        let allowed = |path: &Path, _: u32| path.starts_with("/dev") || path.starts_with("/proc");
        held(&BTreeSet::from([self.0.id()]), &allowed, limit).lines()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.0.stdin.as_mut().map(|stdin| stdin.write_all(b"\n"));
        let _ = self.0.wait();
    }
}

fn has(lines: &[String], parts: &[&str]) {
    assert!(lines.iter().any(|line| parts.iter().all(|part| line.contains(part))), "{parts:?} in {lines:#?}");
}

#[test]
fn sockets_are_named_by_both_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let (pair, _other) = UnixStream::pair().unwrap();
    let holding = Holding::start(&[&listener, &client, &udp, &unix, &pair], &[]);
    let lines = holding.lines(100);
    has(
        &lines,
        &[&format!("TCP socket {address}, listening, held by {} (sh) as descriptor", holding.0.id())],
    );
    has(&lines, &[&format!("TCP socket {} -> {address}, established", client.local_addr().unwrap())]);
    has(&lines, &[&format!("UDP socket {}", udp.local_addr().unwrap())]);
    has(&lines, &["unix stream socket", "s.sock", "listening"]);
    has(&lines, &["unix stream socket, connected"]);
}

#[test]
fn descriptors_are_named_unless_they_could_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, gone) = (dir.path().join("kept"), dir.path().join("gone"));
    let written = fs::File::create(&kept).unwrap();
    let read = fs::File::open(&kept).unwrap();
    let deleted = fs::File::create(&gone).unwrap();
    fs::remove_file(&gone).unwrap();
    let directory = {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECTORY).open(dir.path()).unwrap()
    };
    let harmless = fs::File::open("/dev/null").unwrap();
    let namespace = fs::File::open("/proc/self/ns/uts").unwrap();
    let memory = memory();
    let holding = Holding::start(
        &[&written, &read, &deleted, &directory, &harmless, &namespace, &memory],
        &[("LD_AUDIT", "none.so")],
    );
    let lines = holding.lines(100);
    has(&lines, &["file ", "kept for writing"]);
    has(&lines, &["file ", "kept for reading"]);
    has(&lines, &["deleted file ", "gone for writing"]);
    has(&lines, &[&format!("directory {}", dir.path().display())]);
    has(&lines, &["uts namespace uts:["]);
    has(&lines, &["memory /memfd:stockade"]);
    has(&lines, &["environment LD_AUDIT=none.so"]);
    assert!(!lines.iter().any(|line| line.contains("/dev/null")), "{lines:#?}");
    let few = holding.lines(2);
    assert_eq!(few.len(), 3, "{few:#?}");
    assert_eq!(few[2], format!("and {} more", lines.len() - 2));
    assert_eq!(few[..2], lines[..2]);
}

/// Memory with a descriptor.
fn memory() -> OwnedFd {
    use std::os::fd::FromRawFd as _;
    // SAFETY: the name ends in NUL; a new descriptor is ours alone.
    let raw = unsafe { libc::memfd_create(c"stockade".as_ptr(), 0) };
    assert!(raw >= 0);
    // SAFETY: see above.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

#[test]
fn what_two_hold_is_one_thing() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (first, second) = (Holding::start(&[&udp], &[]), Holding::start(&[&udp], &[]));
    let pids = BTreeSet::from([first.0.id(), second.0.id()]);
    let lines = held(&pids, &|_, _| true, 10).lines();
    let text = format!("UDP socket {}", udp.local_addr().unwrap());
    let named: Vec<&String> = lines.iter().filter(|line| line.contains(&text)).collect();
    assert_eq!(named.len(), 1, "{lines:#?}");
    assert!(named[0].ends_with(" and 1 more"), "{named:?}");
}

#[test]
fn pidfds_and_traced_processes_are_named() {
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let pidfd = {
        use std::os::fd::FromRawFd as _;
        // SAFETY: takes numbers only.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, sleeper.id(), 0) };
        assert!(raw >= 0);
        // SAFETY: a new descriptor is ours alone.
        unsafe { OwnedFd::from_raw_fd(i32::try_from(raw).unwrap()) }
    };
    let holding = Holding::start(&[&pidfd], &[]);
    has(&holding.lines(10), &[&format!("pidfd of process {}", sleeper.id())]);
    // This very thread traces the sleeper.
    let target = nix::unistd::Pid::from_raw(i32::try_from(sleeper.id()).unwrap());
    // SAFETY: takes numbers only.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, target.as_raw(), 0, 0) };
    assert_eq!(seized, 0);
    let of = |pid: u32| held(&BTreeSet::from([pid]), &|_, _| true, 100_000).lines();
    has(&of(sleeper.id()), &[&format!("ptrace by process {}", std::process::id())]);
    has(&of(std::process::id()), &[&format!("ptrace of process {}", sleeper.id())]);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn a_search_without_time_says_what_it_has_not_seen() {
    let pids = BTreeSet::from([1, std::process::id()]);
    let mut search = Search::new(&pids, &|_, _| false, Instant::now());
    search.descriptors_of_all();
    search.rest();
    let lines = search.report(10).lines();
    assert!(lines.iter().any(|line| line == "could not be looked at: 2 processes: there was no time left"));
}

#[test]
fn who_is_gone_holds_nothing() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    assert_eq!(held(&BTreeSet::from([child.id()]), &|_, _| false, 10), Report::default());
}

#[test]
fn a_compiled_policy_says_what_may_be_opened_again() {
    use crate::policy::{check, checked::CheckedPolicy, compile};
    let mounts = MountTable::parse(b"1 0 8:1 / / rw - ext4 x rw\n2 1 8:2 / /srv rw - ext4 y rw\n").unwrap();
    let overlay = check::Overlay {
        allow_read: vec!["/srv/a/**".into()],
        deny_file: vec!["/srv/a/.env".into()],
        ..check::Overlay::default()
    };
    let policy: CheckedPolicy = check::check(&[], &overlay).unwrap();
    let (image, _) = compile::compile(&policy, &mounts).unwrap();
    let allowed = by_policy(&image, &mounts);
    assert!(allowed(Path::new("/srv/a/b"), ACCESS_READ));
    for (path, access) in [
        ("/srv/a/b", ACCESS_WRITE),
        ("/srv/a/.env", ACCESS_READ),
        ("/srv/b", ACCESS_READ),
        ("x", ACCESS_READ),
    ] {
        assert!(!allowed(Path::new(path), access), "{path}");
    }
}

#[test]
fn what_is_shown_fits_one_line() {
    assert_eq!(shown(b"a\nb\x1b[1m"), "a\\nb\\u{1b}[1m");
    assert!(shown(&[b'x'; 1000]).len() < 210);
}
