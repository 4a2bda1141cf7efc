//! Listening and being connected to: loopback is free, other addresses need a rule.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use super::batch;
use super::flags::{outside, policed, said};
use super::lifecycle::Check;

const WORK: &str = "/lifecycle/work";

pub const CHECKS: &[(&str, Check)] = &[
    ("listen_tcp_needs_a_rule", tcp),
    ("listen_without_bind_needs_a_rule_for_any_port", unbound),
    ("listen_udp_needs_a_rule", udp),
    ("listen_on_loopback_is_free", loopback),
    ("listen_clients_bind_without_a_rule", clients),
    ("listen_socket_from_outside_gives_no_connections", from_outside),
    ("listen_refusal_names_the_flag", hint),
];

fn needs(flag: &str, op: &[&str]) -> Result<(), String> {
    outside(op)?;
    policed(&[], op, "denied")?;
    policed(&["--allow-net=0.0.0.0/0", "--allow-net=::/0"], op, "denied")?;
    policed(&[flag], op, "allowed")
}

fn tcp() -> Result<(), String> {
    let four = ["listen-tcp", "0.0.0.0", "8080"];
    needs("--allow-listen=0.0.0.0:8080", &four)?;
    needs("--allow-listen=0.0.0.0:8000-8100/tcp", &four)?;
    for narrow in ["0.0.0.0:8081", "0.0.0.0:8080/udp", "192.0.2.1:8080"] {
        policed(&[&format!("--allow-listen={narrow}")], &four, "denied")?;
    }
    let six = ["listen-tcp", "::", "8080"];
    needs("--allow-listen=[::]:8080", &six)?;
    policed(&["--allow-listen=0.0.0.0:8080"], &six, "denied")?;
    policed(&["--allow-listen=[::]:8080"], &four, "allowed")
}

/// The kernel chooses the port: a rule has to allow any.
fn unbound() -> Result<(), String> {
    needs("--allow-listen=0.0.0.0/0", &["listen-unbound", "4"])?;
    needs("--allow-listen=::/0", &["listen-unbound", "6"])?;
    policed(&["--allow-listen=0.0.0.0:1-65535"], &["listen-unbound", "4"], "denied")
}

fn udp() -> Result<(), String> {
    needs("--allow-listen=0.0.0.0:8080/udp", &["bind-udp", "0.0.0.0", "8080"])?;
    needs("--allow-listen=[::]:8080", &["bind-udp", "::", "8080"])?;
    needs("--allow-listen=0.0.0.0:8080", &["bind-udp-unspec", "8080"])?;
    policed(&["--allow-listen=0.0.0.0:8080/tcp"], &["bind-udp", "0.0.0.0", "8080"], "denied")
}

fn loopback() -> Result<(), String> {
    for op in [
        ["listen-tcp", "127.0.0.1", "8080"],
        ["listen-tcp", "127.0.0.1", "0"],
        ["listen-tcp", "::1", "8080"],
        ["listen-tcp", "::ffff:127.0.0.1", "8080"],
        ["bind-udp", "127.9.9.9", "8080"],
        ["bind-udp", "::1", "8080"],
    ] {
        outside(&op)?;
        policed(&[], &op, "allowed")?;
    }
    Ok(())
}

/// A client chooses its address, or lets the kernel choose a port.
fn clients() -> Result<(), String> {
    for op in [["bind-tcp", "0.0.0.0", "8080"], ["bind-tcp", "::", "0"], ["bind-udp", "0.0.0.0", "0"]] {
        outside(&op)?;
        policed(&[], &op, "allowed")?;
    }
    Ok(())
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
    for verb in ["listen-tcp", "bind-udp"] {
        for (address, rule) in
            [("0.0.0.0", "--allow-listen=0.0.0.0:8080"), ("::", "--allow-listen=[::]:8080")]
        {
            let op = [verb, address, "8080"];
            outside(&op)?;
            policed(&[degraded], &op, "denied")?;
            policed(&[degraded, rule], &op, "allowed")?;
        }
        policed(&[degraded], &[verb, "127.0.0.1", "8080"], "allowed")?;
    }
    Ok(())
}
