//! The daemon's API over a real socket, with a core that only answers.

mod cli;
mod client;
mod core;
mod events;
mod limits;
mod peers;
mod routes;
mod runs;
mod setup;
