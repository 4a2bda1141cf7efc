//! Whom the command runs as.

use std::{env, fs};

/// A user, with what the kernel and the environment need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Name, or the id as text.
    pub name: String,
    /// Home directory, `/` if unknown.
    pub home: String,
}

/// The user asked for, or who called sudo; `None`: whoever we are.
///
/// # Errors
/// A name that is not in `/etc/passwd`.
pub fn target(asked: Option<&str>) -> Result<Option<User>, String> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    let sudo = || env::var("SUDO_UID").ok().filter(|uid| uid != "0");
    match asked.map(str::to_owned).or_else(sudo) {
        None => Ok(None),
        Some(name) => find(&name, &passwd, &group)
            .map(Some)
            .ok_or_else(|| format!("there is no user {name:?} in /etc/passwd")),
    }
}

/// By name or id; an id without an entry stands for itself.
fn find(name: &str, passwd: &str, group: &str) -> Option<User> {
    let id: Option<u32> = name.parse().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let uid: u32 = fields.get(2)?.parse().ok()?;
        if fields[0] != name && Some(uid) != id {
            return None;
        }
        let gid = fields.get(3)?.parse().ok()?;
        let home = fields.get(5).copied().unwrap_or("/").to_owned();
        Some(User { uid, gid, groups: Vec::new(), name: fields[0].to_owned(), home })
    });
    let mut user = match (entry, id) {
        (Some(user), _) => user,
        (None, Some(uid)) => {
            User { uid, gid: uid, groups: Vec::new(), name: name.to_owned(), home: "/".into() }
        }
        (None, None) => return None,
    };
    user.groups = group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let member = fields.get(3)?.split(',').any(|member| member == user.name);
            member.then(|| fields[2].parse().ok())?
        })
        .collect();
    user.groups.push(user.gid);
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_id() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nci:x:1000:1001::/home/ci:/bin/sh\n";
        let group = "docker:x:99:ci,other\n";
        let ci = find("ci", passwd, group).unwrap();
        assert_eq!(
            (ci.uid, ci.gid, ci.groups.as_slice(), ci.home.as_str()),
            (1000, 1001, &[99, 1001][..], "/home/ci")
        );
        assert_eq!(find("1000", passwd, group), Some(ci));
        assert_eq!(find("4242", passwd, group).map(|user| user.gid), Some(4242));
        assert_eq!(find("nobody", passwd, group), None);
    }
}
