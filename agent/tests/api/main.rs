//! The daemon's API over a real socket, with a core that only answers.

#![expect(clippy::unwrap_used, reason = "a test whose daemon or client cannot be set up has failed")]

mod cli;
mod client;
mod core;
mod events;
mod limits;
mod peers;
mod routes;
mod runs;
mod setup;
