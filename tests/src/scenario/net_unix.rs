//! Rules on unix sockets: by the listening socket's file, whatever way leads there, and by exact abstract names.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use serde_json::Value;
use stockade_tests::descriptor;

use super::flags::{all_outside, each_policed};
use super::lifecycle::Check;
use super::{batch, listeners};

const WORK: &str = "/lifecycle/work";
const HERE: &str = "/unix";
const ALLOWED: &str = "allowed";
const DENIED: &str = "denied";

pub const CHECKS: &[(&str, Check)] = &[
    ("unix_rule_lets_connect_to_its_file", by_path),
    ("unix_rule_holds_by_every_way_to_the_file", ways),
    ("unix_rule_names_what_was_bound", bound_name),
    ("unix_rule_is_for_one_access", one_access),
    ("unix_abstract_rule_is_exact", abstract_names),
    ("unix_denial_wins", denials),
    ("unix_event_names_the_socket", event),
    ("unix_mounted_elsewhere_is_the_same_file", mounted),
    ("receive_socket_connected_outside_is_refused", connected),
    ("receive_socket_made_outside_is_refused", unconnected),
    ("receive_twin_files_and_own_sockets_are_handed_on", file),
];

/// Starts what the checks reach for, once.
fn start() -> Result<(), String> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED.get_or_init(|| begin().map_err(|error| format!("preparing: {error}"))).clone()
}

fn begin() -> io::Result<()> {
    fs::create_dir_all(format!("{HERE}/dir"))?;
    fs::create_dir_all(format!("{HERE}/mnt"))?;
    let stream = UnixListener::bind(format!("{HERE}/stream"))?;
    let other = UnixListener::bind(format!("{HERE}/dir/other"))?;
    fs::hard_link(format!("{HERE}/stream"), format!("{HERE}/dir/linked"))?;
    let names: [&[u8]; 3] = [b"stockade-k", b"stockade-k\0\xff", b"stockade-k2"];
    let mut listeners = vec![stream, other, seqpacket(&format!("{HERE}/seqpacket"))?];
    for name in names {
        listeners.push(UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?);
    }
    for listener in listeners {
        thread::spawn(move || listener.incoming().for_each(drop));
    }
    let inboxes = [
        UnixDatagram::bind(format!("{HERE}/dgram"))?,
        UnixDatagram::bind_addr(&SocketAddr::from_abstract_name("stockade-d")?)?,
    ];
    for inbox in inboxes {
        thread::spawn(move || while inbox.recv(&mut [0; 16]).is_ok() {});
    }
    for name in ["stream", "dir/other", "seqpacket", "dgram"] {
        fs::set_permissions(format!("{HERE}/{name}"), Permissions::from_mode(0o666))?;
    }
    fs::write(format!("{HERE}/file"), "content\n")
}

fn seqpacket(path: &str) -> io::Result<UnixListener> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given out.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    let length = size_of::<libc::sockaddr_un>() as u32;
    // SAFETY: reads a local of that size.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), length) };
    // SAFETY: takes numbers only.
    if bound != 0 || unsafe { libc::listen(fd, 8) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket.into())
}

/// Each works outside, is denied without `flags`, and ends as expected with them.
fn expect(flags: &[&str], ops: &[(&str, &str)]) -> Result<(), String> {
    start()?;
    let names: Vec<&str> = ops.iter().map(|(op, _)| *op).collect();
    all_outside(&names)?;
    let denied: Vec<(&str, &str)> = names.iter().map(|op| (*op, DENIED)).collect();
    each_policed(&[], &denied)?;
    each_policed(flags, ops)
}

fn by_path() -> Result<(), String> {
    let flags = [
        "--allow-net=unix:/unix/stream",
        "--allow-net=unix:/unix/seq*",
        "--allow-net=unix:/unix/dg*",
        "--allow-net=unix:/unix/d?r/**",
    ];
    let ops = [
        "unix-stream /unix/stream",
        "unix-seqpacket /unix/seqpacket",
        "unix-dgram /unix/dgram",
        "unix-dgram-connected /unix/dgram",
        "unix-stream /unix/dir/other",
    ];
    expect(&flags, &ops.map(|op| (op, ALLOWED)))?;
    each_policed(&flags[1..], &[(ops[0], DENIED), (ops[4], ALLOWED)])
}

fn ways() -> Result<(), String> {
    let symlink = format!("unix-symlink {WORK} /unix/stream");
    let ops = ["unix-relative /unix/stream", "unix-proc-fd /unix/stream", &symlink];
    expect(&["--allow-net=unix:/unix/stream"], &ops.map(|op| (op, ALLOWED)))
}

/// A hard link is another name of the file, and not the one that was bound.
fn bound_name() -> Result<(), String> {
    let op = "unix-stream /unix/dir/linked";
    expect(&["--allow-net=unix:/unix/stream"], &[(op, ALLOWED)])?;
    each_policed(&["--allow-net=unix:/unix/dir/linked"], &[(op, DENIED)])
}

fn one_access() -> Result<(), String> {
    let (connect, read) = ("unix-stream /unix/stream", "read-open /unix/file");
    expect(&["--allow-net=unix:/unix/**"], &[(connect, ALLOWED), (read, DENIED)])?;
    let all = ["--allow-read=/unix/**", "--allow-write=/unix/**", "--allow-exec=/unix/**"];
    each_policed(&all, &[(connect, DENIED), (read, ALLOWED)])
}

fn abstract_names() -> Result<(), String> {
    let ops = [
        "unix-abstract stockade-k",
        "unix-abstract-dgram stockade-d",
        // stockade-k, NUL, 0xff
        "unix-abstract-hex 73746f636b6164652d6b00ff",
        "unix-abstract stockade-k2",
    ];
    let flags = [r"--allow-net=unix:@stockade-k\x00\xff", "--allow-net=unix:@stockade-d"];
    expect(&flags, &[(ops[0], DENIED), (ops[1], ALLOWED), (ops[2], ALLOWED), (ops[3], DENIED)])?;
    let flags = ["--allow-net=unix:@stockade-k", "--allow-net=unix:/stockade-d"];
    each_policed(&flags, &[(ops[0], ALLOWED), (ops[1], DENIED), (ops[2], DENIED), (ops[3], DENIED)])
}

fn denials() -> Result<(), String> {
    let ops = [
        "unix-stream /unix/stream",
        "unix-dgram /unix/dgram",
        "unix-abstract stockade-k",
        "unix-stream /unix/dir/other",
    ];
    let mut flags = vec!["--allow-net=unix:/unix/**", "--allow-net=unix:@stockade-k"];
    expect(&flags, &ops.map(|op| (op, ALLOWED)))?;
    // A denial of the same author that covers a rule altogether would be an error.
    flags.extend(["--deny-net=unix:/unix/stream", "--deny-file=/unix/dg*"]);
    each_policed(&flags, &[(ops[0], DENIED), (ops[1], DENIED), (ops[2], ALLOWED), (ops[3], ALLOWED)])
}

/// Events of one run with these flags, and what it said.
fn events(flags: &[&str], op: &[&str]) -> Result<(Vec<Value>, String), String> {
    let attempt = batch::attempt().map_err(|e| e.to_string())?;
    let file = "/lifecycle/unix-events.jsonl";
    let mut run = Command::new("stockade");
    run.args(["run", "--workspace", WORK, "--events", file]).args(flags).args(["--", &attempt]).args(op);
    let output = run.output().map_err(|e| e.to_string())?;
    let text = fs::read_to_string(file).map_err(|e| e.to_string())?;
    fs::remove_file(file).map_err(|e| e.to_string())?;
    let parsed: Result<_, _> = text.lines().map(serde_json::from_str).collect();
    Ok((parsed.map_err(|e| e.to_string())?, String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn event() -> Result<(), String> {
    start()?;
    let shown = |flags: &[&str], op: &[&str], field: &str, name: &str, verdict: &str| {
        let (events, message) = events(flags, op)?;
        let found = events.iter().any(|event| {
            event["kind"] == "unix" && event["socket"][field] == name && event["verdict"] == verdict
        });
        if found { Ok(message) } else { Err(format!("{op:?}: no {field} {name:?} {verdict}: {events:#?}")) }
    };
    let op = ["unix-symlink", WORK, "/unix/stream"];
    let message = shown(&[], &op, "path", "/unix/stream", "denied")?;
    if !message.contains("--allow-net 'unix:/unix/stream'") {
        return Err(format!("no flag: {message}"));
    }
    shown(&["--allow-net=unix:/unix/stream"], &op, "path", "/unix/stream", "allowed")?;
    let op = ["unix-abstract-hex", "73746f636b6164652d6b00ff"];
    let message = shown(&[], &op, "abstract", r"stockade-k\x00\xff", "denied")?;
    if message.contains(r"--allow-net 'unix:@stockade-k\x00\xff'") { Ok(()) } else { Err(message) }
}

/// The file's name is that in its filesystem: where it is mounted is nothing to it.
fn mounted() -> Result<(), String> {
    start()?;
    let bind = |undo: bool| {
        let mut command = Command::new(if undo { "umount" } else { "mount" });
        if !undo {
            command.args(["--bind", "/unix/dir"]);
        }
        let status = command.arg("/unix/mnt").status().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("mounting: {status}")) }
    };
    bind(false)?;
    let op = "unix-stream /unix/mnt/other";
    let checked = expect(&["--allow-net=unix:/unix/dir/other"], &[(op, ALLOWED)])
        .and_then(|()| each_policed(&["--allow-net=unix:/unix/mnt/other"], &[(op, ALLOWED)]))
        .and_then(|()| each_policed(&["--allow-net=unix:/unix/mnt/else"], &[(op, DENIED)]));
    bind(true)?;
    checked
}

/// A server outside that hands a descriptor to whoever connects.
fn hand_out(name: &str, fd: impl AsRawFd + Send + 'static) -> Result<String, String> {
    start()?;
    let path = format!("{HERE}/{name}");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(|e| e.to_string())?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who has gone away needs none.
            let _ = descriptor::send(&stream, &fd);
        }
    });
    Ok(path)
}

/// Through a connection that somebody outside has made, nothing is sent.
fn connected() -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let stream = listener.local_addr().and_then(TcpStream::connect).map_err(|e| e.to_string())?;
    let (mut peer, _) = listener.accept().map_err(|e| e.to_string())?;
    let path = hand_out("connected", stream)?;
    let rule = format!("--allow-net=unix:{path}");
    let op = format!("send-passed {path}");
    each_policed(&[&rule], &[(&op, DENIED)])?;
    peer.set_nonblocking(true).map_err(|e| e.to_string())?;
    if peer.read(&mut [0; 1]).is_ok() {
        return Err("a byte came through".into());
    }
    all_outside(&[&op])
}

/// Nor is a socket taken that could be connected.
fn unconnected() -> Result<(), String> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let path = hand_out("unconnected", socket)?;
    let rule = format!("--allow-net=unix:{path}");
    let op = format!("connect-passed {path} 127.0.0.1 {}", listeners::port());
    each_policed(&[&rule, "--allow-net=127.0.0.1"], &[(&op, DENIED)])?;
    all_outside(&[&op])
}

/// Other descriptors are.
fn file() -> Result<(), String> {
    start()?;
    let path = hand_out("file-server", File::open("/unix/file").map_err(|e| e.to_string())?)?;
    let op = format!("scm-rights {path}");
    all_outside(&[&op])?;
    each_policed(&[&format!("--allow-net=unix:{path}")], &[(&op, ALLOWED), ("pass-own", ALLOWED)])
}
