//! Protected places as rules.

use std::{collections::HashSet, path::Path, sync::Arc};

use super::Checker;
use crate::policy::{
    checked::{Author, PathRule, Place},
    parse::{Document, Source},
    protect::{self, Protection},
    rule::Refusal,
};

/// Where the rules come from.
const SOURCE: &str = "a protected place";

impl Checker<'_> {
    /// Protects what documents and flags leave to protect, in workspaces, repositories in them, and where documents say.
    pub(super) fn protect(&mut self, documents: &[Document]) {
        let groups = protect::groups(documents, &self.overlay.lift);
        let mut directories = Vec::new();
        for Document { source, policy } in documents {
            for directory in &policy.files.protect_in {
                match self.globs(directory.get_ref()) {
                    Ok(globs) => directories.extend(globs.iter().map(|glob| trimmed(glob))),
                    Err(refusal) => self.problems.push(refusal.at(source, Some(directory.span()))),
                }
            }
        }
        let overlay = self.overlay;
        for directory in overlay.workspaces.iter().chain(&overlay.repositories) {
            match name(directory) {
                Some(name) => directories.push(name),
                // As a workspace it is refused already.
                None if overlay.workspaces.contains(directory) => {}
                None => {
                    let message = format!("the repository {} cannot be protected", directory.display());
                    let help = "its name holds one of `*?{}` or is not UTF-8: rename it, or lift all groups";
                    let refusal = Refusal { message, help: Some(help.to_owned()) };
                    let source = Source { name: "--workspace".into(), text: String::new() };
                    if !groups.is_empty() {
                        self.problems.push(refusal.at(&source, None));
                    }
                }
            }
        }
        directories.sort();
        directories.dedup();
        let mut known = HashSet::new();
        let protected = groups.iter().filter(|_| !directories.is_empty());
        for group in protected {
            // One rule for all directories: rules of their own would multiply the states of the tables.
            let text = Source { name: SOURCE.into(), text: group.name().into() };
            let place = Place { author: Author::Stockade, source: Arc::new(text), span: None };
            let rule = self.rule(group.name(), SOURCE, protect::LIST, place);
            let globs = directories.iter().flat_map(|directory| {
                let above = |other: &String| {
                    directory.strip_prefix(other.as_str()).is_some_and(|rest| rest.starts_with('/'))
                };
                group.globs(directory, directories.iter().any(above))
            });
            self.policy.paths.extend(
                globs.filter(|glob| known.insert(glob.clone())).map(|(pattern, access)| PathRule {
                    pattern,
                    access,
                    deny: true,
                    protects: true,
                    rule,
                }),
            );
        }
        self.policy.protection = Protection { groups, directories };
    }
}

/// A directory as a glob, without a slash at its end.
fn name(directory: &Path) -> Option<String> {
    let text = directory.to_str()?;
    (!text.contains(['*', '?', '{', '}'])).then(|| trimmed(text))
}

fn trimmed(text: &str) -> String {
    text.trim_end_matches('/').to_owned()
}
