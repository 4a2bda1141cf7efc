//! From a checked policy and a mount table to kernel tables. Pure.

use std::collections::BTreeMap;

use stockade_common::file::{
    ACCESS_MOVE, ACCESS_READ, Accept, DEAD, FS_PROC, FS_REMEMBER, FS_STRICT_RENAME, FsEntry, STATE_MASK,
};

use super::{
    automaton::{self, AutomatonError, Pattern, Tables},
    checked::{CheckedPolicy, PathRule},
    diagnostic::Diagnostics,
    globs::{Part, literal, parts, regex, remainders},
    image::MapImage,
    metadata,
    mounts::MountTable,
    ports,
    rule::Refusal,
};

/// Sizes of a compiled policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompileStats {
    /// Patterns after translation through the mounts.
    pub patterns: usize,
    /// Entries of each automaton table.
    pub table_entries: usize,
    /// Distinct outcomes.
    pub accepts: usize,
    /// Network prefixes.
    pub prefixes: usize,
}

/// The policy cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The path rules do not fit.
    #[error("{source} (the longest rule is {longest:?})")]
    Paths {
        /// Why.
        source: AutomatonError,
        /// A candidate to shorten.
        longest: String,
    },
    /// The ports of one prefix do not fit.
    #[error("{0}")]
    Ports(Diagnostics),
}

/// Filesystem types whose directories change their path by a rename on this host only, and whose new inodes get a random
/// generation: not those that show what lies on other machines, in other filesystems or in the kernel; not btrfs, whose
/// subvolumes and snapshots repeat numbers and generations; not those that count generations or have none.
const LOCAL: [&str; 6] = ["ext3", "ext4", "xfs", "f2fs", "tmpfs", "devtmpfs"];

/// What is said about a filesystem.
#[derive(Default)]
pub(super) struct Filesystem {
    /// Begin with a literal component.
    pub anchored: Vec<Pattern>,
    /// Begin with `**`.
    pub floating: Vec<Pattern>,
    flags: u32,
}

impl Filesystem {
    fn len(&self) -> usize {
        self.anchored.len() + self.floating.len()
    }
}

/// Compiles a policy for what the mount table shows.
///
/// # Errors
/// If the tables the kernel programs have are too small for it.
pub fn compile(
    policy: &CheckedPolicy,
    mounts: &MountTable,
) -> Result<(MapImage, CompileStats), CompileError> {
    let filesystems = translate(&policy.paths, mounts);
    let mut stats =
        CompileStats { patterns: filesystems.values().map(Filesystem::len).sum(), ..Default::default() };
    let failed = |source| CompileError::Paths { source, longest: longest(policy) };
    let mut image = build(filesystems).map_err(failed)?;
    image.rules.clone_from(&policy.rules);
    image.flags = policy.scope_flags();
    image.rules.push(metadata::rule());
    let built_in = policy.rules.len() as u32;
    (image.prefixes, image.ports) = ports::compile(&policy.destinations, built_in).map_err(|error| {
        let help = Some("write ranges of ports instead of single ones".to_owned());
        let refusal = Refusal { message: error.to_string(), help };
        CompileError::Ports(Diagnostics(vec![policy.diagnostic(error.rule(), refusal)]))
    })?;
    stats.table_entries = image.next.len();
    stats.accepts = image.accepts.len();
    stats.prefixes = image.prefixes.len();
    Ok((image, stats))
}

/// Determinises the patterns of all filesystems into one set of tables.
pub(super) fn build(filesystems: BTreeMap<u32, Filesystem>) -> Result<MapImage, AutomatonError> {
    let mut tables = Tables::default();
    let mut image = MapImage::default();
    for (dev, filesystem) in filesystems {
        let anchored = tables.add(&filesystem.anchored)?;
        let floating = tables.add(&filesystem.floating)?;
        let mut entry = FsEntry {
            anchored,
            floating,
            anchored_self: DEAD,
            floating_self: DEAD,
            flags: filesystem.flags,
            pad: 0,
        };
        if entry.flags & FS_PROC != 0 {
            entry.anchored_self = tables.run(anchored, b"/self");
            entry.floating_self = tables.run(floating, b"/self");
        }
        image.filesystems.push((dev, entry));
    }
    (image.next, image.states, image.accepts) = (tables.next, tables.states, tables.accepts);
    Ok(image)
}

fn longest(policy: &CheckedPolicy) -> String {
    policy.paths.iter().map(|rule| rule.pattern.clone()).max_by_key(String::len).unwrap_or_default()
}

/// Components of a path.
fn names(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect()
}

/// All rules as patterns inside each filesystem they reach.
pub(super) fn translate(paths: &[PathRule], mounts: &MountTable) -> BTreeMap<u32, Filesystem> {
    let mut filesystems: BTreeMap<u32, Filesystem> = BTreeMap::new();
    for mount in &mounts.mounts {
        // Names, not globs, and any bytes: a mount that was left out would lose the denials written through it, while
        // another mount of the same filesystem keeps its allows.
        let (root, point) = (names(&mount.root), names(&mount.point));
        for rule in paths {
            if rule.deny && !root.is_empty() && !remainders(&parts(&rule.pattern), &point).is_empty() {
                // Directories above the mount's root are on the way to what is denied, too.
                let anchored = &mut filesystems.entry(mount.dev).or_default().anchored;
                for length in 1..=root.len() {
                    let regex = literal(&root[..length]);
                    anchored.push(Pattern { regex, access: ACCESS_MOVE, deny: true, rule: rule.rule });
                }
            }
            for (pattern, access) in expand(rule) {
                for rest in remainders(&pattern, &point) {
                    let filesystem = filesystems.entry(mount.dev).or_default();
                    if mount.fs_type == "proc" {
                        filesystem.flags |= FS_PROC;
                    }
                    if LOCAL.contains(&mount.fs_type.as_str()) {
                        filesystem.flags |= FS_REMEMBER;
                    }
                    if rule.deny && has_inner_any(&pattern) {
                        filesystem.flags |= FS_STRICT_RENAME;
                    }
                    // Behind a root it floats as well: among the anchored patterns it would multiply their states.
                    let floats = rest.first() == Some(&Part::Any);
                    let inside =
                        if rest.is_empty() && !root.is_empty() { String::new() } else { regex(&rest) };
                    let regex = literal(&root) + &inside;
                    let pattern = Pattern { regex, access, deny: rule.deny, rule: rule.rule };
                    if floats { &mut filesystem.floating } else { &mut filesystem.anchored }.push(pattern);
                }
            }
        }
    }
    for Filesystem { anchored, floating, .. } in filesystems.values_mut() {
        for patterns in [anchored, floating] {
            patterns.sort();
            patterns.dedup();
        }
    }
    filesystems
}

/// A rule's own pattern, and those that follow from it.
fn expand(rule: &PathRule) -> Vec<(Vec<Part>, u32)> {
    let whole = parts(&rule.pattern);
    let mut all = vec![(whole.clone(), rule.access)];
    if let Some((Part::Any, parent)) = whole.split_last() {
        // `X/**` also lists X; a denial covers X altogether, so that it can't be moved away either.
        let access = if rule.deny { rule.access | ACCESS_MOVE } else { rule.access & ACCESS_READ };
        all.push((parent.to_vec(), access));
    }
    if rule.deny {
        for length in 1..whole.len() {
            if whole[length - 1] != Part::Any {
                all.push((whole[..length].to_vec(), ACCESS_MOVE));
            }
        }
    }
    all
}

/// A `**` that is neither first nor last.
fn has_inner_any(pattern: &[Part]) -> bool {
    pattern.get(1..pattern.len().saturating_sub(1)).is_some_and(|inner| inner.contains(&Part::Any))
}

/// What an image says about a path inside a filesystem: (allowed bits, denied bits). As the kernel programs decide it.
#[must_use]
pub fn path_bits(image: &MapImage, dev: u32, path: &[u8]) -> Option<(u32, u32)> {
    let (anchored, floating) = accepts(image, dev, path)?;
    Some((anchored.allow | floating.allow, anchored.deny | floating.deny))
}

/// What both automata say about a path inside a filesystem.
pub(super) fn accepts(image: &MapImage, dev: u32, path: &[u8]) -> Option<(Accept, Accept)> {
    let entry = image.filesystems.iter().find(|(candidate, _)| *candidate == dev)?.1;
    Some((accept_at(image, entry.anchored, path), accept_at(image, entry.floating, path)))
}

/// What one automaton says at the end of a path.
pub(super) fn accept_at(image: &MapImage, start: u32, path: &[u8]) -> Accept {
    let state = automaton::run(&image.next, &image.states, start, path);
    let index = (image.states[(state & STATE_MASK) as usize] >> 32) as usize;
    image.accepts[index]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stockade_common::file::{ACCESS_EXEC, ACCESS_WRITE};

    use super::*;
    use crate::policy::globs;

    const MOUNTS: &str = "21 1 8:1 / / rw - ext4 a rw\n22 21 0:5 / /proc rw - proc proc rw\n\
                          23 21 8:2 /@home /home rw - btrfs b rw\n";
    const ROOT: u32 = 8 << 20 | 1;
    const HOME: u32 = 8 << 20 | 2;
    const PROC: u32 = 5;

    fn rule(pattern: &str, access: u32, deny: bool, rule: u32) -> PathRule {
        PathRule { pattern: pattern.into(), access, deny, rule }
    }

    fn image(rules: Vec<PathRule>) -> MapImage {
        let policy = CheckedPolicy { paths: rules, ..CheckedPolicy::default() };
        compile(&policy, &MountTable::parse(MOUNTS.as_bytes()).unwrap()).unwrap().0
    }

    #[test]
    fn rules_reach_through_mounts() {
        let all = ACCESS_READ | ACCESS_WRITE;
        let image = image(vec![
            rule("/home/u/ws/**", all, false, 0),
            rule("/usr/**", ACCESS_READ | ACCESS_EXEC, false, 1),
            rule("**/.env", all, true, 2),
            rule("/proc/self/maps", ACCESS_READ, false, 3),
        ]);
        let bits = |dev, path: &str| path_bits(&image, dev, path.as_bytes()).unwrap();
        assert_eq!(bits(HOME, "/@home/u/ws/a/b"), (all, 0));
        assert_eq!(
            bits(HOME, "/@home/u/ws"),
            (ACCESS_READ, 0),
            "the workspace itself can be listed, not moved"
        );
        assert_eq!(bits(HOME, "/@home/u/ws-evil"), (0, 0));
        assert_eq!(bits(HOME, "/@home/u/ws/a/.env"), (all, all));
        assert_eq!(bits(HOME, "/home/u/ws/a"), (0, 0), "the name in the filesystem counts");
        assert_eq!(bits(ROOT, "/usr/bin/x"), (ACCESS_READ | ACCESS_EXEC, 0));
        assert_eq!(bits(ROOT, "/usr"), (ACCESS_READ, 0));
        assert_eq!(path_bits(&image, 77, b"/x"), None);
        let entry = image.filesystems.iter().find(|(dev, _)| *dev == PROC).unwrap().1;
        assert_eq!(entry.flags & FS_PROC, FS_PROC);
        let end = automaton::run(&image.next, &image.states, entry.anchored_self, b"/maps");
        assert_ne!(image.states[(end & STATE_MASK) as usize] >> 32, 0);
    }

    #[test]
    fn a_mount_of_any_name_keeps_its_denials() {
        let mounts = b"21 1 8:1 / / rw - ext4 a rw\n22 21 8:1 /srv/d* /mnt/x? rw - ext4 a rw\n\
                       23 21 8:1 /srv/\xff /mnt/y rw - ext4 a rw\n";
        let rules = vec![rule("/srv/**", ACCESS_READ, false, 0), rule("/mnt/**", ACCESS_READ, true, 1)];
        let policy = CheckedPolicy { paths: rules, ..CheckedPolicy::default() };
        let image = compile(&policy, &MountTable::parse(mounts).unwrap()).unwrap().0;
        let denied = |path: &[u8]| path_bits(&image, ROOT, path).unwrap().1 & ACCESS_READ != 0;
        assert!(denied(b"/srv/d*/secret") && denied(b"/srv/\xff/secret"));
        assert!(denied(b"/srv/d*"), "the mounted directory itself");
        assert!(!denied(b"/srv/data/open"), "the root is a name, not a glob");
        assert_eq!(path_bits(&image, ROOT, b"/srv/data/open").unwrap().0, ACCESS_READ);
    }

    #[test]
    fn a_star_does_not_cover_the_directory_it_is_in() {
        let image = image(vec![rule("/proc/*", ACCESS_READ, false, 0)]);
        assert_eq!(path_bits(&image, PROC, b"/"), Some((0, 0)));
        assert_eq!(path_bits(&image, PROC, b"/version"), Some((ACCESS_READ, 0)));
    }

    #[test]
    fn the_way_to_a_denial_cannot_be_moved() {
        let image =
            image(vec![rule("/ws/**", ACCESS_WRITE, false, 0), rule("/ws/a/b/**", ACCESS_READ, true, 1)]);
        let denied = |path: &str| path_bits(&image, ROOT, path.as_bytes()).unwrap().1;
        assert_eq!(denied("/ws/a"), ACCESS_MOVE);
        assert_eq!(denied("/ws/a/b"), ACCESS_MOVE | ACCESS_READ);
        assert_eq!(denied("/ws/c"), 0);
    }

    #[test]
    fn thousands_of_rules_fit() {
        let count = if cfg!(debug_assertions) { 500 } else { 10_000 };
        let rules = (0..count)
            .map(|n| rule(&format!("/srv/{n}/data-{}/**", n * 7919), ACCESS_READ, false, n))
            .collect();
        let image = image(rules);
        assert_eq!(path_bits(&image, ROOT, b"/srv/3/data-23757/x"), Some((ACCESS_READ, 0)));
        assert_eq!(path_bits(&image, ROOT, b"/srv/3/data-2375/x"), Some((0, 0)));
    }

    #[test]
    fn floating_rules_behind_a_mounts_root_cost_no_more() {
        let rules: Vec<PathRule> = (0..500)
            .map(|n| rule(&format!("/home/u/{n}/data-{}/**", n * 7919), ACCESS_READ, false, n))
            .chain((500..504).map(|n| rule(&format!("**/secret-{n}"), ACCESS_READ, true, n)))
            .collect();
        let policy = CheckedPolicy { paths: rules, ..CheckedPolicy::default() };
        let entries = |mounts: &str| {
            let mounts = MountTable::parse(mounts.as_bytes()).unwrap();
            let (image, stats) = compile(&policy, &mounts).unwrap();
            assert_eq!(
                path_bits(&image, HOME, b"/@home/u/3/secret-501").unwrap().1 & ACCESS_READ,
                ACCESS_READ
            );
            stats.table_entries
        };
        let plain = entries("21 1 8:2 / / rw - ext4 a rw\n");
        let behind = entries("23 21 8:2 /@home /home rw - btrfs b rw\n");
        assert!(behind < plain * 2, "{behind} against {plain}");
    }

    /// Several roots on one device, a mount below another, and a bind mount of a directory of `/`.
    const ROOTS: &str = "21 1 8:1 / / rw - ext4 a rw\n22 21 8:2 /a /b rw - btrfs b rw\n\
                         23 21 8:2 /a/b /a/b rw - btrfs b rw\n24 21 8:1 /ab /a/a rw - ext4 a rw\n";

    proptest! {
        #[test]
        fn tables_agree_with_the_plain_matcher(
            patterns in proptest::collection::vec(
                (globs::tests::pattern(), any::<bool>(), any::<bool>()), 1..8),
            path in globs::tests::path(),
            dev in prop_oneof![Just(ROOT), Just(HOME)],
        ) {
            let rules: Vec<PathRule> = (0u32..)
                .zip(&patterns)
                .map(|(id, (pattern, deny, floats))| {
                    let floating = format!("**{pattern}").replace("**/**", "**");
                    rule(if *floats { &floating } else { pattern }, ACCESS_WRITE, *deny, id)
                })
                .collect();
            let mounts = MountTable::parse(ROOTS.as_bytes()).unwrap();
            let policy = CheckedPolicy { paths: rules.clone(), ..CheckedPolicy::default() };
            let image = compile(&policy, &mounts).unwrap().0;
            let inside = format!("/{}", path.join("/"));
            // Under each name that some mount gives the file.
            let visible: Vec<Vec<u8>> = mounts.mounts.iter().filter(|mount| mount.dev == dev).filter_map(|mount| {
                let root = mount.root.strip_suffix(b"/").unwrap_or(&mount.root);
                let rest = inside.as_bytes().strip_prefix(root)?;
                (rest.is_empty() || rest[0] == b'/').then(|| [&mount.point, rest].concat())
            }).collect();
            let expected = |deny: bool| rules.iter().filter(|rule| rule.deny == deny).any(|rule| {
                let whole = parts(&rule.pattern);
                visible.iter().any(|path| {
                    let names = names(path);
                    // A denial of X/** covers X as well.
                    globs::tests::plain(&whole, &names) || (deny && whole.last() == Some(&Part::Any)
                        && globs::tests::plain(&whole[..whole.len() - 1], &names))
                })
            });
            let (allow, deny) = path_bits(&image, dev, inside.as_bytes()).unwrap_or((0, 0));
            prop_assert_eq!(allow & ACCESS_WRITE != 0, expected(false));
            prop_assert_eq!(deny & ACCESS_WRITE != 0, expected(true));
        }
    }
}
