//! `setup`: everything a bare Debian machine lacks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{command, kernels};

/// bpf-linker's version. It must not be older than the LLVM that writes the bitcode.
const BPF_LINKER: &str = "0.13.0";
/// Major version of the LLVM that Debian's `rustc-web` is built with.
const LLVM: &str = "22";

/// (what shows that it is there, package)
const BUILD_PACKAGES: [(&str, &str); 9] = [
    ("/usr/bin/cc", "gcc"),
    ("/usr/bin/c++", "g++"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("/usr/bin/rustc", "rustc-web"),
    ("/usr/bin/cargo", "cargo-web"),
    ("/usr/lib/llvm-22/bin/llvm-config", "llvm-22-dev"),
    ("/usr/lib/llvm-22/lib/libPolly.a", "libpolly-22-dev"),
    ("/usr/include/zstd.h", "libzstd-dev"),
    ("/usr/include/zlib.h", "zlib1g-dev"),
];
const GUEST_PACKAGES: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("zstd", "zstd"),
    ("lz4", "lz4"),
    ("xz", "xz-utils"),
];

/// Whether Debian's ready-made standard library for BPF is installed.
pub fn debian_bpf_std() -> bool {
    Path::new("/usr/lib/rustlib/bpfel-unknown-none").exists()
}

/// Where bpf-linker is, or will be.
pub fn bpf_linker() -> Result<PathBuf> {
    Ok(command::cache()?.join(format!("bpf-linker-{BPF_LINKER}-llvm{LLVM}/bin/bpf-linker")))
}

fn missing_build() -> Vec<&'static str> {
    let mut missing: Vec<_> = BUILD_PACKAGES
        .iter()
        .filter(|(sign, _)| !Path::new(sign).exists())
        .map(|(_, package)| *package)
        .collect();
    if !debian_bpf_std() {
        missing.push("libstd-rust-web-dev-bpf");
    }
    missing
}

fn missing_guest() -> Vec<&'static str> {
    GUEST_PACKAGES
        .iter()
        .filter(|(program, _)| command::which(program).is_none())
        .map(|(_, package)| *package)
        .collect()
}

/// `cargo xtask setup`.
pub fn run() -> Result<()> {
    let missing: Vec<_> = missing_build().into_iter().chain(missing_guest()).collect();
    install(&missing)?;
    ensure_linker()?;
    for line in kernels::LINES {
        let kernel = kernels::find(line, false)?;
        println!("kernel {line}: {}", kernel.version);
    }
    println!("everything is in place");
    Ok(())
}

/// What `build` needs.
pub fn ensure_build() -> Result<()> {
    install(&missing_build())?;
    ensure_linker()
}

/// What the fuzz targets need: libFuzzer is C++.
pub fn ensure_cxx() -> Result<()> {
    if command::which("c++").is_some() { Ok(()) } else { install(&["g++"]) }
}

/// What guests need.
pub fn ensure_guest() -> Result<()> {
    install(&missing_guest())
}

fn ensure_linker() -> Result<()> {
    let linker = bpf_linker()?;
    if linker.exists() {
        return Ok(());
    }
    println!("building bpf-linker {BPF_LINKER} (once, about two minutes)");
    let folder = linker.parent().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
    command::run(
        command::cargo()
            .args(["install", "--quiet", "--locked", "--no-default-features", "--features"])
            .arg(format!("llvm-{LLVM}"))
            .arg("--root")
            .arg(folder)
            .arg(format!("bpf-linker@{BPF_LINKER}"))
            .env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"))
            .env_remove("CARGO_TARGET_DIR"),
    )
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.lines().any(|line| line == "ID=debian") || command::which("apt-get").is_none() {
        bail!(
            "this is not Debian, so nothing is installed by itself. Missing here, by their Debian names: {list}. \
             In place of rustc-web, cargo-web and libstd-rust-web-dev-bpf a rustup nightly with rust-src will do"
        );
    }
    println!("installing {list}");
    let root = is_root();
    let apt = || {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if !root {
            command.arg("apt-get");
        }
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    command::run(apt().args(["update", "-qq"]))?;
    command::run(apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages))
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")))
}
