//! Mount tables.

use std::collections::HashSet;

use stockade_common::file::ACCESS_READ;

use crate::policy::{
    checked::{CheckedPolicy, PathRule},
    compile,
    mounts::MountTable,
};

/// Larger tables than this are compiled by unit tests; here they only make each turn slower.
const MAX_COMPILED: usize = 8;

/// Parses a table: one mount a mount point, each of which can be seen. A policy that denies everything then denies the
/// root of each, whatever bytes its name holds.
pub fn check(data: &[u8]) {
    let Ok(table) = MountTable::parse(data) else { return };
    let points: HashSet<&[u8]> = table.mounts.iter().map(|mount| mount.point.as_slice()).collect();
    assert_eq!(points.len(), table.mounts.len());
    for mount in &table.mounts {
        assert!(table.visible(mount.dev, &mount.root).is_some(), "{mount:?}");
    }
    if table.mounts.len() > MAX_COMPILED || data.len() > 2000 {
        return;
    }
    let rule = |pattern: &str, deny, rule| PathRule {
        pattern: pattern.into(),
        access: ACCESS_READ,
        deny,
        protects: false,
        rule,
    };
    let paths = vec![rule("/**", false, 0), rule("/**", true, 1)];
    let policy = CheckedPolicy { paths, ..CheckedPolicy::default() };
    let Ok((image, _)) = compile::compile(&policy, &table) else { return };
    for mount in &table.mounts {
        // No name holds a NUL byte.
        if mount.root.contains(&0) {
            continue;
        }
        let names = mount.root.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let mut root: Vec<u8> = names.flat_map(|name| [b"/", name].concat()).collect();
        if root.is_empty() {
            root.push(b'/');
        }
        let denied = compile::path_bits(&image, mount.dev, &root).map_or(0, |(_, deny)| deny);
        assert!(denied & ACCESS_READ != 0, "{} of {mount:?}", root.escape_ascii());
    }
}
