//! What Stockade does on a host that boots systemd: `host` runs the scenarios whose names start with a line of the file `only`
//! beside it, all if it is empty. `host probe …` is the workload they hold to policies.
//!
//! Prints `ok NAME`, `FAIL NAME: why` or `skip NAME: reason`, then the counts.

#[path = "../host/mod.rs"]
mod host;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.split_first() {
        Some((verb, rest)) if verb == "probe" => host::probe::main(rest),
        Some((verb, rest)) if verb == "reach" => host::named::reach(rest),
        _ => host::main(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("host: {message}");
            ExitCode::from(2)
        }
    }
}
