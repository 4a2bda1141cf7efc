//! The words of events: what numbers in records mean.

use std::{borrow::Cow, net::Ipv6Addr};

use stockade_common::{
    event::{kind, reason, verdict},
    file::{ACCESS_CONNECT, ACCESS_EXEC, ACCESS_LOOK, ACCESS_READ, ACCESS_WRITE},
};

/// Name of an event's kind.
#[must_use]
pub fn kind_name(event: u16) -> &'static str {
    match event {
        kind::EXEC | kind::STARTED => "exec",
        kind::CGROUP => "cgroup",
        kind::FORK => "fork",
        kind::EXIT => "exit",
        kind::PTRACE => "ptrace",
        kind::CONFINE => "confine",
        kind::SIGNAL => "signal",
        kind::OPEN => "open",
        kind::CHANGE => "change",
        kind::CONNECT => "connect",
        kind::SEND => "send",
        kind::SOCKET => "socket",
        kind::UNIX | kind::UNIX_NAMED => "unix",
        kind::LISTEN => "listen",
        kind::ACCEPT => "accept",
        kind::RECEIVE => "receive",
        _ => "unknown",
    }
}

/// Name of a verdict.
#[must_use]
pub fn verdict_name(outcome: u8) -> &'static str {
    match outcome {
        verdict::ALLOWED => "allowed",
        verdict::DENIED => "denied",
        _ => "would_deny",
    }
}

/// Name of a reason.
#[must_use]
pub fn reason_name(why: u16) -> &'static str {
    match why {
        reason::RULE_ALLOW => "rule_allow",
        reason::RULE_DENY => "rule_deny",
        reason::NO_RULE => "no_rule",
        reason::UNKNOWN_FILESYSTEM => "unknown_filesystem",
        reason::NO_NAME => "no_name",
        reason::PATH_TOO_LONG => "path_too_long",
        reason::FAMILY => "family",
        reason::DEVICE => "device",
        reason::OUTSIDE => "outside",
        reason::INSIDE => "inside",
        reason::MOVES_DENIED => "moves_denied",
        reason::CONFINED => "confined",
        reason::OWN_LISTENER => "own_listener",
        reason::DNS_GATE => "dns_gate",
        reason::NO_GATE => "no_gate",
        reason::NAME_EXPIRED => "name_expired",
        reason::INTERFACE => "interface",
        reason::PRIVILEGE => "privilege",
        _ => "internal",
    }
}

/// Names of `ACCESS_*` bits.
#[must_use]
pub fn access_names(access: u32) -> Vec<&'static str> {
    let names = [
        (ACCESS_READ, "read"),
        (ACCESS_WRITE, "write"),
        (ACCESS_EXEC, "exec"),
        (ACCESS_CONNECT, "connect"),
        (ACCESS_LOOK, "metadata"),
    ];
    names.into_iter().filter(|(bit, _)| access & bit != 0).map(|(_, name)| name).collect()
}

/// Address, IPv4 where it is a mapped one.
#[must_use]
pub fn address(addr: [u8; 16]) -> std::net::IpAddr {
    let addr = Ipv6Addr::from(addr);
    addr.to_ipv4_mapped().map_or_else(|| addr.into(), Into::into)
}

fn named(number: u16, name: Option<&'static str>) -> Cow<'static, str> {
    name.map_or_else(|| number.to_string().into(), Into::into)
}

/// Name of a socket family, or its number.
#[must_use]
pub fn family(number: u16) -> Cow<'static, str> {
    let name = match i32::from(number) {
        libc::AF_UNIX => "unix",
        libc::AF_INET => "inet",
        libc::AF_INET6 => "inet6",
        libc::AF_NETLINK => "netlink",
        libc::AF_PACKET => "packet",
        libc::AF_ALG => "alg",
        libc::AF_VSOCK => "vsock",
        libc::AF_XDP => "xdp",
        _ => return named(number, None),
    };
    name.into()
}

/// Name of a socket type, or its number.
#[must_use]
pub fn socket_type(number: u16) -> Cow<'static, str> {
    named(
        number,
        ["stream", "dgram", "raw", "rdm", "seqpacket"].get(usize::from(number).wrapping_sub(1)).copied(),
    )
}

/// Name of an internet protocol, or its number.
#[must_use]
pub fn protocol(number: u16) -> Cow<'static, str> {
    let name = match i32::from(number) {
        libc::IPPROTO_ICMP => "icmp",
        libc::IPPROTO_TCP => "tcp",
        libc::IPPROTO_UDP => "udp",
        libc::IPPROTO_ICMPV6 => "icmpv6",
        libc::IPPROTO_SCTP => "sctp",
        libc::IPPROTO_MPTCP => "mptcp",
        _ => return named(number, None),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_shown_as_ipv4() {
        assert_eq!(address([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1]).to_string(), "127.0.0.1");
    }

    #[test]
    fn numbers_without_a_name_stay_numbers() {
        assert_eq!((&*family(10), &*family(60)), ("inet6", "60"));
        assert_eq!((&*socket_type(1), &*socket_type(0), &*socket_type(5)), ("stream", "0", "seqpacket"));
        assert_eq!((&*protocol(262), &*protocol(200)), ("mptcp", "200"));
    }
}
