//! The program under test.

use std::{path::Path, process::Command};

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs it in a folder, with an environment in which messages always look the same.
#[expect(clippy::unwrap_used, reason = "a test that cannot start the program has failed")]
pub fn stockade(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_stockade"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs([("HOME", "/home/ci"), ("USER", "ci"), ("PATH", "/usr/bin:/bin")])
        .envs([("LC_ALL", "C.UTF-8"), ("TERM", "dumb"), ("NO_COLOR", "1")])
        .output()
        .unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
