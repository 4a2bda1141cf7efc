//! Where an overlay keeps the credentials under which it acts in its layers.

use std::{
    fs,
    io::{self, ErrorKind},
    sync::Once,
};

use aya::maps::Array;

use super::{Enforcer, KernelError, VMLINUX_BTF, btf, map};

/// There when overlayfs is loaded as a module.
const MODULE_BTF: &str = "/sys/kernel/btf/overlay";
const CONTAINER: &str = "ovl_fs";
const MEMBER: &str = "creator_cred";

/// The offset as the kernel's own BTF tells it, which it does where overlayfs is built in.
pub(super) fn built_in(kernel: &[u8]) -> Option<u32> {
    btf::module_offset(kernel, None, CONTAINER, MEMBER).ok()
}

fn of_module() -> Option<u32> {
    static SAID: Once = Once::new();
    let text = |error: io::Error| error.to_string();
    let module = match fs::read(MODULE_BTF) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        read => read.map_err(text),
    };
    let found = module.and_then(|module| {
        let kernel = fs::read(VMLINUX_BTF).map_err(text)?;
        btf::module_offset(&kernel, Some(&module), CONTAINER, MEMBER).map_err(|error| error.to_string())
    });
    let complain = |why: &String| {
        SAID.call_once(|| {
            eprintln!("stockade: containers may be refused to list directories: {MODULE_BTF}: {why}");
        });
    };
    found.inspect_err(complain).ok()
}

impl Enforcer {
    /// Lets the programs know overlays by their credentials. Until they do, and where neither module nor kernel tells, what an
    /// overlay does in its layers is judged by the layers' names, and so mostly refused.
    pub(super) fn learn_overlays(&mut self, built_in: Option<u32>) -> Result<(), KernelError> {
        let mut offsets: Array<_, u32> = map(&mut self.ebpf, "OVERLAY_CRED")?;
        let failed = |source| KernelError::Map { map: "OVERLAY_CRED", source };
        if offsets.get(&0, 0).map_err(failed)? != 0 {
            return Ok(());
        }
        match built_in.or_else(of_module) {
            Some(offset) => offsets.set(0, offset, 0).map_err(failed),
            None => Ok(()),
        }
    }
}
