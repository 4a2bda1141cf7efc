//! Connections that a new policy does not allow any more.

mod diag;

use std::{collections::HashSet, net::SocketAddr};

pub use self::diag::{Diag, Flow};

/// Of all sockets those of `cgroups` that go where `allowed` says no more. What was accepted is judged where it is accepted:
/// its own port is one that is listened on.
pub fn forbidden<'f>(
    flows: &'f [Flow],
    cgroups: &HashSet<u64>,
    allowed: impl Fn(u8, SocketAddr) -> bool,
) -> Vec<&'f Flow> {
    let listened: HashSet<(u64, u8, u16)> = flows
        .iter()
        .filter(|flow| flow.listens)
        .map(|flow| (flow.cgroup_id, flow.protocol, flow.local.port()))
        .collect();
    flows
        .iter()
        .filter(|flow| cgroups.contains(&flow.cgroup_id) && !flow.listens && flow.remote.port() != 0)
        .filter(|flow| !listened.contains(&(flow.cgroup_id, flow.protocol, flow.local.port())))
        .filter(|flow| !allowed(flow.protocol, flow.remote))
        .collect()
}
