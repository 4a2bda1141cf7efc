//! What would happen to a connection or a file, by which rule, and what would change it. Pure.

mod file;
mod local;

use std::net::{IpAddr, Ipv6Addr};

use serde::Serialize;
use stockade_common::{
    event::reason,
    file::NO_RULE,
    net::{TCP, UDP},
};

pub use self::file::{Access, Kind, Located};
use super::{
    checked::{CheckedPolicy, Mode, NameRule},
    image::{MapImage, RuleInfo},
    metadata::METADATA,
    names::{Index, shown},
    verdict,
};

/// What would happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It goes on.
    Allowed,
    /// It is refused.
    Denied,
    /// That depends on what has happened before.
    Depends,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What was asked.
    pub asked: String,
    /// What would happen.
    pub outcome: Outcome,
    /// Why, for programs.
    pub reason: &'static str,
    /// Why, for people.
    pub why: String,
    /// The rules that say so, the one that decides first.
    pub rules: Vec<RuleInfo>,
    /// What line or flag would change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// The one interface by which it leaves this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// What else is to be known.
    pub notes: Vec<String>,
    /// What each address of a name would get, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Explanation>,
}

/// A protocol that rules can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    fn number(self) -> u16 {
        (match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }) as u16
    }

    fn is_of(self, tcp: bool, udp: bool) -> bool {
        match self {
            Self::Tcp => tcp,
            Self::Udp => udp,
        }
    }
}

/// A checked policy, and what it was compiled to.
#[derive(Debug, Clone, Copy)]
pub struct Explainer<'a> {
    /// The policy.
    pub policy: &'a CheckedPolicy,
    /// Its tables.
    pub image: &'a MapImage,
}

/// What stands in a rule for this destination.
fn written(host: &str, port: u16, protocol: Protocol) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("{host}:{port}/{}", protocol.name())
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

fn plain(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(addr, IpAddr::V4),
        IpAddr::V4(_) => addr,
    }
}

fn is_loopback(addr: IpAddr) -> bool {
    addr.is_loopback() || addr == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// What an address is that the gate lets no name lead to, unless a rule allows the address itself.
fn inside(addr: IpAddr) -> Option<&'static str> {
    if METADATA.contains(&addr) {
        return Some("a cloud's metadata service");
    }
    match addr {
        _ if addr.is_loopback() => Some("loopback"),
        _ if addr.is_unspecified() => Some("this host"),
        _ if addr.is_multicast() => Some("multicast"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V4(v4) if v4.is_private() || v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64 => {
            Some("of a private network")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.is_unique_local() => Some("of a private network"),
        _ => None,
    }
}

fn has_port(ports: &[(u16, u16)], port: u16) -> bool {
    ports.iter().any(|(low, high)| (*low..=*high).contains(&port))
}

impl Explainer<'_> {
    fn rule(&self, id: u32) -> Vec<RuleInfo> {
        self.image.rules.get(id as usize).cloned().into_iter().collect()
    }

    fn quoted(&self, id: u32) -> String {
        self.rule(id).first().map_or_else(
            || "a rule".to_owned(),
            |rule| format!("{:?} ({}, {})", rule.text, rule.list, rule.source),
        )
    }

    fn answer(&self, asked: &str, outcome: Outcome, reason: &'static str, why: String) -> Explanation {
        let mut notes = Vec::new();
        if self.policy.mode == Mode::Audit && outcome != Outcome::Allowed {
            notes.push("the policy's mode is audit: it would be reported, and go on".to_owned());
        }
        let asked = asked.to_owned();
        Explanation {
            asked,
            outcome,
            reason,
            why,
            rules: Vec::new(),
            change: None,
            interface: None,
            notes,
            addresses: Vec::new(),
        }
    }

    /// A connection, or a datagram, to an address.
    #[must_use]
    pub fn address(&self, addr: IpAddr, port: u16, protocol: Protocol) -> Explanation {
        let addr = plain(addr);
        let asked = written(&addr.to_string(), port, protocol);
        if port == 53 && self.policy.uses_gate() {
            let why = "port 53 is carried to the DNS gate, whatever the address: it answers for names that a rule covers";
            let mut answer = self.answer(&asked, Outcome::Allowed, "dns_gate", why.to_owned());
            answer.notes.push("what is sent there never reaches that address".to_owned());
            return answer;
        }
        let mut answer = self.by_tables(&asked, addr, port, protocol);
        if answer.outcome != Outcome::Denied && !is_loopback(addr) {
            answer.interface.clone_from(&self.policy.egress);
        }
        answer
    }

    fn by_tables(&self, asked: &str, addr: IpAddr, port: u16, protocol: Protocol) -> Explanation {
        let found = verdict::net(self.image, octets(addr), port, protocol.number());
        if found.rule != NO_RULE {
            let by = self.quoted(found.rule);
            let mut answer = match found.reason {
                reason::RULE_ALLOW => {
                    let mut answer =
                        self.answer(asked, Outcome::Allowed, "rule_allow", format!("allowed by {by}"));
                    answer.change =
                        Some(format!("to deny it: --deny-net {asked}, or {asked:?} in network.deny"));
                    answer
                }
                _ if found.rule as usize >= self.policy.rules.len() => {
                    let why = "clouds give credentials to whoever asks at this address: it is denied over any allow";
                    let mut answer = self.answer(asked, Outcome::Denied, "metadata", why.to_owned());
                    let change =
                        format!("to allow it all the same, name it exactly: {asked:?} in network.allow");
                    answer.change = Some(change);
                    answer
                }
                _ => {
                    let mut answer =
                        self.answer(asked, Outcome::Denied, "rule_deny", format!("denied by {by}"));
                    answer.change =
                        Some(format!("take {by} out, or make it narrower: no other rule outweighs a denial"));
                    answer
                }
            };
            answer.rules = self.rule(found.rule);
            return answer;
        }
        let add = format!("to allow it: --allow-net {asked}, or {asked:?} in network.allow");
        if let Some(own) = self.policy.loopback_own.filter(|_| is_loopback(addr)) {
            let why = format!("allowed if the workload itself listens there, by {}", self.quoted(own));
            let mut answer = self.answer(asked, Outcome::Depends, "loopback_own", why);
            answer.rules = self.rule(own);
            answer.change = Some(add);
            return answer;
        }
        let names: Vec<&NameRule> = self
            .policy
            .names
            .iter()
            .filter(|rule| !rule.deny && has_port(&rule.ports, port) && protocol.is_of(rule.tcp, rule.udp))
            .collect();
        if names.is_empty() || inside(addr).is_some() {
            let why = "no rule allows it".to_owned();
            let mut answer = self.answer(asked, Outcome::Denied, "no_rule", why);
            if let Some(what) = inside(addr).filter(|_| !names.is_empty()) {
                answer.notes.push(format!("it is {what}: no name leads there"));
            }
            answer.change = Some(add);
            return answer;
        }
        let why = "no rule names the address: allowed while a name that a rule covers is answered with it";
        let mut answer = self.answer(asked, Outcome::Depends, "names", why.to_owned());
        answer.rules = names.iter().flat_map(|rule| self.rule(rule.rule)).collect();
        answer.change = Some(add);
        answer
    }

    /// A connection, or a datagram, to what a name is answered with; `addresses` if they are known.
    #[must_use]
    pub fn name(&self, name: &str, port: u16, protocol: Protocol, addresses: &[IpAddr]) -> Explanation {
        let mut answer = self.by_name(name, port, protocol);
        for addr in addresses.iter().map(|addr| plain(*addr)) {
            answer.addresses.push(self.answered(addr, port, protocol, answer.outcome));
        }
        answer
    }

    fn by_name(&self, name: &str, port: u16, protocol: Protocol) -> Explanation {
        let asked = written(name, port, protocol);
        let covering = Index::new(&self.policy.names).covering(name, false);
        if let Some(denial) = covering.iter().find(|rule| rule.deny) {
            let by = self.quoted(denial.rule);
            let mut answer =
                self.answer(&asked, Outcome::Denied, "name_deny", format!("the name is not answered: {by}"));
            answer.rules = self.rule(denial.rule);
            answer.change =
                Some(format!("take {by} out, or make it narrower: no other rule outweighs a denial"));
            return answer;
        }
        let mut fitting: Vec<&&NameRule> = covering
            .iter()
            .filter(|rule| has_port(&rule.ports, port) && protocol.is_of(rule.tcp, rule.udp))
            .collect();
        fitting.sort_by_key(|rule| rule.rule);
        let add = format!("to allow it: --allow-net {asked}, or {asked:?} in network.allow");
        let Some(first) = fitting.first() else {
            let others: Vec<String> = covering.iter().map(|rule| self.quoted(rule.rule)).collect();
            let (reason, why) = match &others[..] {
                [] if !self.policy.uses_gate() => (
                    "no_rule",
                    "no rule is on names: what the name stands for needs a rule on addresses".to_owned(),
                ),
                [] => ("no_rule", "no rule covers the name: the gate does not answer for it".to_owned()),
                others => {
                    ("other_ports", format!("the name is covered, and not this port: {}", others.join(", ")))
                }
            };
            let mut answer = self.answer(&asked, Outcome::Denied, reason, why);
            answer.rules = covering.iter().flat_map(|rule| self.rule(rule.rule)).collect();
            answer.change = Some(add);
            // The mistake that is made most often.
            let own = self.policy.names.iter().find(|rule| rule.below && rule.name == name && !rule.deny);
            if let Some(own) = own.filter(|_| covering.is_empty()) {
                answer.notes.push(format!("{} is what is below {name}, and not {name} itself", shown(own)));
            }
            return answer;
        };
        let wild =
            if first.below { format!("covered by the wildcard {}, ", shown(first)) } else { String::new() };
        let why = format!("{wild}allowed by {}", self.quoted(first.rule));
        let mut answer = self.answer(&asked, Outcome::Allowed, "name_allow", why);
        answer.rules = fitting.iter().flat_map(|rule| self.rule(rule.rule)).collect();
        answer.change = Some(format!("to deny it: --deny-net {name}, or {name:?} in network.deny"));
        answer.notes.push("by the addresses that the DNS gate answers with, as long as they hold".to_owned());
        answer.interface.clone_from(&self.policy.egress);
        answer
    }

    /// What an address gets that a name is answered with.
    fn answered(&self, addr: IpAddr, port: u16, protocol: Protocol, name: Outcome) -> Explanation {
        let own = self.address(addr, port, protocol);
        if own.outcome == Outcome::Allowed || own.reason == "rule_deny" || own.reason == "metadata" {
            return own;
        }
        let asked = own.asked.clone();
        match (name, inside(addr)) {
            (Outcome::Allowed, Some(what)) => {
                let why = format!("the gate leaves it out of answers: it is {what}");
                let change = format!("to allow it, name the address as well: {asked:?} in network.allow");
                Explanation { change: Some(change), ..self.answer(&asked, Outcome::Denied, "rebinding", why) }
            }
            (Outcome::Allowed, None) => {
                let why = "allowed by the name, while it is answered with this".to_owned();
                self.answer(&asked, Outcome::Allowed, "name_allow", why)
            }
            _ => own,
        }
    }
}

#[cfg(test)]
mod tests;
