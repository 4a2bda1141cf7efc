//! Policy text to [`Policy`].

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{
    checked::Mode,
    diagnostic::Diagnostics,
    network::{Dns, Egress},
    protect::Group,
    rule::Refusal,
    scope::ScopeTable,
    suggest::closest,
};

/// Longest policy file, in bytes.
pub const MAX_BYTES: u64 = 1 << 23;

/// A policy's text and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// File name, as diagnostics show it.
    pub name: String,
    /// TOML.
    pub text: String,
}

/// A policy file that was read and parsed.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its text.
    pub source: Arc<Source>,
    /// What it says.
    pub policy: Policy,
}

impl Document {
    /// Parses `source`.
    ///
    /// # Errors
    /// Syntax, unknown keys, wrong types, an unknown version.
    pub fn new(source: Source) -> Result<Self, Diagnostics> {
        let policy = parse(&source)?;
        Ok(Self { source: Arc::new(source), policy })
    }
}

/// The policy language, version 1.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Version of the language: 1.
    #[schemars(with = "u32", extend("const" = 1))]
    pub version: Spanned<u32>,
    /// Name, for events.
    pub name: Option<String>,
    /// Whether denials are enforced.
    pub mode: Option<Mode>,
    /// What it builds on: built-in profiles, of which `base` always is one, and policy files (with a `/`, or ending in
    /// `.toml`), relative to this file.
    #[serde(default)]
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub extends: Vec<Spanned<String>>,
    /// Default deny.
    #[serde(default)]
    pub network: Network,
    /// Default deny.
    #[serde(default)]
    pub files: Files,
    /// Nothing beyond the tag by default.
    #[serde(default)]
    pub process: ProcessTable,
    /// What the daemon holds to this policy. `stockade run` has no use for it; a file that others extend has none.
    #[schemars(with = "Option<ScopeTable>")]
    pub scope: Option<Spanned<ScopeTable>>,
}

/// Rules `host[:ports][/proto]`, in which the host is an address, a prefix, a name or `*.name`; `loopback:own`; for unix
/// sockets `unix:/path` or `unix:@abstract-name`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Destinations that may be reached.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub allow: Vec<Spanned<String>>,
    /// Destinations that may not, whatever `allow` says.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub deny: Vec<Spanned<String>>,
    /// The interface by which everything leaves.
    pub egress: Option<Egress>,
    /// How the DNS gate treats the scope. Port 53 is carried to it if this is there, or any rule on a name.
    pub dns: Option<Dns>,
    /// Local addresses that may be listened on, beside those of loopback, as `address-or-prefix[:ports][/proto]`.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub listen: Vec<Spanned<String>>,
}

/// Path globs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Files {
    /// May be read.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub read: Vec<Spanned<String>>,
    /// May be changed, and read.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub write: Vec<Spanned<String>>,
    /// May be executed, and read.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub exec: Vec<Spanned<String>>,
    /// May be neither, whatever the others say.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub deny: Vec<Spanned<String>>,
    /// May not be changed, whatever the others say.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub read_only: Vec<Spanned<String>>,
    /// What stays read-only in workspaces, and in the directories of `protect_in`; without it all groups.
    #[schemars(with = "Option<Vec<Group>>")]
    pub protect: Option<Vec<Spanned<Group>>>,
    /// What of it does not.
    #[schemars(with = "Vec<Group>")]
    pub lift: Vec<Spanned<Group>>,
    /// Directories, beside the workspaces, that have protected places: globs.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub protect_in: Vec<Spanned<String>>,
    /// What may be looked at without opening it (`stat`, readlink, extended attributes, watches); without it all that is not denied.
    pub metadata: Option<Metadata>,
}

/// What processes may do beside files and the network.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessTable {
    /// Capabilities of a root process that count beyond its own user namespace, beside those that reach no further than
    /// files and users: as `capabilities(7)` has them, or `all`.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub capabilities: Vec<Spanned<String>>,
    /// Facilities of the kernel: `signals`, `scheduling`, `user-namespaces`, `mounts`, `io-uring`, `userfaultfd`, `keyrings`,
    /// `ipc`, `perf`, `modules`, `kernel-log`.
    #[schemars(with = "Vec<String>", inner(length(min = 1)))]
    pub allow: Vec<Spanned<String>>,
}

/// What may be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Metadata {
    /// Everything, also what is denied.
    Open,
    /// What some rule allows anything of.
    Guarded,
}

/// Reads a policy file; with the path that is the same however it is named.
///
/// # Errors
/// If it cannot be read, is no file, is longer than [`MAX_BYTES`] or not UTF-8.
pub fn read(path: &Path) -> Result<(PathBuf, Source), Refusal> {
    let source = fs::File::open(path).map_err(unreadable).and_then(|file| read_open(file, path))?;
    // A pipe has no other name.
    let identity = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    Ok((identity, source))
}

/// Why a policy file cannot be read.
#[must_use]
pub fn unreadable(error: std::io::Error) -> Refusal {
    let help = match error.kind() {
        std::io::ErrorKind::NotFound => "look at how it is spelt, and where it is looked for",
        std::io::ErrorKind::PermissionDenied => "run as a user who may read it",
        _ => "name a file that can be read",
    };
    Refusal { message: format!("cannot be read: {error}"), help: Some(help.to_owned()) }
}

/// Reads a policy file that is open, called `path`.
///
/// # Errors
/// See [`read`].
pub fn read_open(file: fs::File, path: &Path) -> Result<Source, Refusal> {
    let refuse = |message: String, help: &str| Refusal { message, help: Some(help.to_owned()) };
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(refuse("is a directory".into(), "name a policy file in it"));
    }
    let too_long = || {
        let message = format!("has more than the {MAX_BYTES} bytes that a policy may have");
        refuse(message, "use globs instead of listing files, and prefixes instead of addresses")
    };
    if metadata.is_file() && metadata.len() > MAX_BYTES {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_BYTES + 1), &mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_long());
    }
    String::from_utf8(bytes).map(|text| Source { name: path.display().to_string(), text }).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        refuse(format!("is not UTF-8 in line {line}, byte {}", valid.len()), "save it as UTF-8")
    })
}

/// Parses a policy.
///
/// # Errors
/// Syntax, unknown keys, wrong types, an unknown version.
fn parse(source: &Source) -> Result<Policy, Diagnostics> {
    let policy: Policy = toml::from_str(&source.text).map_err(|error| {
        let message = error.message().to_owned();
        let help = help(&message);
        Diagnostics(vec![Refusal { message, help: Some(help) }.at(source, error.span())])
    })?;
    let version = policy.version.get_ref();
    if *version != 1 {
        let message = format!("version {version} of the policy language is not known");
        let refusal = Refusal { message, help: Some("write `version = 1`".into()) };
        return Err(Diagnostics(vec![refusal.at(source, Some(policy.version.span()))]));
    }
    Ok(policy)
}

/// What to do about a complaint of the TOML parser.
fn help(message: &str) -> String {
    const KEYS: &str = "docs/policy.md and `stockade policy schema` list what there is";
    // "unknown field `raed`, expected one of `read`, `write`"
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown") {
        let word = quoted.next().unwrap_or_default();
        return match closest(word, quoted) {
            Some(meant) => format!("did you mean `{meant}`? {KEYS}"),
            None => KEYS.to_owned(),
        };
    }
    if message.starts_with("missing field `version`") {
        return "start the file with `version = 1`".into();
    }
    if message.starts_with("invalid type") {
        return "docs/policy.md shows each key with a value of its type".into();
    }
    "a policy is a TOML file; docs/policy.md shows one".into()
}

/// The JSON Schema of the language (docs/schema/policy-v1.json).
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(Policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_suggested() {
        assert!(help("unknown field `raed`, expected one of `read`, `write`").contains("`read`"));
        assert!(help("unknown variant `enforced`, expected `enforce` or `audit`").contains("`enforce`"));
        assert!(!help("unknown field `sockets`, expected `read`").contains("did you mean"));
    }
}
