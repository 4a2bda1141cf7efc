//! The eBPF object: inside the binary, or named by an environment variable in development builds and for
//! `stockade doctor --kernel-log`.

use std::borrow::Cow;

use super::KernelError;

const VARIABLE: &str = "STOCKADE_BPF_OBJECT";
/// How to come by an object whose programs write lines.
pub(super) const DEBUG_OBJECT: &str = "build one with `cargo xtask build-ebpf --debug-log`, and set STOCKADE_BPF_OBJECT to target/bpf/stockade-debug.o";

/// The object's bytes; with `debug_log` those of one whose programs write lines, which no release carries.
pub(super) fn bytes(debug_log: bool) -> Result<Cow<'static, [u8]>, KernelError> {
    if debug_log {
        return named(&format!("this binary has none whose programs write lines: {DEBUG_OBJECT}"));
    }
    embedded()
}

/// Whether there is an object whose programs write lines.
///
/// # Errors
/// If not, with the way to one.
pub fn find_debug() -> Result<(), KernelError> {
    bytes(true).map(drop)
}

#[cfg(feature = "embedded-bpf")]
fn embedded() -> Result<Cow<'static, [u8]>, KernelError> {
    #[cfg(not(feature = "other-bpf"))]
    const OBJECT: &[u8] =
        aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/stockade.o"));
    #[cfg(feature = "other-bpf")]
    const OBJECT: &[u8] =
        aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/stockade-other.o"));
    Ok(Cow::Borrowed(OBJECT))
}

#[cfg(not(feature = "embedded-bpf"))]
fn embedded() -> Result<Cow<'static, [u8]>, KernelError> {
    named("built without one; use `cargo xtask build`, or set STOCKADE_BPF_OBJECT")
}

fn named(missing: &str) -> Result<Cow<'static, [u8]>, KernelError> {
    let path = std::env::var_os(VARIABLE).ok_or_else(|| KernelError::NoObject(missing.into()))?;
    std::fs::read(&path)
        .map(Cow::Owned)
        .map_err(|error| KernelError::NoObject(format!("{}: {error}", path.display())))
}
