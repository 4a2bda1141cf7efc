//! What stays on this host: listening, and unix sockets.

use std::net::IpAddr;

use stockade_common::file::{ACCESS_CONNECT, NO_RULE};

use super::{Explainer, Explanation, Outcome, Protocol, has_port, plain, written};
use crate::policy::{checked::NetRule, verdict};

impl Explainer<'_> {
    /// Listening on a local address.
    #[must_use]
    pub fn listen(&self, addr: IpAddr, port: u16, protocol: Protocol) -> Explanation {
        let addr = plain(addr);
        let asked = written(&addr.to_string(), port, protocol);
        let says = |rule: &&NetRule| {
            rule.prefix.contains(&addr) && has_port(&rule.ports, port) && protocol.is_of(rule.tcp, rule.udp)
        };
        if let Some(rule) = self.policy.listen.iter().find(says) {
            let by = self.quoted(rule.rule);
            let why = format!("listening is allowed by {by}");
            let mut answer = self.answer(&asked, Outcome::Allowed, "rule_allow", why);
            answer.rules = self.rule(rule.rule);
            answer.change = Some(format!("take {by} out, or make it narrower"));
            return answer;
        }
        let why = "no rule allows to listen there; without one there is loopback".to_owned();
        let mut answer = self.answer(&asked, Outcome::Denied, "no_rule", why);
        answer.change = Some(format!("to allow it: {asked:?} in network.listen"));
        if addr.is_unspecified() {
            answer.notes.push("a socket that is bound to no address listens on all of them".to_owned());
        }
        answer
    }

    /// Connecting to a unix socket by its file: the filesystem, and the path in it.
    #[must_use]
    pub fn unix(&self, path: &str, dev: u32, inside: &[u8]) -> Explanation {
        let asked = format!("unix:{path}");
        let found = verdict::file(self.image, dev, inside, ACCESS_CONNECT, 0);
        let by = self.quoted(found.rule);
        let (outcome, reason, why, change) = match (found.allows(), found.rule) {
            (true, _) => (
                Outcome::Allowed,
                "rule_allow",
                format!("allowed by {by}"),
                format!("to deny it: {asked:?} in network.deny"),
            ),
            (false, NO_RULE) => (
                Outcome::Denied,
                "no_rule",
                "no rule allows it".to_owned(),
                format!("to allow it: {asked:?} in network.allow"),
            ),
            (false, _) => (
                Outcome::Denied,
                "rule_deny",
                format!("denied by {by}"),
                format!("take {by} out, or make it narrower: no other rule outweighs a denial"),
            ),
        };
        let rules = if found.rule == NO_RULE { Vec::new() } else { self.rule(found.rule) };
        let mut answer = self.answer(&asked, outcome, reason, why);
        answer.notes.push("sockets that the workload itself has made can be reached".to_owned());
        Explanation { rules, change: Some(change), ..answer }
    }

    /// Connecting to an abstract unix socket, by the bytes behind the NUL; `shown` is how it was asked.
    #[must_use]
    pub fn abstract_unix(&self, shown: &str, name: &[u8]) -> Explanation {
        let asked = format!("unix:@{shown}");
        let find =
            |deny: bool| self.policy.abstracts.iter().find(|rule| rule.deny == deny && rule.name == name);
        let (outcome, reason, rule, change) = match (find(true), find(false)) {
            (Some(rule), _) => {
                (Outcome::Denied, "rule_deny", Some(rule.rule), "take the rule out".to_owned())
            }
            (None, Some(rule)) => {
                let change = format!("to deny it: {asked:?} in network.deny");
                (Outcome::Allowed, "rule_allow", Some(rule.rule), change)
            }
            (None, None) => {
                (Outcome::Denied, "no_rule", None, format!("to allow it: {asked:?} in network.allow"))
            }
        };
        let why = match (rule, outcome) {
            (Some(rule), Outcome::Allowed) => format!("allowed by {}", self.quoted(rule)),
            (Some(rule), _) => format!("denied by {}", self.quoted(rule)),
            (None, _) => "no rule allows it".to_owned(),
        };
        let rules = rule.map_or_else(Vec::new, |rule| self.rule(rule));
        Explanation { rules, change: Some(change), ..self.answer(&asked, outcome, reason, why) }
    }
}
