//! What a case is made of, and how it is drawn.

use std::fmt;

use proptest::{collection::vec, prelude::*, sample::select};

use super::model::{Rule, Target};

/// Names of files and directories: few, so that rules meet them.
pub const NAMES: [&str; 3] = ["na", "nb", "nc"];
/// Names of symbolic links, which no rule says: what follows a link in a rule has scenarios of its own.
const LINKS: [&str; 2] = ["ln", "lm"];
const PATTERNS: [&str; 7] = ["na", "nb", "nc", "*", "n?", "**", "{na,nc}"];

/// Something that is made in the tree. Paths are components below its root; a step that cannot be made is left out.
#[derive(Debug, Clone)]
pub enum Step {
    Directory(Vec<&'static str>),
    File(Vec<&'static str>),
    /// A link in a directory, to a path from the root.
    Symlink(Vec<&'static str>, Vec<&'static str>),
    HardLink(Vec<&'static str>, Vec<&'static str>),
    Tmpfs(Vec<&'static str>),
    /// The second path also shows what the first does.
    Bind(Vec<&'static str>, Vec<&'static str>),
    /// The second path shows a copy-on-write view of the first.
    Overlay(Vec<&'static str>, Vec<&'static str>),
}

/// What is tried, on which of what there is.
#[derive(Debug, Clone)]
pub struct Operation {
    pub verb: &'static str,
    pub pick: u16,
    pub other: u16,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct Case {
    pub steps: Vec<Step>,
    pub rules: Vec<Rule>,
    pub operations: Vec<Operation>,
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(out, "  {step:?}")?;
        }
        for rule in &self.rules {
            writeln!(out, "  {} = {:?}", rule.target.key(), rule.glob)?;
        }
        for operation in &self.operations {
            writeln!(out, "  {operation:?}")?;
        }
        Ok(())
    }
}

fn path(most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    vec(select(&NAMES[..]), 1..=most)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => path(3).prop_map(Step::Directory),
        6 => path(4).prop_map(Step::File),
        1 => (path(2), select(&LINKS[..]), path(3)).prop_map(|(mut place, name, to)| {
            // Half of them at the root, where operations begin.
            if place.len() == 1 { place.clear(); }
            place.push(name);
            Step::Symlink(place, to)
        }),
        1 => (path(4), path(4)).prop_map(|(from, to)| Step::HardLink(from, to)),
        1 => path(3).prop_map(Step::Tmpfs),
        2 => (path(2), path(3)).prop_map(|(from, at)| Step::Bind(from, at)),
        1 => (path(2), path(3)).prop_map(|(from, at)| Step::Overlay(from, at)),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let target = prop_oneof![
        2 => Just(Target::Read),
        3 => Just(Target::Write),
        1 => Just(Target::Exec),
        2 => Just(Target::Deny),
    ];
    let glob = (any::<bool>(), vec(select(&PATTERNS[..]), 1..4)).prop_map(|(floats, parts)| {
        // `**/**` says no more than `**`.
        let mut parts: Vec<&str> = parts;
        parts.dedup_by(|a, b| *a == "**" && *b == "**");
        let rest = parts.join("/");
        if floats && parts[0] != "**" && parts.iter().any(|part| part.starts_with('n')) {
            format!("**/{rest}")
        } else {
            format!("{}/{rest}", super::world::ROOT)
        }
    });
    (target, glob).prop_map(|(target, glob)| Rule { target, glob })
}

fn operation() -> impl Strategy<Value = Operation> {
    let verb = select(super::world::VERBS.map(|(verb, ..)| verb).to_vec());
    (verb, any::<u16>(), any::<u16>()).prop_map(|(verb, pick, other)| Operation { verb, pick, other })
}

/// Any case.
pub fn cases() -> impl Strategy<Value = Case> {
    (vec(step(), 1..20), vec(rule(), 1..6), vec(operation(), 1..160))
        .prop_map(|(steps, rules, operations)| Case { steps, rules, operations })
}
