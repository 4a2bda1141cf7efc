//! Scenarios by topic, in the order they run: first what needs no daemon, last what takes the package away.
//!
//! A topic that needs the daemon brings it to where it needs it, so that each can be run alone.

mod api;
mod boot;
mod contained;
mod container;
mod daemon;
mod exec;
mod input;
mod lifecycle;
mod moved;
pub mod named;
#[path = "../scenario/nameserver.rs"]
mod nameserver;
mod plain;
pub mod probe;
mod removal;
mod server;
mod survival;
mod unit;
mod upgrade;

use std::fs;
use std::time::Instant;

use stockade_tests::tally::{Tally, Verdict};

/// What a scenario is.
type Scenario = (&'static str, fn() -> exec::Checked);

const TOPICS: [&[Scenario]; 11] = [
    boot::SCENARIOS,
    plain::SCENARIOS,
    lifecycle::SCENARIOS,
    api::SCENARIOS,
    contained::SCENARIOS,
    moved::SCENARIOS,
    named::SCENARIOS,
    input::SCENARIOS,
    survival::SCENARIOS,
    upgrade::SCENARIOS,
    removal::SCENARIOS,
];

/// Runs what is asked for; true if some passed and none failed.
pub fn main() -> Result<bool, String> {
    let only = fs::read_to_string("only").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only.lines().any(|prefix| name.starts_with(prefix));
    let mut tally = Tally::default();
    server::start()?;
    probe::place()?;
    for (name, scenario) in TOPICS.iter().flat_map(|topic| topic.iter()).filter(|(name, _)| wanted(name)) {
        let start = Instant::now();
        let verdict = scenario().map_or_else(Verdict::Fail, |()| Verdict::Ok);
        tally.report(name, verdict);
        // What takes long is to be seen: the whole has to fit beside the other tests.
        if start.elapsed().as_secs() > 0 {
            println!("   {:.0} s", start.elapsed().as_secs_f32());
        }
    }
    Ok(tally.finish())
}
