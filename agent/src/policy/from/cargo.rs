//! cargo: config.toml (registries, source replacement, proxy), `CARGO_REGISTRIES_*_INDEX`, Cargo.lock; for the registry that
//! cargo has built in, what cargo has written down of it when it was used before.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{Search, broken, rules};
use crate::policy::rule::Refusal;

/// The name of the built-in registry, as configurations call it.
const BUILT_IN: &str = "crates-io";

pub(super) fn read(search: &mut Search<'_>) -> Result<(), Refusal> {
    let home = search.host.variable("CARGO_HOME").map(PathBuf::from).or_else(|| search.home(".cargo"));
    let mut folders: Vec<PathBuf> = search.folders().iter().map(|folder| folder.join(".cargo")).collect();
    folders.extend(home.clone());
    folders.dedup();
    // Indexes by URL, as the lock file has them; and whether something stands in for the built-in one.
    let (mut indexes, mut replaced) = (BTreeSet::new(), false);
    for folder in folders {
        for name in ["config.toml", "config"] {
            let path = folder.join(name);
            if let Some(text) = search.text(&path)? {
                replaced |= configuration(search, &path, &text, &mut indexes)?;
                break;
            }
        }
    }
    let replacement = "CARGO_REGISTRIES_CRATES_IO_INDEX";
    if let Some(url) = search.host.variable(replacement) {
        search.add(&url, replacement);
    }
    let mut needs_built_in = true;
    if let Some((path, text)) = search.nearest("Cargo.lock")? {
        needs_built_in = lock(search, &path, &text, &indexes)?;
    }
    let recorded = home.map(|home| home.join("registry/index"));
    for folder in recorded.into_iter().flat_map(|index| search.host.list(&index)) {
        if let Some((host, _)) =
            folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.rsplit_once('-'))
        {
            let is_known = search.found.iter().any(|found| found.rule.starts_with(&format!("{host}:")));
            if is_known || (needs_built_in && !replaced) {
                used_before(search, &folder, host)?;
            }
        }
    }
    Ok(())
}

/// Notes the registries of a configuration; whether the built-in one is replaced.
fn configuration(
    search: &mut Search<'_>,
    path: &Path,
    text: &str,
    indexes: &mut BTreeSet<String>,
) -> Result<bool, Refusal> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| broken(path, error.message()))?;
    let place = path.display().to_string();
    let tables = |key: &str| table.get(key).and_then(Value::as_table).into_iter().flatten();
    let text_of = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    for (_, registry) in tables("registries") {
        if let Some(url) = text_of(registry, "index") {
            search.add(&url, &place);
            indexes.insert(url);
        }
    }
    let mut replaced = false;
    for (name, source) in tables("source") {
        for key in ["registry", "git"] {
            if let Some(url) = text_of(source, key) {
                search.add(&url, &place);
                indexes.insert(url);
            }
        }
        replaced |= name == BUILT_IN
            && ["replace-with", "registry", "local-registry", "directory"]
                .iter()
                .any(|key| source.get(key).is_some());
    }
    if let Some(proxy) = table.get("http").and_then(|http| text_of(http, "proxy")) {
        let proxy = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
        search.add(&proxy, &place);
    }
    Ok(replaced)
}

/// Notes what the lock file names; whether it needs the built-in registry, which it calls by a name that is no place.
fn lock(
    search: &mut Search<'_>,
    path: &Path,
    text: &str,
    indexes: &BTreeSet<String>,
) -> Result<bool, Refusal> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| broken(path, error.message()))?;
    let packages = table.get("package").and_then(Value::as_array);
    let sources: BTreeSet<&str> = packages
        .into_iter()
        .flatten()
        .filter_map(|package| package.get("source").and_then(Value::as_str))
        .collect();
    let mut needs_built_in = false;
    for source in sources {
        match source.strip_prefix("registry+") {
            Some(url) if !indexes.contains(url) => needs_built_in = true,
            _ => search.add(source, &path.display().to_string()),
        }
    }
    Ok(needs_built_in)
}

/// A registry that was used before: `HOST-HASH/config.json` says where its packages are.
fn used_before(search: &mut Search<'_>, folder: &Path, host: &str) -> Result<(), Refusal> {
    let path = folder.join("config.json");
    let Some(text) = search.text(&path)? else { return Ok(()) };
    let config: serde_json::Value = serde_json::from_str(&text).map_err(|error| broken(&path, error))?;
    let place = path.display().to_string();
    if rules(&format!("https://{host}/")).first().is_some_and(|rule| rule.starts_with(host)) {
        search.add(&format!("https://{host}/"), &place);
    }
    if let Some(url) = config.get("dl").and_then(serde_json::Value::as_str) {
        search.add(url, &place);
    }
    Ok(())
}
