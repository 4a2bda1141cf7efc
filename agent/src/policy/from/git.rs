//! git: the remotes of the repository and the submodules it names, after the `insteadOf` of its own and the user's
//! configuration. Included files and the aliases of ssh's configuration are not followed.

use std::path::{Path, PathBuf};

use super::{Search, at, broken, ini};
use crate::policy::rule::{Refusal, refuse};

pub(super) fn read(search: &mut Search<'_>) -> Result<(), Refusal> {
    let Some((repository, config)) = repository(search)? else {
        return refuse(
            format!("there is no git repository at {}", search.host.folder().display()),
            "run in one, give --workspace, or name the hosts",
        );
    };
    let user = search
        .host
        .variable("XDG_CONFIG_HOME")
        .map(|root| Path::new(&root).join("git/config"))
        .or_else(|| search.home(".config/git/config"));
    let mut files: Vec<PathBuf> = vec!["/etc/gitconfig".into()];
    files.extend(user);
    files.extend(search.home(".gitconfig"));
    files.push(config);
    // What URLs begin with, and what git puts in place of that.
    let (mut rewrites, mut remotes) = (Vec::new(), Vec::new());
    for path in files {
        let Some(text) = search.text(&path)? else { continue };
        for entry in ini::entries(&text, false) {
            match (entry.section.as_str(), entry.key.as_str()) {
                ("url", "insteadof" | "pushinsteadof") => rewrites.push((entry.value, entry.part)),
                ("remote", "url" | "pushurl") | ("submodule", "url") | ("http", "proxy") => {
                    remotes.push((entry.value, at(&path, entry.line)));
                }
                _ => {}
            }
        }
    }
    let modules = repository.join(".gitmodules");
    if let Some(text) = search.text(&modules)? {
        let urls = ini::entries(&text, false).into_iter().filter(|entry| entry.key == "url");
        remotes.extend(urls.map(|entry| (entry.value, at(&modules, entry.line))));
    }
    for (url, place) in remotes {
        // Of several the longest that matches; what is pushed to may be another, so that both count.
        let matching = rewrites.iter().filter(|(from, _)| url.starts_with(from.as_str()));
        match matching.max_by_key(|(from, _)| from.len()) {
            Some((from, to)) => search.add(&whole(&format!("{to}{}", &url[from.len()..])), &place),
            None => search.add(&whole(&url), &place),
        }
    }
    Ok(())
}

/// `user@host:path` is a URL, too.
fn whole(url: &str) -> String {
    let Some((host, path)) = url.split_once(':').filter(|(host, _)| !host.contains('/')) else {
        return url.to_owned();
    };
    if path.starts_with("//") { url.to_owned() } else { format!("ssh://{host}/{path}") }
}

/// The nearest repository: where its files are, and its configuration.
fn repository(search: &Search<'_>) -> Result<Option<(PathBuf, PathBuf)>, Refusal> {
    for folder in search.folders() {
        let git = folder.join(".git");
        if search.text(&git.join("HEAD"))?.is_some() {
            return Ok(Some((folder, git.join("config"))));
        }
        // In a worktree and in a submodule it is a file that says where.
        let Ok(text) = search.host.read(&git) else { continue };
        let named = text.trim().strip_prefix("gitdir:").ok_or_else(|| broken(&git, "it names no gitdir"))?;
        let directory = folder.join(named.trim());
        let common = search.text(&directory.join("commondir"))?;
        let common = common.map_or(directory.clone(), |common| directory.join(common.trim()));
        return Ok(Some((folder, common.join("config"))));
    }
    Ok(None)
}
