//! Roots for guests: a Debian with systemd, made once by mmdebstrap and kept in the cache. Either with Podman, Docker and LXC, and in
//! it a second, small Debian, from which the guest makes its containers; or with programs that use the network, and servers for them.

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
/// What programs are tried with: clients, and servers that they talk to. `libnss-resolve` is another way to ask for names.
const PROGRAMS: [&str; 20] = [
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "libnss-resolve",
    "dbus",
    "kmod",
    "procps",
    "iproute2",
    "nginx-light",
    "dnsmasq-base",
    "git",
    "curl",
    "python3-pip",
    "cargo",
    "nodejs",
    "npm",
    "golang-go",
    "musl-tools",
    "gcc",
    "libc6-dev",
];
const GUEST: &str = include_str!("guest.sh");
const CONTAINERS_SCRIPT: &str = include_str!("containers.sh");
const PROGRAMS_SCRIPT: &str = include_str!("programs/customize.sh");
/// Sources of clients that are compiled into the root.
const CLIENTS: [(&str, &str); 2] =
    [("client.c", include_str!("programs/client.c")), ("client.go", include_str!("programs/client.go"))];
const UNIT: &str = include_str!("guest-test.service");
/// Room for what a guest writes; the file is sparse.
const SIZE: u64 = 3 << 30;

/// What a root is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A host that runs containers.
    Containers,
    /// Programs that use the network.
    Programs,
}

/// The image of a suite's root; it is made if there is none, or if it was made in another way.
pub fn image(suite: &str, purpose: Purpose) -> Result<PathBuf> {
    let base = command::cache()?.join("roots");
    fs::create_dir_all(&base)?;
    let name = match purpose {
        Purpose::Containers => suite.to_owned(),
        Purpose::Programs => format!("{suite}-programs"),
    };
    let image = base.join(format!("{name}.img"));
    let recipe_file = base.join(format!("{name}.recipe"));
    let recipe = recipe(suite, purpose);
    if image.exists() && fs::read_to_string(&recipe_file).is_ok_and(|made| made == recipe) {
        return Ok(image);
    }
    eprintln!("making a root of Debian {suite} (once, some minutes)");
    // Not in /tmp, which may be mounted so that no device can be made there.
    let work = tempfile::tempdir_in(&base)?.keep();
    let made = make(suite, purpose, &work).and_then(|disk| {
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
fn recipe(suite: &str, purpose: Purpose) -> String {
    let more = match purpose {
        Purpose::Containers => CONTAINER_PACKAGES.join(","),
        Purpose::Programs => CLIENTS.map(|(_, text)| text).concat(),
    };
    let parts = [packages(suite, purpose), more, LEFT_OUT.join(" "), script(purpose)];
    parts.into_iter().chain([UNIT.to_owned(), SIZE.to_string()]).map(|part| part + "\n").collect()
}

fn packages(suite: &str, purpose: Purpose) -> String {
    let all: &[&[&str]] = match purpose {
        Purpose::Containers if suite == "trixie" => &[&PACKAGES, &TRIXIE_PACKAGES],
        Purpose::Containers => &[&PACKAGES],
        Purpose::Programs => &[&PROGRAMS],
    };
    all.concat().join(",")
}

fn script(purpose: Purpose) -> String {
    let more = match purpose {
        Purpose::Containers => CONTAINERS_SCRIPT,
        Purpose::Programs => PROGRAMS_SCRIPT,
    };
    [GUEST, more].concat()
}

fn make(suite: &str, purpose: Purpose, work: &Path) -> Result<PathBuf> {
    let sources = work.join("sources.list");
    fs::write(&sources, apt::suite_sources(suite)?)?;
    fs::write(work.join("customize.sh"), script(purpose))?;
    fs::write(work.join("guest-test.service"), UNIT)?;
    match purpose {
        Purpose::Containers => {
            let container = work.join("container");
            let include = format!("--include={}", CONTAINER_PACKAGES.join(","));
            let merged = "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr".to_owned();
            bootstrap(suite, "extract", &container, &sources, &[include, merged])?;
        }
        Purpose::Programs => {
            for (name, text) in CLIENTS {
                fs::write(work.join(name), text)?;
            }
        }
    }
    let root = work.join("root");
    let include = format!("--include={}", packages(suite, purpose));
    bootstrap(suite, "minbase", &root, &sources, &[include])?;
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
