//! Whom the command runs as.

use std::{
    env,
    ffi::{CString, OsString},
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
};

use nix::unistd::{self, Gid, Uid, getgrouplist};

/// A user, with what the kernel and the environment need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one among them.
    pub groups: Vec<u32>,
    /// Name, or the id as text.
    pub name: String,
    /// Home directory, `/` if unknown.
    pub home: PathBuf,
    /// Shell, `/bin/sh` if unknown.
    pub shell: PathBuf,
}

/// Whom the environment says that sudo was called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group the caller had, which need not be the one in the user database.
    pub gid: Option<u32>,
}

/// Why nobody can be named.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// Neither a name nor an id.
    #[error("there is no user {0:?}")]
    Unknown(String),
    /// sudo's environment is not as sudo sets it.
    #[error("{0}={1:?} is not an id: was it set by sudo?")]
    Environment(&'static str, String),
    /// The user database could not be asked.
    #[error("looking up user {0}: {1}")]
    Lookup(String, nix::Error),
}

/// Who called sudo; `None` without sudo, or if root did.
///
/// # Errors
/// If the environment is not as sudo sets it.
pub fn caller() -> Result<Option<Caller>, UserError> {
    let variable = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    from_sudo(variable("SUDO_UID"), variable("SUDO_GID"))
}

fn from_sudo(uid: Option<String>, gid: Option<String>) -> Result<Option<Caller>, UserError> {
    let number = |name, value: Option<String>| {
        value.map(|value| value.parse().map_err(|_| UserError::Environment(name, value))).transpose()
    };
    let gid = number("SUDO_GID", gid)?;
    Ok(number("SUDO_UID", uid)?.filter(|uid| *uid != 0).map(|uid| Caller { uid, gid }))
}

/// The user asked for, or else who called sudo; `None`: whoever we are.
///
/// # Errors
/// A name that there is not.
pub fn target(asked: Option<&str>, caller: Option<Caller>) -> Result<Option<User>, UserError> {
    match (asked, caller) {
        (Some(name), _) => {
            let entry = match name.parse() {
                Ok(uid) => unistd::User::from_uid(Uid::from_raw(uid)),
                Err(_) => unistd::User::from_name(name),
            };
            let entry = entry.map_err(|error| UserError::Lookup(name.into(), error))?;
            match (entry, name.parse()) {
                (Some(entry), _) => known(entry, None).map(Some),
                // Containers run as ids that no database knows.
                (None, Ok(uid)) => Ok(Some(unknown(uid, uid))),
                (None, Err(_)) => Err(UserError::Unknown(name.into())),
            }
        }
        (None, Some(Caller { uid, gid })) => {
            let entry = unistd::User::from_uid(Uid::from_raw(uid))
                .map_err(|error| UserError::Lookup(uid.to_string(), error))?;
            match entry {
                Some(entry) => known(entry, gid).map(Some),
                None => Ok(Some(unknown(uid, gid.unwrap_or(uid)))),
            }
        }
        (None, None) => Ok(None),
    }
}

/// Groups as `initgroups` sets them; one in the user database that another has taken the place of is kept.
fn known(entry: unistd::User, gid: Option<u32>) -> Result<User, UserError> {
    let gid = gid.map_or(entry.gid, Gid::from_raw);
    let failed = |error| UserError::Lookup(entry.name.clone(), error);
    let name = CString::new(entry.name.as_str()).map_err(|_| failed(nix::Error::EINVAL))?;
    let mut groups = getgrouplist(&name, gid).map_err(failed)?;
    if !groups.contains(&entry.gid) {
        groups.push(entry.gid);
    }
    Ok(User {
        uid: entry.uid.as_raw(),
        gid: gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
        name: entry.name,
        home: entry.dir,
        shell: entry.shell,
    })
}

fn unknown(uid: u32, gid: u32) -> User {
    User { uid, gid, groups: vec![gid], name: uid.to_string(), home: "/".into(), shell: "/bin/sh".into() }
}

/// Environment that goes with a user: theirs set, sudo's removed, as the command no longer runs through it.
#[must_use]
pub fn environment(user: &User) -> (Vec<(&'static str, OsString)>, [&'static str; 4]) {
    let name = OsString::from_vec(user.name.clone().into_bytes());
    let set = vec![
        ("HOME", user.home.clone().into()),
        ("SHELL", user.shell.clone().into()),
        ("USER", name.clone()),
        ("LOGNAME", name),
    ];
    (set, ["SUDO_COMMAND", "SUDO_USER", "SUDO_UID", "SUDO_GID"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_names_its_caller() {
        let of = |uid: &str, gid: Option<&str>| from_sudo(Some(uid.into()), gid.map(str::to_owned));
        assert_eq!(of("1000", Some("44")), Ok(Some(Caller { uid: 1000, gid: Some(44) })));
        assert_eq!(of("0", Some("0")), Ok(None), "root who calls sudo stays root");
        assert_eq!(from_sudo(None, None), Ok(None));
        assert_eq!(of("me", None), Err(UserError::Environment("SUDO_UID", "me".into())));
        assert_eq!(of("-1", None), Err(UserError::Environment("SUDO_UID", "-1".into())));
    }

    #[test]
    fn users_are_found_by_name_and_id() {
        let root = target(Some("root"), None).unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(target(Some("0"), None), Ok(Some(root)));
        assert_eq!(target(Some("no-such-user"), None), Err(UserError::Unknown("no-such-user".into())));
        assert_eq!(target(None, None), Ok(None));
    }

    #[test]
    fn the_callers_group_is_kept() {
        let caller = Caller { uid: 4_242_424, gid: Some(44) };
        let user = target(None, Some(caller)).unwrap().unwrap();
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (4_242_424, 44, &[44][..]));
        let known = target(None, Some(Caller { uid: 0, gid: Some(44) })).unwrap().unwrap();
        assert_eq!(known.gid, 44);
        assert!(known.groups.contains(&44) && known.groups.contains(&0));
    }
}
