//! What a policy is applied to: a cgroup of our own, and the command in it.

pub mod cgroup;
pub mod command;
pub mod launch;
pub mod signals;
pub mod terminal;
pub mod user;
