//! Lines for `stockade doctor --kernel-log`, in objects built with `debug-log` only: in others these are no code at all.
//! Each is a function of its own, which keeps the stack and the verifier's work of formatting out of the callers.

#[cfg(feature = "debug-log")]
mod lines {
    use stockade_common::counter::Counter;

    /// A child cgroup has got its parent's tag.
    #[inline(never)]
    pub fn inherited(cgroup_id: u64, slot: u32) {
        aya_log_ebpf::debug!((), "cgroup {} inherits slot {}", cgroup_id, slot);
    }

    /// A record of a refusal is about to be sent.
    #[inline(never)]
    pub fn refused(slot: u32, kind: u16, hook: u8, reason: u16) {
        aya_log_ebpf::info!((), "slot {}: hook {} refuses kind {} for reason {}", slot, hook, kind, reason);
    }

    /// Something failed, and is counted.
    #[inline(always)]
    pub fn counted(counter: Counter) {
        if !matches!(counter, Counter::Allowed | Counter::Denied) {
            failed(counter as u32);
        }
    }

    #[inline(never)]
    fn failed(counter: u32) {
        aya_log_ebpf::warn!((), "counter {} rises", counter);
    }
}

#[cfg(not(feature = "debug-log"))]
mod lines {
    use stockade_common::counter::Counter;

    #[inline(always)]
    pub fn inherited(_cgroup_id: u64, _slot: u32) {}
    #[inline(always)]
    pub fn refused(_slot: u32, _kind: u16, _hook: u8, _reason: u16) {}
    #[inline(always)]
    pub fn counted(_counter: Counter) {}
}

pub use lines::{counted, inherited, refused};
