//! Roots for guests: a Debian with systemd, Podman, Docker and LXC, made once by mmdebstrap and kept in the cache. In it a second,
//! small Debian, from which the guest makes its containers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::disk;
use crate::{apt, command};

/// What a host has that runs containers.
const PACKAGES: [&str; 17] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "kmod",
    "procps",
    "iproute2",
    "curl",
    "podman",
    "crun",
    "golang-github-containers-common",
    "lxc",
    "docker.io",
    "containerd",
    "runc",
    "iptables",
    "apparmor",
    "uidmap",
];
/// Docker's client has a package of its own from Debian 13 on.
const TRIXIE_PACKAGES: [&str; 1] = ["docker-cli"];
/// A container's: small, since a guest is slow at making images.
const CONTAINER_PACKAGES: [&str; 6] =
    ["base-files", "base-passwd", "libc6", "libgcc-s1", "dash", "busybox-static"];
/// What no test looks at.
const LEFT_OUT: [&str; 6] = ["man", "locale", "doc", "info", "i18n", "zoneinfo"];
const CUSTOMIZE: &str = include_str!("customize.sh");
const UNIT: &str = include_str!("guest-test.service");
/// Room for what a guest writes; the file is sparse.
const SIZE: u64 = 3 << 30;

/// The image of a suite's root; it is made if there is none, or if it was made in another way.
pub fn image(suite: &str) -> Result<PathBuf> {
    let base = command::cache()?.join("roots");
    fs::create_dir_all(&base)?;
    let image = base.join(format!("{suite}.img"));
    let recipe_file = base.join(format!("{suite}.recipe"));
    let recipe = recipe(suite);
    if image.exists() && fs::read_to_string(&recipe_file).is_ok_and(|made| made == recipe) {
        return Ok(image);
    }
    eprintln!("making a root of Debian {suite} (once, about a minute)");
    // Not in /tmp, which may be mounted so that no device can be made there.
    let work = tempfile::tempdir_in(&base)?.keep();
    let made = make(suite, &work).and_then(|disk| {
        let _ = fs::remove_file(&recipe_file);
        fs::rename(disk, &image)?;
        Ok(fs::write(recipe_file, recipe)?)
    });
    // What is in there belongs to root.
    command::run(command::as_root("rm").args(["-rf", "--one-file-system"]).arg(&work))?;
    made.with_context(|| format!("making a root of Debian {suite}"))?;
    Ok(image)
}

/// All that decides what is in the image.
fn recipe(suite: &str) -> String {
    [&packages(suite), &CONTAINER_PACKAGES.join(","), &LEFT_OUT.join(" "), CUSTOMIZE, UNIT, &SIZE.to_string()]
        .map(|part| part.to_owned() + "\n")
        .concat()
}

fn packages(suite: &str) -> String {
    let more: &[&str] = if suite == "trixie" { &TRIXIE_PACKAGES } else { &[] };
    PACKAGES.iter().chain(more).copied().collect::<Vec<_>>().join(",")
}

fn make(suite: &str, work: &Path) -> Result<PathBuf> {
    let sources = work.join("sources.list");
    fs::write(&sources, apt::suite_sources(suite)?)?;
    fs::write(work.join("customize.sh"), CUSTOMIZE)?;
    fs::write(work.join("guest-test.service"), UNIT)?;
    let container = work.join("container");
    let include = format!("--include={}", CONTAINER_PACKAGES.join(","));
    let merged = "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr".to_owned();
    bootstrap(suite, "extract", &container, &sources, &[include, merged])?;
    let root = work.join("root");
    bootstrap(suite, "minbase", &root, &sources, &[format!("--include={}", packages(suite))])?;
    command::run(command::as_root("sh").arg(work.join("customize.sh")).arg(work))?;
    let disk = work.join("disk.img");
    disk::partitioned(&root, &disk, suite, SIZE)?;
    Ok(disk)
}

fn bootstrap(suite: &str, variant: &str, to: &Path, sources: &Path, more: &[String]) -> Result<()> {
    let mut mmdebstrap = command::as_root(command::tool("mmdebstrap")?);
    mmdebstrap
        .args(["--mode=root", "--quiet", "--format=directory"])
        .arg(format!("--variant={variant}"))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .args(LEFT_OUT.map(|folder| format!("--dpkgopt=path-exclude=/usr/share/{folder}/*")))
        .args(more)
        .arg(suite)
        .arg(to)
        .arg(sources);
    let output = mmdebstrap.output().context("starting mmdebstrap")?;
    if !output.status.success() {
        bail!("mmdebstrap ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
