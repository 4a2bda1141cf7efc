//! Per-CPU counters of what the programs could not do, and of what they decided.

/// Index into the `COUNTERS` per-CPU array.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Events of denials that did not fit the ring.
    LostDenied = 0,
    /// Other events that did not fit the ring.
    LostOther = 1,
    /// Operations denied (or, in audit mode, that would have been).
    Denied = 2,
    /// Operations of tagged processes allowed.
    Allowed = 3,
    /// Denied because the path is longer or deeper than the limits.
    PathTooLong = 4,
    /// Denied because no path buffer was free.
    NoBuffer = 5,
    /// Denied because the file has no name inside a known filesystem.
    NoName = 6,
    /// Denied because a kernel helper failed.
    HelperFailed = 7,
    /// A child cgroup could not be given its parent's tag; from then on ancestors are asked too.
    InheritFailed = 8,
    /// Denied because the policy tables contradict themselves.
    BadTable = 9,
    /// Denied because renames never paused for long enough to read a path.
    Raced = 10,
}

/// Number of counters.
pub const COUNTERS: usize = 11;
