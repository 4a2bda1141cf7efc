//! What a package puts where.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};

use super::{
    MAINTAINER,
    generated::{self, Generated},
    release::Release,
};
use crate::command;

/// A kind of package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Debian's.
    Deb,
    /// Fedora's.
    Rpm,
}

/// What a file is to a package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Replaced by an upgrade.
    Plain,
    /// The administrator's: an upgrade leaves it alone where it was changed.
    Config,
    /// Documentation.
    Doc,
    /// A directory of ours. Others are the system's.
    Directory,
}

/// A file or a directory in a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// From the root, without the slash in front.
    pub path: String,
    /// Permission bits. Everything belongs to root.
    pub mode: u16,
    /// What it is.
    pub role: Role,
    /// What is in it.
    pub content: Vec<u8>,
    /// In packages of this kind only.
    pub only: Option<Format>,
}

const DOC: &str = "usr/share/doc/stockade";

/// (in `packaging`, in the system, role). What administrators read is not compressed.
const FILES: [(&str, &str, Role); 5] = [
    ("systemd/stockade.service", "usr/lib/systemd/system/stockade.service", Role::Plain),
    ("systemd/stockade.slice", "usr/lib/systemd/system/stockade.slice", Role::Plain),
    ("sysusers.conf", "usr/lib/sysusers.d/stockade.conf", Role::Plain),
    ("stockade.toml", "etc/stockade/stockade.toml", Role::Config),
    ("policies.d.README", "etc/stockade/policies.d/README", Role::Config),
];
const DIRECTORIES: [&str; 5] = [
    "etc/stockade",
    "etc/stockade/policies.d",
    DOC,
    "usr/share/doc/stockade/examples",
    "usr/share/doc/stockade/schema",
];
/// (as the agent calls it, where the shell looks for it, where only one kind of system does)
const COMPLETIONS: [(&str, &str, Option<Format>); 4] = [
    ("stockade.bash", "usr/share/bash-completion/completions/stockade", None),
    ("_stockade", "usr/share/zsh/vendor-completions/_stockade", Some(Format::Deb)),
    ("_stockade", "usr/share/zsh/site-functions/_stockade", Some(Format::Rpm)),
    ("stockade.fish", "usr/share/fish/vendor_completions.d/stockade.fish", None),
];

impl Item {
    fn file(path: impl Into<String>, role: Role, content: Vec<u8>) -> Self {
        Self { path: path.into(), mode: 0o644, role, content, only: None }
    }
}

/// All of it, sorted by path.
pub fn items(
    binary: Vec<u8>,
    generated: &Generated,
    copyright: &str,
    release: &Release,
) -> Result<Vec<Item>> {
    let root = command::root();
    let packaging = root.join("packaging");
    let mut items = vec![
        Item { mode: 0o755, ..Item::file("usr/bin/stockade", Role::Plain, binary) },
        Item::file(format!("{DOC}/copyright"), Role::Doc, copyright.as_bytes().to_vec()),
        Item::file(format!("{DOC}/changelog.gz"), Role::Doc, gzip(&text(&root.join("CHANGELOG.md"))?)?),
        Item {
            only: Some(Format::Deb),
            ..Item::file(format!("{DOC}/changelog.Debian.gz"), Role::Doc, gzip(&changelog(release)?)?)
        },
    ];
    items.extend(
        DIRECTORIES.map(|path| Item { mode: 0o755, ..Item::file(path, Role::Directory, Vec::new()) }),
    );
    for (from, path, role) in FILES {
        items.push(Item::file(path, role, text(&packaging.join(from))?));
    }
    for (folder, to) in [
        (packaging.join("examples"), format!("{DOC}/examples")),
        (root.join("docs"), DOC.to_owned()),
        (root.join("docs/schema"), format!("{DOC}/schema")),
    ] {
        items.extend(below(&folder, &to)?);
    }
    for (name, page) in &generated.manual {
        items.push(Item::file(format!("usr/share/man/man1/{name}.gz"), Role::Doc, gzip(page)?));
    }
    for (name, path, only) in COMPLETIONS {
        let (_, script) = generated
            .completions
            .iter()
            .find(|(written, _)| written == name)
            .with_context(|| format!("the agent wrote no {name}"))?;
        items.push(Item { only, ..Item::file(path, Role::Plain, script.clone()) });
    }
    items.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(items)
}

fn below(folder: &PathBuf, to: &str) -> Result<Vec<Item>> {
    let files = generated::read(folder)?;
    Ok(files
        .into_iter()
        .map(|(name, content)| Item::file(format!("{to}/{name}"), Role::Doc, content))
        .collect())
}

fn text(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Compressed without a name or a date.
fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(content)?;
    Ok(gzip.finish()?)
}

/// What Debian wants to know of the package, beside what changed in the program.
fn changelog(release: &Release) -> Result<Vec<u8>> {
    Ok(format!(
        "stockade ({}) unstable; urgency=medium\n\n  * Package {} of version {}, as changelog.gz tells.\n\n -- {MAINTAINER}  {}\n",
        release.full(),
        release.revision,
        release.version,
        release.rfc2822()?
    )
    .into_bytes())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io::Read as _};

    use super::*;

    fn all() -> Vec<Item> {
        let named = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), b"x".to_vec())).collect();
        let generated = Generated {
            manual: named(&["stockade.1", "stockade-run.1"]),
            completions: named(&["_stockade", "stockade.bash", "stockade.fish"]),
        };
        let release = Release { version: "0.1.0", revision: 3, date: 1_600_000_000 };
        items(b"binary".to_vec(), &generated, "free", &release).unwrap()
    }

    #[test]
    fn each_path_is_there_once_and_in_a_directory() {
        let items = all();
        let paths: BTreeSet<_> = items.iter().map(|item| item.path.as_str()).collect();
        assert_eq!(paths.len(), items.len());
        assert!(items.is_sorted_by_key(|item| &item.path));
        for item in &items {
            assert!(!item.path.starts_with('/') && !item.path.contains("//"), "{}", item.path);
            assert_eq!(item.mode & 0o022, 0, "{} can be changed by others", item.path);
        }
    }

    #[test]
    fn what_is_in_etc_is_the_administrators_and_nothing_else_is() {
        for item in all().iter().filter(|item| item.role != Role::Directory) {
            assert_eq!(item.role == Role::Config, item.path.starts_with("etc/"), "{}", item.path);
        }
    }

    #[test]
    fn compressed_files_bear_no_date() {
        let packed = gzip(b"text").unwrap();
        assert_eq!(packed[4..8], [0; 4]);
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
    }

    #[test]
    fn the_changelog_is_debians_form() {
        let release = Release { version: "0.1.0", revision: 3, date: 1_600_000_000 };
        let text = String::from_utf8(changelog(&release).unwrap()).unwrap();
        assert!(text.starts_with("stockade (0.1.0-3) unstable; urgency=medium\n\n  * "), "{text}");
        assert!(text.ends_with(">  Sun, 13 Sep 2020 12:26:40 +0000\n"), "{text}");
    }
}
