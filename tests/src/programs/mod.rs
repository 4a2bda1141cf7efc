//! Programs that people run, each held to rules on names and nothing else of the network: with all its names it does its work, with one
//! missing it says at once which.
//!
//! Everything they talk to is in this guest: a name server, a web server with certificates of its own authority, git's daemon.

#[path = "../host/exec.rs"]
#[allow(dead_code, reason = "shared with the scenarios of hosts, which need more of it")]
mod exec;
mod network;
mod offers;
mod program;
mod resolvers;
mod sources;
mod table;
mod trial;

use std::fs;
use std::time::Instant;

use stockade_tests::tally::{Tally, Verdict};

/// Runs what is asked for; true if some passed and none failed.
pub fn main() -> Result<bool, String> {
    let only = fs::read_to_string("only").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only.lines().any(|prefix| name.starts_with(prefix));
    let mut tally = Tally::default();
    let start = Instant::now();
    let _network = network::start()?;
    offers::make()?;
    let _daemon = trial::daemon()?;
    println!("   everything is up after {:.0} s", start.elapsed().as_secs_f32());
    let scenarios = table::scenarios().into_iter().chain(resolvers::scenarios()).chain(sources::scenarios());
    for (name, scenario) in scenarios.filter(|(name, _)| wanted(name)) {
        let start = Instant::now();
        tally.report(&name, scenario().map_or_else(Verdict::Fail, |()| Verdict::Ok));
        println!("   {:.0} s", start.elapsed().as_secs_f32());
    }
    Ok(tally.finish())
}
