//! Connections that are open already when a policy changes: what the new one forbids is ended.

use std::{
    collections::HashSet,
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, setns};
use stockade_common::{
    event::reason,
    net::{Grant, Granted, PrefixData, port_key},
    tag::SCOPE_LOOPBACK_OWN,
};

use super::Core;
use crate::{
    audit::origin::boot_ns,
    daemon::announce,
    kernel::Scope,
    policy::{image::MapImage, verdict},
    scope::flows::{self, Diag, Flow},
};

/// What a scope was held to.
pub(super) struct Before {
    image: Arc<MapImage>,
    /// What names had allowed.
    named: HashSet<PrefixData>,
}

/// What a scope is held to now.
pub(super) struct Held<'a> {
    pub(super) scope: Scope,
    pub(super) image: &'a MapImage,
    /// What names allow under it.
    pub(super) granted: &'a [(PrefixData, Granted)],
    /// What it was held to.
    pub(super) before: &'a Before,
    /// Ports of its gates.
    pub(super) gates: &'a HashSet<u16>,
    /// In whose network namespace its processes are; `None`: the host's.
    pub(super) pid: Option<u32>,
}

impl Core {
    /// What a scope is held to, before it is held to something else.
    pub(super) fn of_before(&self, scope: Scope) -> Option<Before> {
        let (_, image) = self.registry.find(scope)?.1.compiled.as_ref()?;
        let named = self.gates.held(scope).into_iter().map(|held| mapped(held.address)).collect();
        Some(Before { image: image.clone(), named })
    }

    /// Ends what a scope may have no more. That it cannot be is told: packets are stopped by the programs all the same.
    pub(super) fn end_forbidden(&mut self, name: &str, held: &Held<'_>) {
        let tags = match self.enforcer.tags() {
            Ok(tags) => tags,
            Err(error) => return eprintln!("stockade: {name}: open connections are not looked at: {error}"),
        };
        let cgroups: HashSet<u64> =
            tags.into_iter().filter(|(_, scope)| *scope == held.scope).map(|(id, _)| id).collect();
        if cgroups.is_empty() {
            return;
        }
        let allowed = |protocol: u8, to: SocketAddr| allows(held, protocol, to);
        match in_namespace_of(held.pid, || end(&cgroups, &allowed)) {
            Ok(ended) => {
                let uid = self.registry.scopes.get(name).and_then(|state| state.uid);
                for flow in ended {
                    let said = announce::flow(&self.boot, boot_ns(), name, &flow);
                    self.recorder.tell(&said, name, uid);
                }
            }
            Err(error) => {
                eprintln!("stockade: {name}: connections that are open already cannot be ended: {error}");
            }
        }
    }
}

type Allowed<'a> = dyn Fn(u8, SocketAddr) -> bool + Sync + 'a;

fn end(cgroups: &HashSet<u64>, allowed: &Allowed<'_>) -> io::Result<Vec<Flow>> {
    let diag = Diag::open()?;
    let all = diag.flows()?;
    let forbidden = flows::forbidden(&all, cgroups, allowed);
    let mut ended = Vec::new();
    for flow in forbidden {
        if diag.destroy(flow)? {
            ended.push(flow.clone());
        }
    }
    Ok(ended)
}

fn mapped(address: IpAddr) -> PrefixData {
    match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Whether a connection that is there may stay: the policy would let it be made; or neither does it deny it nor had the one
/// before allowed it, so that it was accepted, or its name was answered long ago.
fn allows(held: &Held<'_>, protocol: u8, to: SocketAddr) -> bool {
    let Held { image, granted, before, .. } = held;
    let address = mapped(to.ip());
    let decided = verdict::net(image, address, to.port(), u16::from(protocol));
    if decided.allows() || decided.reason != reason::NO_RULE {
        return decided.allows();
    }
    let key = port_key(u32::from(protocol), to.port());
    let covers = |grant: &Grant| grant.low <= key && key <= grant.high;
    if granted.iter().any(|(of, granted)| *of == address && granted.grants.iter().any(covers)) {
        return true;
    }
    let was_allowed = before.named.contains(&address)
        || verdict::net(&before.image, address, to.port(), u16::from(protocol)).allows();
    if was_allowed {
        return false;
    }
    let was_own = before.image.flags & SCOPE_LOOPBACK_OWN != 0 && image.flags & SCOPE_LOOPBACK_OWN == 0;
    !(was_own && to.ip().is_loopback()) || held.gates.contains(&to.port())
}

/// Does something in the network namespace of a process: in a thread that ends with it, since there is no way back for sure.
fn in_namespace_of<T: Send>(pid: Option<u32>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let Some(pid) = pid else { return work() };
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
    })
}

#[cfg(test)]
mod tests {
    use stockade_common::net::{GRANTS, TCP};

    use super::*;

    #[test]
    fn what_is_open_is_judged_as_what_would_be_opened() {
        let image = MapImage::default();
        let own = Arc::new(MapImage { flags: SCOPE_LOOPBACK_OWN, ..MapImage::default() });
        let address: SocketAddr = "192.0.2.7:443".parse().unwrap();
        let loopback: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let key = port_key(TCP, 443);
        let mut grants = [Grant::NOTHING; GRANTS];
        grants[3] = Grant { low: key, high: key, rule: 0, expires: 9 };
        let granted = [(mapped(address.ip()), Granted { grants })];
        let (gates, none) = (HashSet::from([8080]), HashSet::new());
        let before = |image: &Arc<MapImage>, named: &[SocketAddr]| Before {
            image: image.clone(),
            named: named.iter().map(|address| mapped(address.ip())).collect(),
        };
        let (named, nothing) = (before(&Arc::default(), &[address]), before(&Arc::default(), &[]));
        let ask = |image: &MapImage, granted, before, gates, to| {
            allows(&Held { scope: Scope(1), image, granted, before, gates, pid: None }, 6, to)
        };
        assert!(ask(&image, &[], &nothing, &none, address), "accepted, or of a name answered long ago");
        assert!(!ask(&image, &[], &named, &none, address), "its name is not allowed any more");
        assert!(ask(&image, &granted, &named, &none, address), "its name is allowed");
        assert!(!ask(&image, &granted, &named, &none, "192.0.2.7:80".parse().unwrap()), "on another port");
        let own_before = before(&own, &[]);
        assert!(!ask(&image, &[], &own_before, &none, loopback), "no loopback:own any more");
        assert!(ask(&own, &[], &own_before, &none, loopback));
        assert!(ask(&image, &[], &own_before, &gates, loopback), "its gate");
    }

    #[test]
    fn our_own_namespace_needs_no_thread() {
        let id = thread::current().id();
        assert_eq!(in_namespace_of(None, || Ok(thread::current().id())).unwrap(), id);
        assert!(in_namespace_of(Some(u32::MAX / 4), || Ok(())).is_err());
    }
}
