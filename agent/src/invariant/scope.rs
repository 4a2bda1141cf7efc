//! Scopes: names and globs as they stand in `[scope]`, and paths of cgroups.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use crate::{
    policy::{
        check::{self, Overlay},
        parse::{Document, Source},
        rule,
        scope::OWN_SLICE,
        unit,
    },
    scope::{container, matcher::Matcher, tree},
};

/// Longer inputs only make each turn slower.
const MAX_RULES: usize = 12;

/// The first line is the path of a cgroup, each further line a letter and an entry: `u` a unit, `s` a slice, `c` a glob on
/// paths, `n` the name of a container, `e` what is excluded. The daemon and process 1 match no scope that passes the
/// check; what matches is the cgroup or one above it, and matches alone, too.
pub fn check(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    let _ = tree::of_proc_file(&[b"0::", path].concat());
    let (mut units, mut slices, mut cgroups, mut containers, mut exclude) =
        (vec![], vec![], vec![], vec![], vec![]);
    for line in lines.take(MAX_RULES).filter_map(|line| std::str::from_utf8(line).ok()) {
        let Some(kind) = line.chars().next() else { continue };
        let text = &line[kind.len_utf8()..];
        // What cannot stand in single quotes is another target's; what is refused alone would hide the others.
        if text.contains(['\'', '\r']) || text.chars().any(char::is_control) || text.is_empty() {
            continue;
        }
        match kind {
            'u' if unit::units(text).is_ok() => units.push(text),
            's' if unit::slices(text).is_ok() => slices.push(text),
            'c' if rule::cgroup(text).is_ok() => cgroups.push(text),
            'e' if rule::cgroup(text).is_ok() => exclude.push(text),
            'n' => containers.push(text),
            _ => {}
        }
    }
    let mut text = "version = 1\n[scope]\n".to_owned();
    let lists = [("units", units), ("slices", slices), ("cgroups", cgroups), ("exclude", exclude)];
    for (key, entries) in lists.into_iter().filter(|(_, entries)| !entries.is_empty()) {
        text.push_str(&format!("{key} = ['{}']\n", entries.join("', '")));
    }
    if !containers.is_empty() {
        text.push_str(&format!("containers = [{{ name = '{}' }}]\n", containers.join("' }, { name = '")));
    }
    let document = Document::new(Source { name: "p".into(), text });
    let Ok(policy) = document.and_then(|document| check::check(&[document], &Overlay::default())) else {
        return;
    };
    let matcher = Matcher::of_scopes(std::iter::once(("p", policy.scope.as_ref())));
    for own in
        [format!("/{OWN_SLICE}"), format!("/{OWN_SLICE}/stockade.service"), "/init.scope".into(), "/".into()]
    {
        assert_eq!(matcher.match_path(Path::new(&own)), Default::default(), "{own}");
    }
    let path = Path::new(OsStr::from_bytes(path));
    let matches = matcher.match_path(path);
    let path = Path::new("/").join(path);
    for found in matches.needs_container.iter().chain(&matches.otherwise) {
        let names = |path: &Path| {
            path.as_os_str().as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count()
        };
        assert!(names(&found.cgroup) <= names(&path), "{found:?} of {path:?}");
        let alone = matcher.match_path(&found.cgroup);
        assert!(
            alone.needs_container.iter().chain(&alone.otherwise).any(|other| other.rule == found.rule),
            "{found:?}"
        );
    }
    let _ = container::identify(&path);
}
