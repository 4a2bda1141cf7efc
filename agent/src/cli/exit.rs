//! Exit codes of our own. A command's own status is passed on; 128 + n stands for signal n.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

/// The daemon refused: there is no such scope, something stands in the way, the kernel has no room.
pub const REFUSED: u8 = 1;
/// Bad policy or usage.
pub const USAGE: u8 = 2;
/// Enforcement is unavailable, and nothing was started.
pub const UNAVAILABLE: u8 = 3;
/// No daemon answers.
pub const NO_DAEMON: u8 = 4;
/// The daemon does not answer you: you are neither root nor in its group, only root may do that, or you are held to a policy.
pub const NOT_ALLOWED: u8 = 5;
/// Stockade itself failed.
pub const OWN_FAILURE: u8 = 125;
/// The command may not be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such command.
pub const NOT_FOUND: u8 = 127;

/// What a command's end is passed on as: its own code, or 128 + signal.
#[must_use]
pub fn passed_on(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128u8.wrapping_add(signal as u8),
        (None, None) => OWN_FAILURE,
    }
}
