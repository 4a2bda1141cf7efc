//! The daemon: holds workloads of the host to policies for as long as they live, whoever started them.
//!
//! ```text
//! policies.d -> core (owns the programs) <- command <- api (unix socket, HTTP) <- CLI, curl, Prometheus
//! ring -> core -> events -> api
//! ```
//!
//! The core is one thread that owns the enforcer; whatever is asked of it comes as a [`command::Command`].

pub mod announce;
pub mod api;
pub mod client;
pub mod command;
pub mod config;
pub mod core;
pub mod hub;
pub mod last_good;
pub mod log;
pub mod metrics;
pub mod notify;
pub mod policies;
pub mod recorder;
pub mod shadow;
