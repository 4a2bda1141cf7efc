//! What a daemon leaves to the one that comes after it in this boot, beside what is pinned: the names of addresses that are
//! allowed, and the policies of runs. Without them clients that remember an answer would be refused until they ask again, and
//! runs would have no names at all.

use std::{collections::BTreeMap, fs, io, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use stockade_common::limits::MAX_GRANTED;

use super::{Core, names::refused_by_gate, run::checked};
use crate::{
    daemon::command::{Refusal, ScopeKind},
    dns::Held,
    kernel::Scope,
    policy::checked::CheckedPolicy,
};

/// Names of addresses, a file for each scope's number.
const NAMES: &str = "/run/stockade/names";
/// Policies of runs, likewise.
const RUNS: &str = "/run/stockade/runs";
/// Longer files are no files of ours.
const MAX_BYTES: u64 = 64 << 20;

/// What is kept of something, and whose it is: numbers of scopes come again.
#[derive(Debug, Serialize, Deserialize)]
struct Kept<T> {
    boot_id: String,
    scope: String,
    what: T,
}

/// A run's policy, as its client has sent it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) policy: String,
    pub(super) sources: BTreeMap<String, String>,
}

fn file(folder: &str, scope: Scope) -> PathBuf {
    PathBuf::from(folder).join(format!("{}.json", scope.0))
}

/// Replaces a file as a whole; only root can read it.
fn write(folder: &str, scope: Scope, text: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let path = file(folder, scope);
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    io::Write::write_all(&mut out, text.as_bytes())?;
    fs::rename(new, path)
}

fn read<T: DeserializeOwned>(folder: &str, scope: Scope) -> io::Result<Option<Kept<T>>> {
    let path = file(folder, scope);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.len() <= MAX_BYTES => {}
        Ok(_) => return Err(io::Error::other(format!("{} is too long", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let kept = serde_json::from_slice(&fs::read(&path)?);
    kept.map(Some).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

impl Core {
    fn keep<T: Serialize>(&self, folder: &str, scope: Scope, name: &str, what: T) {
        let kept = Kept { boot_id: self.boot.id.clone(), scope: name.to_owned(), what };
        let text = serde_json::to_string(&kept).map_err(io::Error::other);
        if let Err(error) = text.and_then(|text| write(folder, scope, &text)) {
            eprintln!("stockade: {name}: a later daemon will not know its names: {error}");
        }
    }

    fn kept<T: DeserializeOwned>(&self, folder: &str, scope: Scope, name: &str) -> Option<T> {
        match read::<T>(folder, scope) {
            Ok(kept) => {
                kept.filter(|kept| kept.boot_id == self.boot.id && kept.scope == name).map(|kept| kept.what)
            }
            Err(error) => {
                eprintln!("stockade: {name}: what an earlier daemon has kept of its names: {error}");
                None
            }
        }
    }

    /// Keeps a run's policy.
    pub(super) fn keep_run(&self, scope: Scope, name: &str, run: &Run) {
        self.keep(RUNS, scope, name, run);
    }

    /// Keeps the names of scopes that were answered since the last time.
    pub(super) fn keep_names(&mut self) {
        for scope in std::mem::take(&mut self.answered) {
            if let Some((name, _)) = self.registry.find(scope) {
                let mut held = self.gates.held(scope);
                // Those that last longest, if there are more than the kernel has room for.
                held.sort_by_key(|held| std::cmp::Reverse(held.expires));
                held.truncate(MAX_GRANTED as usize);
                self.keep(NAMES, scope, name, held);
            }
        }
    }

    /// Nothing is left of a scope.
    pub(super) fn keep_no_more(&mut self, scope: Scope) {
        self.answered.remove(&scope);
        for folder in [NAMES, RUNS] {
            // Most have none.
            let _ = fs::remove_file(file(folder, scope));
        }
    }

    /// Takes over what an earlier daemon has kept: names of all scopes that there are, and policies of runs.
    pub(super) fn recall(&mut self) -> Result<(), Refusal> {
        let scopes: Vec<(String, Scope)> = self
            .registry
            .scopes
            .iter()
            .flat_map(|(name, state)| state.instances.iter().map(|one| (name.clone(), one.scope)))
            .collect();
        for (name, scope) in &scopes {
            if let Some(held) = self.kept::<Vec<Held>>(NAMES, *scope, name) {
                self.gates.recall(&self.enforcer, *scope, &held).map_err(refused_by_gate)?;
            }
        }
        for (name, scope) in scopes {
            let is_run = self.registry.scopes.get(&name).is_some_and(|state| state.kind == ScopeKind::Run);
            if let Some(run) = is_run.then(|| self.kept::<Run>(RUNS, scope, &name)).flatten() {
                match checked(&run) {
                    Ok(policy) => self.recall_run(&name, policy)?,
                    Err(refusal) => {
                        eprintln!("stockade: {name}: its policy is not known any more: {refusal}");
                    }
                }
            }
        }
        Ok(())
    }

    /// A run goes on as it was, and its gate answers again.
    fn recall_run(&mut self, name: &str, policy: CheckedPolicy) -> Result<(), Refusal> {
        let Some(state) = self.registry.scopes.get_mut(name) else { return Ok(()) };
        state.policy = Some(policy);
        let path = state.cgroup.as_ref().and_then(|cgroup| {
            Some(std::path::Path::new("/").join(cgroup.path().strip_prefix(self.tree.mount()).ok()?))
        });
        let scope = self.first(name)?;
        self.hold_again(name)?;
        // Where its processes are; one that made a network namespace of its own asks, and is seen then.
        let pids = path.and_then(|path| self.tree.processes(&path).ok()).unwrap_or_default();
        self.open_gate(scope, pids.first().copied());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("names");
        let folder = folder.to_str().unwrap();
        assert!(read::<Vec<Held>>(folder, Scope(7)).unwrap().is_none());
        let held = vec![Held { name: "a.test".into(), address: [192, 0, 2, 1].into(), expires: 9 }];
        let kept = Kept { boot_id: "boot".into(), scope: "ci".into(), what: held.clone() };
        write(folder, Scope(7), &serde_json::to_string(&kept).unwrap()).unwrap();
        let found = read::<Vec<Held>>(folder, Scope(7)).unwrap().unwrap();
        assert_eq!((found.scope.as_str(), found.what), ("ci", held));
        write(folder, Scope(7), "{").unwrap();
        assert!(read::<Vec<Held>>(folder, Scope(7)).is_err());
    }
}
