//! Measures operations, run in a guest that counts instructions: `bench suite` runs every configuration, `bench ops` is
//! what it runs in each of them.
//!
//! Prints `R CONFIGURATION OPERATION MEDIAN MINIMUM`, one line each.

#[path = "../bench/mod.rs"]
mod bench;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match bench::main(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
