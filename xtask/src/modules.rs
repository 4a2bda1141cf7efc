//! The modules of a kernel's package, with the lists that `modprobe` goes by.

use std::{ffi::OsString, fs, os::unix::fs::symlink, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::command;

/// A folder where `lib/modules/RELEASE` leads to them.
pub struct Modules {
    /// That folder.
    pub base: TempDir,
    /// The kernel's release, as `uname -r` says it.
    pub release: OsString,
}

/// Finds them below the folder that the package was unpacked to; the lists are written there, too.
pub fn modules(kernel: &Path) -> Result<Modules> {
    let modules = ["usr/lib/modules", "lib/modules"]
        .map(|folder| kernel.join(folder))
        .into_iter()
        .find_map(|folder| {
            // A folder with an image alone holds none.
            fs::read_dir(folder).ok()?.flatten().find(|entry| entry.path().join("kernel").is_dir())
        })
        .context("this kernel's package has no modules")?;
    let release = modules.file_name();
    let base = tempfile::tempdir()?;
    fs::create_dir_all(base.path().join("lib/modules"))?;
    symlink(modules.path(), base.path().join("lib/modules").join(&release))?;
    let output = Command::new(command::tool("depmod")?).arg("-b").arg(base.path()).arg(&release).output()?;
    // The newest kernels' packages lack lists that it can do without, and warns about.
    if !output.status.success() {
        bail!("depmod for {}: {}", release.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(Modules { base, release })
}
