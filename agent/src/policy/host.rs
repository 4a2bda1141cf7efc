//! The host's own table: which new cgroups belong to which scope by their path, and which programs start workloads.
//!
//! Paths of cgroups stand in it as if the tree were one more filesystem ([`CGROUP_DEV`]). What a path is allowed there is
//! how particular the rule is, and the rule's number is the scope.

use std::collections::BTreeMap;

use stockade_common::{
    file::{ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE},
    limits::CGROUP_DEV,
};

use super::{
    automaton::{AutomatonError, Pattern},
    checked::PathRule,
    compile::{Filesystem, build, translate},
    globs::{Part, parts, regex},
    image::MapImage,
    mounts::MountTable,
};

/// How particular a rule on cgroups is. The most particular one that matches decides, whatever it excludes elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// All that is in a slice.
    Slice,
    /// A glob on the path, or a container.
    Path,
    /// A unit.
    Unit,
}

impl Class {
    fn access(self) -> u32 {
        match self {
            Self::Slice => ACCESS_READ,
            Self::Path => ACCESS_WRITE,
            Self::Unit => ACCESS_EXEC,
        }
    }
}

/// A rule on the paths of new cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRule {
    /// Glob, as in policies: `/ci.slice/**`, `**/gitlab-runner.service`.
    pub pattern: String,
    /// How particular it is.
    pub class: Class,
    /// The scope's number.
    pub scope: u32,
    /// What matches is left out of what this scope's rules match.
    pub exclude: bool,
}

/// Programs that systemd executes in a unit's cgroup before the unit's own (from version 255 on).
const STARTERS: [&str; 2] = ["/usr/lib/systemd/systemd-executor", "/lib/systemd/systemd-executor"];
/// What the kernel opens to load such a program.
const LOADERS: [&str; 6] = [
    "/usr/lib/**/ld-linux*.so*",
    "/usr/lib32/**/ld-linux*.so*",
    "/usr/lib64/**/ld-linux*.so*",
    "/lib/**/ld-linux*.so*",
    "/lib32/**/ld-linux*.so*",
    "/lib64/**/ld-linux*.so*",
];

/// Compiles the table.
///
/// # Errors
/// If it does not fit.
pub fn compile(rules: &[CgroupRule], mounts: &MountTable) -> Result<MapImage, AutomatonError> {
    let programs = |globs: &[&str], access| {
        let rule = |glob: &&str| PathRule { pattern: (*glob).to_owned(), access, deny: false, rule: 0 };
        globs.iter().map(rule).collect::<Vec<_>>()
    };
    let mut paths = programs(&STARTERS, ACCESS_EXEC);
    paths.extend(programs(&LOADERS, ACCESS_READ));
    let mut filesystems: BTreeMap<u32, Filesystem> = translate(&paths, mounts);
    let tree = filesystems.entry(CGROUP_DEV).or_default();
    for CgroupRule { pattern, class, scope, exclude } in rules {
        let parts = parts(pattern);
        let floats = parts.first() == Some(&Part::Any);
        let access = if *exclude { ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC } else { class.access() };
        let pattern = Pattern { regex: regex(&parts), access, deny: *exclude, rule: *scope };
        if floats { &mut tree.floating } else { &mut tree.anchored }.push(pattern);
    }
    build(filesystems)
}

/// The scope of a new cgroup, as the kernel programs find it.
#[must_use]
pub fn scope_of(image: &MapImage, path: &str) -> Option<u32> {
    let (anchored, floating) = super::compile::accepts(image, CGROUP_DEV, path.as_bytes())?;
    for class in [Class::Unit, Class::Path, Class::Slice] {
        let (bit, kind) = (class.access(), class.access().trailing_zeros() as usize);
        let of = |allow: bool| {
            [anchored, floating].into_iter().find_map(|accept| {
                let (bits, rules) =
                    if allow { (accept.allow, accept.allow_rule) } else { (accept.deny, accept.deny_rule) };
                (bits & bit != 0).then_some(rules[kind])
            })
        };
        if let Some(scope) = of(true)
            && of(false) != Some(scope)
        {
            return Some(scope);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, class: Class, scope: u32) -> CgroupRule {
        CgroupRule { pattern: pattern.into(), class, scope, exclude: false }
    }

    fn image(rules: &[CgroupRule]) -> MapImage {
        let mounts = MountTable::parse(b"1 1 8:1 / / rw - ext4 a rw\n").unwrap();
        compile(rules, &mounts).unwrap()
    }

    #[test]
    fn the_most_particular_rule_decides() {
        let rules = [
            rule("**/ci.slice", Class::Slice, 1),
            rule("**/ci.slice/**", Class::Slice, 1),
            rule("/ci.slice/build-*.service", Class::Path, 2),
            rule("**/build-7.service", Class::Unit, 3),
        ];
        let image = image(&rules);
        for (path, scope) in [
            ("/ci.slice", Some(1)),
            ("/ci.slice/x.service", Some(1)),
            ("/a.slice/ci.slice/b.slice/x.service", Some(1)),
            ("/ci.slice/build-6.service", Some(2)),
            ("/ci.slice/build-7.service", Some(3)),
            ("/system.slice/build-7.service", Some(3)),
            ("/system.slice/ci.service", None),
            ("/", None),
        ] {
            assert_eq!(scope_of(&image, path), scope, "{path}");
        }
    }

    #[test]
    fn what_a_scope_excludes_another_may_have() {
        let mut rules = vec![rule("**/ci.slice/**", Class::Slice, 1), rule("**/x.service", Class::Unit, 2)];
        rules.push(CgroupRule { exclude: true, ..rule("**/x.service", Class::Unit, 2) });
        rules.push(CgroupRule { exclude: true, ..rule("/ci.slice/y.service", Class::Unit, 1) });
        let image = image(&rules);
        assert_eq!(scope_of(&image, "/ci.slice/x.service"), Some(1));
        assert_eq!(scope_of(&image, "/ci.slice/y.service"), None);
        assert_eq!(scope_of(&image, "/ci.slice/z.service"), Some(1));
    }

    #[test]
    fn starters_are_known_on_the_filesystem_they_are_on() {
        let image = image(&[]);
        let bits =
            |path: &str| super::super::compile::path_bits(&image, 8 << 20 | 1, path.as_bytes()).unwrap().0;
        assert_eq!(bits("/usr/lib/systemd/systemd-executor"), ACCESS_EXEC);
        assert_eq!(bits("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"), ACCESS_READ);
        assert_eq!(bits("/usr/lib/systemd/systemd"), 0);
        assert_eq!(scope_of(&image, "/ci.slice"), None);
    }
}
