//! Destinations that are no addresses.

use super::Checker;
use crate::policy::{
    checked::NameRule,
    from::{self, Found},
    names::{self, Named},
    rule::Refusal,
};

impl Checker<'_> {
    /// A rule for each host that a tool is set up to use, at the same place.
    pub(super) fn from(&mut self, text: &str, deny: bool, id: u32) {
        let overlay = self.overlay;
        let refusal =
            |message: &str, help: &str| Refusal { message: message.into(), help: Some(help.into()) };
        let tool = text.strip_prefix(from::PREFIX).unwrap_or(text);
        if !from::TOOLS.contains(&tool) {
            return self.problem(id, from::unknown(tool));
        }
        if deny {
            let help = "deny the hosts by name";
            return self.problem(
                id,
                refusal("`from:` allows what a tool is set up to use, and denies nothing", help),
            );
        }
        match overlay.found.get(text) {
            None => {
                let help = "name the hosts, or use the policy with `stockade run`, which reads that user's configuration";
                self.problem(
                    id,
                    refusal("nobody runs this policy, of whom a configuration could be read", help),
                );
            }
            Some(Err(refusal)) => self.problem(id, refusal.clone()),
            Some(Ok(found)) => {
                let (own, place) =
                    (self.policy.rules[id as usize].clone(), self.policy.places[id as usize].clone());
                for Found { rule, place: named, left_out: _ } in found.iter().filter(|found| !found.left_out)
                {
                    let source = format!("{text} ({named})");
                    let id = self.rule(rule, &source, &own.list, place.clone());
                    self.net(rule, false, id);
                }
            }
        }
    }

    pub(super) fn loopback(&mut self, text: &str, deny: bool, id: u32) {
        let (message, help) = match (text, deny) {
            ("loopback:own", false) => {
                self.policy.loopback_own.get_or_insert(id);
                return;
            }
            ("loopback:own", true) => (
                "`loopback:own` is no denial".to_owned(),
                "take it out, and take it out of `allow` where it stands; deny ports by address: \"127.0.0.0/8:5432\"",
            ),
            _ => (
                format!("{text:?} is not known"),
                "`loopback:own` is what the workload itself listens on; name other ports by address: \"127.0.0.1:8080\"",
            ),
        };
        self.problem(id, Refusal { message, help: Some(help.to_owned()) });
    }

    pub(super) fn named(&mut self, text: &str, deny: bool, id: u32) {
        match names::named(text) {
            Ok(Named { ports, tcp, udp, .. }) if deny && (ports != [(0, u16::MAX)] || !tcp || !udp) => {
                let message = "a name is denied as a whole: it is not answered".to_owned();
                let help = "take ports and protocol out; to deny ports, deny them of the addresses";
                self.problem(id, Refusal { message, help: Some(help.to_owned()) });
            }
            Ok(Named { name, below, ports, tcp, udp }) => {
                self.policy.names.push(NameRule { name, below, ports, tcp, udp, deny, rule: id });
            }
            Err(refusal) => self.problem(id, refusal),
        }
    }
}
