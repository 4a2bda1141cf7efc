//! The workspaces that the command line names.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::repositories;

/// `--workspace` and `--workspace-ro`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Workspaces {
    /// Directory that may be read, changed and executed below, its protected places apart; the values of ${workspace}.
    #[arg(long, value_name = "DIR")]
    pub workspace: Vec<PathBuf>,
    /// Directory that may be read and executed below, and is never changed, whatever is allowed; another ${workspace}.
    #[arg(long, value_name = "DIR")]
    pub workspace_ro: Vec<PathBuf>,
}

/// What they come to, without symbolic links.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// May be changed.
    pub writable: Vec<PathBuf>,
    /// May not.
    pub read_only: Vec<PathBuf>,
    /// Repositories below those that may be changed.
    pub repositories: Vec<PathBuf>,
}

impl Workspaces {
    /// Looks them up. One inside another is one more root of protected places; a read-only one takes precedence.
    ///
    /// # Errors
    /// One that is missing or no directory, one that is named twice, or one that could be changed in one that may not.
    pub fn find(&self) -> Result<Found, String> {
        let mut found = Found::default();
        let (mut all, named) =
            (Vec::<PathBuf>::new(), |flag, path: &PathBuf| format!("{flag} {}", path.display()));
        for (flag, paths, list) in [
            ("--workspace", &self.workspace, &mut found.writable),
            ("--workspace-ro", &self.workspace_ro, &mut found.read_only),
        ] {
            for path in paths {
                let real = real(path).map_err(|error| format!("{}: {error}", named(flag, path)))?;
                if all.contains(&real) {
                    return Err(format!("{}: this directory is named twice", named(flag, path)));
                }
                all.push(real.clone());
                list.push(real);
            }
        }
        for inner in &found.writable {
            if let Some(outer) = found.read_only.iter().find(|outer| inner.starts_with(outer)) {
                return Err(format!(
                    "--workspace {}: it lies in --workspace-ro {}, in which nothing may be changed",
                    inner.display(),
                    outer.display()
                ));
            }
        }
        let outermost =
            |path: &&PathBuf| !found.writable.iter().any(|other| other != *path && path.starts_with(other));
        found.repositories =
            found.writable.iter().filter(outermost).flat_map(|path| repositories::below(path)).collect();
        Ok(found)
    }
}

fn real(path: &Path) -> io::Result<PathBuf> {
    let real = fs::canonicalize(path)?;
    if real.is_dir() { Ok(real) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_are_found_and_mistakes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for path in ["a/lib/.git", "a/docs", "b"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        let find = |workspace: &[&str], read_only: &[&str]| {
            let paths = |names: &[&str]| names.iter().map(|name| root.join(name)).collect();
            Workspaces { workspace: paths(workspace), workspace_ro: paths(read_only) }.find()
        };
        let found = find(&["link", "a/lib"], &["a/docs", "b"]).unwrap();
        assert_eq!(found.writable, [root.join("a"), root.join("a/lib")]);
        assert_eq!(found.read_only, [root.join("a/docs"), root.join("b")]);
        assert_eq!(found.repositories, [root.join("a/lib")], "found once");
        let why = |workspace: &[&str], read_only: &[&str]| find(workspace, read_only).unwrap_err();
        assert!(why(&["a", "link"], &[]).contains("link: this directory is named twice"));
        assert!(why(&["a"], &["link"]).contains("named twice"));
        assert!(why(&["a/docs"], &["a"]).contains("in which nothing may be changed"));
        assert!(why(&["gone"], &[]).contains("gone: No such file"));
        assert!(why(&[], &["file"]).starts_with("--workspace-ro"));
        assert_eq!(find(&[], &[]), Ok(Found::default()));
    }
}
