//! Copying a compiled policy into the maps.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, lpm_trie::Key},
};
use stockade_common::{
    file::{Accept, FsEntry, FsKey},
    limits::{MAX_FILESYSTEMS, MAX_PREFIXES, TABLE_ENTRIES},
    net::{PortRange, PortRun, PrefixData},
};

use super::{KernelError, Slot, map};
use crate::policy::image::MapImage;

/// Writes all tables of `image` under `slot`. The automaton tables hold one policy.
pub(super) fn apply(ebpf: &mut Ebpf, slot: Slot, image: &MapImage) -> Result<(), KernelError> {
    fits("automaton entries", image.next.len().max(image.states.len()), TABLE_ENTRIES)?;
    fits("filesystems", image.filesystems.len(), MAX_FILESYSTEMS as usize)?;
    fits("prefixes", image.prefixes.len(), MAX_PREFIXES as usize)?;

    write_table(ebpf, "NEXT", &image.next)?;
    write_table(ebpf, "STATES", &image.states)?;
    {
        let mut accepts: Array<_, Accept> = map(ebpf, "ACCEPTS")?;
        fits("accept sets", image.accepts.len(), accepts.len() as usize)?;
        for (index, accept) in (0u32..).zip(&image.accepts) {
            accepts.set(index, accept, 0).map_err(|source| KernelError::Map { map: "ACCEPTS", source })?;
        }
    }
    {
        let mut ports: Array<_, PortRange> = map(ebpf, "PORTS")?;
        fits("port ranges", image.ports.len(), ports.len() as usize)?;
        for (index, range) in (0u32..).zip(&image.ports) {
            ports.set(index, range, 0).map_err(|source| KernelError::Map { map: "PORTS", source })?;
        }
    }
    {
        let mut prefixes: LpmTrie<_, PrefixData, PortRun> = map(ebpf, "PREFIXES")?;
        for (addr, length, run) in &image.prefixes {
            let data = PrefixData { slot_be: slot.0.to_be_bytes(), addr: *addr };
            prefixes
                .insert(&Key::new(32 + u32::from(*length), data), run, 0)
                .map_err(|source| KernelError::Map { map: "PREFIXES", source })?;
        }
    }
    // Last: a filesystem that has no entry is denied.
    let mut filesystems: HashMap<_, FsKey, FsEntry> = map(ebpf, "FILESYSTEMS")?;
    for (dev, entry) in &image.filesystems {
        filesystems
            .insert(FsKey { slot: slot.0, dev: *dev }, entry, 0)
            .map_err(|source| KernelError::Map { map: "FILESYSTEMS", source })?;
    }
    Ok(())
}

fn fits(what: &'static str, need: usize, have: usize) -> Result<(), KernelError> {
    if need <= have { Ok(()) } else { Err(KernelError::TooBig { what, need, have }) }
}

/// Copies a table through a mapping: one element of 4 MiB is too much for a value passed by a system call to be quick.
fn write_table(ebpf: &mut Ebpf, name: &'static str, entries: &[u64]) -> Result<(), KernelError> {
    let failed = |source| KernelError::System { step: "mapping table", object: name.to_owned(), source };
    let Some(Map::Array(data)) = ebpf.map_mut(name) else { return Err(KernelError::Mismatch(name)) };
    let length = TABLE_ENTRIES * size_of::<u64>();
    // SAFETY: a new mapping of a map made with BPF_F_MMAPABLE, of exactly its size; checked for failure below.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            data.fd().as_fd().as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: the mapping holds TABLE_ENTRIES words, `apply` has checked that `entries` are no more, and nothing else
    // refers to it; it is unmapped once, here.
    unsafe {
        std::ptr::copy_nonoverlapping(entries.as_ptr(), address.cast::<u64>(), entries.len());
        libc::munmap(address, length);
    }
    Ok(())
}
