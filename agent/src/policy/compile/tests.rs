//! Tables of small policies, and against a plain matcher.

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
    PathRule { pattern: pattern.into(), access, deny, protects: false, rule }
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
    assert_eq!(bits(HOME, "/@home/u/ws"), (ACCESS_READ, 0), "the workspace itself can be listed, not moved");
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
    let image = image(vec![rule("/ws/**", ACCESS_WRITE, false, 0), rule("/ws/a/b/**", ACCESS_READ, true, 1)]);
    let denied = |path: &str| path_bits(&image, ROOT, path.as_bytes()).unwrap().1;
    assert_eq!(denied("/ws/a"), ACCESS_MOVE);
    assert_eq!(denied("/ws/a/b"), ACCESS_MOVE | ACCESS_READ);
    assert_eq!(denied("/ws/c"), 0);
}

#[test]
fn thousands_of_rules_fit() {
    let count = if cfg!(debug_assertions) { 500 } else { 10_000 };
    let rules =
        (0..count).map(|n| rule(&format!("/srv/{n}/data-{}/**", n * 7919), ACCESS_READ, false, n)).collect();
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
        assert_eq!(path_bits(&image, HOME, b"/@home/u/3/secret-501").unwrap().1 & ACCESS_READ, ACCESS_READ);
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
