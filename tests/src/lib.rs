//! Scenarios that run as root in a guest kernel.

pub mod descriptor;
pub mod tally;
