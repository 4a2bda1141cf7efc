//! What a policy is applied to: a cgroup of our own and the command in it, or what of the host belongs to a policy.

pub mod cgroup;
pub mod command;
pub mod container;
pub mod flows;
pub mod held;
pub mod host;
pub mod interface;
pub mod launch;
pub mod matcher;
pub mod private_tmp;
pub mod running;
pub mod signals;
pub mod target;
pub mod terminal;
pub mod tree;
pub mod trusted;
pub mod user;
pub mod walk;
