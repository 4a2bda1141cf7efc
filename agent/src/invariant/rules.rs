//! Rules one by one, as the command line gives them: more of these get as far as the compiler than of whole files.

use std::sync::LazyLock;

use super::reference;
use crate::policy::{
    check::{self, Overlay},
    checked::CheckedPolicy,
    names, rule,
};

/// Longer inputs only make each turn slower.
const MAX_RULES: usize = 12;

/// Path rules of the profile that is part of every policy. Compiling them takes most of the time and tells nothing new.
static BASE: LazyLock<usize> =
    LazyLock::new(|| check::check(&[], &Overlay::default()).map_or(0, |policy| policy.paths.len()));

/// The first line is a path, each further line a letter and a rule: `r`, `w`, `x` allow a path, `R`, `W`, `X` and `d`
/// deny one, `n` allows and `N` denies a destination.
pub fn check(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    let mut overlay = Overlay { home: Some("/home/u".into()), ..Overlay::default() };
    for line in lines.take(MAX_RULES).filter_map(|line| std::str::from_utf8(line).ok()) {
        let Some(kind) = line.chars().next() else { continue };
        let text = &line[kind.len_utf8()..];
        // What is refused alone would hide the others.
        let is_good = if matches!(kind, 'n' | 'N') {
            rule::destination(text).is_ok()
                || (kind == 'n' && rule::is_named(text) && names::named(text).is_ok())
        } else {
            rule::path(text, |_| Ok("/home/u".to_owned())).is_ok() && text.len() < 100
        };
        if !is_good {
            continue;
        }
        match kind {
            'r' => overlay.allow_read.push(text.into()),
            'w' => overlay.allow_write.push(text.into()),
            'x' => overlay.allow_exec.push(text.into()),
            'R' => overlay.deny_read.push(text.into()),
            'W' => overlay.deny_write.push(text.into()),
            'X' => overlay.deny_exec.push(text.into()),
            'd' => overlay.deny_file.push(text.into()),
            'n' => overlay.allow_net.push(text.into()),
            'N' => overlay.deny_net.push(text.into()),
            _ => {}
        }
    }
    if let Ok(policy) = check::check(&[], &overlay) {
        let paths = policy.paths.get(*BASE..).unwrap_or_default().to_vec();
        reference::compare(&CheckedPolicy { paths, ..policy }, path);
    }
}
