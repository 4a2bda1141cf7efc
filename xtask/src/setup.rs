//! `setup`: everything a bare Debian machine lacks.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{build, command, kernels};

/// bpf-linker's version. It must not be older than the LLVM that writes the bitcode.
const BPF_LINKER: &str = "0.13.0";
/// Major version of the LLVM that Debian's `rustc-web` is built with.
const LLVM: &str = "22";

/// (a file that shows that it is there, package)
const BUILD_PACKAGES: [(&str, &str); 7] = [
    ("/usr/bin/cc", "gcc"),
    ("/usr/bin/c++", "g++"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("/usr/lib/llvm-22/bin/llvm-config", "llvm-22-dev"),
    ("/usr/lib/llvm-22/lib/libPolly.a", "libpolly-22-dev"),
    ("/usr/include/zstd.h", "libzstd-dev"),
    ("/usr/include/zlib.h", "zlib1g-dev"),
];
/// The compiler for BPF; a rustup nightly does as well. Debian's plain `rustc` has files of the same names.
const COMPILER_PACKAGES: [(&str, &str); 3] = [
    ("/var/lib/dpkg/info/rustc-web.list", "rustc-web"),
    ("/var/lib/dpkg/info/cargo-web.list", "cargo-web"),
    (BPF_STD, "libstd-rust-web-dev-bpf"),
];
const BPF_STD: &str = "/usr/lib/rustlib/bpfel-unknown-none";
/// (program or file, package)
const GUEST_PACKAGES: [(&str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("zstd", "zstd"),
    ("lz4", "lz4"),
    ("xz", "xz-utils"),
    ("apt-get", "apt"),
    ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
];

/// (program, package)
const PACKAGE_PACKAGES: [(&str, &str); 3] = [("dpkg-deb", "dpkg"), ("strip", "binutils"), ("git", "git")];

/// What guests that boot systemd need besides.
const SYSTEMD_PACKAGES: [(&str, &str); 2] = [("mmdebstrap", "mmdebstrap"), ("mkfs.ext4", "e2fsprogs")];

/// Whether Debian's ready-made standard library for BPF is installed.
pub fn debian_bpf_std() -> bool {
    Path::new(BPF_STD).exists()
}

/// Where bpf-linker is, or will be.
pub fn bpf_linker() -> Result<PathBuf> {
    Ok(command::cache()?.join(format!("bpf-linker-{BPF_LINKER}-llvm{LLVM}/bin/bpf-linker")))
}

fn missing_build() -> Vec<&'static str> {
    let missing = |packages: &[(&str, &'static str)]| {
        let missing = packages.iter().filter(|(sign, _)| !Path::new(sign).exists());
        missing.map(|(_, package)| *package).collect::<Vec<_>>()
    };
    let mut all = missing(&BUILD_PACKAGES);
    let compiler = missing(&COMPILER_PACKAGES);
    if !compiler.is_empty() && !build::nightly() {
        all.extend(compiler);
    }
    all
}

fn missing_programs(list: &[(&str, &'static str)]) -> Vec<&'static str> {
    let missing = list.iter().filter(|(program, _)| command::which(program).is_none());
    missing.map(|(_, package)| *package).collect()
}

fn missing_guest() -> Vec<&'static str> {
    missing_programs(&GUEST_PACKAGES)
}

/// `cargo xtask setup`.
pub fn run() -> Result<()> {
    let mut missing = missing_build();
    missing.extend(missing_guest());
    missing.extend(missing_programs(&SYSTEMD_PACKAGES));
    missing.extend(missing_programs(&PACKAGE_PACKAGES));
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

/// What packages are made with.
pub fn ensure_package() -> Result<()> {
    install(&missing_programs(&PACKAGE_PACKAGES))
}

/// What guests need.
pub fn ensure_guest() -> Result<()> {
    install(&missing_guest())
}

/// What guests that boot systemd need.
pub fn ensure_systemd() -> Result<()> {
    let mut missing = missing_guest();
    missing.extend(missing_programs(&SYSTEMD_PACKAGES));
    install(&missing)
}

/// Name servers to compare with. `dnsmasq-base` starts nothing; the service of `unbound` is the package's own affair.
pub fn ensure_name_servers() -> Result<()> {
    install(&missing_programs(&[("dnsmasq", "dnsmasq-base"), ("unbound", "unbound")]))
}

/// What the demo needs on a host: something that brings up a network namespace.
pub fn ensure_ip() -> Result<()> {
    if command::which("ip").is_some() || command::which("busybox").is_some() {
        return Ok(());
    }
    install(&["iproute2"])
}

fn ensure_linker() -> Result<()> {
    let linker = bpf_linker()?;
    if linker.exists() {
        return Ok(());
    }
    eprintln!("building bpf-linker {BPF_LINKER} (once, about two minutes)");
    let folder = linker.parent().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
    command::run(
        command::cargo()
            .args(["install", "--locked", "--no-default-features", "--features"])
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
        let compiler = if packages.contains(&"libstd-rust-web-dev-bpf") {
            "; in place of rustc-web, cargo-web and libstd-rust-web-dev-bpf, \
             `rustup toolchain install nightly --component rust-src` will do"
        } else {
            ""
        };
        bail!(
            "this is not Debian, so nothing is installed by itself. Missing, by their Debian names: {list}{compiler}"
        );
    }
    eprintln!("installing {list}");
    command::run(&mut apt(&[], &["update", "-q"]))?;
    // Nothing of the user's is taken away: rustc-web conflicts with Debian's rustc, cargo and rustup packages.
    let Err(error) = command::run(apt(&[], &INSTALL).args(packages)) else {
        return Ok(());
    };
    let release = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let again = match release {
        Some(release) => install_from_backports(release, packages),
        None => Err(error),
    };
    again.with_context(|| {
        format!(
            "installing {list}. If apt would have to remove a compiler, either remove it yourself, or use \
             `rustup toolchain install nightly --component rust-src`"
        )
    })
}

const INSTALL: [&str; 5] = ["install", "-y", "-q", "--no-install-recommends", "--no-remove"];

/// `apt-get` as root, with options and words.
fn apt(options: &[String], words: &[&str]) -> Command {
    let mut command = command::as_root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(options).args(words);
    // Its progress is not what a guest's command prints.
    command.stdout(io::stderr());
    command
}

/// A machine that has parts of a package from backports (qemu-utils, say) cannot take the rest from the release itself. Its
/// apt sources stay as they are.
fn install_from_backports(release: &str, packages: &[&str]) -> Result<()> {
    eprintln!("the release alone does not go with what is installed: trying again with {release}-backports");
    let folder = command::cache()?.join("apt-backports");
    let lists = folder.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    let sources = folder.join("sources.list");
    fs::write(&sources, crate::apt::backports_sources(release)?)?;
    let options = [
        format!("-oDir::Etc::sourcelist={}", sources.display()),
        "-oDir::Etc::sourceparts=/dev/null".to_owned(),
        format!("-oDir::State::lists={}", lists.display()),
        "-oAPT::Sandbox::User=root".to_owned(),
        format!("-oAPT::Default-Release={release}-backports"),
    ];
    // A mirror without backports leaves a warning; the installation says what is missing.
    let _ = apt(&options[..4], &["update", "-q"]).status();
    command::run(apt(&options, &INSTALL).args(packages))
}
