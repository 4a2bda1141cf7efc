//! What a policy lets its processes do beside files and the network.

use crate::{assert_size, pod};

/// Element of the `POWERS` array, by policy slot. All zero: nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Powers {
    /// Capabilities in the initial user namespace that count when a process has them: bit n is capability n.
    pub capabilities: u64,
    /// `ALLOW_*` bits.
    pub allow: u32,
    /// Zero.
    pub pad: u32,
}
assert_size!(Powers, 16);

/// Send signals to processes outside, or have the kernel send them (`F_SETOWN`).
pub const ALLOW_SIGNALS: u32 = 1;
/// Set priorities, schedulers and limits of processes outside.
pub const ALLOW_SCHEDULING: u32 = 1 << 1;
/// Make user namespaces.
pub const ALLOW_USER_NAMESPACES: u32 = 1 << 2;
/// Mount, unmount, move mounts and change the root: where the capabilities for it are there.
pub const ALLOW_MOUNTS: u32 = 1 << 3;
/// Set up io_uring.
pub const ALLOW_IO_URING: u32 = 1 << 4;
/// Use userfaultfd.
pub const ALLOW_USERFAULTFD: u32 = 1 << 5;
/// Use the kernel's keyrings.
pub const ALLOW_KEYRINGS: u32 = 1 << 6;
/// Use System V IPC of the host's namespace.
pub const ALLOW_IPC: u32 = 1 << 7;
/// Open performance counters.
pub const ALLOW_PERF: u32 = 1 << 8;
/// Have the kernel load modules that it asks for itself.
pub const ALLOW_MODULES: u32 = 1 << 9;
/// Read the kernel's log by `syslog(2)`.
pub const ALLOW_KERNEL_LOG: u32 = 1 << 10;

/// What policies call them.
pub const RELAXATIONS: [(&str, u32); 11] = [
    ("signals", ALLOW_SIGNALS),
    ("scheduling", ALLOW_SCHEDULING),
    ("user-namespaces", ALLOW_USER_NAMESPACES),
    ("mounts", ALLOW_MOUNTS),
    ("io-uring", ALLOW_IO_URING),
    ("userfaultfd", ALLOW_USERFAULTFD),
    ("keyrings", ALLOW_KEYRINGS),
    ("ipc", ALLOW_IPC),
    ("perf", ALLOW_PERF),
    ("modules", ALLOW_MODULES),
    ("kernel-log", ALLOW_KERNEL_LOG),
];

pod!(Powers);
