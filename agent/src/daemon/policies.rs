//! A policy for what a mount table shows, ready to be put into the kernel.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    audit::{
        digest::{digest, mode_name},
        json::{Context, PolicyId},
    },
    gates::Names,
    policy::{
        checked::CheckedPolicy, compile, diagnostic::Diagnostics, follow, image::MapImage, mounts::MountTable,
    },
};

/// Mounts as a process sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Inode number of its mount namespace.
    pub namespace: u32,
    /// The mounts.
    pub mounts: MountTable,
    /// As the kernel gave it.
    text: Vec<u8>,
    /// Where its root directory can be reached from here.
    root: PathBuf,
}

/// A policy compiled for a view.
#[derive(Debug)]
pub struct Compiled {
    /// For the kernel.
    pub image: MapImage,
    /// For events.
    pub context: Context,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// What is the same for all events of a boot.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The kernel's id of this boot.
    pub id: String,
    /// Wall-clock time of boot.
    pub time: SystemTime,
    /// For what names addresses were allowed.
    pub names: Names,
}

impl View {
    /// What a process sees. It should stand still, or be trusted to.
    ///
    /// # Errors
    /// If it is gone, or its mounts cannot be understood.
    pub fn of(pid: u32) -> io::Result<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let namespace = namespace(&process)?;
        let text = fs::read(process.join("mountinfo"))?;
        let mounts = MountTable::parse(&text).map_err(io::Error::other)?;
        // It may have gone into another while we read.
        if self::namespace(&process)? != namespace {
            return Err(io::Error::other("the process changes its mount namespace"));
        }
        Ok(Self { namespace, mounts, text, root: process.join("root") })
    }

    /// The same mounts, whatever the process sees by now, with links read below its root. `None`: it is in another mount
    /// namespace.
    #[must_use]
    pub fn through(&self, pid: u32) -> Option<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let same = namespace(&process).is_ok_and(|namespace| namespace == self.namespace);
        same.then(|| Self { root: process.join("root"), ..self.clone() })
    }

    /// Writes it down for a later daemon: what the workload mounts until then must not count.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut text = format!("{}\n", self.namespace).into_bytes();
        text.extend(&self.text);
        fs::write(path, text)
    }

    /// What [`Self::save`] has written. Its links cannot be read until it is looked at [through](Self::through) a process.
    ///
    /// # Errors
    /// If there is none, or it cannot be understood.
    pub fn load(path: &Path) -> io::Result<Self> {
        let text = fs::read(path)?;
        let end = text.iter().position(|byte| *byte == b'\n').ok_or(io::ErrorKind::InvalidData)?;
        let number = std::str::from_utf8(&text[..end]).ok().and_then(|number| number.parse().ok());
        let namespace = number.ok_or(io::ErrorKind::InvalidData)?;
        let text = text[end + 1..].to_vec();
        let mounts = MountTable::parse(&text).map_err(io::Error::other)?;
        Ok(Self { namespace, mounts, text, root: PathBuf::from("/proc/self/fdinfo/none") })
    }

    /// Whether a policy compiled for one holds for the other: links and mounts are the same.
    #[must_use]
    pub fn shows_the_same(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.mounts == other.mounts
    }

    /// The process it is seen through.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let process = self.root.parent()?.strip_prefix("/proc").ok()?;
        process.to_str()?.parse().ok()
    }

    /// Whether what its root directory shows can still be read: the process may have ended.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let process = self.root.parent();
        process.and_then(|process| namespace(process).ok()) == Some(self.namespace)
    }

    /// Compiles a policy for it.
    ///
    /// # Errors
    /// Links that cannot be followed, tables that are too small: what is wrong, with the place.
    pub fn compile(&self, scope: &str, policy: &CheckedPolicy, boot: &Boot) -> Result<Compiled, Diagnostics> {
        let mut policy = policy.clone();
        // Of what was written: where links lead differs between views.
        let digest = digest(&policy);
        let read_link = |path: &[u8]| read_link(&self.root, path);
        let warnings = follow::follow(&mut policy, &self.mounts, &read_link)?;
        let (image, _) = compile::compile(&policy, &self.mounts)
            .map_err(|error| Diagnostics::plain(&policy.name, error.to_string(), None))?;
        let context = Context {
            policy: PolicyId { name: policy.name.clone(), digest, mode: mode_name(policy.mode) },
            rules: image.rules.clone(),
            mounts: self.mounts.clone(),
            boot_id: boot.id.clone(),
            boot_time: boot.time,
            scope: Some(scope.to_owned()),
            names: boot.names.clone(),
        };
        let warnings = warnings.into_iter().map(|warning| Diagnostics(vec![warning]).to_string()).collect();
        Ok(Compiled { image, context, warnings })
    }
}

/// Inode number of a process's mount namespace.
///
/// # Errors
/// If it is gone.
pub fn namespace_of(pid: u32) -> io::Result<u32> {
    namespace(&PathBuf::from(format!("/proc/{pid}")))
}

fn namespace(process: &Path) -> io::Result<u32> {
    let link = fs::read_link(process.join("ns/mnt"))?;
    let text = link.to_string_lossy();
    let number =
        text.strip_prefix("mnt:[").and_then(|rest| rest.strip_suffix(']')).and_then(|n| n.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("{text} is no mount namespace")))
}

/// Where a symbolic link leads that is below `root`. What is before its last component has been followed already.
fn read_link(root: &Path, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let path = root.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
    match fs::read_link(path) {
        Ok(target) => Ok(Some(target.into_os_string().into_vec())),
        // No link; nothing there; a component before it is no directory; longer than any name can be.
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL | libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_read_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        symlink("/etc/real", root.path().join("link")).unwrap();
        assert_eq!(read_link(root.path(), b"/link").unwrap(), Some(b"/etc/real".to_vec()));
        assert_eq!(read_link(root.path(), b"/missing").unwrap(), None);
        assert_eq!(read_link(root.path(), b"/").unwrap(), None);
    }

    #[test]
    fn a_view_is_the_same_when_it_was_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("7");
        let own = View::of(std::process::id()).unwrap();
        own.save(&path).unwrap();
        let loaded = View::load(&path).unwrap();
        assert!(own.shows_the_same(&loaded) && !loaded.is_there());
        assert_eq!(loaded.through(std::process::id()), Some(own));
        assert_eq!(loaded.through(u32::MAX / 4), None);
        fs::write(&path, "no number\n").unwrap();
        assert!(View::load(&path).is_err());
    }

    #[test]
    fn a_process_sees_its_own_mounts() {
        let own = View::of(std::process::id()).unwrap();
        assert!(own.namespace > 0 && !own.mounts.mounts.is_empty() && own.is_there());
        let gone = View { root: "/proc/4294967295/root".into(), ..own };
        assert!(!gone.is_there());
        assert!(View::of(u32::MAX / 4).is_err());
    }
}
