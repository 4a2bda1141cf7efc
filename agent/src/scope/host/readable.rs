//! What can be known of policies that have errors: whom they are for.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::{HostPolicies, HostPolicy, files, load_file, name, open, rivals};
use crate::policy::{
    checked::{CheckedPolicy, Mode},
    diagnostic::{Diagnostic, Diagnostics},
    parse::Source,
    scope::{self, ScopeTable},
};

/// Policies of which some allow nothing, because what they allow cannot be read.
#[derive(Debug, Default)]
pub struct Readable {
    /// All of them.
    pub policies: HostPolicies,
    /// Those that allow nothing.
    pub broken: Vec<String>,
}

/// Reads a directory as [`super::load`] does; but of a file with errors it is enough that it says whom it is for. It allows
/// nothing then.
///
/// # Errors
/// A file that does not say it, or that may be others' to write; two that are for the same.
pub fn load_readable(directory: &Path) -> Result<Readable, Diagnostics> {
    load_readable_owned(directory, 0)
}

pub(super) fn load_readable_owned(directory: &Path, owner: u32) -> Result<Readable, Diagnostics> {
    let open = |path: &Path| open(path, owner);
    let mut readable = Readable::default();
    let mut problems = Vec::new();
    for file in files(directory, owner)? {
        let loaded = load_file(&file, &open).or_else(|refused| {
            let policy = open(&file).ok().and_then(|(_, source)| head(&file, source)).ok_or(refused)?;
            readable.broken.push(policy.name.clone());
            Ok::<_, Diagnostics>(policy)
        });
        match loaded {
            Ok(policy) => readable.policies.policies.push(policy),
            Err(refused) => problems.extend(refused.0),
        }
    }
    let conflicts: Vec<Diagnostic> = rivals::conflicts(&readable.policies);
    problems.extend(conflicts);
    if problems.is_empty() { Ok(readable) } else { Err(Diagnostics(problems)) }
}

/// The same name, mode and scope, and no rule.
#[must_use]
pub fn allowing_nothing(policy: &CheckedPolicy) -> CheckedPolicy {
    let CheckedPolicy { name, mode, scope, .. } = policy.clone();
    CheckedPolicy { name, mode, scope, ..CheckedPolicy::default() }
}

#[derive(Deserialize)]
struct ScopeAlone {
    scope: Option<Spanned<ScopeTable>>,
}

#[derive(Deserialize)]
struct NameAlone {
    name: Option<String>,
}

#[derive(Deserialize)]
struct ModeAlone {
    mode: Option<Mode>,
}

/// Whom a policy is for that has errors; `None`: it does not say.
fn head(file: &Path, source: Source) -> Option<HostPolicy> {
    let is_toml = toml::from_str::<toml::Table>(&source.text).is_ok();
    let (said, mode, table) = if is_toml {
        let said = toml::from_str::<NameAlone>(&source.text).ok().and_then(|alone| alone.name);
        let mode = toml::from_str::<ModeAlone>(&source.text).ok().and_then(|alone| alone.mode);
        (said, mode, toml::from_str::<ScopeAlone>(&source.text).ok()?.scope)
    } else {
        let section = section(&source.text)?;
        (spoken_name(&source.text), None, Some(toml::from_str::<ScopeAlone>(&section).ok()?.scope?))
    };
    let source = std::sync::Arc::new(source);
    let scope = match &table {
        Some(table) => Some(scope::check(table, &source).ok()?),
        None => None,
    };
    // Where its own name is what is wrong it is called as its file.
    let name = name(file, said).or_else(|_| name(file, None)).ok()?;
    let policy = CheckedPolicy {
        name: name.clone(),
        mode: mode.unwrap_or_default(),
        scope,
        ..CheckedPolicy::default()
    };
    Some(HostPolicy { name, file: file.to_path_buf(), policy })
}

/// The text with nothing left of it but the table `[scope]`, at its place. `None`: there is none, or more than one.
fn section(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let (mut inside, mut begun) = (false, 0);
    for line in text.split_inclusive('\n') {
        let header: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        if header.starts_with('[') {
            let begins = header.starts_with("[scope]");
            begun += usize::from(begins);
            inside = begins || (inside && (header.starts_with("[scope.") || header.starts_with("[[scope.")));
        }
        if inside {
            out.push_str(line);
        } else {
            out.extend(line.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        }
    }
    (begun == 1).then_some(out)
}

/// A name that stands before the first table, on a line of its own.
fn spoken_name(text: &str) -> Option<String> {
    let top = text.lines().take_while(|line| !line.trim_start().starts_with('['));
    top.filter_map(|line| toml::from_str::<NameAlone>(line).ok()?.name).next()
}
