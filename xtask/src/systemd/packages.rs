//! The package for guests: as it is built, and a second build of a higher version to upgrade to.

use std::{fs, io::Write as _, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{command, package};

/// Builds the package as `stockade.deb`, and makes `stockade-next.deb` of it.
pub fn build(payload: &Path) -> Result<()> {
    let package = package::build(1)?.deb;
    fs::copy(&package, payload.join("stockade.deb"))
        .with_context(|| format!("copying {}", package.display()))?;
    let scratch = tempfile::tempdir()?;
    let tree = scratch.path().join("tree");
    let mut dpkg = Command::new(command::tool("dpkg-deb")?);
    command::run(dpkg.arg("--raw-extract").arg(&package).arg(&tree))?;
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).with_context(|| format!("reading {}", control.display()))?;
    fs::write(&control, raised(&text))?;
    // Another binary, as another build is.
    let program = tree.join("usr/bin/stockade");
    fs::OpenOptions::new()
        .append(true)
        .open(&program)
        .and_then(|mut file| file.write_all(b"second build\n"))
        .with_context(|| format!("changing {}", program.display()))?;
    // The checksums are no longer right; dpkg can do without.
    let _ = fs::remove_file(tree.join("DEBIAN/md5sums"));
    let mut dpkg = Command::new(command::tool("dpkg-deb")?);
    dpkg.args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(&tree);
    // It reports on stdout, which is the tests'.
    dpkg.arg(payload.join("stockade-next.deb")).stdout(std::io::stderr());
    command::run(&mut dpkg)
}

/// Control data with a version that comes after.
fn raised(control: &str) -> String {
    let line = |line: &str| match line.strip_prefix("Version:") {
        Some(version) => format!("Version: {}+next\n", version.trim()),
        None => format!("{line}\n"),
    };
    control.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_version_is_another() {
        assert_eq!(raised("Package: stockade\nVersion: 0.1.0\n"), "Package: stockade\nVersion: 0.1.0+next\n");
    }
}
