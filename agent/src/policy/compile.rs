//! From a checked policy and a mount table to kernel tables. Pure.

use std::collections::BTreeMap;

use stockade_common::file::{
    ACCESS_MOVE, ACCESS_READ, Accept, DEAD, FS_PROC, FS_REMEMBER, FS_STRICT_RENAME, FsEntry, STATE_MASK,
};

use super::{
    automaton::{self, AutomatonError, Pattern, Tables},
    checked::{CheckedPolicy, PathRule},
    diagnostic::Diagnostics,
    globs::{BELOW, Part, literal, parts, regex, regex_in_any_case, remainders},
    image::MapImage,
    metadata,
    mounts::MountTable,
    ports,
    rule::Refusal,
    unix,
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
    /// One without a mount, whose names begin with a literal.
    pub(super) fn of(anchored: Vec<Pattern>) -> Self {
        Self { anchored, ..Self::default() }
    }

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
    let mut filesystems = translate(&policy.paths, mounts);
    filesystems.extend(unix::filesystem(&policy.abstracts));
    let mut stats =
        CompileStats { patterns: filesystems.values().map(Filesystem::len).sum(), ..Default::default() };
    let failed = |source| CompileError::Paths { source, longest: longest(policy) };
    let mut image = build(filesystems).map_err(failed)?;
    image.rules.clone_from(&policy.rules);
    image.flags = policy.scope_flags();
    image.powers = policy.process.into();
    image.rules.push(metadata::rule());
    let built_in = policy.rules.len() as u32;
    let compiled = ports::compile(&policy.destinations, &policy.listen, built_in);
    (image.prefixes, image.ports) = compiled.map_err(|error| {
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
        let anchored = tables.add(&merged(filesystem.anchored))?;
        let floating = tables.add(&merged(filesystem.floating))?;
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

/// Patterns in which all that mean the same and end in `/**` share that end. Each end of its own would be remembered
/// for the rest of the path, and multiply the states of whatever is matched beside it.
fn merged(patterns: Vec<Pattern>) -> Vec<Pattern> {
    let (mut ends, mut all) = (BTreeMap::<_, Vec<String>>::new(), Vec::new());
    for pattern in patterns {
        match pattern.regex.strip_suffix(BELOW) {
            Some(start) => {
                let Pattern { access, deny, rule, .. } = pattern;
                ends.entry((rule, access, deny)).or_default().push(start.to_owned());
            }
            None => all.push(pattern),
        }
    }
    all.extend(ends.into_iter().map(|((rule, access, deny), starts)| Pattern {
        regex: format!("(?:{}){BELOW}", starts.join("|")),
        access,
        deny,
        rule,
    }));
    all
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
                    if rule.deny && !rule.protects && has_inner_any(&pattern) {
                        filesystem.flags |= FS_STRICT_RENAME;
                    }
                    // Behind a root it floats as well, and what is protected at any depth of a workspace does: among the anchored
                    // patterns it would multiply their states.
                    let floats = rest.first() == Some(&Part::Any) || rule.protects && has_inner_any(&rest);
                    let written = if rule.protects { regex_in_any_case } else { regex };
                    let inside =
                        if rest.is_empty() && !root.is_empty() { String::new() } else { written(&rest) };
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
        if access != 0 {
            all.push((parent.to_vec(), access));
        }
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
mod tests;
