//! The texts that policies were made of, so that the same policies can be made again when the files are others.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{HostPolicies, load_file, rivals};
use crate::policy::{diagnostic::Diagnostics, parse::Source, rule::Refusal};

/// A policy file as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyText {
    /// By this name.
    pub path: PathBuf,
    /// That is the same however the file is named.
    pub identity: PathBuf,
    /// TOML.
    pub text: String,
    /// Others extend it, and it is no policy by itself.
    pub extended: bool,
}

/// Keeps what is opened. What is opened twice is what it was at first, so that all policies are of one state of the files.
#[derive(Debug, Default)]
pub(super) struct Recorder(RefCell<BTreeMap<PathBuf, (PathBuf, Source)>>);

type Opened = Result<(PathBuf, Source), Refusal>;

impl Recorder {
    pub(super) fn open(&self, path: &Path, open: &dyn Fn(&Path) -> Opened) -> Opened {
        if let Some(known) = self.0.borrow().get(path) {
            return Ok(known.clone());
        }
        let opened = open(path)?;
        self.0.borrow_mut().insert(path.to_path_buf(), opened.clone());
        Ok(opened)
    }

    /// All that was opened.
    pub(super) fn texts(self, loaded: &HostPolicies) -> Vec<PolicyText> {
        let is_policy = |path: &Path| loaded.policies.iter().any(|policy| policy.file == path);
        let texts = self.0.into_inner().into_iter();
        texts
            .map(|(path, (identity, source))| PolicyText {
                extended: !is_policy(&path),
                path,
                identity,
                text: source.text,
            })
            .collect()
    }
}

/// The policies that were made of these texts.
///
/// # Errors
/// What is wrong with them: another version of Stockade may ask for something else.
pub fn from_texts(texts: &[PolicyText]) -> Result<HostPolicies, Diagnostics> {
    let open = |path: &Path| -> Opened {
        let found = texts.iter().find(|text| text.path == path);
        found
            .map(|PolicyText { path, identity, text, .. }| {
                (identity.clone(), Source { name: path.display().to_string(), text: text.clone() })
            })
            .ok_or_else(|| Refusal { message: "was not kept".into(), help: None })
    };
    let mut loaded = HostPolicies { policies: Vec::new(), texts: texts.to_vec() };
    let mut problems = Vec::new();
    let mut files: Vec<&PathBuf> =
        texts.iter().filter(|text| !text.extended).map(|text| &text.path).collect();
    files.sort();
    for file in files {
        match load_file(file, &open) {
            Ok(policy) => loaded.policies.push(policy),
            Err(refused) => problems.extend(refused.0),
        }
    }
    problems.extend(rivals::conflicts(&loaded));
    if problems.is_empty() { Ok(loaded) } else { Err(Diagnostics(problems)) }
}
