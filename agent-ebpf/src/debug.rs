//! Lines for `stockade doctor --kernel-log`, in objects built with `debug-log` only: in others these are no code at all.

#[cfg(feature = "debug-log")]
mod lines {
    use stockade_common::counter::Counter;

    /// A child cgroup has got its parent's tag.
    #[inline(always)]
    pub fn inherited(cgroup_id: u64, scope: u32) {
        log_inherited(cgroup_id, scope);
    }

    /// A record of a refusal is about to be sent.
    #[inline(always)]
    pub fn refused(scope: u32, kind: u16, hook: u8, reason: u16) {
        log_refused(scope, u32::from(kind), u32::from(hook), u32::from(reason));
    }

    /// Something failed, and is counted.
    #[inline(always)]
    pub fn counted(counter: Counter) {
        if !matches!(
            counter,
            Counter::FileAllowed
                | Counter::FileDenied
                | Counter::NetAllowed
                | Counter::NetDenied
                | Counter::ProcessDenied
        ) {
            log_failed(counter as u32);
        }
    }

    // verifier: global functions of numbers that return one are verified once, and not for each call and way to it, which
    // for aya-log's loops is more than 6.1 goes through.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn log_inherited(cgroup_id: u64, scope: u32) -> i32 {
        aya_log_ebpf::debug!((), "cgroup {} inherits scope {}", cgroup_id, scope);
        0
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn log_refused(scope: u32, kind: u32, hook: u32, reason: u32) -> i32 {
        aya_log_ebpf::info!((), "scope {}: hook {} refuses kind {} for reason {}", scope, hook, kind, reason);
        0
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn log_failed(counter: u32) -> i32 {
        aya_log_ebpf::warn!((), "counter {} rises", counter);
        0
    }
}

#[cfg(not(feature = "debug-log"))]
mod lines {
    use stockade_common::counter::Counter;

    #[inline(always)]
    pub fn inherited(_cgroup_id: u64, _scope: u32) {}
    #[inline(always)]
    pub fn refused(_scope: u32, _kind: u16, _hook: u8, _reason: u16) {}
    #[inline(always)]
    pub fn counted(_counter: Counter) {}
}

pub use lines::{counted, inherited, refused};
