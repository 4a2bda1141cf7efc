//! apt: sources.list, sources.list.d in both forms, lists of mirrors, and the proxy of `apt-config dump`.

use std::path::{Path, PathBuf};

use super::{Search, at};
use crate::policy::rule::Refusal;

pub(super) fn read(search: &mut Search<'_>) -> Result<(), Refusal> {
    let mut files: Vec<PathBuf> = vec!["/etc/apt/sources.list".into()];
    files.extend(search.host.list(Path::new("/etc/apt/sources.list.d")));
    for path in files {
        let urls = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => lines as fn(&str) -> Vec<(String, usize)>,
            Some("sources") => stanzas,
            _ => continue,
        };
        let Some(text) = search.text(&path)? else { continue };
        for (url, line) in urls(&text) {
            source(search, &url, &at(&path, line))?;
        }
    }
    if search.found.is_empty() {
        return Ok(());
    }
    let dump = search.host.ask("apt-config", &["dump"]).unwrap_or_default();
    for line in dump.lines().filter(|line| line.starts_with("Acquire::http")) {
        if let Some((key, value)) = line.split_once(' ').filter(|(key, _)| key.contains("::Proxy")) {
            search.add(value.trim_matches(['"', ';']), &format!("`apt-config dump` ({key})"));
        }
    }
    Ok(())
}

/// A source's address, or the list of addresses that it names.
fn source(search: &mut Search<'_>, url: &str, place: &str) -> Result<(), Refusal> {
    let Some(path) = url.strip_prefix("mirror+file:") else {
        search.add(url, place);
        return Ok(());
    };
    let path = PathBuf::from(format!("/{}", path.trim_start_matches('/')));
    let Some(text) = search.text(&path)? else { return Ok(()) };
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')) {
        // Behind an address there can be a tab and its priority.
        if let Some(url) = line.split_whitespace().next() {
            search.add(url, &at(&path, number + 1));
        }
    }
    Ok(())
}

/// `deb [options] URI SUITE COMPONENT...`.
fn lines(text: &str) -> Vec<(String, usize)> {
    let uri = |line: &str| {
        let line = line.split('#').next()?.trim();
        let (kind, rest) = line.split_once([' ', '\t'])?;
        let rest = rest.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        matches!(kind, "deb" | "deb-src").then(|| rest.split_whitespace().next().map(str::to_owned))?
    };
    text.lines().enumerate().filter_map(|(number, line)| Some((uri(line)?, number + 1))).collect()
}

/// Fields, a value going on in indented lines; stanzas are separated by empty lines.
fn stanzas(text: &str) -> Vec<(String, usize)> {
    let (mut found, mut stanza, mut enabled, mut field) = (Vec::new(), Vec::new(), true, String::new());
    for (number, line) in text.lines().chain([""]).enumerate() {
        if line.trim().is_empty() {
            if enabled {
                found.append(&mut stanza);
            }
            stanza.clear();
            (enabled, field) = (true, String::new());
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let value = match line.split_once(':') {
            Some((name, value)) if !line.starts_with([' ', '\t']) => {
                field = name.to_ascii_lowercase();
                value
            }
            _ => line,
        };
        match field.as_str() {
            "uris" => stanza.extend(value.split_whitespace().map(|uri| (uri.to_owned(), number + 1))),
            "enabled" => enabled = !matches!(value.trim(), "no" | "false" | "0"),
            _ => {}
        }
    }
    found
}
