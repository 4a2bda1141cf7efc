//! This host's own addresses: a public one in an answer leads to whatever listens here on all addresses.

use std::{collections::HashSet, net::IpAddr};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

/// Addresses of this network namespace's interfaces, those of loopback left out: who puts a public address there means it to
/// be a name's. `None`: they cannot be listed now.
pub fn addresses() -> Option<HashSet<IpAddr>> {
    let all = getifaddrs().inspect_err(|error| {
        tracing::warn!(%error, "this host's addresses cannot be listed: those known before are refused in answers");
    });
    let outward = all.ok()?.filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK));
    let address = |interface: nix::ifaddrs::InterfaceAddress| -> Option<IpAddr> {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    };
    Some(outward.filter_map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_among_them() {
        let all = addresses().unwrap();
        assert!(all.iter().all(|address| !address.is_loopback()), "{all:?}");
    }
}
