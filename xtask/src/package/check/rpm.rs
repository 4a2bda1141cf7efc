//! The .rpm as it is read back.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use rpm::{FileFlags, FileType, Package};

use super::{
    Outcome, Subject, deb,
    expected::{self, Listing},
};
use crate::command;

const ONLY_HERE: [(&str, u32); 1] = [("usr/share/zsh/site-functions/_stockade", 0o644)];

fn open(subject: &Subject) -> Result<Package> {
    let package = Package::open(&subject.first.rpm)?;
    package.verify_digests().context("the digests")?;
    Ok(package)
}

pub fn contents(subject: &Subject) -> Result<Outcome> {
    let package = open(subject)?;
    let mut found = Listing::new();
    for entry in package.metadata.get_file_entries()? {
        let path = entry.path();
        let path = path.to_string_lossy();
        ensure!((entry.user(), entry.group()) == ("root", "root"), "{path} is not root's");
        let config = entry.flags().contains(FileFlags::CONFIG | FileFlags::NOREPLACE);
        let directory = entry.mode().file_type() == FileType::Dir;
        ensure!(directory || config == path.starts_with("/etc/"), "{path}: is it the administrator's?");
        let slash = if directory { "/" } else { "" };
        found.insert(format!("{}{slash}", path.trim_start_matches('/')), entry.mode().permissions().into());
    }
    expected::compare(&found, &ONLY_HERE)?;
    same_bytes(subject, &package)?;
    Ok(Outcome::Passed)
}

/// Each file is byte by byte the one in the .deb.
fn same_bytes(subject: &Subject, package: &Package) -> Result<()> {
    let folder = tempfile::tempdir()?;
    command::run(Command::new("dpkg-deb").arg("--extract").arg(&subject.first.deb).arg(folder.path()))?;
    let mut contents = BTreeMap::new();
    for file in package.files()? {
        let file = file?;
        let path = file.metadata.path().to_string_lossy().trim_start_matches('/').to_owned();
        if file.metadata.mode().file_type() == FileType::Regular {
            contents.insert(path, file.content().unwrap_or_default().to_vec());
        }
    }
    ensure!(contents.contains_key("usr/bin/stockade"), "the payload has no program");
    for (path, content) in &contents {
        let path = match path.as_str() {
            "usr/share/zsh/site-functions/_stockade" => deb::ONLY_HERE[1].0,
            path => path,
        };
        let other = fs::read(folder.path().join(path)).with_context(|| format!("{path} in the .deb"))?;
        ensure!(other == *content, "{path} is another in the .deb");
    }
    Ok(())
}

pub fn metadata(subject: &Subject) -> Result<Outcome> {
    let package = open(subject)?;
    let metadata = &package.metadata;
    let what = format!("{}-{}.{}", metadata.get_name()?, metadata.get_version()?, metadata.get_arch()?);
    ensure!(what == format!("stockade-{}.x86_64", env!("CARGO_PKG_VERSION")), "it says it is {what}");
    ensure!(metadata.get_release()? == "1", "the release is {}", metadata.get_release()?);
    let requires: Vec<String> = metadata.get_requires()?.into_iter().map(|needed| needed.name).collect();
    for needed in ["libc.so.6()(64bit)", "/bin/sh", "systemd"] {
        ensure!(requires.iter().any(|name| name == needed), "it does not require {needed}: {requires:?}");
    }
    for (name, script) in [
        ("post", metadata.get_post_install_script()?),
        ("preun", metadata.get_pre_uninstall_script()?),
        ("postun", metadata.get_post_uninstall_script()?),
    ] {
        let text = fs::read_to_string(command::root().join("packaging/rpm").join(name))?;
        ensure!(script.script == text, "the script {name} is another");
    }
    Ok(Outcome::Passed)
}
