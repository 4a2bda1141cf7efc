//! Single operations that need flags of their own: each with a control outside, and its twin.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use super::{batch, listeners};

const WORK: &str = "/lifecycle/work";

pub fn said(command: &mut Command) -> Result<String, String> {
    let Output { stdout, stderr, .. } = command.output().map_err(|e| e.to_string())?;
    let line = String::from_utf8_lossy(&stdout).trim().to_owned();
    if line.is_empty() { Err(String::from_utf8_lossy(&stderr).into_owned()) } else { Ok(line) }
}

fn outside(op: &[&str]) -> Result<(), String> {
    let attempt = batch::attempt().map_err(|e| e.to_string())?;
    match said(Command::new(attempt).args(op))?.as_str() {
        "allowed" => Ok(()),
        other => Err(format!("control outside: {op:?}: {other}")),
    }
}

pub fn policed(flags: &[&str], op: &[&str], expected: &str) -> Result<(), String> {
    let attempt = batch::attempt().map_err(|e| e.to_string())?;
    let mut run = Command::new("stockade");
    run.args(["run", "--workspace", WORK]).args(flags).args(["--", &attempt]).args(op);
    let line = said(&mut run)?;
    if line.starts_with(expected) { Ok(()) } else { Err(format!("{flags:?} {op:?}: {line}")) }
}

/// Several operations at once: a start takes longer than they do.
fn each(mut command: Command, ops: &[(&str, &str)]) -> Result<(), String> {
    let pipes = command.args(["--batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    let lines: String = ops.iter().map(|(op, _)| format!("{op}\n")).collect();
    if let Some(mut input) = child.stdin.take() {
        // A refusal to start closes the pipe; its message says more than EPIPE.
        let _ = input.write_all(lines.as_bytes());
    }
    let Output { stdout, stderr, .. } = child.wait_with_output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&stdout);
    let mut said = said.lines();
    for (op, expected) in ops {
        match said.next() {
            Some(line) if line.starts_with(expected) => {}
            Some(line) => return Err(format!("{op}: {line}, expected {expected}")),
            None => return Err(format!("{op}: nothing said: {}", String::from_utf8_lossy(&stderr))),
        }
    }
    Ok(())
}

/// All of them work outside.
pub fn all_outside(ops: &[&str]) -> Result<(), String> {
    let attempt = batch::attempt().map_err(|e| e.to_string())?;
    let ops: Vec<(&str, &str)> = ops.iter().map(|op| (*op, "allowed")).collect();
    each(Command::new(attempt), &ops).map_err(|why| format!("control outside: {why}"))
}

/// Under one policy each of them ends as expected.
pub fn each_policed(flags: &[&str], ops: &[(&str, &str)]) -> Result<(), String> {
    let attempt = batch::attempt().map_err(|e| e.to_string())?;
    let mut run = Command::new("stockade");
    run.args(["run", "--workspace", WORK]).args(flags).args(["--", &attempt]);
    each(run, ops).map_err(|why| format!("{flags:?} {why}"))
}

fn zero_bound(verb: &str) -> Result<(), String> {
    let port = listeners::port().to_string();
    let op = [verb, "127.0.0.2", &port];
    outside(&op)?;
    policed(&["--allow-net=127.0.0.1"], &op, "denied")?;
    policed(&["--allow-net=127.0.0.1", "--allow-net=127.0.0.2", "--allow-net=0.0.0.0/32"], &op, "allowed")
}

/// Bound to another local address, the unspecified one leads there: a rule for 127.0.0.1 does not open it.
pub fn zero_bound_tcp() -> Result<(), String> {
    zero_bound("zero-bound-tcp")?;
    zero_bound("zero-bound-tcp-mapped")
}

/// The same for datagrams.
pub fn zero_bound_udp() -> Result<(), String> {
    zero_bound("zero-bound-udp")
}

/// The unspecified address needs a rule for itself and one for loopback.
pub fn zero_needs_both() -> Result<(), String> {
    let port = listeners::port().to_string();
    let op = ["zero", port.as_str()];
    outside(&op)?;
    policed(&["--allow-net=127.0.0.1"], &op, "denied")?;
    policed(&["--allow-net=0.0.0.0/32"], &op, "denied")?;
    policed(&["--allow-net=127.0.0.1", "--allow-net=0.0.0.0/32"], &op, "allowed")
}

/// Nobody puts input into a terminal, capabilities or not. Outside root may, whatever `dev.tty.legacy_tiocsti` says.
pub fn tiocsti() -> Result<(), String> {
    outside(&["tiocsti"])?;
    let flags = ["--keep-capabilities", "--allow-write=/dev/ptmx", "--allow-write=/dev/pts/**"];
    policed(&flags, &["tiocsti"], "denied")
}

/// CAP_SETFCAP (31) is not kept: with it a file outside could be given capabilities.
pub fn no_setfcap() -> Result<(), String> {
    let held = |flags: &[&str]| -> Result<bool, String> {
        let mut run = Command::new("stockade");
        run.args(["run", "--workspace", WORK, "--allow-read=/proc/**"]).args(flags);
        let line = said(run.args(["--", "grep", "CapEff", "/proc/self/status"]))?;
        let digits = line.rsplit(char::is_whitespace).next().unwrap_or_default();
        Ok(u64::from_str_radix(digits, 16).map_err(|e| format!("{line}: {e}"))? >> 31 & 1 == 1)
    };
    if !held(&["--keep-capabilities"])? {
        return Err("not held although capabilities are kept".into());
    }
    if held(&[])? { Err("CAP_SETFCAP is kept".into()) } else { Ok(()) }
}

/// A socket made under the policy can be reached under it.
pub fn own_sockets() -> Result<(), String> {
    policed(&[], &["own-unix-stream", WORK], "allowed")?;
    policed(&[], &["own-unix-dgram", WORK], "allowed")?;
    policed(&[], &["own-unix-abstract"], "allowed")
}

/// A policed process may trace its child.
pub fn own_child() -> Result<(), String> {
    policed(&[], &["ptrace-child"], "allowed")
}
