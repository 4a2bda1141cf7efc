//! Each operation denied under a policy, allowed by its twin, and allowed outside; and `run` itself.

mod batch;
mod broken;
pub mod daemon;
mod differential;
mod egress;
mod events;
mod failures;
mod fellow;
mod flags;
pub mod flows;
mod full;
mod lifecycle;
pub mod limits;
mod links;
mod listeners;
mod looks;
mod names;
mod nameserver;
mod net_listen;
mod net_unix;
mod overlays;
mod powers;
pub mod reloads;
mod remember;
mod renames;
pub mod stall;
mod survival;
mod table;
mod terminal;
mod waiting;
mod wall;
mod ways;

use std::io;

use stockade_tests::tally::{Tally, Verdict};

/// Whether a name contains one of the parts, between commas, of a filter.
fn is_chosen(name: &str, filter: &str) -> bool {
    filter.split(',').any(|part| name.contains(part))
}

/// Runs all scenarios whose name contains `filter`, or one of its parts between commas; true if some passed and none failed.
pub fn main(filter: &str) -> io::Result<bool> {
    let mut tally = Tally::default();
    // Without the BPF LSM nothing can be enforced: only the refusal to start is left to test.
    if std::env::var_os("SCENARIO_NO_BPF_LSM").is_some() {
        lifecycle::without_lsm(&mut tally)?;
    } else {
        let port = listeners::start()?;
        // Where minutes count, by the daemon that the next scenarios share.
        if std::env::var_os("SCENARIO_BRIEF").is_some() && batch::has_any(filter) {
            daemon::Daemon::shared("").map_err(io::Error::other)?;
        }
        for user in [batch::User::Root, batch::User::Ordinary] {
            batch::run(user, port, filter, &mut tally)?;
        }
        lifecycle::run(filter, &mut tally)?;
    }
    Ok(tally.finish())
}
