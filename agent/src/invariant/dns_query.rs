//! Packets that a workload sends to the DNS gate.

/// They are dropped, refused or answered, and only what is granted is in an answer.
pub fn check(data: &[u8]) {
    crate::dns::reference::check_query(data);
}
