//! Runs the scenarios as root in a guest: `scenarios [FILTER]`.
//!
//! Prints `ok NAME`, `FAIL NAME: why` or `skip NAME: reason`, then the counts.

#[path = "../scenario/mod.rs"]
mod scenario;

use std::process::ExitCode;

fn main() -> ExitCode {
    let filter = std::env::args().nth(1).unwrap_or_default();
    match scenario::main(&filter) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scenarios: {error}");
            ExitCode::FAILURE
        }
    }
}
