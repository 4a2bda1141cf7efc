//! Listening and being connected to: loopback is free, other addresses need a rule.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::batch;
use super::flags::{all_outside, each_policed, said};
use super::lifecycle::Check;

const WORK: &str = "/lifecycle/work";
const ALLOWED: &str = "allowed";
const DENIED: &str = "denied";

pub const CHECKS: &[(&str, Check)] = &[
    ("listen_tcp_needs_a_rule", tcp),
    ("listen_without_bind_needs_a_rule_for_any_port", unbound),
    ("listen_udp_needs_a_rule", udp),
    ("listen_on_loopback_is_free", loopback),
    ("listen_clients_bind_without_a_rule", clients),
    ("listen_socket_from_outside_gives_no_connections", from_outside),
    ("listen_refusal_names_the_flag", hint),
    ("listen_udp_server_answers_who_has_asked", answers),
];

/// Each works outside, is denied without `flags`, wherever one may connect to, and ends as expected with them.
fn expect(flags: &[&str], ops: &[(&str, &str)]) -> Result<(), String> {
    let names: Vec<&str> = ops.iter().map(|(op, _)| *op).collect();
    all_outside(&names)?;
    let denied: Vec<(&str, &str)> = names.iter().map(|op| (*op, DENIED)).collect();
    each_policed(&["--allow-net=0.0.0.0/0", "--allow-net=::/0"], &denied)?;
    each_policed(flags, ops)
}

fn tcp() -> Result<(), String> {
    let (four, six, other) = ("listen-tcp 0.0.0.0 8080", "listen-tcp :: 8080", "listen-tcp 0.0.0.0 9000");
    expect(&["--allow-listen=0.0.0.0:8000-8100/tcp"], &[(four, ALLOWED), (six, DENIED), (other, DENIED)])?;
    each_policed(&["--allow-listen=[::]:8080"], &[(four, ALLOWED), (six, ALLOWED), (other, DENIED)])?;
    let narrow = ["--allow-listen=0.0.0.0:8080/udp", "--allow-listen=192.0.2.1"];
    each_policed(&narrow, &[(four, DENIED), (six, DENIED), (other, DENIED)])
}

/// The kernel chooses the port: a rule has to allow any.
fn unbound() -> Result<(), String> {
    let (four, six) = ("listen-unbound 4", "listen-unbound 6");
    expect(&["--allow-listen=0.0.0.0"], &[(four, ALLOWED), (six, DENIED)])?;
    each_policed(&["--allow-listen=::"], &[(four, ALLOWED), (six, ALLOWED)])?;
    each_policed(&["--allow-listen=[::]:1-65535"], &[(four, DENIED), (six, DENIED)])
}

fn udp() -> Result<(), String> {
    let ops = ["bind-udp 0.0.0.0 8080", "bind-udp :: 8080", "bind-udp-unspec 8080"];
    expect(&["--allow-listen=0.0.0.0:8080/udp"], &[(ops[0], ALLOWED), (ops[1], DENIED), (ops[2], ALLOWED)])?;
    each_policed(&["--allow-listen=[::]:8080"], &ops.map(|op| (op, ALLOWED)))?;
    each_policed(&["--allow-listen=[::]:8080/tcp"], &ops.map(|op| (op, DENIED)))
}

fn free(ops: &[&str]) -> Result<(), String> {
    all_outside(ops)?;
    let allowed: Vec<(&str, &str)> = ops.iter().map(|op| (*op, ALLOWED)).collect();
    each_policed(&[], &allowed)
}

fn loopback() -> Result<(), String> {
    free(&[
        "listen-tcp 127.0.0.1 8080",
        "listen-tcp 127.0.0.1 0",
        "listen-tcp ::1 8080",
        "listen-tcp ::ffff:127.0.0.1 8080",
        "bind-udp 127.9.9.9 8080",
        "bind-udp ::1 8080",
    ])
}

/// A client chooses its address, or lets the kernel choose a port.
fn clients() -> Result<(), String> {
    free(&["bind-tcp 0.0.0.0 8080", "bind-tcp :: 0", "bind-udp 0.0.0.0 0"])
}

/// Under a rule to listen a datagram is answered, from the port it came to and nowhere else. Nobody is asked first.
fn answers() -> Result<(), String> {
    // Who asks has addresses that nothing allows: a public one, and loopback.
    let asks: Vec<(UdpSocket, &str)> = super::nameserver::start()
        .and_then(|_| {
            let four = UdpSocket::bind((super::nameserver::API, 0))?;
            Ok(vec![(four, super::nameserver::API), (UdpSocket::bind("[::1]:0")?, "::1")])
        })
        .map_err(|e| e.to_string())?;
    let done = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&done);
    let asking = thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            for (socket, address) in &asks {
                let _ = socket.send_to(b"?", (*address, 8123));
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    let served =
        |at: &str| ["back", "connect", "other", "elsewhere"].map(|how| format!("udp-answer {at} 8123 {how}"));
    let all = [served("0.0.0.0"), served("::")].concat();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    // From a port of its own that nobody has sent to, it goes nowhere.
    let first = format!("udp4 {} 8123", super::nameserver::API);
    let tried = || -> Result<(), String> {
        all_outside(&all)?;
        each_policed(&[], &all.iter().map(|op| (*op, DENIED)).collect::<Vec<_>>())?;
        let results = [ALLOWED, ALLOWED, DENIED, DENIED].repeat(2);
        let expected = all.iter().copied().zip(results).chain([(first.as_str(), DENIED)]);
        each_policed(&["--allow-listen=[::]:8123/udp"], &expected.collect::<Vec<_>>())
    };
    let result = tried();
    done.store(true, Ordering::Relaxed);
    asking.join().map_err(|_| "who asks has panicked")?;
    result
}

/// What takes a connection from the listener that is its standard input.
fn accept(mut command: Command, port: u16, listener: &TcpListener) -> Result<String, String> {
    let _client = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    let input: OwnedFd = listener.try_clone().map_err(|e| e.to_string())?.into();
    said(command.stdin(Stdio::from(input)))
}

fn from_outside() -> Result<(), String> {
    let attempt = batch::attempt().map_err(|e| e.to_string())?;
    let listener = TcpListener::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    let policed = |flags: &[String]| {
        let mut run = Command::new("stockade");
        run.args(["run", "--workspace", WORK]).args(flags).args(["--", &attempt, "accept-stdin"]);
        run
    };
    let mut control = Command::new(&attempt);
    control.arg("accept-stdin");
    for (command, expected) in [
        (policed(&[]), "denied"),
        (policed(&[format!("--allow-listen=0.0.0.0:{port}/tcp")]), "allowed"),
        (control, "allowed"),
    ] {
        let line = accept(command, port, &listener)?;
        if !line.starts_with(expected) {
            return Err(format!("{line}, expected {expected}"));
        }
    }
    Ok(())
}

fn hint() -> Result<(), String> {
    let attempt = batch::attempt().map_err(|e| e.to_string())?;
    let mut run = Command::new("stockade");
    run.args(["run", "--workspace", WORK, "--", &attempt, "listen-tcp", "0.0.0.0", "8080"]);
    let output = run.output().map_err(|e| e.to_string())?;
    let message = String::from_utf8_lossy(&output.stderr);
    let line = "listen on 0.0.0.0:8080/tcp: no rule allows it; allow with --allow-listen '0.0.0.0:8080/tcp'";
    if message.contains(line) { Ok(()) } else { Err(message.into_owned()) }
}

/// Where no LSM hook runs a port that is asked for needs a rule all the same.
pub fn degraded() -> Result<(), String> {
    let degraded = "--allow-degraded=network-only";
    // That boot may have no IPv6.
    let has_v6 = std::path::Path::new("/proc/net/if_inet6").exists();
    let there = |ops: &[&'static str]| -> Vec<&'static str> {
        ops.iter().copied().filter(|op| has_v6 || !op.contains("::")).collect()
    };
    let expect = |ops: &[&'static str], result| ops.iter().map(|op| (*op, result)).collect::<Vec<_>>();
    let ops = there(&[
        "listen-tcp 0.0.0.0 8080",
        "listen-tcp :: 8080",
        "bind-udp 0.0.0.0 8080",
        "bind-udp :: 8080",
    ]);
    all_outside(&ops)?;
    each_policed(&[degraded], &expect(&ops, DENIED))?;
    each_policed(&[degraded, "--allow-listen=[::]:8080"], &expect(&ops, ALLOWED))?;
    let free = there(&["listen-tcp 127.0.0.1 8080", "bind-udp ::1 8080", "bind-udp 0.0.0.0 0"]);
    each_policed(&[degraded], &expect(&free, ALLOWED))
}
