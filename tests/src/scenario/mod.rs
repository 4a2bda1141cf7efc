//! Each operation denied under a policy, allowed by its twin, and allowed outside; and `run` itself.

mod batch;
pub mod daemon;
mod events;
mod flags;
mod lifecycle;
mod links;
mod listeners;
mod remember;
mod renames;
mod survival;
mod table;
mod terminal;

use std::io;

/// What one scenario came to.
pub enum Verdict {
    Ok,
    Fail(String),
    Skip(String),
}

/// Counts of what was reported.
#[derive(Default)]
pub struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    /// Prints one scenario's line and counts it.
    pub fn report(&mut self, name: &str, verdict: Verdict) {
        match verdict {
            Verdict::Ok => {
                self.passed += 1;
                println!("ok {name}");
            }
            Verdict::Fail(why) => {
                self.failed += 1;
                println!("FAIL {name}: {}", why.replace('\n', " | "));
            }
            Verdict::Skip(reason) => {
                self.skipped += 1;
                println!("skip {name}: {reason}");
            }
        }
    }
}

/// Runs all scenarios whose name contains `filter`; true if some passed and none failed.
pub fn main(filter: &str) -> io::Result<bool> {
    let mut tally = Tally::default();
    // Without the BPF LSM nothing can be enforced: only the refusal to start is left to test.
    if std::env::var_os("SCENARIO_NO_BPF_LSM").is_some() {
        lifecycle::without_lsm(&mut tally)?;
    } else {
        let port = listeners::start()?;
        for user in [batch::User::Root, batch::User::Ordinary] {
            batch::run(user, port, filter, &mut tally)?;
        }
        lifecycle::run(filter, &mut tally)?;
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    Ok(tally.failed == 0 && tally.passed > 0)
}
