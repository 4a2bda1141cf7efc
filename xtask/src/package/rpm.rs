//! The .rpm.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rpm::{BuildConfig, CompressionWithLevel, Dependency, FileOptions, PackageBuilder, Scriptlet};

use super::{
    DESCRIPTION, MAINTAINER, SUMMARY,
    contents::{Item, Role},
    needs::Needs,
    release::Release,
};
use crate::command;

/// Ours, and that of the kernel programs inside.
const LICENCE: &str = "(MIT OR Apache-2.0) AND (MIT OR GPL-2.0-only)";

/// Writes `stockade-VERSION-REVISION.x86_64.rpm`.
pub fn write(items: &[&Item], needs: &Needs, release: &Release, folder: &Path) -> Result<PathBuf> {
    let mut builder = PackageBuilder::new("stockade", release.version, LICENCE, "x86_64", SUMMARY);
    builder
        .using_config(BuildConfig::v4().source_date(release.date).compression(CompressionWithLevel::Gzip(9)))
        .release(release.revision.to_string())
        .description(DESCRIPTION)
        .packager(MAINTAINER)
        // That of the machine would differ between builds.
        .build_host("localhost")
        .cookie(format!("stockade {}", release.full()))
        .requires(Dependency::interp("/bin/sh"))
        .requires(Dependency::script_post("systemd"))
        .requires(Dependency::script_preun("systemd"))
        .requires(Dependency::script_postun("systemd"));
    for library in needs.rpm() {
        builder.requires(Dependency::any(library));
    }
    for item in items {
        add(&mut builder, item).with_context(|| format!("adding /{}", item.path))?;
    }
    builder
        .post_install_script(script("post")?)
        .pre_uninstall_script(script("preun")?)
        .post_uninstall_script(script("postun")?);
    let package = builder.build()?;
    let path = folder.join(format!("stockade-{}.x86_64.rpm", release.full()));
    package.write_file(&path).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn add(builder: &mut PackageBuilder, item: &Item) -> Result<()> {
    let path = format!("/{}", item.path);
    let file = || FileOptions::new(&path).permissions(item.mode);
    let options = match item.role {
        Role::Directory => {
            builder.with_dir_entry(FileOptions::dir(&path).permissions(item.mode))?;
            return Ok(());
        }
        Role::Plain => file(),
        Role::Config => file().config().noreplace(),
        Role::Doc if item.path.ends_with("/copyright") => file().license(),
        Role::Doc => file().doc(),
    };
    builder.with_file_contents(item.content.clone(), options)?;
    Ok(())
}

fn script(name: &str) -> Result<Scriptlet> {
    let path = command::root().join("packaging/rpm").join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Scriptlet::new(text).prog(vec!["/bin/sh"]))
}
