//! Real programs under rules on names: `programs` runs the scenarios whose names start with a line of the file `only` beside it, all if
//! it is empty.
//!
//! Prints `ok NAME` or `FAIL NAME: why`, then the counts.

#[path = "../programs/mod.rs"]
mod programs;

use std::process::ExitCode;

fn main() -> ExitCode {
    match programs::main() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("programs: {message}");
            ExitCode::from(2)
        }
    }
}
