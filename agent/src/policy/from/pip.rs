//! pip and uv: `PIP_*` and `UV_*`, pip.conf, uv.toml, pyproject.toml, requirements files, uv.lock and pylock.toml; where
//! these are silent, the default that `pip install --help` prints.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Search, at, broken, ini};
use crate::policy::rule::Refusal;

/// Keys of pip.conf, and options of requirements files, that name hosts. Only the first takes the place of the default.
const KEYS: [&str; 3] = ["index-url", "extra-index-url", "find-links"];
const VARIABLES: [(&str, bool); 9] = [
    ("PIP_INDEX_URL", true),
    ("PIP_EXTRA_INDEX_URL", false),
    ("PIP_FIND_LINKS", false),
    ("PIP_PROXY", false),
    ("UV_INDEX_URL", true),
    ("UV_DEFAULT_INDEX", true),
    ("UV_EXTRA_INDEX_URL", false),
    ("UV_INDEX", false),
    ("UV_FIND_LINKS", false),
];

pub(super) fn read(search: &mut Search<'_>) -> Result<(), Refusal> {
    let mut has_index = false;
    for (name, is_index) in VARIABLES {
        let Some(value) = search.host.variable(name).filter(|value| !value.is_empty()) else { continue };
        for url in value.split_whitespace() {
            // uv lets an index have a name: `name=https://...`.
            search.add(
                url.split_once("=http").map_or(url.to_owned(), |(_, rest)| format!("http{rest}")).as_str(),
                name,
            );
        }
        has_index |= is_index;
    }
    for path in configurations(search) {
        let Some(text) = search.text(&path)? else { continue };
        for entry in ini::entries(&text, true) {
            if KEYS.contains(&entry.key.as_str()) || entry.key == "proxy" {
                for url in entry.value.split_whitespace() {
                    search.add(url, &at(&path, entry.line));
                }
                has_index |= entry.key == KEYS[0];
            }
        }
    }
    for name in ["requirements.txt", "requirements-dev.txt", "constraints.txt"] {
        let path = search.host.folder().join(name);
        if let Some(text) = search.text(&path)? {
            has_index |= requirements(search, &path, &text);
        }
    }
    has_index |= uv(search)?;
    for name in ["uv.lock", "pylock.toml"] {
        if let Some((path, text)) = search.nearest(name)? {
            let table: Table =
                text.parse().map_err(|error: toml::de::Error| broken(&path, error.message()))?;
            urls(search, &Value::Table(table), &path.display().to_string());
        }
    }
    if !has_index {
        let help = ["pip", "pip3"].into_iter().find_map(|pip| search.host.ask(pip, &["install", "--help"]));
        if let Some(url) = help.as_deref().and_then(default_index) {
            search.add(&url, "`pip install --help`");
        }
    }
    Ok(())
}

fn configurations(search: &Search<'_>) -> Vec<PathBuf> {
    let named = search.host.variable("PIP_CONFIG_FILE").map(PathBuf::from);
    let roots = search.host.variable("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".to_owned());
    let global = roots.split(':').map(|root| Path::new(root).join("pip/pip.conf"));
    let user = search
        .host
        .variable("XDG_CONFIG_HOME")
        .map(|root| Path::new(&root).join("pip/pip.conf"))
        .or_else(|| search.home(".config/pip/pip.conf"));
    let virtual_env = search.host.variable("VIRTUAL_ENV").map(|root| Path::new(&root).join("pip.conf"));
    global
        .chain([PathBuf::from("/etc/pip.conf")])
        .chain(search.home(".pip/pip.conf"))
        .chain(user)
        .chain(virtual_env)
        .chain(named)
        .collect()
}

/// Whether the default index is replaced.
fn requirements(search: &mut Search<'_>, path: &Path, text: &str) -> bool {
    let mut has_index = false;
    for (number, line) in text.lines().enumerate() {
        let place = at(path, number + 1);
        let line = line.split(" #").next().unwrap_or_default().trim();
        if let Some(option) = line.strip_prefix('-') {
            let (name, value) = option.split_once([' ', '=']).unwrap_or((option, ""));
            let is_index = matches!(name, "i" | "-index-url");
            if is_index || matches!(name, "-extra-index-url" | "f" | "-find-links") {
                search.add(value.trim(), &place);
                has_index |= is_index;
            }
        } else if let Some((_, url)) = line.split_once('@').filter(|(_, url)| url.contains("://")) {
            search.add(url.trim(), &place);
        } else if line.contains("://") {
            search.add(line, &place);
        }
    }
    has_index
}

/// uv's own configuration; whether the default index is replaced.
fn uv(search: &mut Search<'_>) -> Result<bool, Refusal> {
    let mut has_index = false;
    let user = search
        .host
        .variable("XDG_CONFIG_HOME")
        .map(|root| Path::new(&root).join("uv/uv.toml"))
        .or_else(|| search.home(".config/uv/uv.toml"));
    let mut files: Vec<(PathBuf, bool)> = vec![("/etc/uv/uv.toml".into(), false)];
    files.extend(user.map(|path| (path, false)));
    files.extend(search.nearest("uv.toml")?.map(|(path, _)| (path, false)));
    files.extend(search.nearest("pyproject.toml")?.map(|(path, _)| (path, true)));
    for (path, is_project) in files {
        let Some(text) = search.text(&path)? else { continue };
        let table: Table = text.parse().map_err(|error: toml::de::Error| broken(&path, error.message()))?;
        let table = if is_project {
            table.get("tool").and_then(|tool| tool.get("uv")).and_then(Value::as_table).cloned()
        } else {
            Some(table)
        };
        let Some(table) = table else { continue };
        let place = path.display().to_string();
        for key in ["index-url", "default-index", "extra-index-url", "find-links", "index"] {
            let Some(value) = table.get(key) else { continue };
            urls(search, value, &place);
            let is_default = |index: &Value| index.get("default").and_then(Value::as_bool) == Some(true);
            has_index |= matches!(key, "index-url" | "default-index")
                || value.as_array().is_some_and(|indexes| indexes.iter().any(is_default));
        }
        if let Some(pip) = table.get("pip") {
            urls(search, pip, &place);
        }
    }
    Ok(has_index)
}

/// Every string in a document that is a URL.
fn urls(search: &mut Search<'_>, value: &Value, place: &str) {
    match value {
        Value::String(text) if text.contains("://") => search.add(text, place),
        Value::Array(values) => values.iter().for_each(|value| urls(search, value, place)),
        Value::Table(table) => table.iter().for_each(|(_, value)| urls(search, value, place)),
        _ => {}
    }
}

/// Behind `--index-url` pip's help says what it is by default, broken over lines as wide as the terminal.
pub(super) fn default_index(help: &str) -> Option<String> {
    let (_, rest) = help.split_once("--index-url")?;
    let flowing = rest.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, rest) = flowing.split_once("(default")?;
    let (url, _) = rest.split_once(')')?;
    let url: String = url.split_whitespace().collect();
    let url = url.trim_start_matches(':').to_owned();
    url.contains("://").then_some(url)
}
