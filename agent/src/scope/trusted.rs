//! Files that nobody but root, or one other user who is named, can have written or put there: every directory on the way
//! is looked at, not only the file.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, open as open_at_root, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat},
};

/// Most symbolic links on the way, as in the kernel.
const MAX_LINKS: usize = 40;

/// A file is not there, or not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// The kernel refused.
    #[error("{step} {path}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Somebody else's.
    #[error("{path} belongs to user {uid}: chown root {path}", path = path.display())]
    Owner {
        /// What.
        path: PathBuf,
        /// Whose.
        uid: u32,
    },
    /// Others may write it.
    #[error("{path} may be written by its group or by others (mode {mode:04o}): chmod go-w {path}", path = path.display())]
    Writable {
        /// What.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A symbolic link where none may be, or too many.
    #[error("{path} is a symbolic link: put the file itself there", path = path.display())]
    Link {
        /// What.
        path: PathBuf,
    },
    /// Neither file nor directory.
    #[error("{path} is no regular file", path = path.display())]
    Kind {
        /// What.
        path: PathBuf,
    },
    /// Longer than what is read.
    #[error("{path} has more than {limit} bytes", path = path.display())]
    TooLong {
        /// What.
        path: PathBuf,
        /// Most bytes.
        limit: u64,
    },
}

impl Untrusted {
    /// Whether it is just not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What of symbolic links in the last components of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They are followed where they belong to a trusted user.
    Follow,
    /// They are refused in the last so many components.
    RefuseLast(usize),
}

/// Opens a file or directory for reading. `owner` is trusted beside root. `path` is absolute.
///
/// # Errors
/// See [`Untrusted`].
pub fn open(path: &Path, owner: u32, links: Links) -> Result<File, Untrusted> {
    let failed = |step: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |error: nix::Error| Untrusted::Io { step, path, source: error.into() }
    };
    let mut left: VecDeque<OsString> = names(path);
    let strict = match links {
        Links::Follow => 0,
        Links::RefuseLast(count) => count,
    };
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = || {
        open_at_root("/", flags | OFlag::O_DIRECTORY, Mode::empty())
            .map_err(failed("opening", Path::new("/")))
    };
    let mut at: OwnedFd = root()?;
    let mut shown = PathBuf::from("/");
    let mut followed = 0;
    while let Some(name) = left.pop_front() {
        let next_shown = if name == ".." {
            shown.parent().unwrap_or(Path::new("/")).to_path_buf()
        } else {
            shown.join(&name)
        };
        let next = openat(at.as_fd(), name.as_os_str(), flags, Mode::empty())
            .map_err(failed("opening", &next_shown))?;
        let stat = fstat(next.as_fd()).map_err(failed("reading the state of", &next_shown))?;
        let is_last = left.is_empty();
        check(&stat, owner, is_last, &next_shown)?;
        if kind(&stat) == SFlag::S_IFLNK {
            followed += 1;
            if left.len() < strict || followed > MAX_LINKS {
                return Err(Untrusted::Link { path: next_shown });
            }
            let target = readlinkat(next.as_fd(), c"").map_err(failed("reading the link", &next_shown))?;
            let target = PathBuf::from(target);
            if target.is_absolute() {
                (at, shown) = (root()?, PathBuf::from("/"));
            }
            for name in names(&target).into_iter().rev() {
                left.push_front(name);
            }
            continue;
        }
        if is_last {
            // Nobody but trusted users could have exchanged it since; what is opened is looked at again.
            let read =
                OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            if !matches!(kind(&stat), SFlag::S_IFREG | SFlag::S_IFDIR) {
                return Err(Untrusted::Kind { path: next_shown });
            }
            let file = openat(at.as_fd(), name.as_os_str(), read, Mode::empty())
                .map_err(failed("opening", &next_shown))?;
            let stat = fstat(file.as_fd()).map_err(failed("reading the state of", &next_shown))?;
            check(&stat, owner, true, &next_shown)?;
            return Ok(file.into());
        }
        (at, shown) = (next, next_shown);
    }
    let read = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
    openat(at.as_fd(), c".", read, Mode::empty()).map(File::from).map_err(failed("opening", &shown))
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// See [`open`]; a longer file.
pub fn read(path: &Path, owner: u32, links: Links, limit: u64) -> Result<Vec<u8>, Untrusted> {
    let file = open(path, owner, links)?;
    let failed = |source| Untrusted::Io { step: "reading", path: path.to_path_buf(), source };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Untrusted::Kind { path: path.to_path_buf() });
    }
    let too_long = || Untrusted::TooLong { path: path.to_path_buf(), limit };
    if metadata.size() > limit {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit { Err(too_long()) } else { Ok(bytes) }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// A directory that all may write is passed through only if it is sticky: nobody can exchange there what is not theirs.
fn check(stat: &FileStat, owner: u32, is_last: bool, path: &Path) -> Result<(), Untrusted> {
    if stat.st_uid != 0 && stat.st_uid != owner {
        return Err(Untrusted::Owner { path: path.to_path_buf(), uid: stat.st_uid });
    }
    let mode = stat.st_mode & 0o7777;
    let is_passed = !is_last && kind(stat) == SFlag::S_IFDIR && mode & 0o1000 != 0;
    if mode & 0o022 != 0 && kind(stat) != SFlag::S_IFLNK && !is_passed {
        return Err(Untrusted::Writable { path: path.to_path_buf(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn me() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A directory of ours, in one that others may write.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(real.join("a/b")).unwrap();
        fs::write(real.join("a/b/f"), "text").unwrap();
        for name in ["a/b/f", "a/b", "a"] {
            chmod(&real.join(name), if name.ends_with('f') { 0o644 } else { 0o755 });
        }
        (dir, real)
    }

    #[test]
    fn files_of_trusted_users_are_read() {
        let (_dir, root) = tree();
        assert_eq!(read(&root.join("a/b/f"), me(), Links::Follow, 4).unwrap(), b"text");
        assert!(open(&root.join("a/b"), me(), Links::RefuseLast(1)).unwrap().metadata().unwrap().is_dir());
        assert!(open(Path::new("/"), me(), Links::Follow).is_ok());
        assert!(matches!(
            read(&root.join("a/b/f"), me(), Links::Follow, 3),
            Err(Untrusted::TooLong { limit: 3, .. })
        ));
        assert!(read(&root.join("a/x"), me(), Links::Follow, 3).unwrap_err().is_missing());
        assert!(matches!(read(&root.join("a/b"), me(), Links::Follow, 3), Err(Untrusted::Kind { .. })));
        assert!(matches!(
            read(Path::new("/dev/null"), 0, Links::Follow, 3),
            Err(Untrusted::Kind { .. } | Untrusted::Writable { .. })
        ));
    }

    #[test]
    fn one_directory_on_the_way_is_enough_to_distrust() {
        let (_dir, root) = tree();
        for (name, mode) in [("a", 0o775), ("a/b", 0o757), ("a/b/f", 0o664), ("a/b/f", 0o646)] {
            let before = fs::metadata(root.join(name)).unwrap().permissions();
            chmod(&root.join(name), mode);
            let error = read(&root.join("a/b/f"), me(), Links::Follow, 9).unwrap_err();
            assert!(
                matches!(&error, Untrusted::Writable { path, .. } if *path == root.join(name)),
                "{error}"
            );
            assert!(error.to_string().contains("chmod go-w"), "{error}");
            fs::set_permissions(root.join(name), before).unwrap();
        }
        if me() == 0 {
            std::os::unix::fs::chown(root.join("a"), Some(1234), None).unwrap();
            let error = read(&root.join("a/b/f"), 0, Links::Follow, 9).unwrap_err();
            assert!(matches!(error, Untrusted::Owner { uid: 1234, .. }), "{error}");
            assert!(read(&root.join("a/b/f"), 1234, Links::Follow, 9).is_ok(), "root's are trusted as well");
        }
    }

    #[test]
    fn links_are_followed_or_refused() {
        let (_dir, root) = tree();
        symlink("../a/b", root.join("a/relative")).unwrap();
        symlink(root.join("a/b/f"), root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for name in ["a/relative/f", "absolute"] {
            assert_eq!(read(&root.join(name), me(), Links::Follow, 9).unwrap(), b"text", "{name}");
        }
        assert!(read(&root.join("a/relative/f"), me(), Links::RefuseLast(1), 9).is_ok(), "the file is none");
        for (name, strict) in [("a/relative/f", 2), ("absolute", 1)] {
            let error = read(&root.join(name), me(), Links::RefuseLast(strict), 9).unwrap_err();
            assert!(matches!(error, Untrusted::Link { .. }), "{error}");
        }
        assert!(matches!(read(&root.join("loop"), me(), Links::Follow, 9), Err(Untrusted::Link { .. })));
        if me() == 0 {
            std::os::unix::fs::lchown(root.join("absolute"), Some(1234), None).unwrap();
            let error = read(&root.join("absolute"), 0, Links::Follow, 9).unwrap_err();
            assert!(matches!(error, Untrusted::Owner { .. }), "{error}");
        }
    }
}
