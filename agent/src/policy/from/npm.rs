//! npm: `.npmrc` of the project, the user and the host, `npm_config_registry`, package-lock.json; where these name no registry,
//! what `npm config get registry` prints.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Search, at, broken, ini};
use crate::policy::rule::Refusal;

pub(super) fn read(search: &mut Search<'_>) -> Result<(), Refusal> {
    let mut has_registry = false;
    for name in ["npm_config_registry", "NPM_CONFIG_REGISTRY"] {
        if let Some(value) = search.host.variable(name) {
            search.add(&value, name);
            has_registry = true;
        }
    }
    let user = search
        .host
        .variable("NPM_CONFIG_USERCONFIG")
        .or_else(|| search.host.variable("npm_config_userconfig"))
        .map(PathBuf::from)
        .or_else(|| search.home(".npmrc"));
    let mut files: Vec<PathBuf> =
        vec!["/etc/npmrc".into(), "/usr/etc/npmrc".into(), "/usr/local/etc/npmrc".into()];
    files.extend(user);
    files.extend(search.nearest("package.json")?.and_then(|(path, _)| Some(path.parent()?.join(".npmrc"))));
    files.push(search.host.folder().join(".npmrc"));
    files.dedup();
    for path in files {
        let Some(text) = search.text(&path)? else { continue };
        for entry in ini::entries(&text, false) {
            // `@scope:registry` is a registry for some packages.
            let is_default = entry.key == "registry";
            if is_default
                || entry.key.ends_with(":registry")
                || matches!(entry.key.as_str(), "proxy" | "https-proxy")
            {
                search.add(&expanded(search, &entry.value), &at(&path, entry.line));
                has_registry |= is_default;
            }
        }
    }
    for name in ["package-lock.json", "npm-shrinkwrap.json"] {
        if let Some((path, text)) = search.nearest(name)? {
            lock(search, &path, &text)?;
        }
    }
    if !has_registry && let Some(answer) = search.host.ask("npm", &["config", "get", "registry"]) {
        search.add(answer.trim(), "`npm config get registry`");
    }
    Ok(())
}

/// `${NAME}` is a variable.
fn expanded(search: &Search<'_>, value: &str) -> String {
    let (mut out, mut rest) = (String::new(), value);
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else { break };
        out.push_str(before);
        out.push_str(&search.host.variable(name).unwrap_or_default());
        rest = tail;
    }
    out + rest
}

/// Notes each `resolved`.
fn lock(search: &mut Search<'_>, path: &Path, text: &str) -> Result<(), Refusal> {
    let lock: Value = serde_json::from_str(text).map_err(|error| broken(path, error))?;
    let place = path.display().to_string();
    let mut todo = vec![&lock];
    while let Some(value) = todo.pop() {
        let Some(object) = value.as_object() else { continue };
        if let Some(url) = object.get("resolved").and_then(Value::as_str) {
            search.add(url, &place);
        }
        for key in ["packages", "dependencies"] {
            todo.extend(
                object.get(key).and_then(Value::as_object).into_iter().flat_map(|packages| packages.values()),
            );
        }
    }
    Ok(())
}
