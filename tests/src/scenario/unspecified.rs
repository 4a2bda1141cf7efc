//! `0.0.0.0` reaches whatever address a socket is bound to: allowing 127.0.0.1 must not open the others.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output};

/// By TCP and by UDP, bound to an address that no rule names; the twin names it, the control is outside.
pub fn bound() -> Result<(), String> {
    scenario().map_err(|error| error.to_string())
}

fn scenario() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.2:0")?;
    let port = listener.local_addr()?.port();
    let _receiver = UdpSocket::bind(("127.0.0.2", port))?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let port = port.to_string();
    for verb in ["tcp-any-bound", "udp-any-bound"] {
        let attempt = super::batch::attempt()?;
        let policed = |rules: &[&str]| {
            let mut run = Command::new("stockade");
            run.args(["run", "--workspace", "/lifecycle/work"]);
            run.args(rules.iter().map(|rule| format!("--allow-net={rule}")));
            run.args(["--", &attempt, verb, &port]).output()
        };
        expect(&policed(&["127.0.0.1"])?, verb, "denied EPERM")?;
        expect(&policed(&["127.0.0.1", "127.0.0.2", "0.0.0.0"])?, verb, "allowed")?;
        expect(&Command::new(&attempt).args([verb, &port]).output()?, verb, "allowed")?;
    }
    Ok(())
}

fn expect(output: &Output, verb: &str, wanted: &str) -> io::Result<()> {
    let said = String::from_utf8_lossy(&output.stdout);
    if said.trim() == wanted {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{verb}: {said:?} instead of {wanted}: {errors}")))
}
