//! A policy's tables: maps of their own, made to its measure, filled, counted, closed against changes, and only then put
//! where the programs look for them.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use stockade_common::{
    file::{Accept, FsEntry},
    limits::{MAX_FILESYSTEMS, MAX_GRANTED, MAX_PREFIXES, TABLE_ENTRIES},
    net::{Grant, Granted, PortRange, PortRun, PrefixData},
    tag::SCOPE_DNS,
};

use super::{
    KernelError, Slot,
    sys::{self, Mapping, Shape},
};
use crate::policy::image::MapImage;

/// Names of the arrays of maps that hold policies' tables, in the order a policy is put in: the filesystems last, because
/// a filesystem without an entry is denied.
pub(super) const OUTER: [&str; 7] =
    ["NEXT", "STATES", "ACCEPTS", "NAMES", "PORTS", "PREFIXES", "FILESYSTEMS"];

/// Filesystems that may be added to a policy that is active: those mounted later.
const LATER_FILESYSTEMS: u32 = 64;

const TABLE_BYTES: usize = TABLE_ENTRIES * size_of::<u64>();
const TRIE_KEY: usize = 4 + 16;

/// The maps of one policy, in the order of [`OUTER`]; `None`: it has nothing of that kind.
#[derive(Debug)]
pub(super) struct PolicyMaps([Option<OwnedFd>; OUTER.len()]);

impl PolicyMaps {
    /// Makes and fills them.
    pub(super) fn create(image: &MapImage) -> Result<Self, KernelError> {
        fits("automaton entries", image.next.len().max(image.states.len()), TABLE_ENTRIES)?;
        fits("filesystems", image.filesystems.len(), MAX_FILESYSTEMS as usize)?;
        fits("prefixes", image.prefixes.len(), MAX_PREFIXES as usize)?;
        let names = (image.flags & SCOPE_DNS != 0).then(|| names("NAMES")).transpose()?;
        Ok(Self([
            Some(table("NEXT", &image.next)?),
            Some(table("STATES", &image.states)?),
            Some(array("ACCEPTS", &image.accepts, accept_bytes)?),
            names,
            Some(array("PORTS", &image.ports, port_bytes)?),
            Some(trie("PREFIXES", image)?),
            Some(filesystems("FILESYSTEMS", image)?),
        ]))
    }

    /// The map of what names have given, which is filled while the policy is active.
    pub(super) fn into_names(self) -> Option<OwnedFd> {
        let [_, _, _, names, ..] = self.0;
        names
    }

    /// Puts them in place. The kernel waits then until no program is running that has seen what was there before.
    pub(super) fn install(&self, outer: &[OwnedFd; OUTER.len()], slot: Slot) -> Result<(), KernelError> {
        for ((outer, inner), name) in outer.iter().zip(&self.0).zip(OUTER) {
            let slot = slot.0.to_ne_bytes();
            let done = match inner {
                Some(inner) => sys::map_update(outer.as_fd(), &slot, &inner.as_raw_fd().to_ne_bytes()),
                // A killed daemon may have left one there.
                None => sys::map_delete(outer.as_fd(), &slot).map(drop),
            };
            done.map_err(failed("putting in place", name))?;
        }
        Ok(())
    }
}

/// Waits until no program is running that may have read what a scope was held to before: the kernel does so when an array
/// of maps is changed by a system call (`maybe_wait_bpf_programs`). Slot 0, which is nobody's, is what is changed.
pub(super) fn wait_for_programs(outer: &[OwnedFd; OUTER.len()]) -> Result<(), KernelError> {
    let [.., ports, _, _] = outer;
    let map = array::<PortRange>("PORTS", &[], port_bytes)?;
    let slot = 0u32.to_ne_bytes();
    let changed = sys::map_update(ports.as_fd(), &slot, &map.as_raw_fd().to_ne_bytes())
        .and_then(|()| sys::map_delete(ports.as_fd(), &slot));
    changed.map(drop).map_err(failed("waiting for users of", "PORTS"))
}

/// Takes a policy's maps away. Nothing may be held to it any more.
pub(super) fn remove(outer: &[OwnedFd; OUTER.len()], slot: Slot) -> Result<(), KernelError> {
    for (outer, name) in outer.iter().zip(OUTER).rev() {
        sys::map_delete(outer.as_fd(), &slot.0.to_ne_bytes()).map_err(failed("emptying", name))?;
    }
    Ok(())
}

fn failed(step: &'static str, name: &str) -> impl FnOnce(io::Error) -> KernelError + use<> {
    let object = format!("map {name}");
    move |source| KernelError::System { step, object, source }
}

fn fits(what: &'static str, need: usize, have: usize) -> Result<(), KernelError> {
    if need <= have { Ok(()) } else { Err(KernelError::TooBig { what, need, have }) }
}

fn create(name: &'static str, shape: Shape) -> Result<OwnedFd, KernelError> {
    sys::map_create(name, shape).map_err(failed("making", name))
}

/// Whether as many entries are there as were to be written.
fn counted(name: &str, written: usize, wanted: usize) -> Result<(), KernelError> {
    if written == wanted {
        return Ok(());
    }
    let source = io::Error::other(format!("{written} of {wanted} entries are there"));
    Err(failed("filling", name)(source))
}

fn freeze(name: &str, map: OwnedFd) -> Result<OwnedFd, KernelError> {
    sys::map_freeze(map.as_fd()).map_err(failed("closing", name))?;
    Ok(map)
}

fn table(name: &'static str, entries: &[u64]) -> Result<OwnedFd, KernelError> {
    let shape = Shape {
        kind: sys::MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: TABLE_BYTES as u32,
        max_entries: 1,
        flags: sys::MMAPABLE,
    };
    let map = create(name, shape)?;
    write_table(map.as_fd(), entries).map_err(failed("filling", name))?;
    freeze(name, map)
}

/// Copies a table through a mapping: one element of 4 MiB is too much for a value passed by a system call to be quick.
fn write_table(map: BorrowedFd<'_>, entries: &[u64]) -> io::Result<()> {
    let mapping = Mapping::new(map, TABLE_BYTES)?;
    // SAFETY: the mapping holds TABLE_ENTRIES words, `create` has checked that `entries` are no more, and nothing else
    // refers to it.
    unsafe { std::ptr::copy_nonoverlapping(entries.as_ptr(), mapping.words().as_ptr(), entries.len()) };
    Ok(())
}

/// An array of at least one element.
fn array<T: Copy>(
    name: &'static str,
    values: &[T],
    bytes: impl Fn(&T, &mut Vec<u8>),
) -> Result<OwnedFd, KernelError> {
    let shape = Shape {
        kind: sys::MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: size_of::<T>() as u32,
        max_entries: values.len().max(1) as u32,
        flags: sys::INNER_MAP,
    };
    let map = create(name, shape)?;
    let keys: Vec<u8> = (0..values.len() as u32).flat_map(u32::to_ne_bytes).collect();
    fill(name, map.as_fd(), &keys, values, bytes)?;
    freeze(name, map)
}

fn fill<T>(
    name: &str,
    map: BorrowedFd<'_>,
    keys: &[u8],
    values: &[T],
    bytes: impl Fn(&T, &mut Vec<u8>),
) -> Result<(), KernelError> {
    let mut buffer = Vec::with_capacity(size_of_val(values));
    for value in values {
        bytes(value, &mut buffer);
    }
    let written =
        sys::map_update_batch(map, keys, &buffer, values.len() as u32).map_err(failed("filling", name))?;
    counted(name, written as usize, values.len())
}

fn trie(name: &'static str, image: &MapImage) -> Result<OwnedFd, KernelError> {
    let shape = Shape {
        kind: sys::MAP_TYPE_LPM_TRIE,
        key_size: TRIE_KEY as u32,
        value_size: size_of::<PortRun>() as u32,
        max_entries: image.prefixes.len().max(1) as u32,
        flags: sys::NO_PREALLOC,
    };
    let map = create(name, shape)?;
    let mut keys = Vec::with_capacity(image.prefixes.len() * TRIE_KEY);
    for (addr, length, _) in &image.prefixes {
        keys.extend(u32::from(*length).to_ne_bytes());
        keys.extend(addr);
    }
    let runs: Vec<PortRun> = image.prefixes.iter().map(|(.., run)| *run).collect();
    fill(name, map.as_fd(), &keys, &runs, |run, out| {
        out.extend(run.first.to_ne_bytes());
        out.extend(run.len.to_ne_bytes());
    })?;
    let there = sys::map_count(map.as_fd(), TRIE_KEY, runs.len()).map_err(failed("counting", name))?;
    counted(name, there, runs.len())?;
    freeze(name, map)
}

/// Not closed: the DNS gate adds to it, and takes away.
fn names(name: &'static str) -> Result<OwnedFd, KernelError> {
    let shape = Shape {
        kind: sys::MAP_TYPE_HASH,
        key_size: size_of::<PrefixData>() as u32,
        value_size: size_of::<Granted>() as u32,
        max_entries: MAX_GRANTED,
        flags: sys::NO_PREALLOC,
    };
    create(name, shape)
}

/// Not closed: what is mounted later is added.
fn filesystems(name: &'static str, image: &MapImage) -> Result<OwnedFd, KernelError> {
    let shape = Shape {
        kind: sys::MAP_TYPE_HASH,
        key_size: 4,
        value_size: size_of::<FsEntry>() as u32,
        max_entries: image.filesystems.len() as u32 + LATER_FILESYSTEMS,
        flags: 0,
    };
    let map = create(name, shape)?;
    let keys: Vec<u8> = image.filesystems.iter().flat_map(|(dev, _)| dev.to_ne_bytes()).collect();
    let entries: Vec<FsEntry> = image.filesystems.iter().map(|(_, entry)| *entry).collect();
    fill(name, map.as_fd(), &keys, &entries, filesystem_bytes)?;
    let there = sys::map_count(map.as_fd(), 4, entries.len()).map_err(failed("counting", name))?;
    counted(name, there, entries.len())?;
    Ok(map)
}

fn words(out: &mut Vec<u8>, words: impl IntoIterator<Item = u32>) {
    out.extend(words.into_iter().flat_map(u32::to_ne_bytes));
}

fn accept_bytes(accept: &Accept, out: &mut Vec<u8>) {
    let Accept { allow, deny, allow_rule, deny_rule } = *accept;
    words(out, [allow, deny].into_iter().chain(allow_rule).chain(deny_rule));
}

fn port_bytes(range: &PortRange, out: &mut Vec<u8>) {
    let PortRange { low, high, rule, verdict } = *range;
    words(out, [low, high, rule, verdict]);
}

/// As the programs read it.
pub(super) fn granted_bytes(granted: &Granted) -> Vec<u8> {
    let mut out = Vec::with_capacity(size_of::<Granted>());
    for Grant { low, high, rule, expires } in granted.grants {
        words(&mut out, [low, high, rule, expires]);
    }
    out
}

fn filesystem_bytes(entry: &FsEntry, out: &mut Vec<u8>) {
    let FsEntry { anchored, floating, anchored_self, floating_self, flags, pad } = *entry;
    words(out, [anchored, floating, anchored_self, floating_self, flags, pad]);
}

#[cfg(test)]
mod tests {
    use stockade_common::net::GRANTS;

    use super::*;

    #[test]
    fn entries_are_as_long_as_the_programs_read_them() {
        let length = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            out.len()
        };
        assert_eq!(length(&|out| accept_bytes(&Accept::NOTHING, out)), size_of::<Accept>());
        let granted = Granted { grants: [Grant::NOTHING; GRANTS] };
        assert_eq!(granted_bytes(&granted).len(), size_of::<Granted>());
        let range = PortRange { low: 0, high: 0, rule: 0, verdict: 0 };
        assert_eq!(length(&|out| port_bytes(&range, out)), size_of::<PortRange>());
        assert_eq!(length(&|out| filesystem_bytes(&FsEntry::default(), out)), size_of::<FsEntry>());
    }
}
