//! Repositories inside a workspace: they are looked for when a policy is put together, since each has protected places.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
};

/// Most repositories that are protected: each takes room in the tables.
const MOST: usize = 32;
/// Most names that are looked at, so that a start takes a fraction of a second even in a large tree.
const MOST_NAMES: usize = 200_000;
/// Deepest directory that is looked into, from the workspace.
const DEEPEST: usize = 16;

/// What was found below a directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Directories that have a `.git`, those that are nearest first.
    repositories: Vec<PathBuf>,
    /// Not everything was looked at, or can be protected.
    more: bool,
}

/// The repositories below a workspace. Says on standard error if there may be more: those are not protected.
#[must_use]
pub fn below(workspace: &Path) -> Vec<PathBuf> {
    let Found { repositories, more } = look(workspace, MOST, MOST_NAMES);
    if more {
        eprintln!(
            "stockade: warning: {} is too large, or cannot be read everywhere, to find all repositories in it: those that were not \
             found are not protected but for git's places, and can be moved; name the directory of one with --workspace, or in files.protect_in",
            workspace.display()
        );
    }
    repositories
}

/// Whether there may be something that cannot be seen: whoever works there may have taken the right to read it away, to give it
/// back later. What was removed meanwhile, or never was a directory, hides nothing.
fn hides(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn look(workspace: &Path, most: usize, most_names: usize) -> Found {
    let mut found = Found::default();
    let mut names = 0;
    let mut ahead = VecDeque::from([(workspace.to_path_buf(), 0)]);
    while let Some((directory, depth)) = ahead.pop_front() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                found.more |= hides(&error);
                continue;
            }
        };
        let mut below = Vec::new();
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    found.more |= hides(&error);
                    break;
                }
            };
            names += 1;
            if names > most_names {
                found.more = true;
                return found;
            }
            if entry.file_name() == ".git" {
                if depth > 0 {
                    found.repositories.push(directory.clone());
                }
                continue;
            }
            match entry.file_type() {
                // No link, so that none leads out of the workspace or in a circle.
                Ok(kind) if kind.is_dir() => below.push((entry.path(), depth + 1)),
                Ok(_) => {}
                Err(error) => found.more |= hides(&error),
            }
        }
        if found.repositories.len() > most {
            found.repositories.truncate(most);
            found.more = true;
            return found;
        }
        found.more |= depth == DEEPEST && !below.is_empty();
        if depth < DEEPEST {
            below.sort();
            ahead.extend(below);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_found_once_and_not_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in [".git/modules/x/.git", "lib/.git", "lib/deep/er/.git", "src"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/.git"), "gitdir: ../.git/modules/sub\n").unwrap();
        std::os::unix::fs::symlink(at("lib"), at("link")).unwrap();
        let all = Found { repositories: ["lib", "sub", "lib/deep/er"].map(at).to_vec(), more: false };
        assert_eq!(look(folder.path(), 8, 100), all);
        let two = look(folder.path(), 2, 100);
        assert_eq!((two.repositories.len(), two.more), (2, true));
        assert!(look(folder.path(), 8, 3).more);
        assert_eq!(look(&at("gone"), 8, 100), Found::default());
        assert!(!hides(&io::ErrorKind::NotADirectory.into()));
        assert!(hides(&io::ErrorKind::PermissionDenied.into()), "what cannot be read may hide one");
    }
}
