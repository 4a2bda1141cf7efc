//! Podman: `DRIVER-containers/containers.json` of containers/storage has names and images, and the OCI runtime's
//! `config.json` has annotations. Both are written before the container has a cgroup. Labels are in Podman's database
//! only, which is not read. Containers without an image (`--rootfs`) are not in storage.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Container, Description, Inspector, MAX_STATE, StateError, first_of};
use crate::scope::trusted::{self, Links};

const STORAGE: &str = "/var/lib/containers/storage";
/// Where containers are that are to be forgotten with the next boot (`transient_store`).
const RUN: &str = "/run/containers/storage";
/// The later one holds.
const CONFIGURATIONS: [&str; 2] = ["/usr/share/containers/storage.conf", "/etc/containers/storage.conf"];
const DRIVERS: [&str; 5] = ["overlay", "vfs", "btrfs", "zfs", "overlay2"];
/// Of `podman run`, and of `podman run --rm`.
const LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

#[derive(Deserialize, Default)]
#[serde(default)]
struct Configuration {
    storage: StorageTable,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StorageTable {
    graphroot: Option<PathBuf>,
    runroot: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    image: Option<String>,
    /// JSON in a string.
    #[serde(default)]
    metadata: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    #[serde(rename = "image-name")]
    image_name: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct OciConfig {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

pub(super) fn describe(
    inspector: &Inspector,
    container: &Container,
    annotations: bool,
) -> Result<Description, StateError> {
    let (owner, places) = match inspector.user_home(container)? {
        Some((user, home)) => {
            let run = inspector.path(format!("/run/user/{user}/containers"));
            (user, vec![home.join(".local/share/containers/storage"), run])
        }
        None => (inspector.owner, places(inspector)?),
    };
    let places: Vec<PathBuf> = places
        .iter()
        .flat_map(|place| DRIVERS.map(|driver| place.join(format!("{driver}-containers"))))
        .filter(|place| place.is_dir())
        .collect();
    let mut description = first_of(container, &places, |place| {
        for list in LISTS {
            match entry(&place.join(list), owner, &container.id) {
                Err(StateError::Untrusted(error)) if error.is_missing() => {}
                Ok(None) => {}
                found => return found,
            }
        }
        Ok(None)
    })?;
    if annotations {
        description.annotations = first_of(container, &places, |place| {
            let path = place.join(&container.id).join("userdata/config.json");
            let bytes = trusted::read(&path, owner, Links::RefuseLast(3), MAX_STATE)?;
            let config: OciConfig = serde_json::from_slice(&bytes)
                .map_err(|error| StateError::Malformed { path, why: error.to_string() })?;
            Ok(Some(config.annotations.unwrap_or_default()))
        })?;
    }
    Ok(description)
}

/// What a list says about a container.
fn entry(path: &Path, owner: u32, id: &str) -> Result<Option<Description>, StateError> {
    let bytes = trusted::read(path, owner, Links::RefuseLast(2), MAX_STATE)?;
    let malformed =
        |error: serde_json::Error| StateError::Malformed { path: path.into(), why: error.to_string() };
    let entries: Vec<Entry> = serde_json::from_slice(&bytes).map_err(malformed)?;
    let Some(Entry { id: _, names, image, metadata }) = entries.into_iter().find(|entry| entry.id == id)
    else {
        return Ok(None);
    };
    let metadata = metadata.filter(|text| !text.is_empty());
    let Metadata { image_name, name } =
        metadata.map(|text| serde_json::from_str(&text).map_err(malformed)).transpose()?.unwrap_or_default();
    Ok(Some(Description {
        // A container that was renamed has the new name in the list only.
        names: names.filter(|names| !names.is_empty()).unwrap_or_else(|| name.into_iter().collect()),
        images: image_name.into_iter().chain(image).collect(),
        ..Description::default()
    }))
}

fn places(inspector: &Inspector) -> Result<Vec<PathBuf>, StateError> {
    let (mut graph, mut run) = (None, None);
    for path in CONFIGURATIONS.map(|path| inspector.path(path)) {
        let bytes = match trusted::read(&path, inspector.owner, Links::Follow, MAX_STATE) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error.into()),
        };
        let malformed = |why: String| StateError::Malformed { path: path.clone(), why };
        let text = std::str::from_utf8(&bytes).map_err(|error| malformed(error.to_string()))?;
        let Configuration { storage } =
            toml::from_str(text).map_err(|error| malformed(error.message().to_owned()))?;
        graph = storage.graphroot.or(graph);
        run = storage.runroot.or(run);
    }
    let all = graph.into_iter().chain([STORAGE.into()]).chain(run).chain([RUN.into()]);
    Ok(all.map(|place: PathBuf| inspector.path(place)).collect())
}
