//! Sizes that both sides of the kernel boundary rely on. A thing past a limit is refused or denied, never cut.

/// Longest path the programs name, in bytes, without a trailing NUL. Longer: denied and counted.
pub const MAX_PATH: usize = 4096;
/// Most components from a file up to its filesystem's root. Deeper: denied and counted.
pub const MAX_DEPTH: usize = 64;
/// Longest name of one component (`NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// Entries of each automaton table ([`crate::file`]); 8 bytes each, so one table is 4 MiB, the largest value an
/// array map may have on kernel 6.1 (`KMALLOC_MAX_SIZE`). A power of two: the programs mask indices with it.
pub const TABLE_ENTRIES: usize = 1 << 19;
/// Buckets of the untagged-process filter ([`crate::tag`]). A power of two.
pub const TAG_FILTER_BUCKETS: usize = 1 << 14;
/// Processes that are starting a workload at once. A further one is policed at once.
pub const MAX_STARTERS: u32 = 4096;
/// Nanoseconds a process may be starting for, before it is policed.
pub const STARTUP_NS: u64 = 120_000_000_000;
/// Jiffies that are at least that long (`CONFIG_HZ` is 1000 at most).
pub const STARTUP_JIFFIES: u64 = 120_000;
/// Longest path of a cgroup that is tagged by path; the kernel's tracepoint gives no more (`TRACE_CGROUP_PATH_LEN`).
pub const MAX_CGROUP_PATH: usize = 1024;
/// Stands for the cgroup tree among the filesystems of the host's own table. No filesystem has this number.
pub const CGROUP_DEV: u32 = 0;
/// Most cgroups tagged at once.
pub const MAX_TAGS: u32 = 65_536;
/// Scopes. Scope 0 is never given out: it counts what cannot be attributed.
pub const MAX_SCOPES: u32 = 1024;
/// The scope of cgroups of which it is not known yet whose they are. It is never held to a policy: nothing is allowed.
pub const UNDECIDED_SCOPE: u32 = MAX_SCOPES - 2;
/// Tags after which none are inherited any more: the room that is left is for cgroups that only their path can tag.
pub const MAX_INHERITED_TAGS: u32 = MAX_TAGS - 8192;
/// Policy slots, of 16 bits. Slot 0 is never given out.
pub const MAX_SLOTS: u32 = 2048;
/// Most filesystems of one policy.
pub const MAX_FILESYSTEMS: u32 = 4096;
/// Most network prefixes of one policy.
pub const MAX_PREFIXES: u32 = 131_072;
/// Most port ranges of one policy, over all its prefixes; 16 bytes each.
pub const MAX_PORT_RANGES: usize = 1 << 20;
/// Path buffers per CPU. A program may be preempted by a task that runs it too; when all are taken: denied and counted.
pub const PATH_BUFFERS_PER_CPU: usize = 4;
/// Directories whose automaton states are remembered; 16 bytes each. A power of two.
pub const REMEMBERED_DIRECTORIES: usize = 1 << 14;
/// An exec event carries fewer bytes of the command line than this. A power of two: the programs mask with it.
pub const MAX_ARGV: usize = 4096;
/// Bytes of the event ring. A power of two and a multiple of the page size.
pub const RING_BYTES: usize = 4 << 20;
/// Addresses that names may have given one policy at once.
pub const MAX_GRANTED: u32 = 16_384;
/// DNS gates: pairs of scope and network namespace.
pub const MAX_GATES: u32 = 16_384;
/// Who has sent datagrams to listening ports lately; the one that was longest silent makes room.
pub const MAX_PEERS: u32 = 16_384;
/// Overlays whose acts in their layers are known; the one that was longest unused makes room.
pub const MAX_OVERLAYS: u32 = 4096;
/// Packets that are on their way to gates.
pub const MAX_ASKERS: u32 = 4096;
/// Stands for abstract unix sockets among the filesystems of a policy; the path is the name's bytes, without the leading
/// NUL. No filesystem has this number.
pub const ABSTRACT_DEV: u32 = u32::MAX;
