//! The policies of this host: the files of `/etc/stockade/policies.d`.

mod readable;
mod rivals;
mod texts;

use std::{
    fs,
    path::{Path, PathBuf},
};

use self::texts::Recorder;
pub use self::{
    readable::{Readable, allowing_nothing, load_readable},
    texts::{PolicyText, from_texts},
};

use super::{
    matcher::Matcher,
    trusted::{self, Links, Untrusted},
};
use crate::policy::{
    check::{self, Overlay},
    checked::CheckedPolicy,
    diagnostic::{Diagnostic, Diagnostics},
    extend::{self, Open},
    parse::{self, Source},
    rule::Refusal,
};

/// Where the files are.
pub const DIRECTORY: &str = "/etc/stockade/policies.d";
/// Longest name of a policy.
const MAX_NAME: usize = 64;

/// One file, and what it extends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPolicy {
    /// Its name: that of the file without `.toml` if it says none. No other has it.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// What it comes to, with the scope if it has one.
    pub policy: CheckedPolicy,
}

/// All of them, in the order of the files' names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPolicies {
    /// In order: indices are stable as long as this is.
    pub policies: Vec<HostPolicy>,
    /// The files that they were made of.
    pub texts: Vec<PolicyText>,
}

impl HostPolicies {
    /// The policy of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&HostPolicy> {
        self.policies.iter().find(|policy| policy.name == name)
    }
}

/// Reads every `*.toml` of a directory; names that begin with a dot are passed over. The directory, the files, those they
/// extend, and all directories on the way must be root's and nobody else's to write.
///
/// # Errors
/// All that is wrong with all of the files. Nothing is to be changed then.
pub fn load(directory: &Path) -> Result<HostPolicies, Diagnostics> {
    load_owned(directory, 0)
}

fn load_owned(directory: &Path, owner: u32) -> Result<HostPolicies, Diagnostics> {
    let recorder = Recorder::default();
    let open = |path: &Path| recorder.open(path, &|path| open(path, owner));
    let mut loaded = HostPolicies::default();
    let mut problems = Vec::new();
    for file in files(directory, owner)? {
        match load_file(&file, &open) {
            Ok(policy) => loaded.policies.push(policy),
            Err(refused) => problems.extend(refused.0),
        }
    }
    problems.extend(rivals::conflicts(&loaded));
    loaded.texts = recorder.texts(&loaded);
    if problems.is_empty() { Ok(loaded) } else { Err(Diagnostics(problems)) }
}

/// The files of a directory that are policies, in order.
fn files(directory: &Path, owner: u32) -> Result<Vec<PathBuf>, Diagnostics> {
    let unreadable = |message: String, help: &str| {
        Diagnostics::plain(&directory.display().to_string(), message, Some(help))
    };
    // Below a directory that only root writes, names stay what they are.
    trusted::open(directory, owner, Links::Follow).map_err(|error| {
        let help = if error.is_missing() { "mkdir -p -m 755 /etc/stockade/policies.d" } else { TRUST };
        unreadable(error.to_string(), help)
    })?;
    let entries =
        fs::read_dir(directory).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(|error| {
            unreadable(format!("cannot be listed: {error}"), "look whether it is a directory")
        })?;
    let mut files: Vec<PathBuf> = entries
        .into_iter()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            name.ends_with(b".toml") && !name.starts_with(b".")
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    Ok(files)
}

const TRUST: &str = "policies, and the directories they are in, must be root's and nobody else's to write";

fn load_file(file: &Path, open: &Open<'_>) -> Result<HostPolicy, Diagnostics> {
    let documents = extend::load(file, open)?;
    let overlay = Overlay { for_host: true, ..Overlay::default() };
    let mut policy = check::check(&documents, &overlay)?;
    let said = documents.last().and_then(|document| document.policy.name.clone());
    let name = name(file, said)?;
    policy.name.clone_from(&name);
    Ok(HostPolicy { name, file: file.to_path_buf(), policy })
}

/// What a policy is called: what it says, or else as its file.
fn name(file: &Path, said: Option<String>) -> Result<String, Diagnostics> {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = said.unwrap_or(stem);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.chars().all(is_plain) {
        let help =
            "write `name = \"...\"` with letters, digits, `.`, `_` and `-`, at most 64, the first no dot";
        let message = format!("{name:?} cannot be the name of a policy of the host");
        return Err(Diagnostics::plain(&file.display().to_string(), message, Some(help)));
    }
    Ok(name)
}

/// A policy that is in no file yet, checked as if it were in one of the directory: what it extends is read from there.
///
/// # Errors
/// All that is wrong with it.
pub fn given(directory: &Path, text: &str) -> Result<CheckedPolicy, Diagnostics> {
    given_owned(directory, text, 0)
}

fn given_owned(directory: &Path, text: &str, owner: u32) -> Result<CheckedPolicy, Diagnostics> {
    let name = "the policy given";
    let nowhere = directory.join(name);
    let open = |path: &Path| {
        if path != nowhere {
            return open(path, owner);
        }
        Ok((nowhere.clone(), Source { name: name.into(), text: text.to_owned() }))
    };
    let documents = extend::load(&nowhere, &open)?;
    check::check(&documents, &Overlay { for_host: true, ..Overlay::default() })
}

fn open(path: &Path, owner: u32) -> Result<(PathBuf, Source), Refusal> {
    let refused = |error: Untrusted| Refusal { message: error.to_string(), help: Some(TRUST.to_owned()) };
    let absolute = std::path::absolute(path).map_err(parse::unreadable)?;
    let file = trusted::open(&absolute, owner, Links::RefuseLast(1)).map_err(refused)?;
    let source = parse::read_open(file, path)?;
    Ok((fs::canonicalize(&absolute).unwrap_or(absolute), source))
}

/// Refuses policies that claim the cgroup the daemon itself is in: nobody could let go of it.
///
/// # Errors
/// Each rule that matches it, or a cgroup above it.
pub fn spare(policies: &HostPolicies, own: &Path) -> Result<(), Diagnostics> {
    let matches = Matcher::new(policies).match_path(own);
    let problems: Vec<Diagnostic> = matches
        .needs_container
        .iter()
        .chain(&matches.otherwise)
        .filter_map(|found| {
            let rule = policies.policies.get(found.policy)?.policy.scope.as_ref()?.rules.get(found.rule)?;
            let message =
                format!("this matches {}: the daemon itself is in {}", found.cgroup.display(), own.display());
            let help = Some(
                "make it narrower, leave that out by `exclude`, or run the daemon in its own slice".into(),
            );
            Some(rule.diagnostic(Refusal { message, help }))
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(Diagnostics(problems)) }
}

#[cfg(test)]
mod tests;
