//! The .deb: a staging directory, and `dpkg-deb`.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};

use super::{
    DESCRIPTION, MAINTAINER, SUMMARY,
    contents::{Item, Role},
    needs::Needs,
    release::Release,
};
use crate::command;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
/// For the group; Debian's systemd brings it, and where there is none this does.
const SYSUSERS: &str = "systemd | systemd-standalone-sysusers | systemd-sysusers";
/// Debian 12's, whose directives the unit uses.
const SYSTEMD: &str = "systemd (>= 252)";
/// Columns of a description.
const WIDTH: usize = 78;

/// Writes `stockade_VERSION-REVISION_amd64.deb`.
pub fn write(items: &[&Item], needs: &Needs, release: &Release, folder: &Path) -> Result<PathBuf> {
    let staging = tempfile::tempdir()?;
    let root = staging.path().join("root");
    for item in items {
        stage(item, &root)?;
    }
    let meta = root.join("DEBIAN");
    directory(&meta)?;
    file(&meta.join("control"), control(items, needs, release)?.as_bytes(), 0o644)?;
    file(&meta.join("conffiles"), conffiles(items).as_bytes(), 0o644)?;
    file(&meta.join("md5sums"), md5sums(items, &root)?.as_bytes(), 0o644)?;
    for script in SCRIPTS {
        let path = command::root().join("packaging/deb").join(script);
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        file(&meta.join(script), &text, 0o755)?;
    }
    date(&root, SystemTime::UNIX_EPOCH + Duration::from_secs(release.date.into()))?;
    let deb = folder.join(format!("stockade_{}_amd64.deb", release.full()));
    let mut dpkg = Command::new("dpkg-deb");
    // One thread: how many there are shows in the bytes.
    dpkg.args(["--root-owner-group", "-Zxz", "-z6", "--threads-max=1", "--build"]).arg(&root).arg(&deb);
    dpkg.env("SOURCE_DATE_EPOCH", release.date.to_string());
    command::output(&mut dpkg)?;
    Ok(deb)
}

fn directory(path: &Path) -> Result<()> {
    if !path.exists() {
        path.parent().map_or(Ok(()), directory)?;
        fs::create_dir(path).with_context(|| format!("making {}", path.display()))?;
        // Whatever the umask is.
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(())
}

fn stage(item: &Item, root: &Path) -> Result<()> {
    let path = root.join(&item.path);
    match item.role {
        Role::Directory => directory(&path),
        _ => {
            path.parent().map_or(Ok(()), directory)?;
            file(&path, &item.content, item.mode.into())
        }
    }
}

/// Gives all below, and at last `path` itself, one date.
fn date(path: &Path, time: SystemTime) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            date(&entry?.path(), time)?;
        }
    }
    File::open(path)?.set_modified(time).with_context(|| format!("dating {}", path.display()))
}

fn control(items: &[&Item], needs: &Needs, release: &Release) -> Result<String> {
    Ok(format!(
        "Package: stockade\nVersion: {}\nArchitecture: amd64\nMaintainer: {MAINTAINER}\nInstalled-Size: {}\n\
         Depends: {}, {SYSUSERS}\nRecommends: {SYSTEMD}\nSection: admin\nPriority: optional\n\
         Description: {SUMMARY}\n{}",
        release.full(),
        installed_size(items),
        needs.debian()?,
        folded(DESCRIPTION)
    ))
}

/// In KiB, as dpkg-gencontrol reckons: files rounded up, 1 for each directory.
fn installed_size(items: &[&Item]) -> u64 {
    let mut folders: Vec<&Path> =
        items.iter().flat_map(|item| Path::new(&item.path).ancestors().skip(1)).collect();
    folders
        .extend(items.iter().filter(|item| item.role == Role::Directory).map(|item| Path::new(&item.path)));
    folders.sort();
    folders.dedup();
    let files = items.iter().filter(|item| item.role != Role::Directory);
    files.map(|item| (item.content.len() as u64).div_ceil(1024)).sum::<u64>() + folders.len() as u64
}

/// Lines of a description: a space in front.
fn folded(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
            lines += &format!(" {line}\n");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &format!(" {line}\n")
}

fn conffiles(items: &[&Item]) -> String {
    items.iter().filter(|item| item.role == Role::Config).map(|item| format!("/{}\n", item.path)).collect()
}

/// Of everything that `dpkg --verify` must not find changed.
fn md5sums(items: &[&Item], root: &Path) -> Result<String> {
    let files = items.iter().filter(|item| matches!(item.role, Role::Plain | Role::Doc));
    command::output(Command::new("md5sum").current_dir(root).arg("--").args(files.map(|item| &item.path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str, role: Role, size: usize) -> Item {
        Item { path: path.into(), mode: 0o644, role, content: vec![0; size], only: None }
    }

    #[test]
    fn sizes_are_reckoned_like_dpkgs() {
        let items = [
            item("etc/stockade", Role::Directory, 0),
            item("etc/stockade/a", Role::Config, 1),
            item("usr/b", Role::Plain, 1025),
        ];
        let items: Vec<_> = items.iter().collect();
        // The root, etc, etc/stockade, usr; 1 and 2 KiB.
        assert_eq!(installed_size(&items), 4 + 1 + 2);
        assert_eq!(conffiles(&items), "/etc/stockade/a\n");
    }

    #[test]
    fn descriptions_are_folded_and_whole() {
        let folded = folded(DESCRIPTION);
        assert!(folded.lines().all(|line| line.starts_with(' ') && line.len() <= WIDTH + 1), "{folded}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&folded), words(DESCRIPTION));
        assert!(SUMMARY.len() < 80 && !SUMMARY.ends_with('.'));
    }
}
