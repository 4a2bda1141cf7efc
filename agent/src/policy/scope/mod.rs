//! What the daemon holds to a policy: the table `[scope]`, and what it comes to.

mod check;
mod containers;
#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

pub use self::check::check;
use super::{
    diagnostic::Diagnostic,
    globs::{Spelt, name_covers, parts},
    parse::Source,
    rule::Refusal,
};

/// The slice the daemon's own service is in, which no scope may match.
pub const OWN_SLICE: &str = "stockade.slice";

/// What the daemon holds to the policy. One list is needed.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScopeTable {
    /// Names of systemd units, and globs on them.
    #[schemars(with = "Option<Vec<String>>", length(min = 1), inner(length(min = 1)))]
    pub units: Option<Spanned<Vec<Spanned<String>>>>,
    /// Names of slices, and globs on them: all that is in them and in slices below.
    #[schemars(with = "Option<Vec<String>>", length(min = 1), inner(length(min = 1)))]
    pub slices: Option<Spanned<Vec<Spanned<String>>>>,
    /// Globs on paths from the root of the v2 hierarchy, with all that is below.
    #[schemars(with = "Option<Vec<String>>", length(min = 1), inner(length(min = 1)))]
    pub cgroups: Option<Spanned<Vec<Spanned<String>>>>,
    /// Containers.
    #[schemars(with = "Option<Vec<ContainerTable>>", length(min = 1))]
    pub containers: Option<Spanned<Vec<Spanned<ContainerTable>>>>,
    /// Globs on paths that are left out, with all that is below.
    #[schemars(with = "Option<Vec<String>>", length(min = 1), inner(length(min = 1)))]
    pub exclude: Option<Spanned<Vec<Spanned<String>>>>,
    /// When it begins.
    pub start: Option<Start>,
}

/// Which containers: all keys that are there must hold. One is needed.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerTable {
    /// What runs them.
    pub runtime: Option<Runtime>,
    /// Glob on the name.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub name: Option<Spanned<String>>,
    /// A label of a Docker container: `key`, or `key=value`.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub label: Option<Spanned<String>>,
    /// An annotation of a Podman container: `key`, or `key=value`.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub annotation: Option<Spanned<String>>,
    /// Glob on the image's name as it was given; `*` stands for slashes too.
    #[schemars(with = "Option<String>", length(min = 1))]
    pub image: Option<Spanned<String>>,
    /// Believe a user's own containers what they are called.
    #[schemars(with = "Option<bool>")]
    pub rootless: Option<Spanned<bool>>,
}

/// What runs a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// LXC, and what is built on it.
    Lxc,
    /// Any of them.
    #[default]
    Any,
}

/// When the policy begins to hold for what starts in a new cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// When a process that was moved into the cgroup executes a file: what systemd or the runtime do before is theirs.
    #[default]
    UntilExec,
    /// At once.
    AtOnce,
}

/// A scope that was checked. Only [`check`] makes one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// What belongs to it.
    pub rules: Vec<ScopeRule>,
    /// What does not, with all below: globs as [`super::globs`] has them.
    pub exclude: Vec<String>,
    /// When it begins.
    pub start: Start,
}

/// An entry of one of the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRule {
    /// As it was written.
    pub text: String,
    /// The list: `scope.units`.
    pub list: &'static str,
    /// The text it stands in.
    pub source: Arc<Source>,
    /// Where.
    pub span: Range<usize>,
    /// Where the cgroups are that it matches.
    pub globs: Vec<CgroupGlob>,
    /// What must hold for the container, too.
    pub container: Option<ContainerRule>,
}

/// A glob on the paths of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupGlob {
    /// In the syntax of [`super::globs`].
    pub glob: String,
    /// The path alone does not say whether the rule holds.
    pub needs_container: bool,
}

/// What must hold for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerRule {
    /// What runs it.
    pub runtime: Runtime,
    /// Glob on its name.
    pub name: Option<String>,
    /// Key, and perhaps value, of a label.
    pub label: Option<KeyValue>,
    /// Key, and perhaps value, of an annotation.
    pub annotation: Option<KeyValue>,
    /// Glob on the image's name.
    pub image: Option<String>,
    /// Also a user's own containers.
    pub rootless: bool,
}

/// `key`, or `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value; any if `None`.
    pub value: Option<String>,
}

/// How exactly a rule says what it means: of two that match the same cgroup the greater one holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// No wildcard.
    is_exact: bool,
    /// Things asked of a container.
    conditions: usize,
    /// From the root.
    is_anchored: bool,
    /// Bytes that are no wildcards.
    literal: usize,
}

impl Scope {
    /// Whether everything that matches a glob is left out. May say no where the answer is yes.
    #[must_use]
    pub fn leaves_out(&self, glob: &str) -> bool {
        let inner = Spelt::new(&parts(glob));
        self.exclude.iter().any(|outer| {
            let below = [outer, "/**"].concat();
            [outer.as_str(), &below].iter().any(|outer| Spelt::new(&parts(outer)).covers(&inner))
        })
    }
}

impl ContainerRule {
    /// Things asked of the container that its path does not tell.
    #[must_use]
    pub fn conditions(&self) -> usize {
        let Self { runtime: _, name, label, annotation, image, rootless: _ } = self;
        [name.is_some(), label.is_some(), annotation.is_some(), image.is_some()]
            .into_iter()
            .filter(|is| *is)
            .count()
    }

    /// Whether it holds for every container another one holds for. May say no where the answer is yes.
    fn covers(&self, inner: &Self) -> bool {
        fn holds<T>(outer: Option<&T>, inner: Option<&T>, covers: impl Fn(&T, &T) -> bool) -> bool {
            outer.is_none_or(|outer| inner.is_some_and(|inner| covers(outer, inner)))
        }
        let globs = |outer: &String, inner: &String| name_covers(outer.as_bytes(), inner.as_bytes());
        let keys = |outer: &KeyValue, inner: &KeyValue| {
            outer.key == inner.key && holds(outer.value.as_ref(), inner.value.as_ref(), |a, b| a == b)
        };
        let Self { runtime, name, label, annotation, image, rootless } = self;
        (*runtime == Runtime::Any || *runtime == inner.runtime)
            && (*rootless || !inner.rootless)
            && holds(name.as_ref(), inner.name.as_ref(), globs)
            && holds(image.as_ref(), inner.image.as_ref(), globs)
            && holds(label.as_ref(), inner.label.as_ref(), keys)
            && holds(annotation.as_ref(), inner.annotation.as_ref(), keys)
    }
}

impl ScopeRule {
    /// How exactly it matches by one of its globs.
    #[must_use]
    pub fn rank(&self, glob: &str) -> Rank {
        let literal = |text: &str| text.bytes().filter(|byte| !b"*?/".contains(byte)).count();
        let (mut conditions, mut length) = (0, literal(glob));
        if let Some(container) = &self.container {
            let ContainerRule { runtime: _, name, label, annotation, image, rootless: _ } = container;
            conditions = container.conditions();
            length += [name, image].into_iter().flatten().map(|glob| literal(glob)).sum::<usize>();
            for KeyValue { key, value } in [label, annotation].into_iter().flatten() {
                length += key.len() + value.as_ref().map_or(0, String::len);
            }
        }
        let is_floating = glob.starts_with("**/");
        let is_exact = !glob.trim_start_matches("**/").contains(['*', '?']);
        Rank { is_exact, conditions, is_anchored: !is_floating, literal: length }
    }

    /// Whether each cgroup that matches a glob of the other rule, which nothing leaves out, matches this one as exactly:
    /// nothing says whose it is then.
    #[must_use]
    pub fn rivals(&self, other: &Self, is_left_out: impl Fn(&str) -> bool) -> bool {
        let nothing = ContainerRule { rootless: true, ..ContainerRule::default() };
        let mine = self.container.as_ref().unwrap_or(&nothing);
        let theirs = other.container.as_ref().unwrap_or(&nothing);
        if !mine.covers(theirs) {
            return false;
        }
        let spelt = |glob: &str| Spelt::new(&parts(glob));
        other.globs.iter().filter(|theirs| !is_left_out(&theirs.glob)).any(|theirs| {
            let (rank, inner) = (other.rank(&theirs.glob), spelt(&theirs.glob));
            self.globs.iter().any(|mine| self.rank(&mine.glob) == rank && spelt(&mine.glob).covers(&inner))
        })
    }

    /// A complaint about it.
    #[must_use]
    pub fn diagnostic(&self, refusal: Refusal) -> Diagnostic {
        refusal.at(&self.source, Some(self.span.clone()))
    }
}
