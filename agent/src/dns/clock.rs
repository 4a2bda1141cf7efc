//! The clock that grants expire by: it goes on while the machine sleeps, and nobody can set it.

use nix::time::{ClockId, clock_gettime};

/// Seconds since boot, suspend included. A clock that cannot be read stands at the end: nothing holds any more.
pub fn boot_seconds() -> u32 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .and_then(|time| u32::try_from(time.tv_sec()).ok())
        .unwrap_or(u32::MAX)
}
