//! The DNS gate by itself, and how fast it and others answer: for `cargo xtask bench-dns`.

#[path = "../dns/mod.rs"]
mod dns;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["upstream"] => dns::upstream(),
        ["gate", upstream] => dns::gate(upstream),
        ["measure", seconds, ref servers @ ..] => dns::measure(seconds, servers),
        _ => Err("dns upstream | gate ADDRESS | measure SECONDS NAME=PORT/PID...".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dns: {error}");
            ExitCode::FAILURE
        }
    }
}
