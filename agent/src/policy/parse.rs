//! Policy text to [`Policy`].

use std::{fs, path::Path, sync::Arc};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{
    checked::Mode,
    diagnostic::{Diagnostic, Diagnostics},
};

/// Longest policy file, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

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
    /// See [`parse`].
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
    pub version: u32,
    /// Name, for events.
    pub name: Option<String>,
    /// Whether denials are enforced.
    pub mode: Option<Mode>,
    /// Built-in profiles it builds on; `base` always is one.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub extends: Vec<Spanned<String>>,
    /// Default deny.
    #[serde(default)]
    pub network: Network,
    /// Default deny.
    #[serde(default)]
    pub files: Files,
}

/// Rules `host-or-prefix[:ports][/proto]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Destinations that may be reached.
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<Spanned<String>>,
    /// Destinations that may not, whatever `allow` says.
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<Spanned<String>>,
}

/// Path globs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Files {
    /// May be read.
    #[schemars(with = "Vec<String>")]
    pub read: Vec<Spanned<String>>,
    /// May be changed, and read.
    #[schemars(with = "Vec<String>")]
    pub write: Vec<Spanned<String>>,
    /// May be executed, and read.
    #[schemars(with = "Vec<String>")]
    pub exec: Vec<Spanned<String>>,
    /// May be neither, whatever the others say.
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<Spanned<String>>,
}

/// Reads a policy file.
///
/// # Errors
/// If it cannot be read, is longer than [`MAX_BYTES`] or not UTF-8.
pub fn read(path: &Path) -> Result<Source, Diagnostics> {
    let name = path.display().to_string();
    let failed = |error: std::io::Error| Diagnostics::plain(&name, format!("cannot be read: {error}"), None);
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_file() && metadata.len() > MAX_BYTES {
        let message = format!("the file has {} bytes, a policy may have {MAX_BYTES}", metadata.len());
        return Err(Diagnostics::plain(&name, message, Some("use globs instead of listing files")));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_BYTES + 1), &mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Diagnostics::plain(&name, format!("more than {MAX_BYTES} bytes"), None));
    }
    String::from_utf8(bytes).map(|text| Source { name: name.clone(), text }).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Diagnostics::plain(&name, format!("not UTF-8 at byte {at}"), Some("save the file as UTF-8"))
    })
}

/// Parses a policy.
///
/// # Errors
/// Syntax, unknown keys, wrong types, an unknown version.
pub fn parse(source: &Source) -> Result<Policy, Diagnostics> {
    let complain = |message: String, span, help: Option<String>| {
        Diagnostics(vec![Diagnostic {
            message,
            source: source.name.clone(),
            text: source.text.clone(),
            span,
            help,
        }])
    };
    let policy: Policy = toml::from_str(&source.text).map_err(|error| {
        let message = error.message().to_owned();
        let help = message
            .contains("unknown field")
            .then(|| "the keys are listed in docs/policy.md and by `stockade policy schema`".to_owned());
        complain(message, error.span(), help)
    })?;
    if policy.version != 1 {
        let message = format!("version {} of the policy language is not known", policy.version);
        return Err(complain(message, None, Some("write `version = 1`".into())));
    }
    Ok(policy)
}
