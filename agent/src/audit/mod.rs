//! What happened in a run: records to events and a summary.
//!
//! ```text
//! ring -> decode -> process (who) -> json -> trail -> sink
//!                                 -> summary
//! ```

pub mod decode;
pub mod digest;
pub mod gate;
#[cfg(test)]
mod golden;
pub mod json;
pub mod known_socket;
pub mod name;
pub mod operation;
pub mod origin;
pub mod process;
pub mod refusal;
pub mod ring;
pub mod run;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
pub(crate) mod schema;
pub mod sink;
pub mod summary;
pub mod terms;
pub mod trail;
