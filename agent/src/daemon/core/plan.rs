//! What a reload has to replace, and where it goes. Pure.

use std::collections::BTreeMap;

use super::registry::ScopeState;
use crate::{
    kernel::Scope,
    policy::{checked::CheckedPolicy, scope::Start},
    scope::host::HostPolicies,
};

/// Whether one policy decides as the other and is explained as it, so that its tables can stay.
pub fn same_rules(one: &CheckedPolicy, other: &CheckedPolicy) -> bool {
    one.paths == other.paths
        && one.destinations == other.destinations
        && one.names == other.names
        && one.abstracts == other.abstracts
        && one.listen == other.listen
        && one.loopback_own == other.loopback_own
        && one.egress == other.egress
        && one.metadata == other.metadata
        && one.process == other.process
        && one.dns == other.dns
        && one.uses_gate() == other.uses_gate()
        && one.private_names == other.private_names
        && one.rules == other.rules
        && one.mode == other.mode
        && starts(one) == starts(other)
}

fn starts(policy: &CheckedPolicy) -> Option<Start> {
    policy.scope.as_ref().map(|scope| scope.start)
}

/// The number of each policy's first instance: that which it has, or that of `new`.
pub fn numbers<'a>(
    policies: &HostPolicies,
    scopes: &BTreeMap<String, ScopeState>,
    new: impl Iterator<Item = (&'a str, Scope)> + Clone,
) -> BTreeMap<String, Scope> {
    let number = |name: &str| {
        let known = scopes.get(name).and_then(|state| state.instances.first()).map(|instance| instance.scope);
        known.or_else(|| new.clone().find(|(new, _)| *new == name).map(|(_, scope)| scope))
    };
    policies.policies.iter().filter_map(|policy| Some((policy.name.clone(), number(&policy.name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        daemon::{command::ScopeKind, core::registry::tests::instance},
        kernel::Entry,
        policy::{
            check::{self, Overlay},
            checked::Mode,
            parse::{Document, Source},
        },
        scope::host::HostPolicy,
    };

    fn policy(text: &str) -> CheckedPolicy {
        let source = Source { name: "ci.toml".into(), text: format!("version = 1\n{text}") };
        check::check(&[Document::new(source).unwrap()], &Overlay::default()).unwrap()
    }

    #[test]
    fn tables_stay_where_rules_and_mode_do() {
        let before = policy("[files]\nread = ['/srv/**']\n");
        assert!(same_rules(&before, &policy("[files]\nread = ['/srv/**']\n")));
        for other in [
            "[files]\nread = ['/srv/*']\n",
            "[files]\nwrite = ['/srv/**']\n",
            "mode = 'audit'\n[files]\nread = ['/srv/**']\n",
            "[files]\nread = ['/srv/**']\n[network]\nallow = ['192.0.2.1:443']\n",
            "[files]\nread = ['/srv/**']\n[network]\nallow = ['a.test:443']\n",
            "[files]\nread = ['/srv/**']\n[network]\nallow = ['loopback:own']\n",
            "[files]\nread = ['/srv/**']\n[network]\negress = { interface = 'wg0' }\n",
            "[files]\nread = ['/srv/**']\n[network.dns]\nrefuse = 'refused'\n",
            "[files]\nread = ['/srv/**']\n[network.dns]\n",
            "[files]\nread = ['/srv/**']\n[scope]\nslices = ['ci.slice']\nstart = 'at-once'\n",
        ] {
            assert!(!same_rules(&before, &policy(other)), "{other}");
        }
        // Events name the line that a rule stands in.
        assert!(!same_rules(&before, &policy("\n\n[files]\nread = ['/srv/**']\n")));
    }

    #[test]
    fn a_policy_keeps_its_number() {
        let named = |name: &str| HostPolicy {
            name: name.into(),
            file: "x".into(),
            policy: CheckedPolicy { mode: Mode::Enforce, ..CheckedPolicy::default() },
        };
        let policies = HostPolicies {
            policies: ["kept", "new", "nothing"].map(named).into(),
            ..HostPolicies::default()
        };
        let state = ScopeState {
            instances: vec![instance(7, 1), instance(8, 2)],
            ..ScopeState::new(ScopeKind::Policy, Entry::Starting)
        };
        let scopes = BTreeMap::from([("kept".to_owned(), state)]);
        let new = [("kept", Scope(9)), ("new", Scope(3))].into_iter();
        let expected = [("kept".to_owned(), Scope(7)), ("new".to_owned(), Scope(3))];
        assert_eq!(numbers(&policies, &scopes, new), BTreeMap::from(expected));
    }
}
