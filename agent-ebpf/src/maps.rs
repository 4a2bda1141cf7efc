//! The maps, all of them: names here are names in the agent's loader.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf},
    macros::btf_map,
};
use stockade_common::{
    counter::{COUNTERS as COUNTER_COUNT, Counter},
    file::{Accept, FsEntry, FsKey},
    limits::{
        MAX_FILESYSTEMS, MAX_PREFIXES, MAX_SLOTS, MAX_TAGS, PATH_BUFFERS_PER_CPU, REMEMBERED_DIRECTORIES,
        RING_BYTES, TABLE_ENTRIES, TAG_FILTER_BUCKETS,
    },
    net::{PortRange, PortRun, PrefixData},
    tag::{SlotConfig, Tag},
};

use crate::{debug, directory::Memory, path::PathBuffer};

/// One automaton table. Lets userspace write it through mmap (`BPF_F_MMAPABLE`).
pub type Table = [u64; TABLE_ENTRIES];
const MMAPABLE: usize = 1 << 10;

#[btf_map]
pub static TAG_FILTER: Array<u32, TAG_FILTER_BUCKETS> = Array::new();
#[btf_map]
pub static TAGS: HashMap<u64, Tag, { MAX_TAGS as usize }> = HashMap::new();
/// Element 0 is set once a tag could not be inherited: ancestors are asked from then on.
#[btf_map]
pub static INHERIT_LOST: Array<u32, 1> = Array::new();
#[btf_map]
pub static SLOTS: Array<SlotConfig, { MAX_SLOTS as usize }> = Array::new();
#[btf_map]
pub static FILESYSTEMS: HashMap<FsKey, FsEntry, { MAX_FILESYSTEMS as usize }> = HashMap::new();
#[btf_map]
pub static NEXT: Array<Table, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static STATES: Array<Table, 1, MMAPABLE> = Array::new();
/// Resized at load to what the policy needs.
#[btf_map]
pub static ACCEPTS: Array<Accept, 1> = Array::new();
#[btf_map]
pub static PREFIXES: LpmTrie<PrefixData, PortRun, { MAX_PREFIXES as usize }> = LpmTrie::new();
/// Resized at load to what the policy needs.
#[btf_map]
pub static PORTS: Array<PortRange, 1> = Array::new();
#[btf_map]
pub static DIRECTORIES: Array<Memory, REMEMBERED_DIRECTORIES> = Array::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, COUNTER_COUNT> = PerCpuArray::new();
#[btf_map]
pub static PATH_BUFFERS: PerCpuArray<PathBuffer, PATH_BUFFERS_PER_CPU> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<u8, RING_BYTES> = RingBuf::new();

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    debug::counted(counter);
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a per-CPU value; a preempted increment may be lost, which a statistic can bear.
        unsafe { *value += 1 };
    }
}
