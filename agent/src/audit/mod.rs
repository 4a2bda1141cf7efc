//! From ring-buffer records to audit events: decode, JSON, summary.

pub mod decode;
pub mod json;
pub mod summary;
