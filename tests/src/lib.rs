//! Scenarios that run as root in a guest kernel.

pub mod tally;
