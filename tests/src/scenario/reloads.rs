//! Reloads under a workload that tries what is allowed and what is not, without a pause.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::daemon::{Daemon, OPEN, POLICY, SECRET, TREE, policy, text};
use super::listeners;

const RELOADS: u32 = 25;

/// Reloads under a workload that tries without a pause, and not one wrong verdict.
pub fn reloads() -> Result<(), String> {
    Daemon::shared("")?;
    let port = listeners::port();
    let program = std::env::current_exe().map_err(text)?;
    let program = program.to_str().ok_or("a path that is not UTF-8")?;
    let folder = format!("{TREE}/ci/prober");
    fs::create_dir_all(&folder).map_err(text)?;
    let script = format!("echo $$ > {folder}/cgroup.procs; exec {program} {PROBER} {port}");
    let mut prober = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let mut reloaded = Ok(());
    for round in 0..RELOADS {
        // Both agree on what is tried, and differ elsewhere.
        let more = if round % 2 == 0 { "deny = [\"/daemon/other\"]" } else { "" };
        reloaded = fs::write(POLICY, policy(more)).map_err(text).and_then(|()| ask_to_reload().map_err(text));
        if reloaded.is_err() {
            break;
        }
    }
    // It ends when nobody is there to read from.
    drop(prober.stdin.take());
    let mut said = String::new();
    if let Some(out) = prober.stdout.as_mut() {
        out.read_to_string(&mut said).map_err(text)?;
    }
    prober.wait().map_err(text)?;
    reloaded?;
    let rounds = said.lines().find_map(|line| line.strip_prefix("rounds ")?.parse::<u64>().ok()).unwrap_or(0);
    let wrong: Vec<&str> = said.lines().filter(|line| line.starts_with("wrong")).take(4).collect();
    if wrong.is_empty() && rounds > u64::from(RELOADS) {
        Ok(())
    } else {
        Err(format!("{rounds} rounds: {wrong:?}"))
    }
}

/// As `stockade policy reload` asks, without a process for it.
pub(super) fn ask_to_reload() -> io::Result<()> {
    let mut socket = UnixStream::connect("/run/stockade/stockade.sock")?;
    socket.write_all(b"POST /v1/reload HTTP/1.1\r\nHost: stockade\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other(answer)) }
}

/// The word that makes a prober of this program.
pub const PROBER: &str = "__prober";

/// Tries what is allowed and what is not until its standard input ends.
pub fn probe(port: &str) -> io::Result<()> {
    let address =
        |ip: &str| -> io::Result<SocketAddr> { format!("{ip}:{port}").parse().map_err(io::Error::other) };
    let (allowed, forbidden) = (address("127.0.0.1")?, address("127.0.0.2")?);
    let denied =
        |result: io::Result<()>| result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = done.send(());
    });
    let mut rounds = 0u64;
    while ended.try_recv().is_err() {
        rounds += 1;
        for (what, right) in [
            ("open of what is allowed", fs::File::open(OPEN).is_ok()),
            ("open of what is forbidden", denied(fs::File::open(SECRET).map(drop))),
            ("connect to what is allowed", TcpStream::connect(allowed).is_ok()),
            ("connect to what is forbidden", denied(TcpStream::connect(forbidden).map(drop))),
        ] {
            if !right {
                println!("wrong {rounds}: {what}");
            }
        }
        // A guest has one CPU, which the daemon needs too.
        sleep(Duration::from_millis(1));
    }
    println!("rounds {rounds}");
    Ok(())
}
