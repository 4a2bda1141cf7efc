//! Tries one operation and prints `allowed`, `denied ERRNO`, `error ERRNO` or `skipped REASON`.
//!
//! `attempt VERB ARGS…`, or `attempt --batch FILE|-` with one such line per line of the file.

#[path = "../attempt/mod.rs"]
mod attempt;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match attempt::main(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("attempt: {message}");
            ExitCode::from(2)
        }
    }
}
