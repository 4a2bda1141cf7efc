//! What two policies of a host must not both say.

use std::collections::BTreeMap;

use super::{HostPolicies, HostPolicy};
use crate::policy::{
    diagnostic::{Diagnostic, Diagnostics},
    rule::Refusal,
};

/// Names that are given twice, and rules of two policies that match the same cgroups equally well.
pub(super) fn conflicts(loaded: &HostPolicies) -> Vec<Diagnostic> {
    let mut problems = same_names(loaded);
    problems.extend(rivals(loaded));
    problems
}

fn same_names(loaded: &HostPolicies) -> Vec<Diagnostic> {
    let mut first: BTreeMap<&str, &HostPolicy> = BTreeMap::new();
    let mut problems = Vec::new();
    for policy in &loaded.policies {
        match first.get(policy.name.as_str()) {
            None => {
                first.insert(&policy.name, policy);
            }
            Some(earlier) => {
                let message = format!("{:?} is the name of {}, too", policy.name, earlier.file.display());
                let help = Some("give one of them another `name`");
                problems.extend(Diagnostics::plain(&policy.file.display().to_string(), message, help).0);
            }
        }
    }
    problems
}

/// Rules of two policies that match the same cgroups equally well.
fn rivals(loaded: &HostPolicies) -> Vec<Diagnostic> {
    let scopes: Vec<_> = loaded
        .policies
        .iter()
        .filter_map(|policy| policy.policy.scope.as_ref().map(|scope| (policy, scope)))
        .collect();
    let mut problems = Vec::new();
    for (index, (earlier, first)) in scopes.iter().enumerate() {
        for (later, second) in &scopes[index + 1..] {
            for mine in &second.rules {
                let rival = first.rules.iter().find(|theirs| {
                    mine.rivals(theirs, |glob| first.leaves_out(glob) || second.leaves_out(glob))
                        || theirs.rivals(mine, |glob| first.leaves_out(glob) || second.leaves_out(glob))
                });
                if let Some(theirs) = rival {
                    let message = format!(
                        "policies {:?} and {:?} match the same cgroups: {} {} in {} says the same as exactly",
                        later.name,
                        earlier.name,
                        theirs.list,
                        theirs.text,
                        earlier.file.display(),
                    );
                    let help = "make one of them narrower, or leave the cgroups out by `exclude` in one";
                    problems.push(mine.diagnostic(Refusal { message, help: Some(help.into()) }));
                }
            }
        }
    }
    problems
}
