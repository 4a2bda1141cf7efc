//! The eBPF object: inside the binary, or named by an environment variable in development builds.

use super::KernelError;

/// The object's bytes.
#[cfg(feature = "embedded-bpf")]
pub fn bytes() -> Result<std::borrow::Cow<'static, [u8]>, KernelError> {
    const OBJECT: &[u8] =
        aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/stockade.o"));
    Ok(std::borrow::Cow::Borrowed(OBJECT))
}

/// The object's bytes.
#[cfg(not(feature = "embedded-bpf"))]
pub fn bytes() -> Result<std::borrow::Cow<'static, [u8]>, KernelError> {
    let path = std::env::var_os("STOCKADE_BPF_OBJECT").ok_or_else(|| {
        KernelError::NoObject("built without one; use `cargo xtask build`, or set STOCKADE_BPF_OBJECT".into())
    })?;
    std::fs::read(&path)
        .map(std::borrow::Cow::Owned)
        .map_err(|error| KernelError::NoObject(format!("{}: {error}", path.display())))
}
