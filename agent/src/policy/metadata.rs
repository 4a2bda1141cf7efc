//! Addresses at which clouds hand out credentials to whoever asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::image::RuleInfo;

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(first: [u16; 3], last: [u16; 2]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first[0], first[1], first[2], 0, 0, 0, last[0], last[1]))
}

/// Denied over any allow, unless a rule names one exactly; and in no answer for a name.
pub const METADATA: [IpAddr; 13] = [
    // Most clouds.
    v4(169, 254, 169, 254),
    v6([0xfe80, 0, 0], [0xa9fe, 0xa9fe]),
    // AWS: instances, tasks, pods.
    v6([0xfd00, 0xec2, 0], [0, 0x254]),
    v4(169, 254, 170, 2),
    v4(169, 254, 170, 23),
    v6([0xfd00, 0xec2, 0], [0, 0x23]),
    // Google.
    v6([0xfd20, 0xce, 0], [0, 0x254]),
    // Azure's host agent.
    v4(168, 63, 129, 16),
    // Oracle.
    v4(192, 0, 0, 192),
    // Alibaba.
    v4(100, 100, 100, 200),
    // Tencent.
    v4(169, 254, 0, 23),
    // Scaleway.
    v4(169, 254, 42, 42),
    v6([0xfd00, 0x42, 0], [0, 0x42]),
];

/// The rule that denies them.
#[must_use]
pub fn rule() -> RuleInfo {
    RuleInfo { text: "cloud metadata".into(), source: "built in".into(), list: "network.deny".into() }
}
