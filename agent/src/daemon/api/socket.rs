//! The socket's file: who may reach it, and that there is one daemon behind it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{
                DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
                PermissionsExt as _,
            },
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket},
    unistd::{Gid, Group, Uid, chown},
};

/// Connections that may wait to be taken.
const BACKLOG: i32 = 256;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// There is a daemon already.
    #[error("another daemon{} holds {}: stop it first, or give this one another socket",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), .path.display())]
    Taken {
        /// The lock file, or the socket.
        path: PathBuf,
        /// Whose it is, if that is known.
        pid: Option<u32>,
    },
    /// Others could put something else in its place.
    #[error("{} {why}: whoever can change it could pass for the daemon; put the socket into a directory of root's", .path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file is in its place.
    #[error("{} is there and is not a socket: remove it, or give the daemon another socket", .0.display())]
    NotASocket(PathBuf),
    /// A step failed.
    #[error("{step} {}: {source}", .path.display())]
    Step {
        /// What was being done.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn step(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    move |source| SocketError::Step { step, path: path.to_path_buf(), source }
}

/// A socket that is listened on; its file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Held as long as the socket is there. The file stays: removing it could take it from under a successor.
    _lock: Flock<File>,
    group: Option<Gid>,
}

impl Socket {
    /// Takes the place of a dead daemon's socket, but never a living one's. Reachable for root, and members of the group if
    /// there is such a group.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path, group: &str) -> Result<Self, SocketError> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        match fs::DirBuilder::new().mode(0o755).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(step("making directory", folder)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let folder = fs::canonicalize(folder).map_err(step("looking at", folder))?;
        trusted(&folder)?;
        let path = folder.join(path.file_name().unwrap_or_default());
        let lock = lock(&path)?;
        clear(&path)?;
        let gid = gid(group);
        let listener = open(&path, gid)?;
        Ok(Self { path, listener, _lock: lock, group: gid })
    }

    /// To accept from.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Whose members may connect.
    #[must_use]
    pub fn group(&self) -> Option<Gid> {
        self.group
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("removing {}: {error}", self.path.display());
        }
    }
}

/// Nobody but root may put something else in the place of a directory or of what is in it.
fn trusted(folder: &Path) -> Result<(), SocketError> {
    for (depth, path) in folder.ancestors().enumerate() {
        let metadata = fs::metadata(path).map_err(step("looking at", path))?;
        let refuse = |why| Err(SocketError::Unsafe { path: path.to_path_buf(), why });
        if metadata.uid() != 0 && metadata.uid() != Uid::effective().as_raw() {
            return refuse("does not belong to root");
        }
        // In a sticky directory above, what is root's cannot be moved away by others.
        let sticky = depth > 0 && metadata.mode() & libc::S_ISVTX != 0;
        if metadata.mode() & 0o002 != 0 && !sticky {
            return refuse("can be changed by everybody");
        }
        if metadata.mode() & 0o020 != 0 && metadata.gid() != 0 && !sticky {
            return refuse("can be changed by a group");
        }
    }
    Ok(())
}

/// The kernel lets go of it when the daemon ends, however it does.
fn lock(path: &Path) -> Result<Flock<File>, SocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let file = options.open(&path).map_err(step("opening", &path))?;
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, error)| {
        if error != nix::Error::EWOULDBLOCK {
            return step("locking", &path)(error.into());
        }
        let mut text = String::new();
        let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
        SocketError::Taken { path: path.clone(), pid }
    })?;
    let written =
        lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
    written.map_err(step("writing", &path))?;
    Ok(lock)
}

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(step("looking at", path)(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.into()));
        }
        Ok(_) => {}
    }
    // The lock file may have been removed.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Ok(_) => return Err(SocketError::Taken { path: path.into(), pid: None }),
        Err(error) => return Err(step("trying", path)(error)),
    }
    fs::remove_file(path).map_err(step("removing", path))
}

fn gid(group: &str) -> Option<Gid> {
    match Group::from_name(group) {
        Ok(Some(group)) => return Some(group.gid),
        Ok(None) => tracing::warn!("there is no group {group}: the socket is for root alone"),
        Err(error) => tracing::warn!("looking up group {group}: {error}: the socket is for root alone"),
    }
    None
}

/// Nobody can connect before `listen`, and by then the file's mode is set.
fn open(path: &Path, group: Option<Gid>) -> Result<UnixListener, SocketError> {
    let failed = |what| move |error: nix::Error| step(what, path)(error.into());
    let fd: OwnedFd =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
            .map_err(failed("making socket"))?;
    let address = UnixAddr::new(path.as_os_str().as_bytes()).map_err(failed("naming socket"))?;
    bind(fd.as_raw_fd(), &address).map_err(failed("binding"))?;
    let restricted = fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(step("setting the mode of", path))
        .and_then(|()| match group {
            None => Ok(()),
            Some(_) => {
                chown(path, None, group).map_err(failed("giving to the group"))?;
                let mode = fs::Permissions::from_mode(0o660);
                fs::set_permissions(path, mode).map_err(step("setting the mode of", path))
            }
        })
        .and_then(|()| {
            let backlog = Backlog::new(BACKLOG).map_err(failed("listening on"))?;
            listen(&fd, backlog).map_err(failed("listening on"))
        });
    if let Err(error) = restricted {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(UnixListener::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODYS: &str = "no-such-group";

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn without_the_group_it_is_roots_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/api.sock");
        let socket = Socket::bind(&path, NOBODYS).unwrap();
        assert_eq!((mode(&path), socket.group()), (0o600, None));
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn the_group_may_connect() {
        let own = Group::from_gid(Gid::effective()).unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let socket = Socket::bind(&path, &own.name).unwrap();
        assert_eq!((mode(&path), socket.group()), (0o660, Some(own.gid)));
        assert_eq!(fs::metadata(&path).unwrap().gid(), own.gid.as_raw());
    }

    #[test]
    fn a_second_daemon_is_refused_and_a_dead_ones_socket_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        // A socket whose owner is dead.
        drop(UnixListener::bind(&path).unwrap());
        let first = Socket::bind(&path, NOBODYS).unwrap();
        let refused = Socket::bind(&path, NOBODYS).unwrap_err();
        let SocketError::Taken { pid, .. } = &refused else { panic!("{refused}") };
        assert_eq!(*pid, Some(std::process::id()));
        assert!(UnixStream::connect(&path).is_ok(), "the first one's is untouched");
        drop(first);
        assert!(Socket::bind(&path, NOBODYS).is_ok());
    }

    #[test]
    fn what_somebody_else_listens_on_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let other = UnixListener::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path, NOBODYS), Err(SocketError::Taken { pid: None, .. })));
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path, NOBODYS), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn directories_that_others_can_change_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        for mode in [0o777, 0o1777] {
            fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
            let refused = Socket::bind(&open.join("api.sock"), NOBODYS).unwrap_err();
            assert!(matches!(refused, SocketError::Unsafe { .. }), "{refused}");
        }
        let below = open.join("below");
        fs::create_dir(&below).unwrap();
        assert!(Socket::bind(&below.join("api.sock"), NOBODYS).is_ok(), "sticky above");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Socket::bind(&below.join("api.sock"), NOBODYS).is_err());
    }

    #[test]
    fn others_directories_are_refused() {
        if !Uid::effective().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        chown(folder.path(), Some(Uid::from_raw(1000)), None).unwrap();
        let refused = Socket::bind(&folder.path().join("api.sock"), NOBODYS).unwrap_err();
        assert!(refused.to_string().contains("does not belong to root"), "{refused}");
    }
}
