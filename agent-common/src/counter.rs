//! Per-CPU counters of what the programs decided, and of what they could not do, for each scope.

/// Index into a scope's counters: element `scope * COUNTERS + counter` of the `COUNTERS` per-CPU array.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Events of denials that did not fit the ring.
    LostDenied = 0,
    /// Other events that did not fit the ring.
    LostOther = 1,
    /// File operations denied (or, in audit mode, that would have been).
    FileDenied = 2,
    /// File operations allowed.
    FileAllowed = 3,
    /// Network operations denied (or that would have been).
    NetDenied = 4,
    /// Network operations allowed.
    NetAllowed = 5,
    /// Other operations denied (or that would have been): ptrace, bpf, leaving the cgroup.
    ProcessDenied = 6,
    /// Denied because the path is longer or deeper than the limits.
    PathTooLong = 7,
    /// Denied because no path buffer was free.
    NoBuffer = 8,
    /// Denied because the file has no name inside a known filesystem.
    NoName = 9,
    /// Denied because a kernel helper failed.
    HelperFailed = 10,
    /// A child cgroup could not be given its parent's tag; from then on ancestors are asked too.
    InheritFailed = 11,
    /// Denied because the policy tables contradict themselves.
    BadTable = 12,
    /// Denied because renames never paused for long enough to read a path.
    Raced = 13,
}

/// Number of counters.
pub const COUNTERS: usize = 14;

/// Operations denied, of all kinds.
#[must_use]
pub const fn denied(counters: &[u64; COUNTERS]) -> u64 {
    counters[Counter::FileDenied as usize]
        + counters[Counter::NetDenied as usize]
        + counters[Counter::ProcessDenied as usize]
}

/// Operations allowed, of all kinds.
#[must_use]
pub const fn allowed(counters: &[u64; COUNTERS]) -> u64 {
    counters[Counter::FileAllowed as usize] + counters[Counter::NetAllowed as usize]
}
