//! A directory for temporary files that only one run uses, and that goes with it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use super::user::User;

/// Where it is to be: a free name below the system's directory for temporary files; `None` if there is no such directory.
///
/// # Errors
/// If that cannot be looked at.
pub fn name() -> io::Result<Option<PathBuf>> {
    match fs::canonicalize(std::env::temp_dir()) {
        // Nobody can guess it, so nobody can have made it before.
        Ok(base) => Ok(Some(base.join(format!("stockade-{:032x}", rand::random::<u128>())))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// One that was made. It is removed with all that is in it when this is dropped.
#[derive(Debug)]
pub struct PrivateTmp {
    path: PathBuf,
}

impl PrivateTmp {
    /// Makes it, for a user alone: of whoever we are, if none is named.
    ///
    /// # Errors
    /// If it cannot be made, or there is something of that name.
    pub fn create(path: &Path, user: Option<&User>) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(path)?;
        let made = Self { path: path.to_path_buf() };
        let directory = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)?;
        let owner = directory.metadata()?.uid();
        if owner != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::other("somebody else has put another directory there"));
        }
        // The mask may have taken rights of the owner away.
        directory.set_permissions(fs::Permissions::from_mode(0o700))?;
        if let Some(user) = user.filter(|user| user.uid != owner) {
            fchown(&directory, Some(user.uid), Some(user.gid))?;
        }
        Ok(made)
    }

    /// What programs are told of it.
    #[must_use]
    pub fn environment(path: &Path) -> [(&'static str, &Path); 3] {
        ["TMPDIR", "TMP", "TEMP"].map(|name| (name, path))
    }
}

impl Drop for PrivateTmp {
    fn drop(&mut self) {
        // Follows no link, neither in it nor in its place, whoever changes it meanwhile.
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!("stockade: removing {}: {error}", self.path.display());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_for_its_owner_alone_and_goes_without_what_its_links_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("tmp"), folder.path().join("other"));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "").unwrap();
        let tmp = PrivateTmp::create(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(PrivateTmp::create(&path, None).is_err(), "not one that is there");
        fs::create_dir(path.join("below")).unwrap();
        std::os::unix::fs::symlink(&other, path.join("below/link")).unwrap();
        drop(tmp);
        assert!(!path.exists() && other.join("kept").exists());
    }

    #[test]
    fn a_link_in_its_place_is_removed_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("tmp"), folder.path().join("other"));
        let tmp = PrivateTmp::create(&path, None).unwrap();
        fs::rename(&path, &other).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        fs::write(other.join("kept"), "").unwrap();
        drop(tmp);
        assert!(fs::symlink_metadata(&path).is_err() && other.join("kept").exists());
    }

    #[test]
    fn names_are_never_the_same() {
        assert_ne!(name().unwrap(), name().unwrap());
    }
}
