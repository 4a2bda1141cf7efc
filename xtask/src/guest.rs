//! One boot: root, QEMU, output, status.

use std::{
    fs::{self, File},
    io::{BufWriter, Read as _, Write},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{command, initramfs::Root, kernels::Kernel};

/// What to run.
pub struct Guest<'a> {
    /// Where.
    pub kernel: &'a Kernel,
    /// Folders whose content is put under `/payload`.
    pub payload: &'a [PathBuf],
    /// Programs put into `/bin`.
    pub programs: &'a [PathBuf],
    /// Modules to insert.
    pub modules: &'a [&'a str],
    /// More kernel parameters.
    pub append: &'a str,
    /// For the whole boot.
    pub timeout: Duration,
    /// Count instructions instead of time, so that figures repeat.
    pub icount: bool,
    /// The command and its arguments.
    pub command: &'a [String],
}

/// How it ended.
pub enum Outcome {
    /// The command's exit status.
    Status(u8),
    /// No status within the time.
    TimedOut(String),
    /// The machine ended without one; the end of its console.
    Died(String),
}

impl Guest<'_> {
    /// Boots; what the command prints goes to `sink` as it comes.
    pub fn run(&self, sink: &mut dyn Write) -> Result<Outcome> {
        let work = tempfile::tempdir()?;
        let initrd = work.path().join("initrd");
        let console = work.path().join("console");
        File::create(&console)?;
        self.write_root(&initrd)?;
        let qemu =
            command::which("qemu-system-x86_64").context("QEMU is missing: run `cargo xtask setup`")?;
        let mut qemu = Command::new(qemu);
        qemu.args(["-accel", "tcg", "-cpu", "max", "-machine", "q35", "-smp", "1", "-m", "1536M"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"])
            .arg("-chardev")
            .arg(format!("file,id=console,path={}", console.display()))
            .args(["-serial", "chardev:console", "-chardev", "stdio,id=output,signal=off"])
            .args(["-serial", "chardev:output"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(&initrd)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet loglevel=5 panic=-1 oops=panic reboot=t printk.devkmsg=on \
                 random.trust_cpu=on {}",
                self.append
            ));
        if self.icount {
            qemu.args(["-icount", "shift=0,sleep=off", "-seed", "1"]);
            qemu.args(["-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
        }
        let mut child = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting QEMU")?;
        let mut output = child.stdout.take().context("QEMU has no output")?;
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = output.read(&mut buffer) {
                if length == 0 || send.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        let deadline = Instant::now() + self.timeout;
        let mut timed_out = false;
        loop {
            match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => {
                    sink.write_all(&bytes)?;
                    sink.flush()?;
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    timed_out = true;
                    child.kill()?;
                    break;
                }
            }
        }
        let finished = child.wait_with_output()?;
        let log = String::from_utf8_lossy(&fs::read(&console)?).into_owned();
        Ok(match status(&log) {
            Some(status) => Outcome::Status(status),
            None => {
                let tail = tail(&log, &String::from_utf8_lossy(&finished.stderr));
                if timed_out { Outcome::TimedOut(tail) } else { Outcome::Died(tail) }
            }
        })
    }

    fn write_root(&self, to: &std::path::Path) -> Result<()> {
        let mut root = Root::new()?;
        for program in self.programs {
            let name = program.file_name().context("a program without a name")?.to_string_lossy();
            root.copy(program, &format!("bin/{name}"))?;
        }
        for folder in self.payload {
            root.tree(folder, "payload")?;
        }
        root.modules(self.modules, &self.kernel.root)?;
        let words: Vec<_> = self.command.iter().map(|word| quote(word)).collect();
        root.file(
            "etc/guest-command",
            0o644,
            format!(
                "cd /payload; export PATH=/payload:/bin:/usr/bin HOME=/root TERM=dumb LANG=C.UTF-8\nexec {}\n",
                words.join(" ")
            )
            .into_bytes(),
        );
        let mut out = BufWriter::new(File::create(to)?);
        root.write(&mut out)?;
        out.flush()?;
        Ok(())
    }
}

/// A word for `sh`.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The status that init printed, if it did.
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

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quote("a'b c"), r"'a'\''b c'");
    }
}
