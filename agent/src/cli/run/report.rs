//! What is said at the end: the last events, what was lost, and on standard error what was refused.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

use super::supervise::Supervisor;
use crate::audit::{
    origin::boot_ns,
    run::{self, Losses},
    sink::Closed,
};

/// Writes the rest of the events and the end, and prints the summary.
pub async fn report(mut supervisor: Supervisor<'_>, status: ExitStatus, exit_code: u8) {
    if let Err(error) = supervisor.rest() {
        eprintln!("stockade: the loss counters cannot be read: {error}");
    }
    let counters = supervisor.counters().ok();
    let mut trail = supervisor.trail;
    let status = status.into_raw().cast_unsigned();
    let now = boot_ns();
    let closed =
        trail.close(now, |lost, context| run::end(status, exit_code, counters.as_ref(), lost, context, now));
    let closed = closed.await;
    for line in losses(trail.lost(), closed.as_ref()) {
        eprintln!("stockade: {line}");
    }
    if let Some(summary) = trail.summary().render() {
        eprint!("{summary}");
    }
}

/// What is missing from the events, for people.
fn losses(lost: Losses, closed: Option<&Closed>) -> Vec<String> {
    let mut lines = Vec::new();
    let Losses { denied, other, undecoded, unwritten } = lost;
    if denied + other + undecoded > 0 {
        let other = other + undecoded;
        lines.push(format!(
            "{denied} events of refusals and {other} others were lost: the summary lacks them"
        ));
    }
    if unwritten > 0 {
        let why = match closed.and_then(|closed| closed.error.as_ref()) {
            Some(error) => error.to_string(),
            None => "whoever reads them is too slow".to_owned(),
        };
        lines.push(format!("{unwritten} events were not written: {why}"));
    } else if let Some(error) = closed.and_then(|closed| closed.error.as_ref()) {
        lines.push(format!("writing events: {error}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn losses_are_told_with_their_cause() {
        assert!(losses(Losses::default(), None).is_empty());
        let ring = Losses { denied: 1, other: 2, undecoded: 3, unwritten: 0 };
        assert_eq!(
            losses(ring, None),
            ["1 events of refusals and 5 others were lost: the summary lacks them"]
        );
        let unwritten = Losses { unwritten: 4, ..Losses::default() };
        let slow = Closed { unwritten: 4, error: None };
        assert_eq!(
            losses(unwritten, Some(&slow)),
            ["4 events were not written: whoever reads them is too slow"]
        );
        let full = Closed { unwritten: 4, error: Some(io::ErrorKind::StorageFull.into()) };
        assert_eq!(losses(unwritten, Some(&full)), ["4 events were not written: no storage space"]);
    }
}
