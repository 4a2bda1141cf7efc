//! What holds when another program of the kernel's undoes a denial of ours (`bpf_set_retval`): the packet still does not leave.

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use super::flags::{all_outside, each_policed};

const READY: &str = "/lifecycle/work/wall-ready";
const GO: &str = "/lifecycle/work/wall-go";
const PATIENCE: Duration = Duration::from_secs(120);
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const CGROUP_SOCK_ADDR: u32 = 18;
/// `connect4`, `connect6`, `sendmsg4`, `sendmsg6` among the attach types.
const HOOKS: [u32; 4] = [10, 11, 14, 15];
/// `bpf_set_retval(0)`, and return 1.
const UNDO: [u64; 4] = [0x01b7, 187 << 32 | 0x85, 1 << 32 | 0xb7, 0x95];

fn bpf(command: libc::c_int, attributes: &mut [u64; 16]) -> io::Result<OwnedFd> {
    let size = size_of_val(attributes);
    // SAFETY: the attributes are live, of the size given, and refer to live values.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given out.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Programs above all cgroups of the guest that let through what was denied below; until they are dropped.
fn undo() -> io::Result<Vec<OwnedFd>> {
    let root = File::open("/sys/fs/cgroup")?;
    let licence = c"GPL";
    let mut held = Vec::new();
    for hook in HOOKS {
        let mut load = [0; 16];
        load[0] = u64::from(CGROUP_SOCK_ADDR) | (UNDO.len() as u64) << 32;
        load[1] = UNDO.as_ptr() as u64;
        load[2] = licence.as_ptr() as u64;
        // expected_attach_type is at byte 68.
        load[8] = u64::from(hook) << 32;
        let program = bpf(PROG_LOAD, &mut load)?;
        let mut link = [0; 16];
        link[0] = program.as_raw_fd() as u64 | (root.as_raw_fd() as u64) << 32;
        link[1] = u64::from(hook);
        held.push(bpf(LINK_CREATE, &mut link)?);
    }
    Ok(held)
}

/// A port by TCP and UDP on both addresses.
fn listeners() -> io::Result<u16> {
    static PORT: OnceLock<u16> = OnceLock::new();
    if let Some(port) = PORT.get() {
        return Ok(*port);
    }
    let first = TcpListener::bind("127.0.0.1:0")?;
    let port = first.local_addr()?.port();
    for listener in [first, TcpListener::bind(("127.0.0.2", port))?] {
        thread::spawn(move || listener.incoming().for_each(drop));
    }
    for address in ["127.0.0.1", "127.0.0.2"] {
        let socket = UdpSocket::bind((address, port))?;
        thread::spawn(move || while socket.recv(&mut [0; 64]).is_ok() {});
    }
    Ok(*PORT.get_or_init(|| port))
}

fn holds(flags: &[&str], beside: &[(&str, &str)]) -> Result<(), String> {
    let port = listeners().map_err(|error| error.to_string())?;
    let verbs = ["tcp-brief", "udp4", "udp4-connected", "udp-unspec", "udp-gso", "sendmmsg"];
    let ways = |address: &str| verbs.map(|verb| format!("{verb} {address} {port}"));
    let (forbidden, allowed) = (ways("127.0.0.1"), ways("127.0.0.2"));
    let all: Vec<&str> = forbidden.iter().chain(&allowed).map(String::as_str).collect();
    all_outside(&all)?;
    let rule = format!("--allow-net=127.0.0.2:{port}");
    let flags = [flags, &[rule.as_str()]].concat();
    let expected = |connect: &'static str| -> Vec<(&str, &str)> {
        let denied = forbidden.iter().map(|op| if op.starts_with("tcp") { connect } else { "denied" });
        let denied = forbidden.iter().map(String::as_str).zip(denied);
        denied
            .chain(allowed.iter().map(|op| (op.as_str(), "allowed")))
            .chain(beside.iter().copied())
            .collect()
    };
    each_policed(&flags, &expected("denied"))?;
    // A run that finds its denials undone does not start: they are undone while it is there.
    for file in [READY, GO] {
        let _ = fs::remove_file(file);
    }
    let undoing = thread::spawn(|| -> io::Result<Vec<OwnedFd>> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && !Path::new(READY).exists() {
            thread::sleep(Duration::from_millis(50));
        }
        let held = undo()?;
        fs::write(GO, "")?;
        Ok(held)
    });
    let (ready, go) = (format!("create {READY}"), format!("await {GO}"));
    // The connect goes on, so that the denial is undone; and its packets go nowhere.
    let undone = [&[(&*ready, "allowed"), (&*go, "allowed")], &expected("error ETIMEDOUT")[..]].concat();
    let held = each_policed(&flags, &undone);
    let programs = undoing.join().map_err(|_| "the thread that undoes has panicked")?;
    drop(programs.map_err(|error| format!("programs that undo: {error}"))?);
    held
}

/// Where LSM programs leave it to the cgroup programs.
pub fn with_lsm() -> Result<(), String> {
    holds(
        &["--allow-net=loopback:own"],
        &[("own-listener 127.0.0.1", "allowed"), ("own-listener ::1", "allowed")],
    )
}

/// Where there are none, all denials of connects are the cgroup programs'.
pub fn without_lsm() -> Result<(), String> {
    holds(&["--allow-degraded=network-only"], &[])
}
