//! Runs the scenarios as root in a guest: `scenarios [FILTER]`.
//!
//! Prints `ok NAME`, `FAIL NAME: why` or `skip NAME: reason`, then the counts.

#[path = "../scenario/mod.rs"]
mod scenario;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let filter = words.next().unwrap_or_default();
    if filter == scenario::reloads::PROBER {
        let probed = scenario::reloads::probe(&words.next().unwrap_or_default());
        return if probed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if filter == scenario::flows::HOLDER {
        let held = scenario::flows::hold(&words.next().unwrap_or_default());
        return if held.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if filter == scenario::stall::STALLER {
        let why = scenario::stall::stall(words);
        eprintln!("scenarios: {why}");
        return ExitCode::FAILURE;
    }
    let rest: Vec<String> = words.collect();
    if let [folder, number] = &rest[..] {
        let done = match &*filter {
            scenario::limits::CROWD => scenario::limits::crowd(folder, number).map(|free| println!("{free}")),
            scenario::limits::MAKER => scenario::limits::make(folder, number),
            _ => Err(format!("what is {filter}?")),
        };
        return done.map_or_else(
            |error| {
                eprintln!("scenarios: {error}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        );
    }
    match scenario::main(&filter) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scenarios: {error}");
            ExitCode::FAILURE
        }
    }
}
