//! `stockade run` on a terminal: a pseudo-terminal whose session leader is a shell, as a user has it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Guests compute slowly, and loading programs takes most of it.
const PATIENCE: Duration = Duration::from_secs(90);

struct Session {
    shell: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

impl Session {
    fn start(command: &[&str]) -> io::Result<Self> {
        let (mut master, mut slave) = (0, 0);
        // SAFETY: both are written on success; no name, settings or size is asked for.
        let made = unsafe {
            libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), std::ptr::null())
        };
        if made != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: descriptors that were just given out.
        let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let mut shell = Command::new(command[0]);
        shell.args(&command[1..]).stdin(slave.try_clone()?).stdout(slave.try_clone()?);
        shell.stderr(Stdio::from(slave.try_clone()?)).env("PS1", "outer> ");
        let tty = slave.as_raw_fd();
        // SAFETY: only system calls between fork and exec.
        unsafe {
            shell.pre_exec(move || {
                if libc::setsid() < 0 || libc::ioctl(tty, libc::TIOCSCTTY, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let shell = shell.spawn()?;
        let keyboard = File::from(master);
        let mut output = keyboard.try_clone()?;
        let (send, screen) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                if send.send(bytes[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { shell, keyboard, screen, seen: String::new() })
    }

    fn type_in(&mut self, text: &str) -> Result<(), String> {
        self.keyboard.write_all(text.as_bytes()).map_err(|e| format!("typing {text:?}: {e}"))
    }

    /// Until `text` is on the screen; what was there before it is gone then.
    fn wait_for(&mut self, text: &str) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            match self.screen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => return Err(format!("waiting for {text:?} ({error}): {:?}", self.seen)),
            }
        }
    }

    fn status(&mut self) -> Result<i32, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.shell.try_wait().map_err(|e| e.to_string())? {
                return status.code().ok_or_else(|| status.to_string());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(format!("still running: {:?}", self.seen))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn outer() -> Result<Session, String> {
    let mut session = Session::start(&["sh", "-i"]).map_err(|e| e.to_string())?;
    session.wait_for("outer> ")?;
    Ok(session)
}

/// An interactive shell as the command has the terminal, and gives it back.
pub fn shell() -> Result<(), String> {
    let mut session = outer()?;
    session.type_in("PS1='inner> ' stockade run --workspace /lifecycle/work -- sh -i\n")?;
    session.wait_for("\ninner> ")?;
    session.type_in("echo $((40+2))\n")?;
    session.wait_for("\n42")?;
    session.type_in("exit 3\n")?;
    session.wait_for("outer> ")?;
    session.type_in("exit $?\n")?;
    match session.status()? {
        3 => Ok(()),
        other => Err(format!("ended with {other}")),
    }
}

/// Ctrl-C reaches the command once.
pub fn interrupt() -> Result<(), String> {
    let mut session = outer()?;
    // A second SIGINT would end the handler.
    let script =
        "trap \"trap - INT; sleep 2; echo caught; exit 9\" INT; echo ready; while :; do sleep 1; done";
    session.type_in(&format!("stockade run --workspace /lifecycle/work -- sh -c '{script}'; echo =$?\n"))?;
    session.wait_for("\nready")?;
    session.type_in("\u{3}")?;
    session.wait_for("caught")?;
    session.wait_for("=9")
}

/// Ctrl-Z gives the terminal back to the shell, and `fg` goes on.
pub fn stop() -> Result<(), String> {
    let mut session = outer()?;
    let script = "echo ready; read line; echo got $line";
    session.type_in(&format!("stockade run --workspace /lifecycle/work -- sh -c '{script}'; echo =$?\n"))?;
    session.wait_for("\nready")?;
    session.type_in("\u{1a}")?;
    session.wait_for("outer> ")?;
    session.type_in("fg\n")?;
    thread::sleep(Duration::from_secs(1));
    session.type_in("word\n")?;
    session.wait_for("got word")
}
