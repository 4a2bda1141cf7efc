//! LXC: the name is in the cgroup's path. Where it was taken LXC puts `-1`, `-2`, ... behind it, which a name may end in as
//! well: which of the two is a container tells the directory of its configuration.

use std::path::PathBuf;

use super::{Container, Description, Inspector, MAX_STATE, StateError};
use crate::scope::trusted::{self, Links};

const PLACE: &str = "/var/lib/lxc";
const CONFIGURATION: &str = "/etc/lxc/lxc.conf";

pub(super) fn describe(inspector: &Inspector, container: &Container) -> Result<Description, StateError> {
    let names: Vec<&str> =
        std::iter::once(container.id.as_str()).chain(without_number(&container.id)).collect();
    let (owner, place) = match inspector.user_home(container)? {
        Some((user, home)) => (user, home.join(".local/share/lxc")),
        None => (inspector.owner, place(inspector)?),
    };
    let mut known = Vec::new();
    for name in &names {
        match trusted::open(&place.join(name).join("config"), owner, Links::RefuseLast(2)) {
            Ok(_) => known.push((*name).to_owned()),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if known.is_empty() {
        // What is built on LXC keeps its state elsewhere: it may be either.
        known = names.into_iter().map(str::to_owned).collect();
    }
    Ok(Description { names: known, ..Description::default() })
}

/// `job` for `job-1`.
fn without_number(name: &str) -> Option<&str> {
    let (stem, number) = name.rsplit_once('-')?;
    (!stem.is_empty() && !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
        .then_some(stem)
}

fn place(inspector: &Inspector) -> Result<PathBuf, StateError> {
    let path = inspector.path(CONFIGURATION);
    let bytes = match trusted::read(&path, inspector.owner, Links::Follow, MAX_STATE) {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(inspector.path(PLACE)),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut values = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("lxc.lxcpath")?.trim_start().strip_prefix('='));
    Ok(inspector.path(values.next_back().map_or(PLACE, str::trim)))
}
