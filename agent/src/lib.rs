//! Stockade's userspace: from policy text to enforced tables, and from ring-buffer records to audit events.
//!
//! ```text
//! policy text -> policy (pure) -> MapImage -> kernel (apply) -> BPF maps -> verdicts -> ring buffer -> audit -> sinks
//! ```

pub mod audit;
pub mod cli;
pub mod daemon;
pub mod dns;
pub mod gates;
#[cfg(any(test, feature = "invariant"))]
pub mod invariant;
pub mod kernel;
pub mod policy;
pub mod scope;
