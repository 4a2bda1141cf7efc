//! `build-ebpf` and `build`.

use std::{
    env, fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{command, setup};

const FLAGS: [&str; 5] =
    ["--cfg", "bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"];

/// Which compiler has a `core` for BPF.
enum Toolchain {
    /// Debian's, with a ready-made one.
    Debian,
    /// rustup's nightly, which builds it from rust-src.
    Nightly,
}

fn toolchain() -> Result<Toolchain> {
    if setup::debian_bpf_std() && Path::new("/usr/bin/rustc").exists() && Path::new("/usr/bin/cargo").exists()
    {
        return Ok(Toolchain::Debian);
    }
    if nightly() {
        return Ok(Toolchain::Nightly);
    }
    bail!(
        "no compiler with a `core` for BPF: run `cargo xtask setup` on Debian 12 or 13, or elsewhere \
         `rustup toolchain install nightly --component rust-src`"
    )
}

/// Whether rustup has a nightly toolchain with the standard library's source.
pub fn nightly() -> bool {
    let sysroot = Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output();
    sysroot.ok().filter(|output| output.status.success()).is_some_and(|output| {
        Path::new(String::from_utf8_lossy(&output.stdout).trim())
            .join("lib/rustlib/src/rust/library")
            .exists()
    })
}

/// The map of aya-log's lines: it tells the two kinds of objects apart.
const LOG_MAP: &[u8] = b"AYA_LOGS";
/// What makes other instructions of the same source.
const OTHER: &str = "--config=profile.release.opt-level=2";

/// What is made of the kernel programs' source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ebpf {
    /// `target/bpf/stockade.o` and `null.o`.
    Release,
    /// `target/bpf/stockade-debug.o`, whose programs also write lines for `stockade doctor --kernel-log`.
    Debug,
    /// `target/bpf/stockade-other.o`: the same programs of other instructions, as another compiler might make them, for tests of
    /// what an upgrade does.
    Other,
}

/// Builds the kernel programs.
pub fn ebpf(which: Ebpf) -> Result<()> {
    let root = command::root();
    let linker = setup::bpf_linker()?;
    if !linker.exists() {
        bail!("bpf-linker is missing: run `cargo xtask setup`");
    }
    let target = root.join("target/ebpf");
    let mut cargo = match toolchain()? {
        Toolchain::Debian => {
            let mut cargo = Command::new("/usr/bin/cargo");
            // aya-ebpf and one exchange instruction of ours need a feature gate, asm on BPF.
            cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").arg("build");
            cargo
        }
        Toolchain::Nightly => {
            let mut cargo = Command::new("rustup");
            cargo.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
            cargo
        }
    };
    let mut flags: Vec<String> = FLAGS.map(str::to_owned).into();
    flags.push(format!("-Clinker={}", linker.display()));
    flags.extend(remap()?);
    cargo
        .current_dir(root.join("agent-ebpf"))
        .args(["--locked", "--release", "--target", "bpfel-unknown-none"])
        .args(quiet())
        .args((which == Ebpf::Debug).then_some("--features=debug-log"))
        .args((which == Ebpf::Other).then_some(OTHER))
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // What the calling cargo set up for its own toolchain would mislead this one.
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC_WRAPPER", "RUSTDOC", "RUSTFLAGS", "LD_LIBRARY_PATH"] {
        cargo.env_remove(name);
    }
    command::run(&mut cargo).context("building the eBPF programs")?;
    fs::create_dir_all(root.join("target/bpf"))?;
    let objects: &[(&str, &str)] = match which {
        Ebpf::Release => &[("stockade", "stockade"), ("null", "null")],
        Ebpf::Debug => &[("stockade", "stockade-debug")],
        Ebpf::Other => &[("stockade", "stockade-other")],
    };
    for (name, object_name) in objects {
        let built = target.join("bpfel-unknown-none/release").join(name);
        let new = fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
        if new.windows(LOG_MAP.len()).any(|name| name == LOG_MAP) != (which == Ebpf::Debug) {
            bail!("{}: log lines belong into the debug object, and only there", built.display());
        }
        let object = object(object_name);
        // Cargo goes by the time of change: what is the same is left alone, and the agent is not built anew.
        if fs::read(&object).ok().as_ref() != Some(&new) {
            fs::write(&object, new).with_context(|| format!("writing {}", object.display()))?;
        }
    }
    Ok(())
}

/// Where [`ebpf`] leaves an object: `stockade`, or `null`, whose programs only return.
pub fn object(name: &str) -> PathBuf {
    command::root().join(format!("target/bpf/{name}.o"))
}

/// Where [`all`] leaves the agent.
pub fn agent() -> PathBuf {
    command::root().join("target/release/stockade")
}

/// A release build of what `args` choose.
pub fn release(args: &[&str]) -> Result<()> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--locked", "--release"]).args(quiet()).args(args);
    let flags = given_flags(env::var("CARGO_ENCODED_RUSTFLAGS").ok(), env::var("RUSTFLAGS").ok());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", [flags, remap()?.to_vec()].concat().join("\x1f"));
    command::run(&mut cargo)
}

/// What the caller wants rustc to be told, as cargo reads it.
fn given_flags(encoded: Option<String>, plain: Option<String>) -> Vec<String> {
    let flags = match (&encoded, &plain) {
        (Some(encoded), _) => encoded.split('\x1f').collect::<Vec<_>>(),
        (None, Some(plain)) => plain.split_whitespace().collect(),
        (None, None) => Vec::new(),
    };
    flags.into_iter().filter(|flag| !flag.is_empty()).map(str::to_owned).collect()
}

/// Folders of this machine that a compiler would write into what it makes, and what stands there instead. Bytes are the same
/// at the same place only: cargo hashes where `agent-common` is into the names of what is built from another workspace.
fn remap() -> Result<[String; 2]> {
    let cargo = match env::var_os("CARGO_HOME") {
        Some(home) if !home.is_empty() => PathBuf::from(home),
        _ => PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo"),
    };
    let flag = |from: &Path, to| format!("--remap-path-prefix={}={to}", from.display());
    Ok([flag(&command::root(), "/stockade"), flag(&cargo, "/cargo")])
}

/// A person sees cargo's progress, a log does not.
fn quiet() -> Option<&'static str> {
    (!io::stderr().is_terminal()).then_some("--quiet")
}

/// Builds the object and the binary that carries it.
pub fn all() -> Result<PathBuf> {
    setup::ensure_build()?;
    // On stderr: stdout belongs to what runs in a guest.
    eprintln!("building the eBPF programs");
    ebpf(Ebpf::Release)?;
    eprintln!("building stockade");
    release(&["--package", "stockade", "--features", "embedded-bpf"])?;
    Ok(agent())
}

/// Builds another agent, whose kernel programs are of [other instructions](Ebpf::Other), and the agent itself.
pub fn another() -> Result<PathBuf> {
    setup::ensure_build()?;
    eprintln!("building stockade with other kernel programs");
    ebpf(Ebpf::Other)?;
    release(&["--package", "stockade", "--features", "other-bpf"])?;
    // Cargo gives both the same name.
    let folder = command::root().join("target/other");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let to = folder.join("stockade");
    fs::copy(agent(), &to).with_context(|| format!("writing {}", to.display()))?;
    all()?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_cargo_reads_them() {
        let given = |encoded: Option<&str>, plain: Option<&str>| {
            given_flags(encoded.map(str::to_owned), plain.map(str::to_owned))
        };
        assert_eq!(given(None, None), [""; 0]);
        assert_eq!(given(None, Some(" -C  debuginfo=0 ")), ["-C", "debuginfo=0"]);
        assert_eq!(given(Some("--cfg\x1fa=\"b c\""), Some("-C x")), ["--cfg", "a=\"b c\""]);
        assert_eq!(given(Some(""), Some("-C x")), [""; 0], "an empty one hides the other");
    }
}
