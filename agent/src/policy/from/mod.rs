//! `from:TOOL`: the hosts that a tool is set up to use, read from its own configuration and lock files when a command is
//! run. Pure: what is read comes through [`Host`].
//!
//! No host is known here beforehand. Where a tool's configuration is silent, the tool is asked for its default, if it has
//! a command for that which does nothing else; if nothing names a host, that is said.

mod apt;
mod cargo;
mod git;
mod ini;
mod npm;
mod pip;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use url::Url;

use super::{
    parse::Document,
    rule::{Refusal, refuse},
    suggest::closest,
};

/// What such a rule begins with.
pub const PREFIX: &str = "from:";
/// Tools that can be named.
pub const TOOLS: [&str; 5] = ["pip", "cargo", "npm", "git-remotes", "apt"];
/// Longest file that is read, in bytes.
pub const MAX_BYTES: u64 = 64 << 20;

/// A host that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The rule: `HOST:PORT/tcp`.
    pub rule: String,
    /// What names it: a file, an environment variable, a command.
    pub place: String,
}

/// What `from:` rules come to, by their text.
pub type Answers = BTreeMap<String, Result<Vec<Found>, Refusal>>;

/// Where the command will run, and how the host is asked.
pub trait Host {
    /// Directory that projects are looked for in, and above.
    fn folder(&self) -> &Path;
    /// The user's home.
    fn home(&self) -> Option<&Path>;
    /// A variable of the environment that the command gets.
    fn variable(&self, name: &str) -> Option<String>;
    /// A file's text; at most [`MAX_BYTES`].
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// Paths in a directory, sorted; none if there is no such directory.
    fn list(&self, path: &Path) -> Vec<PathBuf>;
    /// What a program prints, run as the user, outside any project. `None`: it is not there, or failed.
    fn ask(&self, program: &str, arguments: &[&str]) -> Option<String>;
}

/// The `from:` rules of documents and flags.
#[must_use]
pub fn wanted(documents: &[Document], flags: &[String]) -> BTreeSet<String> {
    let of_documents = documents.iter().flat_map(|document| &document.policy.network.allow);
    let texts = of_documents.map(|rule| rule.get_ref()).chain(flags);
    texts.filter(|text| text.starts_with(PREFIX)).cloned().collect()
}

/// Reads what each of the rules comes to.
#[must_use]
pub fn answers(wanted: BTreeSet<String>, host: &dyn Host) -> Answers {
    let read = |text: String| {
        let found = read(text.strip_prefix(PREFIX).unwrap_or(&text), host);
        (text, found)
    };
    wanted.into_iter().map(read).collect()
}

/// The hosts that a tool is set up to use.
///
/// # Errors
/// No such tool; a file of its that cannot be read or understood; nothing that names a host.
fn read(tool: &str, host: &dyn Host) -> Result<Vec<Found>, Refusal> {
    let mut search = Search { host, found: BTreeSet::new() };
    match tool {
        "pip" => pip::read(&mut search)?,
        "cargo" => cargo::read(&mut search)?,
        "npm" => npm::read(&mut search)?,
        "git-remotes" => git::read(&mut search)?,
        "apt" => apt::read(&mut search)?,
        _ => return Err(unknown(tool)),
    }
    if search.found.is_empty() {
        return refuse(
            format!("nothing here names a host for from:{tool}"),
            "name the hosts that the tool says it cannot reach: \"HOST:443/tcp\"",
        );
    }
    // Whatever the tool talks to, it may have to do so through these.
    for name in ["https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY"] {
        if let Some(value) = host.variable(name) {
            search.add(&value, name);
        }
    }
    Ok(search.found.into_iter().collect())
}

/// Why there is no such tool.
#[must_use]
pub fn unknown(tool: &str) -> Refusal {
    let meant =
        closest(tool, TOOLS).map_or_else(String::new, |meant| format!("did you mean \"{PREFIX}{meant}\"? "));
    Refusal {
        message: format!("{tool:?} is no tool whose configuration is known"),
        help: Some(format!("{meant}there are {}", TOOLS.join(", "))),
    }
}

struct Search<'a> {
    host: &'a dyn Host,
    found: BTreeSet<Found>,
}

impl<'a> Search<'a> {
    /// Takes note of a URL's host and port; nothing else of it is kept or shown. Files and what is no URL name no host.
    fn add(&mut self, url: &str, place: &str) {
        for rule in rules(url) {
            // One place for each is enough.
            if !self.found.iter().any(|found| found.rule == rule) {
                self.found.insert(Found { rule, place: place.to_owned() });
            }
        }
    }

    /// A file's text; `None` if there is none.
    fn text(&self, path: &Path) -> Result<Option<String>, Refusal> {
        match self.host.read(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => refuse(
                format!("{}: {error}", path.display()),
                "make it readable for the user who runs the command, or name the hosts instead",
            ),
        }
    }

    /// The directory of the project and those above it, nearest first.
    fn folders(&self) -> Vec<PathBuf> {
        self.host.folder().ancestors().map(Path::to_path_buf).collect()
    }

    /// The nearest file of a name, and its text.
    fn nearest(&self, name: &str) -> Result<Option<(PathBuf, String)>, Refusal> {
        for folder in self.folders() {
            let path = folder.join(name);
            if let Some(text) = self.text(&path)? {
                return Ok(Some((path, text)));
            }
        }
        Ok(None)
    }

    fn home(&self, below: &str) -> Option<PathBuf> {
        self.host.home().map(|home| home.join(below))
    }
}

/// A file that is not as its tool writes it.
fn broken(path: &Path, why: impl std::fmt::Display) -> Refusal {
    Refusal {
        message: format!("{} cannot be understood: {why}", path.display()),
        help: Some("repair it, or name the hosts instead".to_owned()),
    }
}

/// `path:line`.
fn at(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}

/// What reaches a URL. `localhost` is known without DNS.
fn rules(url: &str) -> Vec<String> {
    // `sparse+https:`, `git+ssh:`, `mirror+http:` say how, and then where.
    let url = match url.split_once(':') {
        Some((scheme, rest)) => format!("{}:{rest}", scheme.rsplit('+').next().unwrap_or(scheme)),
        None => return Vec::new(),
    };
    let Ok(parsed) = Url::parse(&url) else { return Vec::new() };
    let port = match parsed.scheme() {
        "http" => 80,
        "https" => 443,
        "ssh" => 22,
        "git" => 9418,
        "ftp" => 21,
        "socks5" | "socks5h" | "socks4" | "socks" => 1080,
        _ => return Vec::new(),
    };
    let port = parsed.port().unwrap_or(port);
    match parsed.host_str() {
        None | Some("") => Vec::new(),
        Some("localhost") => vec![format!("127.0.0.1:{port}/tcp"), format!("[::1]:{port}/tcp")],
        Some(host) => vec![format!("{host}:{port}/tcp")],
    }
}
