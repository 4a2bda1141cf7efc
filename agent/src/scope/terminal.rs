//! The terminal and its job control. The command stays in our process group, so that it is in the foreground when we are,
//! and the terminal's signals reach it; a shell makes a group of its own and takes the terminal, as it always does.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
};

use nix::{
    sys::signal::{self, SigSet, SigmaskHow, Signal},
    unistd::{getpgrp, getpid, tcgetpgrp, tcsetpgrp},
};

/// A terminal that had us in its foreground.
#[derive(Debug)]
pub struct Terminal(File);

impl Terminal {
    /// Ours, if there is one and we are in its foreground.
    #[must_use]
    pub fn in_foreground() -> Option<Self> {
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
        let tty = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/tty").ok()?;
        (tcgetpgrp(&tty) == Ok(getpgrp())).then_some(Self(tty))
    }

    /// Puts us into the foreground again: a shell that was killed cannot have done that.
    pub fn take_back(&self) {
        if tcgetpgrp(&self.0) == Ok(getpgrp()) {
            return;
        }
        let mut set = SigSet::empty();
        // The terminal stops whoever reaches for it from the background, unless this is blocked.
        set.add(Signal::SIGTTOU);
        if let Ok(before) = set.thread_swap_mask(SigmaskHow::SIG_BLOCK) {
            // The terminal may be gone; nothing depends on it.
            let _ = tcsetpgrp(&self.0, getpgrp());
            let _ = before.thread_set_mask();
        }
    }
}

/// The command was stopped by job control: stops us too, so that the shell that waits for us sees it. Returns when
/// we are continued, and whether we were stopped at all.
pub fn stop_like(by: Signal) -> bool {
    // Not SIGSTOP: it would stop us where nobody knows how to continue us. These do nothing then (POSIX: orphaned groups).
    if !matches!(by, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU) {
        return false;
    }
    let mut set = SigSet::empty();
    set.add(by);
    let Ok(before) = set.thread_swap_mask(SigmaskHow::SIG_UNBLOCK) else { return false };
    let stopped = signal::kill(getpid(), by).is_ok();
    // Here we stop, and go on.
    let _ = before.thread_set_mask();
    stopped
}
