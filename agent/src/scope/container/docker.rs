//! Docker: `containers/ID/config.v2.json`, which is written when the container is created, before it has a cgroup.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Container, Description, Inspector, MAX_STATE, StateError, first_of};
use crate::scope::trusted::{self, Links};

/// Where Debian's and Docker's own packages, and the snap, keep the state.
const PLACES: [&str; 2] = ["/var/lib/docker", "/var/snap/docker/common/var-lib-docker"];
const DAEMON: &str = "/etc/docker/daemon.json";

#[derive(Deserialize, Default)]
#[serde(default)]
struct Daemon {
    #[serde(rename = "data-root")]
    data_root: Option<PathBuf>,
    /// As it was called before 17.05.
    graph: Option<PathBuf>,
}

#[derive(Deserialize)]
struct State {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Image", default)]
    image: Option<String>,
    #[serde(rename = "Config")]
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "Image", default)]
    image: Option<String>,
    #[serde(rename = "Labels", default)]
    labels: Option<HashMap<String, String>>,
}

pub(super) fn describe(inspector: &Inspector, container: &Container) -> Result<Description, StateError> {
    let (owner, places) = match inspector.user_home(container)? {
        Some((user, home)) => (user, vec![home.join(".local/share/docker")]),
        None => (inspector.owner, places(inspector)?),
    };
    first_of(container, &with_remapped(places), |place| {
        let path = place.join("containers").join(&container.id).join("config.v2.json");
        let bytes = trusted::read(&path, owner, Links::RefuseLast(3), MAX_STATE)?;
        let malformed = |why: String| StateError::Malformed { path: path.clone(), why };
        let State { id, name, image, config } =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        if id != container.id {
            return Err(malformed(format!("is about container {id:?}")));
        }
        Ok(Some(Description {
            names: vec![name.trim_start_matches('/').to_owned()],
            images: config.image.into_iter().chain(image).collect(),
            labels: config.labels.unwrap_or_default(),
            annotations: HashMap::new(),
        }))
    })
}

fn places(inspector: &Inspector) -> Result<Vec<PathBuf>, StateError> {
    let path = inspector.path(DAEMON);
    let configured = match trusted::read(&path, inspector.owner, Links::Follow, MAX_STATE) {
        Ok(bytes) => {
            let Daemon { data_root, graph } = serde_json::from_slice(&bytes)
                .map_err(|error| StateError::Malformed { path, why: error.to_string() })?;
            data_root.or(graph)
        }
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error.into()),
    };
    let all = configured.into_iter().chain(PLACES.map(PathBuf::from));
    Ok(all.map(|place| inspector.path(place)).collect())
}

/// With `userns-remap` the state is in `UID.GID` below.
fn with_remapped(places: Vec<PathBuf>) -> Vec<PathBuf> {
    let is_remapped = |path: &Path| {
        let parts = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('.'));
        parts.is_some_and(|(uid, gid)| uid.parse::<u32>().is_ok() && gid.parse::<u32>().is_ok())
    };
    let mut all = Vec::new();
    for place in places {
        let below = std::fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut below: Vec<PathBuf> = below.filter(|path| is_remapped(path)).collect();
        below.sort();
        all.push(place);
        all.append(&mut below);
    }
    all
}
