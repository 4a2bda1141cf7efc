//! QEMU: a kernel, its console in a file, what the guest writes to its second serial port, its status.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read as _, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::command;

/// How a guest ended.
pub enum Outcome {
    /// The command's exit status.
    Status(u8),
    /// No status within the time; the end of its console.
    TimedOut(String),
    /// The machine ended without one; the end of its console.
    Died(String),
}

/// A machine to be started.
pub struct Machine {
    qemu: Command,
}

impl Machine {
    /// With a kernel, and nothing attached.
    pub fn new(kernel: &Path, cpus: &str, memory: &str) -> Result<Self> {
        let qemu =
            command::which("qemu-system-x86_64").context("QEMU is missing: run `cargo xtask setup`")?;
        let mut qemu = Command::new(qemu);
        // One thread for all its CPUs: with one for each, a CPU was seen to run an int3 that another had already patched away
        // (QEMU 7.2, while trampolines of BPF programs changed), which no real CPU does.
        qemu.args([
            "-accel",
            "tcg,thread=single",
            "-cpu",
            "max",
            "-machine",
            "q35",
            "-smp",
            cpus,
            "-m",
            memory,
        ])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel);
        Ok(Self { qemu })
    }

    /// One more argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.qemu.arg(arg);
        self
    }

    /// More arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.qemu.args(args);
        self
    }

    /// Boots; what comes through the second serial port goes to `sink` as it comes.
    pub fn run(
        mut self,
        append: &str,
        console: &Path,
        timeout: Duration,
        sink: &mut dyn Write,
    ) -> Result<Outcome> {
        File::create(console).with_context(|| format!("creating {}", console.display()))?;
        self.arg("-chardev")
            .arg(format!("file,id=console,path={}", console.display()))
            .args(["-serial", "chardev:console", "-chardev", "stdio,id=output,signal=off"])
            .args(["-serial", "chardev:output"])
            // On a busy machine an emulated timer may come too late for the kernel's check of it, which then panics.
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet loglevel=5 panic=-1 reboot=t printk.devkmsg=on random.trust_cpu=on no_timer_check {append}"
            ));
        let mut child = self
            .qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting QEMU")?;
        let mut output = child.stdout.take().context("QEMU has no output")?;
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = output.read(&mut buffer) {
                if length == 0 || send.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        let deadline = Instant::now() + timeout;
        let mut timed_out = false;
        loop {
            match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => {
                    sink.write_all(&bytes)?;
                    sink.flush()?;
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    timed_out = true;
                    child.kill()?;
                    break;
                }
            }
        }
        let finished = child.wait_with_output()?;
        let log = String::from_utf8_lossy(&fs::read(console)?).into_owned();
        Ok(match status(&log) {
            Some(status) => Outcome::Status(status),
            None => {
                let tail = tail(&log, &String::from_utf8_lossy(&finished.stderr));
                if timed_out { Outcome::TimedOut(tail) } else { Outcome::Died(tail) }
            }
        })
    }
}

/// The status that the guest printed, if it did.
fn status(console: &str) -> Option<u8> {
    let (_, rest) = console.rsplit_once("guest-status=")?;
    rest.split_once('.')?.0.parse().ok()
}

fn tail(console: &str, errors: &str) -> String {
    let lines: Vec<_> = console.lines().collect();
    let start = lines.len().saturating_sub(40);
    format!("{}{}", errors, lines[start..].join("\n").replace('\r', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_status_counts() {
        assert_eq!(status("x guest-status=1.\n[2] guest-status=37.\r\n"), Some(37));
        assert_eq!(status("guest-status="), None);
        assert_eq!(status("panic"), None);
    }
}
