//! The host's own table: which new cgroups belong to which scope by their path, and which programs start workloads.
//!
//! Paths of cgroups stand in it as if the tree were one more filesystem ([`CGROUP_DEV`]); the number of the rule that allows
//! one holds the scope.

use std::collections::BTreeMap;

use stockade_common::{
    file::{ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE},
    limits::{CGROUP_DEV, UNDECIDED_SCOPE},
    tag::{HOST_FIRST, HOST_LAST, MAX_HOST_RULES, host_rule, host_scope},
};

use super::{
    automaton::{AutomatonError, Pattern},
    checked::PathRule,
    compile::{Filesystem, build, translate},
    globs::{Part, parts, regex},
    image::MapImage,
    mounts::MountTable,
};

/// A rule on the paths of new cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRule {
    /// Glob, as in policies: `/ci.slice/**`, `**/gitlab-runner.service`.
    pub pattern: String,
    /// The scope's number, or [`UNDECIDED_SCOPE`] if whether the rule holds is not known from the path.
    pub scope: u32,
    /// What matches is left out of this scope.
    pub exclude: bool,
}

/// Programs that systemd executes in a unit's cgroup before the unit's own (from version 255 on).
const STARTERS: [&str; 2] = ["/usr/lib/systemd/systemd-executor", "/lib/systemd/systemd-executor"];
/// Container runtimes: from inside the cgroup they may execute themselves once more, or a copy of themselves in memory, as
/// `runc init` does against CVE-2019-5736.
const RUNTIMES: [&str; 12] = [
    "/usr/bin/runc",
    "/usr/sbin/runc",
    "/usr/local/bin/runc",
    "/usr/local/sbin/runc",
    "/usr/bin/crun",
    "/usr/local/bin/crun",
    "/usr/bin/docker-runc",
    "/usr/libexec/podman/*",
    "/usr/bin/lxc-start",
    "/usr/bin/lxc-attach",
    "/usr/bin/lxc-execute",
    "/usr/libexec/lxc/*",
];
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
        let rule = |glob: &&str| PathRule {
            pattern: (*glob).to_owned(),
            access,
            deny: false,
            protects: false,
            rule: 0,
        };
        globs.iter().map(rule).collect::<Vec<_>>()
    };
    let mut paths = programs(&STARTERS, ACCESS_EXEC);
    paths.extend(programs(&LOADERS, ACCESS_READ));
    paths.extend(programs(&RUNTIMES, ACCESS_WRITE));
    let mut filesystems: BTreeMap<u32, Filesystem> = translate(&paths, mounts);
    let tree = filesystems.entry(CGROUP_DEV).or_default();
    let last = rules.len().min(MAX_HOST_RULES as usize) as u32;
    for (order, CgroupRule { pattern, scope, exclude }) in (0..last).zip(rules) {
        let parts = parts(pattern);
        let floats = parts.first() == Some(&Part::Any);
        let regex = regex(&parts);
        // Of all that match, the tables keep the lowest number: that of the first, and counted backwards that of the last.
        let first = Pattern {
            regex: regex.clone(),
            access: ACCESS_READ,
            deny: *exclude,
            rule: host_rule(order, *scope),
        };
        let last = Pattern {
            regex,
            access: ACCESS_WRITE,
            deny: *exclude,
            rule: host_rule(last - 1 - order, *scope),
        };
        if floats { &mut tree.floating } else { &mut tree.anchored }.extend([first, last]);
    }
    build(filesystems)
}

/// The scope of a new cgroup, as the kernel programs find it.
#[must_use]
pub fn scope_of(image: &MapImage, path: &str) -> Option<u32> {
    let (anchored, floating) = super::compile::accepts(image, CGROUP_DEV, path.as_bytes())?;
    let rule = |kind: usize, deny: bool| {
        let found = [anchored, floating].map(|accept| {
            let (bits, rules) =
                if deny { (accept.deny, accept.deny_rule) } else { (accept.allow, accept.allow_rule) };
            (bits & 1 << kind != 0).then_some(rules[kind])
        });
        found.into_iter().flatten().min().map(host_scope)
    };
    let scope = rule(HOST_FIRST, false)?;
    match rule(HOST_FIRST, true) {
        None => Some(scope),
        Some(left_out) if left_out == scope && rule(HOST_LAST, false) == Some(scope) => None,
        Some(_) => Some(UNDECIDED_SCOPE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, scope: u32) -> CgroupRule {
        CgroupRule { pattern: pattern.into(), scope, exclude: false }
    }

    fn image(rules: &[CgroupRule]) -> MapImage {
        let mounts = MountTable::parse(b"1 1 8:1 / / rw - ext4 a rw\n").unwrap();
        compile(rules, &mounts).unwrap()
    }

    #[test]
    fn the_first_rule_decides() {
        let rules = [
            rule("**/build-7.service", 3),
            rule("/ci.slice/build-*.service", 2),
            rule("**/libpod-*.scope", UNDECIDED_SCOPE),
            rule("**/ci.slice", 1),
            rule("**/ci.slice/**", 1),
        ];
        let image = image(&rules);
        for (path, scope) in [
            ("/ci.slice", Some(1)),
            ("/ci.slice/x.service", Some(1)),
            ("/a.slice/ci.slice/b.slice/x.service", Some(1)),
            ("/ci.slice/build-6.service", Some(2)),
            ("/ci.slice/build-7.service", Some(3)),
            ("/system.slice/build-7.service", Some(3)),
            ("/ci.slice/libpod-0a.scope", Some(UNDECIDED_SCOPE)),
            ("/system.slice/ci.service", None),
            ("/", None),
        ] {
            assert_eq!(scope_of(&image, path), scope, "{path}");
        }
    }

    #[test]
    fn what_is_left_out_of_one_of_several_is_undecided() {
        let exclude = |pattern: &str, scope| CgroupRule { exclude: true, ..rule(pattern, scope) };
        let rules = [
            exclude("**/x.service", 2),
            exclude("/ci.slice/y.service", 1),
            rule("**/x.service", 2),
            rule("**/ci.slice/**", 1),
        ];
        let image = image(&rules);
        assert_eq!(scope_of(&image, "/ci.slice/x.service"), Some(UNDECIDED_SCOPE));
        assert_eq!(scope_of(&image, "/system.slice/x.service"), None);
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
        assert_eq!(bits("/usr/bin/runc"), ACCESS_WRITE);
        assert_eq!(bits("/usr/lib/systemd/systemd"), 0);
        assert_eq!(scope_of(&image, "/ci.slice"), None);
    }
}
