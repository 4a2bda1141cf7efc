//! Where events go: standard output or a file. We open it as root, in a place where the workload may have been before.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use crate::scope::user::Caller;

/// Where events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file that is made, or emptied.
    File {
        /// Without symbolic links.
        path: PathBuf,
        /// Whose it is to be.
        owner: Option<Caller>,
    },
    /// A pipe or device that is there already.
    Special(PathBuf),
}

impl Destination {
    /// What a path means, without opening it.
    pub fn resolve(path: &Path, caller: Option<Caller>) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let name = path.file_name().ok_or_else(|| named(io::ErrorKind::IsADirectory.into()))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let path = fs::canonicalize(folder.unwrap_or(Path::new("."))).map_err(named)?.join(name);
        let kind = fs::symlink_metadata(&path).ok().map(|metadata| metadata.file_type());
        if kind.is_some_and(|kind| kind.is_fifo() || kind.is_char_device()) {
            return Ok(Self::Special(path));
        }
        // It becomes a rule, see below.
        if path.to_str().is_none_or(|text| text.contains(['*', '?', '{', '}', '$'])) {
            return Err(named(io::Error::other(
                "the command could not be kept from it: its name is not UTF-8 or holds one of `*?{}$`",
            )));
        }
        Ok(Self::File { path, owner: caller })
    }

    /// What the command may not touch.
    pub fn rule(&self) -> Option<String> {
        match self {
            Self::File { path, .. } => path.to_str().map(str::to_owned),
            Self::Stdout | Self::Special(_) => None,
        }
    }

    /// Opens it.
    pub fn open(&self) -> io::Result<Box<dyn Write + Send>> {
        let named = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("--events {}: {error}", path.display()))
        };
        Ok(match self {
            Self::Stdout => Box::new(io::stdout()),
            Self::File { path, owner } => Box::new(file(path, *owner).map_err(|error| named(path, error))?),
            Self::Special(path) => Box::new(options().open(path).map_err(|error| named(path, error))?),
        })
    }
}

/// No symbolic link, no terminal of ours, nothing for children.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NOCTTY);
    options
}

fn file(path: &Path, owner: Option<Caller>) -> io::Result<File> {
    match options().create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            if let Some(Caller { uid, gid }) = owner {
                fchown(&file, Some(uid), gid)?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = options().open(path)?;
            let metadata = file.metadata()?;
            // A name may have been given here to a file that only root can empty.
            let ours = metadata.uid() == nix::unistd::geteuid().as_raw()
                || owner.is_some_and(|owner| metadata.uid() == owner.uid);
            if !metadata.is_file() || metadata.nlink() != 1 || !ours {
                return Err(io::Error::other(
                    "there is something of that name that is not a file of yours with one name",
                ));
            }
            file.set_len(0)?;
            Ok(file)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn opened(path: &Path) -> io::Result<()> {
        Destination::resolve(path, None)?.open()?.write_all(b"new\n")
    }

    #[test]
    fn files_are_made_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        fs::write(&path, "old, and longer\n").unwrap();
        opened(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        fs::remove_file(&path).unwrap();
        opened(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn planted_names_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link, hard) =
            (folder.path().join("victim"), folder.path().join("link"), folder.path().join("hard"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        fs::hard_link(&victim, &hard).unwrap();
        for path in [link, hard] {
            assert!(opened(&path).is_err(), "{}", path.display());
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn the_command_is_kept_from_the_file_and_not_from_devices() {
        let rule = |path: &str| Destination::resolve(Path::new(path), None).unwrap().rule();
        assert_eq!(rule("/tmp/../tmp/events").as_deref(), Some("/tmp/events"));
        assert_eq!(rule("/dev/null"), None);
        assert_eq!(rule("-"), None);
        assert!(Destination::resolve(Path::new("/tmp/{events}"), None).is_err());
    }
}
