//! The reference: what docs/policy.md says of rules on files, in the plainest words. It knows nothing of how it is enforced.

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Read,
    Write,
    Exec,
}

/// The list that a rule stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Read,
    Write,
    Exec,
    Deny,
}

impl Target {
    /// As a policy has it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Exec => "exec",
            Self::Deny => "deny",
        }
    }

    fn grants(self, right: Right) -> bool {
        match right {
            Right::Read => self != Self::Deny,
            Right::Write => self == Self::Write,
            Right::Exec => self == Self::Exec,
        }
    }

    /// `X/**` also covers `X`, to read and to deny.
    fn covers_its_root(self, right: Right) -> bool {
        self == Self::Deny || right == Right::Read
    }
}

/// A glob in a list.
#[derive(Debug, Clone)]
pub struct Rule {
    pub target: Target,
    pub glob: String,
}

/// Those of a policy.
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// The globs of a list.
    pub fn list(&self, target: Target) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |rule| rule.target == target).map(|rule| &*rule.glob)
    }

    /// Something with these names is allowed: some rule grants it, and none denies it.
    pub fn permit(&self, names: &[String], right: Right) -> bool {
        let matched = |rule: &&Rule| {
            names.iter().any(|name| {
                alternatives(&rule.glob)
                    .iter()
                    .any(|glob| covers(glob, name, rule.target.covers_its_root(right)))
            })
        };
        let rules: Vec<&Rule> = self.0.iter().filter(matched).collect();
        rules.iter().any(|rule| rule.target.grants(right))
            && rules.iter().all(|rule| rule.target != Target::Deny)
    }
}

fn covers(glob: &str, name: &str, root_too: bool) -> bool {
    let parts = |text: &str| -> Vec<String> {
        text.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let (glob, name) = (parts(glob), parts(name));
    match glob.split_last() {
        Some((last, above)) if last == "**" && !root_too => {
            (0..name.len()).any(|end| path_matches(above, &name[..end]))
        }
        _ => path_matches(&glob, &name),
    }
}

fn path_matches(glob: &[String], name: &[String]) -> bool {
    match glob.split_first() {
        None => name.is_empty(),
        Some((part, rest)) if part == "**" => {
            (0..=name.len()).any(|skipped| path_matches(rest, &name[skipped..]))
        }
        Some((part, rest)) => name.split_first().is_some_and(|(first, names)| {
            part_matches(part.as_bytes(), first.as_bytes()) && path_matches(rest, names)
        }),
    }
}

fn part_matches(part: &[u8], name: &[u8]) -> bool {
    match part.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skipped| part_matches(rest, &name[skipped..])),
        Some((b'?', rest)) => !name.is_empty() && part_matches(rest, &name[1..]),
        Some((byte, rest)) => name.first() == Some(byte) && part_matches(rest, &name[1..]),
    }
}

/// `{a,b}`, which is not nested here.
fn alternatives(glob: &str) -> Vec<String> {
    let Some((before, rest)) = glob.split_once('{') else { return vec![glob.to_owned()] };
    let Some((inner, after)) = rest.split_once('}') else { return vec![glob.to_owned()] };
    inner.split(',').flat_map(|one| alternatives(&format!("{before}{one}{after}"))).collect()
}
