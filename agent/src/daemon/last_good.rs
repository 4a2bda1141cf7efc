//! The last policies that could be put in force, kept for a start at which `policies.d` has errors.
//!
//! They are one file, replaced as a whole. What of it is damaged, somebody else's or of another version is not used. A second
//! file, which no boot outlives, says what the kernel is held to: if that is something else than what is kept, because it
//! could not be kept, a daemon that finds pins leaves everything as they are.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::scope::{
    host::PolicyText,
    trusted::{self, Links, Untrusted},
};

/// Where they are kept.
const DIRECTORY: &str = "/var/lib/stockade/policies";
/// Says what the kernel is held to.
const IN_FORCE: &str = "/run/stockade/policies-in-force";
const NAME: &str = "last-good.json";
/// Raised when what is in the file means something else.
const FORMAT: u64 = 1;
/// Longest file, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// Policies that were in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Of the texts.
    pub digest: String,
    /// When they were kept, RFC 3339.
    pub saved: String,
    /// What they were made of.
    pub texts: Vec<PolicyText>,
}

/// Why what is kept is not used, or nothing was kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The kernel refused.
    #[error("{step} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// It is not there, or may be somebody else's.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// It is not what was written.
    #[error("{path} is damaged ({why}): it is not used", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another version of Stockade has written it.
    #[error("{path} has format {format}, and this version knows {FORMAT}: it is not used", path = path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Its format.
        format: String,
    },
    /// It is of another directory.
    #[error("{path} is of {directory}: it is not used", path = path.display(), directory = directory.display())]
    OtherDirectory {
        /// Which.
        path: PathBuf,
        /// The other directory.
        directory: PathBuf,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u64,
    digest: String,
    directory: PathBuf,
    saved: String,
    files: Vec<PolicyText>,
}

/// Where policies are kept.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    in_force: PathBuf,
    /// Who may have written it.
    owner: u32,
}

impl Default for Store {
    fn default() -> Self {
        Self { directory: DIRECTORY.into(), in_force: IN_FORCE.into(), owner: 0 }
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeepError {
    move |source| KeepError::Io { step, path: path.to_path_buf(), source }
}

/// SHA-256 over all texts with their names, each with its length in front.
#[must_use]
pub fn digest(texts: &[PolicyText]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("stockade policies {FORMAT}\n"));
    for PolicyText { path, identity, text, extended } in texts {
        hash.update(format!("{extended}\n"));
        for part in
            [path.as_os_str().as_encoded_bytes(), identity.as_os_str().as_encoded_bytes(), text.as_bytes()]
        {
            hash.update(format!("{}\n", part.len()));
            hash.update(part);
        }
    }
    let mut out = "sha256:".to_owned();
    for byte in hash.finalize() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

impl Store {
    /// Where the policies are.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    /// Keeps the policies of `directory` instead of what was kept.
    ///
    /// # Errors
    /// If they cannot be written; what was kept is still there then.
    pub fn save(&self, directory: &Path, texts: &[PolicyText]) -> Result<String, KeepError> {
        let digest = digest(texts);
        if self.load(directory).is_ok_and(|kept| kept.digest == digest) {
            return Ok(digest);
        }
        let written = Written {
            format: FORMAT,
            digest: digest.clone(),
            directory: directory.to_path_buf(),
            saved: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            files: texts.to_vec(),
        };
        let path = self.path();
        let bytes =
            serde_json::to_vec(&written).map_err(io::Error::from).map_err(failed("writing", &path))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(failed("making", &self.directory))?;
        replace(&path, &bytes)?;
        Ok(digest)
    }

    /// What is kept of `directory`.
    ///
    /// # Errors
    /// If there is nothing, or it is not to be used.
    pub fn load(&self, directory: &Path) -> Result<Kept, KeepError> {
        let path = self.path();
        let bytes = trusted::read(&path, self.owner, Links::RefuseLast(2), MAX_BYTES)?;
        let damaged = |why: String| KeepError::Damaged { path: path.clone(), why };
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let format = value.get("format").cloned().unwrap_or_default();
        if format.as_u64() != Some(FORMAT) {
            return Err(KeepError::Format { path, format: format.to_string() });
        }
        let Written { digest, directory: of, saved, files, .. } =
            serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        if self::digest(&files) != digest {
            return Err(damaged("its digest is not that of what it says".into()));
        }
        if of != directory {
            return Err(KeepError::OtherDirectory { path, directory: of });
        }
        Ok(Kept { digest, saved, texts: files })
    }

    /// What the kernel is held to; `None`: that is not known.
    #[must_use]
    pub fn in_force(&self) -> Option<String> {
        let bytes = trusted::read(&self.in_force, self.owner, Links::RefuseLast(1), 1024).ok()?;
        Some(String::from_utf8(bytes).ok()?.trim_end().to_owned())
    }

    /// Says what the kernel is held to; `None`: that is being changed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_in_force(&self, digest: Option<&str>) -> Result<(), KeepError> {
        match digest {
            Some(digest) => replace(&self.in_force, format!("{digest}\n").as_bytes()),
            None => match fs::remove_file(&self.in_force) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed("removing", &self.in_force)(error))
                }
                _ => Ok(()),
            },
        }
    }
}

/// Puts a file in the place of another in one step, which a loss of power does not tear.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeepError> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", &new)(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let written = options.open(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| {
        // On a full disk half of it may be there.
        let _ = fs::remove_file(&new);
        failed("writing", &new)(error)
    })?;
    fs::rename(&new, path).map_err(failed("replacing", path))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("syncing", parent))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const POLICIES: &str = "/etc/stockade/policies.d";

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        let owner = nix::unistd::geteuid().as_raw();
        (dir, Store { directory: base.join("policies"), in_force: base.join("in-force"), owner })
    }

    fn text(name: &str, text: &str) -> PolicyText {
        let path = Path::new(POLICIES).join(name);
        PolicyText { identity: path.clone(), path, text: text.into(), extended: false }
    }

    fn why(store: &Store) -> String {
        store.load(Path::new(POLICIES)).unwrap_err().to_string()
    }

    #[test]
    fn what_is_kept_is_what_was_saved_and_roots_alone() {
        let (_dir, store) = store();
        assert!(why(&store).contains("No such file"));
        let texts = [text("ci.toml", "version = 1\n"), text("web.toml", "version = 1\nname = 'web'\n")];
        let digest = store.save(Path::new(POLICIES), &texts).unwrap();
        let kept = store.load(Path::new(POLICIES)).unwrap();
        assert_eq!((kept.digest, kept.texts.as_slice()), (digest.clone(), &texts[..]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&store.directory), mode(&store.path())), (0o700, 0o600));
        // Another set, or the same with another name, has another digest.
        let other = store.save(Path::new(POLICIES), &texts[..1]).unwrap();
        assert_ne!(other, digest);
        assert_eq!(store.load(Path::new(POLICIES)).unwrap().texts.len(), 1);
        assert!(!store.path().with_extension("new").exists());
    }

    #[test]
    fn what_was_not_written_so_is_not_used_and_named() {
        let (_dir, store) = store();
        store.save(Path::new(POLICIES), &[text("ci.toml", "version = 1\n# read\n")]).unwrap();
        let whole = fs::read_to_string(store.path()).unwrap();
        for (changed, part) in [
            (whole.replace("# read", "# rEad"), "its digest is not"),
            (whole[..whole.len() / 2].to_owned(), "is damaged"),
            (String::new(), "is damaged"),
            (whole.replace("\"format\":1", "\"format\":2"), "has format 2, and this version knows 1"),
            (whole.replace("\"format\":1,", ""), "has format null"),
            (whole.replace("\"saved\"", "\"Saved\""), "is damaged"),
        ] {
            assert_ne!(changed, whole);
            fs::write(store.path(), changed).unwrap();
            let why = why(&store);
            assert!(why.contains(part) && why.contains("last-good.json"), "{part}: {why}");
        }
        fs::write(store.path(), &whole).unwrap();
        assert!(store.load(Path::new(POLICIES)).is_ok());
        let error = store.load(Path::new("/elsewhere")).unwrap_err().to_string();
        assert!(error.contains("is of /etc/stockade/policies.d"), "{error}");
        fs::set_permissions(store.path(), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(why(&store).contains("chmod go-w"));
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_kept() {
        let (_dir, store) = store();
        let first = store.save(Path::new(POLICIES), &[text("ci.toml", "one")]).unwrap();
        // A directory in the way, which root cannot write either.
        fs::create_dir(store.path().with_extension("new")).unwrap();
        let error = store.save(Path::new(POLICIES), &[text("ci.toml", "two")]).unwrap_err().to_string();
        assert!(error.contains("last-good.new"), "{error}");
        assert_eq!(store.load(Path::new(POLICIES)).unwrap().digest, first);
        // The same needs no writing.
        assert_eq!(store.save(Path::new(POLICIES), &[text("ci.toml", "one")]).unwrap(), first);
    }

    #[test]
    fn what_is_in_force_is_known_until_it_changes() {
        let (_dir, store) = store();
        assert_eq!(store.in_force(), None);
        store.set_in_force(Some("sha256:12")).unwrap();
        assert_eq!(store.in_force().as_deref(), Some("sha256:12"));
        store.set_in_force(None).unwrap();
        store.set_in_force(None).unwrap();
        assert_eq!(store.in_force(), None);
    }
}
