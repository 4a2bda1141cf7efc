//! Running programs of the host, each with a time limit, and waiting for what must come.

use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a scenario comes to.
pub type Checked<T = ()> = Result<T, String>;

/// For one program; a guest is slow.
const SECONDS: &str = "120";

/// A program that is killed if it takes too long.
pub fn limited(words: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", SECONDS]).args(words);
    command
}

/// Runs a program and returns what it printed; its failure is an error with all it said.
pub fn run(words: &[&str]) -> Checked<String> {
    let output = attempt(words)?;
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(said(words, &output)) }
}

/// Runs a program that may fail.
pub fn attempt(words: &[&str]) -> Checked<Output> {
    limited(words).output().map_err(|e| format!("starting {}: {e}", words[0]))
}

/// Runs a line of shell.
pub fn shell(line: &str) -> Checked<String> {
    run(&["sh", "-c", line])
}

/// A program's status and all it said.
pub fn said(words: &[&str], output: &Output) -> String {
    format!("`{}`: {}: {} {}", words.join(" "), output.status, text(&output.stdout), text(&output.stderr))
}

/// Bytes for a person.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// An error unless something holds.
pub fn ensure(truth: bool, why: impl FnOnce() -> String) -> Checked {
    if truth { Ok(()) } else { Err(why()) }
}

/// Waits until `ready` has an answer, or says why it never had one.
pub fn until<T>(seconds: u64, what: &str, mut ready: impl FnMut() -> Checked<Option<T>>) -> Checked<T> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(answer) = ready()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(format!("{what}: not within {seconds} s"));
        }
        sleep(Duration::from_millis(100));
    }
}
