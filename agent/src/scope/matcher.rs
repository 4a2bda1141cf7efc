//! Which cgroup belongs to which policy. Pure.
//!
//! A cgroup belongs where its nearest ancestor does that matches anything, itself first. If more than one rule matches that
//! ancestor the most exact one holds. What a policy excludes is, with all below, none of its, and may be another's.
//!
//! That is what a *path* says. Whoever makes cgroups inside a policed one could choose among policies by their names:
//! the core lets what a policed process makes stay where its parent is.

use std::{
    cmp::Reverse,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::host::HostPolicies;
use crate::policy::{
    globs::{Spelt, parts},
    scope::{ContainerRule, Rank, Scope},
};

/// The scopes of all policies, ready to be matched.
#[derive(Debug, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
    excludes: Vec<(usize, String, Spelt)>,
    containers: Vec<(usize, usize, ContainerRule)>,
    names: Vec<String>,
}

#[derive(Debug)]
struct Pattern {
    glob: String,
    spelt: Spelt,
    rank: Rank,
    policy: usize,
    rule: usize,
    needs_container: bool,
}

/// A glob for the tables of the kernel programs, so that a cgroup is held to its policy as it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelPattern {
    /// In the syntax of [`crate::policy::globs`], matched against the path of the cgroup itself, not of those above it.
    pub glob: String,
    /// Index of the policy.
    pub policy: usize,
    /// Whether the rule holds is not known before the container's state is read.
    pub needs_container: bool,
    /// What matches is left out of this policy, whatever else matches.
    pub exclude: bool,
}

/// A rule that matches a cgroup, or one above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Index of the policy.
    pub policy: usize,
    /// Index of the rule in its scope.
    pub rule: usize,
    /// The cgroup that matches: the one that was asked for, or one above it.
    pub cgroup: PathBuf,
    /// Another policy's rule matches as well.
    pub warning: Option<String>,
}

/// What a path says about a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matches {
    /// Rules that hold if the container is one they ask for, best first.
    pub needs_container: Vec<Match>,
    /// The rule that holds if none of those does.
    pub otherwise: Option<Match>,
}

/// Whether a container is one that a rule asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holds {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// That cannot be found out, and why.
    Unknown(String),
}

/// Where a cgroup belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Belongs {
    /// The policy; nothing is asked of the cgroup if `None`.
    pub to: Option<Match>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl Matches {
    /// Decides, asking about containers. Where a container's state cannot be read the rule is taken to hold: rather is
    /// a container policed that need not be than the other way round.
    pub fn decide(self, mut holds: impl FnMut(&Match) -> Holds) -> Belongs {
        let mut warnings = Vec::new();
        for candidate in self.needs_container {
            match holds(&candidate) {
                Holds::No => continue,
                Holds::Yes => {}
                Holds::Unknown(why) => warnings.push(format!(
                    "{}: {why}; it is held to the policy as if the rule matched",
                    candidate.cgroup.display()
                )),
            }
            warnings.extend(candidate.warning.clone());
            return Belongs { to: Some(candidate), warnings };
        }
        warnings.extend(self.otherwise.as_ref().and_then(|found| found.warning.clone()));
        Belongs { to: self.otherwise, warnings }
    }
}

impl Matcher {
    /// Makes the policies' scopes ready.
    #[must_use]
    pub fn new(policies: &HostPolicies) -> Self {
        let named =
            policies.policies.iter().map(|policy| (policy.name.as_str(), policy.policy.scope.as_ref()));
        Self::of_scopes(named)
    }

    /// From names and scopes, in the order of the policies' indices.
    pub fn of_scopes<'a>(scopes: impl Iterator<Item = (&'a str, Option<&'a Scope>)>) -> Self {
        let mut matcher = Self::default();
        for (policy, (name, scope)) in scopes.enumerate() {
            matcher.names.push(name.to_owned());
            let Some(Scope { rules, exclude, start: _ }) = scope else { continue };
            let spelt = |glob: &String| Spelt::new(&parts(glob));
            matcher.excludes.extend(exclude.iter().map(|glob| (policy, glob.clone(), spelt(glob))));
            for (index, rule) in rules.iter().enumerate() {
                if let Some(container) = &rule.container {
                    matcher.containers.push((policy, index, container.clone()));
                }
                matcher.patterns.extend(rule.globs.iter().map(|glob| Pattern {
                    glob: glob.glob.clone(),
                    spelt: spelt(&glob.glob),
                    rank: rule.rank(&glob.glob),
                    policy,
                    rule: index,
                    needs_container: glob.needs_container,
                }));
            }
        }
        matcher.patterns.sort_by_key(|pattern| (Reverse(pattern.rank), pattern.policy, pattern.rule));
        matcher
    }

    /// What the container rule behind a match asks for.
    #[must_use]
    pub fn container_rule(&self, found: &Match) -> Option<&ContainerRule> {
        let is_it = |(policy, rule, _): &&(usize, usize, _)| (*policy, *rule) == (found.policy, found.rule);
        self.containers.iter().find(is_it).map(|(_, _, container)| container)
    }

    /// What a cgroup's path, from the root of the v2 hierarchy, says about it.
    #[must_use]
    pub fn match_path(&self, path: &Path) -> Matches {
        let bytes = path.as_os_str().as_bytes();
        let names: Vec<&[u8]> = bytes.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let is_excluded = |policy: usize| {
            let mut excludes = self.excludes.iter().filter(|(of, _, _)| *of == policy);
            excludes.any(|(_, _, spelt)| (1..=names.len()).any(|depth| spelt.matches(&names[..depth])))
        };
        let excluded: Vec<bool> = (0..self.names.len()).map(is_excluded).collect();
        let mut matches = Matches::default();
        for depth in (1..=names.len()).rev() {
            let here = &names[..depth];
            // Best first, as they are sorted.
            let hits: Vec<&Pattern> = self
                .patterns
                .iter()
                .filter(|pattern| !excluded[pattern.policy] && pattern.spelt.matches(here))
                .collect();
            for (index, hit) in hits.iter().enumerate() {
                let cgroup = cgroup(here);
                let rival = hits[index + 1..]
                    .iter()
                    .take_while(|other| other.rank == hit.rank)
                    .find(|other| other.policy != hit.policy && other.needs_container == hit.needs_container);
                let warning = rival.map(|other| {
                    format!(
                        "{} matches policy {:?} by {} and policy {:?} by {} as exactly: the first one holds",
                        cgroup.display(),
                        self.names[hit.policy],
                        hit.glob,
                        self.names[other.policy],
                        other.glob
                    )
                });
                let found = Match { policy: hit.policy, rule: hit.rule, cgroup, warning };
                if !hit.needs_container {
                    matches.otherwise = Some(found);
                    return matches;
                }
                let is_new = |other: &Match| {
                    (other.policy, other.rule, &other.cgroup) != (found.policy, found.rule, &found.cgroup)
                };
                if matches.needs_container.iter().all(is_new) {
                    matches.needs_container.push(found);
                }
            }
        }
        matches
    }

    /// Globs for the kernel, best first: of those that match a cgroup the first one holds whose policy has no `exclude` that
    /// matches it, too. What is below an excluded cgroup is spelt out as a glob of its own.
    #[must_use]
    pub fn kernel_patterns(&self) -> Vec<KernelPattern> {
        let excludes = self.excludes.iter().flat_map(|(policy, glob, _)| {
            let below = (!glob.ends_with("**")).then(|| format!("{glob}/**"));
            std::iter::once(glob.clone()).chain(below).map(|glob| KernelPattern {
                glob,
                policy: *policy,
                needs_container: false,
                exclude: true,
            })
        });
        let patterns = self.patterns.iter().map(|pattern| KernelPattern {
            glob: pattern.glob.clone(),
            policy: pattern.policy,
            needs_container: pattern.needs_container,
            exclude: false,
        });
        excludes.chain(patterns).collect()
    }
}

fn cgroup(names: &[&[u8]]) -> PathBuf {
    let mut path = PathBuf::from("/");
    path.extend(names.iter().map(|name| std::ffi::OsStr::from_bytes(name)));
    path
}

#[cfg(test)]
mod tests;
