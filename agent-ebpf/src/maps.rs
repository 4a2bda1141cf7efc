//! The maps, all of them: names here are names in the agent's loader.

use aya_ebpf::{
    Global,
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    macros::btf_map,
};
use stockade_common::{
    counter::{COUNTERS as COUNTER_COUNT, Counter},
    file::{Accept, FsEntry},
    limits::{
        MAX_ASKERS, MAX_GATES, MAX_OVERLAYS, MAX_PEERS, MAX_SCOPES, MAX_SLOTS, MAX_STARTERS, MAX_TAGS,
        PATH_BUFFERS_PER_CPU, REMEMBERED_DIRECTORIES, RING_BYTES, TABLE_ENTRIES, TAG_FILTER_BUCKETS,
    },
    net::{AskerKey, GateKey, Granted, Peer, PeerKey, PortRange, PortRun, PrefixData},
    process::Powers,
    tag::{Label, Starter, Tag},
};

use crate::{debug, directory::Memory, path::PathBuffer, sockets::SocketState};

/// One automaton table. Lets userspace write it through mmap (`BPF_F_MMAPABLE`).
pub type Table = [u64; TABLE_ENTRIES];
const MMAPABLE: usize = 1 << 10;
/// Maps put into an array of maps may have other sizes than its template (`BPF_F_INNER_MAP`, kernel 5.10).
const INNER_MAP: usize = 1 << 12;
/// Entries are made when they are needed (`BPF_F_NO_PREALLOC`), and replaced as a whole.
const NO_PREALLOC: usize = 1;
/// [`FsEntry`]
pub type FsEntryWords = [u32; size_of::<FsEntry>() / 4];
/// [`Accept`]
pub type AcceptWords = [u32; size_of::<Accept>() / 4];
/// [`PortRun`]
pub type PortRunWords = [u32; size_of::<PortRun>() / 4];
/// [`PortRange`]
pub type PortRangeWords = [u32; size_of::<PortRange>() / 4];
/// [`Granted`]
pub type GrantedWords = [u32; size_of::<Granted>() / 4];
/// One policy's.
type PolicyTable = Array<Table, 1, MMAPABLE>;

#[btf_map]
pub static TAG_FILTER: Array<u32, TAG_FILTER_BUCKETS> = Array::new();
#[btf_map]
pub static TAGS: HashMap<u64, Tag, { MAX_TAGS as usize }> = HashMap::new();
/// Element 0: about how many tags there are. Userspace sets it right every second; the programs only add to it.
#[btf_map]
pub static TAG_COUNT: Array<u64, 1> = Array::new();
/// Element 0 is set once a tag could not be noted, and changes with each: ancestors are asked from then on.
#[btf_map]
pub static INHERIT_LOST: Array<u32, 1> = Array::new();
/// Names of scopes, for userspace.
#[btf_map]
pub static LABELS: Array<Label, { MAX_SCOPES as usize }> = Array::new();
/// Element 0: the [`INSTANCE`] that reports. While one daemon takes over from another the programs of both judge.
#[btf_map]
pub static ACTIVE: Array<u64, 1> = Array::new();
/// Which daemon has loaded these programs.
#[unsafe(no_mangle)]
pub static INSTANCE: Global<u64> = Global::new(0);

/// Processes that are starting a workload, by process id.
#[btf_map]
pub static STARTERS: HashMap<u32, Starter, { MAX_STARTERS as usize }> = HashMap::new();
/// Processes that were stopped when they had executed a workload, by process id: their cgroup.
#[btf_map]
pub static HELD: HashMap<u32, u64, { MAX_STARTERS as usize }> = HashMap::new();
/// Element 0: the jiffy after which none of them is any more.
#[btf_map]
pub static STARTING_UNTIL: Array<u64, 1> = Array::new();
/// Words of [`stockade_common::tag::Setting`], written through mmap: a store of a word is one step.
#[btf_map]
pub static SCOPES: Array<u64, { MAX_SCOPES as usize }, MMAPABLE> = Array::new();

// A policy's tables are maps of their own, made to its measure and put into these under its slot, all before a scope is
// set to it: a look-up that finds no map denies. Their values are plain words here: 6.1 looks for timers in the types of
// structs, and does not take a map without types for one with a struct that has none (`bpf_map_meta_equal`).
#[btf_map]
pub static FILESYSTEMS: ArrayOfMaps<HashMap<u32, FsEntryWords, 1>, { MAX_SLOTS as usize }> =
    ArrayOfMaps::new();
#[btf_map]
pub static NEXT: ArrayOfMaps<PolicyTable, { MAX_SLOTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static STATES: ArrayOfMaps<PolicyTable, { MAX_SLOTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static ACCEPTS: ArrayOfMaps<Array<AcceptWords, 1, INNER_MAP>, { MAX_SLOTS as usize }> =
    ArrayOfMaps::new();
#[btf_map]
pub static PREFIXES: ArrayOfMaps<LpmTrie<PrefixData, PortRunWords, 1>, { MAX_SLOTS as usize }> =
    ArrayOfMaps::new();
#[btf_map]
pub static PORTS: ArrayOfMaps<Array<PortRangeWords, 1, INNER_MAP>, { MAX_SLOTS as usize }> =
    ArrayOfMaps::new();

/// What a policy lets its processes do, by slot; written before a scope is set to it, and all zero after.
#[btf_map]
pub static POWERS: Array<Powers, { MAX_SLOTS as usize }> = Array::new();

/// Of policies with rules on names: what the DNS gate has granted to addresses.
#[btf_map]
pub static NAMES: ArrayOfMaps<HashMap<PrefixData, GrantedWords, 1, NO_PREALLOC>, { MAX_SLOTS as usize }> =
    ArrayOfMaps::new();
/// Where DNS gates listen, and which ports are gates': see [`GateKey`].
#[btf_map]
pub static GATES: HashMap<GateKey, u32, { 2 * MAX_GATES as usize }> = HashMap::new();
/// Who may be answered by a scope, because it has sent to a port that the scope may listen on.
#[btf_map]
pub static PEERS: LruHashMap<PeerKey, Peer, { MAX_PEERS as usize }> = LruHashMap::new();
/// What has just been carried to a gate: nothing else is let in there.
#[btf_map]
pub static ASKERS: LruHashMap<AskerKey, u64, { MAX_ASKERS as usize }> = LruHashMap::new();
/// For scopes with `SCOPE_EGRESS` the index of the interface, in the network namespace [`HOST_NETNS`].
#[btf_map]
pub static EGRESS: Array<u32, { MAX_SCOPES as usize }> = Array::new();
/// Cookie of the network namespace that interfaces are named in.
#[unsafe(no_mangle)]
pub static HOST_NETNS: Global<u64> = Global::new(0);
/// What is known of sockets made inside tags.
#[btf_map]
pub static SOCKETS: SkStorage<SocketState> = SkStorage::new();

/// Overlays, by the credentials that they act under: the address of the super block.
#[btf_map]
pub static OVERLAYS: LruHashMap<u64, u64, { MAX_OVERLAYS as usize }> = LruHashMap::new();
/// Element 0: offset of those credentials in `ovl_fs`; 0 if it is not known.
#[btf_map]
pub static OVERLAY_CRED: Array<u32, 1> = Array::new();

#[btf_map]
pub static DIRECTORIES: Array<Memory, REMEMBERED_DIRECTORIES> = Array::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { COUNTER_COUNT * MAX_SCOPES as usize }> = PerCpuArray::new();
#[btf_map]
pub static PATH_BUFFERS: PerCpuArray<PathBuffer, PATH_BUFFERS_PER_CPU> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<u8, RING_BYTES> = RingBuf::new();

/// Whether it is for these programs to count and to report.
#[inline(always)]
pub fn reports() -> bool {
    ACTIVE.get(0).is_none_or(|active| *active == INSTANCE.load())
}

/// Adds one to a scope's counter of this CPU.
#[inline(always)]
pub fn count(scope: u32, counter: Counter) {
    debug::counted(counter);
    if !reports() {
        return;
    }
    let index = scope * COUNTER_COUNT as u32 + counter as u32;
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a per-CPU value; a preempted increment may be lost, which a statistic can bear.
        unsafe { *value += 1 };
    }
}
