//! Which container a cgroup is, by its path, and what it is called, by what its runtime keeps on disk.
//!
//! State is believed only if nobody but root can have written it. A user's own containers are in the user's files: their
//! names and labels are what the user says, and count for a rule only if it says `rootless = true`.

mod docker;
mod lxc;
mod podman;

use std::{
    collections::HashMap,
    fmt,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{
    matcher::{Belongs, Holds, Matcher},
    trusted::Untrusted,
};
use crate::policy::{
    globs::name_matches,
    scope::{ContainerRule, KeyValue, Runtime},
};

/// Longest file of a runtime that is read.
const MAX_STATE: u64 = 16 << 20;
/// Digits of an id.
const ID_LENGTH: usize = 64;

/// What runs a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// LXC.
    Lxc,
}

/// A container, as its cgroup's path shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// What runs it.
    pub kind: Kind,
    /// Its id; of LXC the name in the path.
    pub id: String,
    /// The user whose own it is; `None` if it is root's.
    pub user: Option<u32>,
    /// It is in another container, whose files hold its state.
    pub nested: bool,
}

/// What its runtime keeps about a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// What it may be called: more than one only if that is not certain.
    pub names: Vec<String>,
    /// Names of the image: as it was given, and by content.
    pub images: Vec<String>,
    /// Labels, of Docker.
    pub labels: HashMap<String, String>,
    /// Annotations, of Podman.
    pub annotations: HashMap<String, String>,
}

/// What is known of a container cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file is missing or not to be trusted.
    #[error("{0}")]
    Untrusted(#[from] Untrusted),
    /// A file says something else than it should.
    #[error("{path}: {why}", path = path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The container is in none of the places.
    #[error("no state of {kind} container {id} in {places}")]
    Missing {
        /// Its runtime.
        kind: Kind,
        /// Its id.
        id: String,
        /// Where it was looked for.
        places: String,
    },
    /// A user without a home.
    #[error("user {0} has no home directory that is known")]
    NoHome(u32),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
            Self::Lxc => "LXC",
        })
    }
}

/// The innermost container a cgroup is, or is in.
#[must_use]
pub fn identify(cgroup: &Path) -> Option<Container> {
    let names: Vec<&[u8]> =
        cgroup.as_os_str().as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    let mut found: Option<Container> = None;
    let mut user = None;
    for (depth, name) in names.iter().enumerate() {
        if found.is_none() {
            user = owner(name).or(user);
        }
        let parent = depth.checked_sub(1).map(|above| names[above]);
        if let Some((kind, id)) = component(name, parent, depth) {
            let nested = found.is_some();
            found = Some(Container { kind, id, user: user.filter(|user| *user != 0), nested });
        }
    }
    found
}

/// The user whose processes systemd keeps in a cgroup of this name.
fn owner(name: &[u8]) -> Option<u32> {
    let between = |start: &str, end: &str| name.strip_prefix(start.as_bytes())?.strip_suffix(end.as_bytes());
    let digits = between("user-", ".slice").or_else(|| between("user@", ".service"))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn component(name: &[u8], parent: Option<&[u8]>, depth: usize) -> Option<(Kind, String)> {
    let name = std::str::from_utf8(name).ok()?;
    let is_id =
        |id: &&str| id.len() == ID_LENGTH && id.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let id = |id: Option<&str>| id.filter(is_id).map(str::to_owned);
    if let Some(rest) = name.strip_prefix("docker-") {
        return id(rest.strip_suffix(".scope")).map(|id| (Kind::Docker, id));
    }
    if let Some(rest) = name.strip_prefix("libpod-") {
        let rest = rest.strip_prefix("payload-").unwrap_or(rest);
        return id(Some(rest.strip_suffix(".scope").unwrap_or(rest))).map(|id| (Kind::Podman, id));
    }
    if let Some(rest) = name.strip_prefix("lxc.payload.") {
        return (!rest.is_empty()).then(|| (Kind::Lxc, rest.to_owned()));
    }
    match parent {
        Some(b"docker") => id(Some(name)).map(|id| (Kind::Docker, id)),
        Some(b"lxc.payload") => Some((Kind::Lxc, name.to_owned())),
        Some(b"lxc") if depth == 1 => Some((Kind::Lxc, name.to_owned())),
        _ => None,
    }
}

/// Reads the state of the runtimes of this host.
pub struct Inspector {
    /// What is `/`: another directory in tests.
    root: PathBuf,
    /// Whose state is believed, beside root's: root.
    owner: u32,
    home: Box<dyn Fn(u32) -> Option<PathBuf> + Send + Sync>,
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { root, owner, home: _ } = self;
        f.debug_struct("Inspector").field("root", root).field("owner", owner).finish_non_exhaustive()
    }
}

impl Default for Inspector {
    fn default() -> Self {
        let home = |uid| {
            let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok()??;
            user.dir.is_absolute().then_some(user.dir)
        };
        Self { root: "/".into(), owner: 0, home: Box::new(home) }
    }
}

impl Inspector {
    /// Where a cgroup belongs, with what the state of containers says.
    #[must_use]
    pub fn belongs(&self, matcher: &Matcher, cgroup: &Path) -> Belongs {
        matcher.match_path(cgroup).decide(|found| match matcher.container_rule(found) {
            Some(rule) => self.holds(rule, &found.cgroup),
            None => Holds::Yes,
        })
    }

    /// Whether a cgroup is the container a rule asks for.
    #[must_use]
    pub fn holds(&self, rule: &ContainerRule, cgroup: &Path) -> Holds {
        let Some(container) = identify(cgroup) else { return Holds::No };
        let is_kind = match rule.runtime {
            Runtime::Any => true,
            Runtime::Docker => container.kind == Kind::Docker,
            Runtime::Podman => container.kind == Kind::Podman,
            Runtime::Lxc => container.kind == Kind::Lxc,
        };
        if !is_kind {
            return Holds::No;
        }
        if rule.conditions() == 0 {
            return Holds::Yes;
        }
        // The state of a container in a container is the outer one's to write.
        if container.nested || (container.user.is_some() && !rule.rootless) {
            return Holds::No;
        }
        match self.describe(&container, rule.annotation.is_some()) {
            Ok(description) => description.fits(rule),
            Err(error) => Holds::Unknown(error.to_string()),
        }
    }

    /// What its runtime keeps about a container; annotations are read only where they are asked for.
    ///
    /// # Errors
    /// If there is nothing, it is not to be trusted, or cannot be understood.
    pub fn describe(&self, container: &Container, annotations: bool) -> Result<Description, StateError> {
        match container.kind {
            Kind::Docker => docker::describe(self, container),
            Kind::Podman => podman::describe(self, container, annotations),
            Kind::Lxc => lxc::describe(self, container),
        }
    }

    /// A path of the host.
    fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// The user whose files are read, and where the user's files are; `None` for root.
    fn user_home(&self, container: &Container) -> Result<Option<(u32, PathBuf)>, StateError> {
        container
            .user
            .map(|user| (self.home)(user).map(|home| (user, self.path(home))).ok_or(StateError::NoHome(user)))
            .transpose()
    }
}

impl Description {
    /// Whether it is what a rule asks for. Of more than one name all must say the same.
    fn fits(&self, rule: &ContainerRule) -> Holds {
        let Self { names, images, labels, annotations } = self;
        let glob = |glob: &Option<String>, texts: &[String]| {
            glob.as_ref()
                .is_none_or(|glob| texts.iter().any(|text| name_matches(glob.as_bytes(), text.as_bytes())))
        };
        let has = |wanted: &Option<KeyValue>, map: &HashMap<String, String>| {
            wanted.as_ref().is_none_or(|KeyValue { key, value }| {
                map.get(key).is_some_and(|is| value.as_ref().is_none_or(|value| value == is))
            })
        };
        let rest =
            glob(&rule.image, images) && has(&rule.label, labels) && has(&rule.annotation, annotations);
        if !rest || !glob(&rule.name, names) {
            return Holds::No;
        }
        if names.iter().all(|name| glob(&rule.name, std::slice::from_ref(name))) {
            return Holds::Yes;
        }
        Holds::Unknown(format!("it is called one of {}", names.join(", ")))
    }
}

/// Which of several places has what is looked for: the first that has it, or what was wrong with one.
fn first_of<T>(
    container: &Container,
    places: &[PathBuf],
    mut look: impl FnMut(&Path) -> Result<Option<T>, StateError>,
) -> Result<T, StateError> {
    for place in places {
        match look(place) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(StateError::Untrusted(error)) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    Err(StateError::Missing { kind: container.kind, id: container.id.clone(), places: places.join(", ") })
}

#[cfg(test)]
mod tests;
