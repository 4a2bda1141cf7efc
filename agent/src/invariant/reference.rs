//! A plain reading of the policy language, to hold the compiled tables against.

use stockade_common::file::{ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE};

use crate::policy::{
    checked::CheckedPolicy,
    compile,
    globs::{self, Part, Spelt},
    image::MapImage,
    mounts::{Mount, MountTable},
};

/// The kinds a rule can name; `ACCESS_MOVE` follows from others and is left out.
const NAMED: u32 = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC;
/// A root, a procfs, a subvolume, a bind mount of part of the root, and a deep one as container engines make them.
const MOUNTS: &str = "\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:5 / /proc rw - proc proc rw
23 21 8:2 /@home /home rw - btrfs /dev/sdb rw
24 21 8:1 /srv/data /mnt/a\\040b rw - ext4 /dev/sda1 rw
25 21 0:60 / /var/lib/containers/0123456789abcdef0123456789abcdef0123456789abcdef/merged rw - overlay overlay rw
";

/// The fixed mount table; empty only if it could not be parsed.
pub(super) fn mounts() -> MountTable {
    let table = MountTable::parse(MOUNTS.as_bytes()).unwrap_or_default();
    assert_eq!(table.mounts.len(), 5);
    table
}

fn names(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect()
}

fn joined(names: &[&[u8]]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().flat_map(|name| [b"/", *name].concat()).collect()
}

/// (allowed, denied) kinds of the file at `inside` of a filesystem: those of all names it is mounted under.
fn expected(policy: &CheckedPolicy, mounts: &MountTable, dev: u32, inside: &[&[u8]]) -> (u32, u32) {
    let (mut allow, mut deny) = (0, 0);
    for mount in mounts.mounts.iter().filter(|mount| mount.dev == dev) {
        let Some(seen) = visible(mount, inside) else { continue };
        let folded: Vec<Vec<u8>> = seen.iter().map(|name| fold(name)).collect();
        for rule in &policy.paths {
            let (pattern, seen) = if rule.protects {
                (globs::parts(&rule.pattern.to_ascii_lowercase()), folded.iter().map(Vec::as_slice).collect())
            } else {
                (globs::parts(&rule.pattern), seen.clone())
            };
            let mut access = if Spelt::new(&pattern).matches(&seen) { rule.access } else { 0 };
            if let Some((Part::Any, parent)) = pattern.split_last()
                && Spelt::new(parent).matches(&seen)
            {
                access |= if rule.deny { rule.access } else { rule.access & ACCESS_READ };
            }
            if rule.deny {
                deny |= access;
            } else {
                allow |= access;
            }
        }
    }
    (allow & NAMED, deny & NAMED)
}

/// A name as a filesystem that ignores case compares it, as far as ASCII letters go.
fn fold(mut name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((first, rest)) = name.split_first() {
        let special = [("\u{212a}", b'k'), ("\u{17f}", b's')];
        let known =
            special.iter().find_map(|(sign, letter)| Some((*letter, name.strip_prefix(sign.as_bytes())?)));
        let (byte, after) = known.unwrap_or((first.to_ascii_lowercase(), rest));
        out.push(byte);
        name = after;
    }
    out
}

fn visible<'a>(mount: &'a Mount, inside: &[&'a [u8]]) -> Option<Vec<&'a [u8]>> {
    let root = names(&mount.root);
    let below = inside.strip_prefix(root.as_slice())?;
    Some([names(&mount.point).as_slice(), below].concat())
}

/// A path the pattern may match: what stands for any text is replaced by a little of it.
fn instance(pattern: &str, filling: &str) -> Vec<u8> {
    let filled: Vec<String> = pattern
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| if part == "**" { filling.to_owned() } else { part.replace('*', "").replace('?', "x") })
        .filter(|part| !part.is_empty())
        .collect();
    format!("/{}", filled.join("/")).into_bytes()
}

/// Compiles for the fixed mounts, and compares the tables' answers with the plain reading for the given path and for
/// paths taken from the rules.
pub(super) fn compare(policy: &CheckedPolicy, extra: &[u8]) {
    let mounts = mounts();
    // Too large for the tables is an answer.
    let Ok((image, stats)) = compile::compile(policy, &mounts) else { return };
    assert_eq!(image.next.len(), image.states.len());
    assert_eq!(stats.prefixes, image.prefixes.len());
    compare_path(policy, &mounts, &image, extra);
    for rule in policy.paths.iter().rev().take(16) {
        for filling in ["", "d", "d/.e"] {
            compare_path(policy, &mounts, &image, &instance(&rule.pattern, filling));
        }
    }
}

fn compare_path(policy: &CheckedPolicy, mounts: &MountTable, image: &MapImage, path: &[u8]) {
    // No name in a path holds a NUL byte.
    if path.contains(&0) {
        return;
    }
    let seen = names(path);
    for mount in &mounts.mounts {
        let root = names(&mount.root);
        // As a name inside the filesystem, and as one seen through the mount.
        let through = seen.strip_prefix(names(&mount.point).as_slice()).map(|rest| [&root, rest].concat());
        for inside in [Some(seen.clone()), through].into_iter().flatten() {
            let name = joined(&inside);
            let (allow, deny) = compile::path_bits(image, mount.dev, &name).unwrap_or_default();
            let found = (allow & NAMED, deny & NAMED);
            assert_eq!(
                found,
                expected(policy, mounts, mount.dev, &inside),
                "{} on {:#x}, allowed and denied: tables and reference",
                name.escape_ascii(),
                mount.dev
            );
        }
    }
}
