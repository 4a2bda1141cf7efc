//! Signals of a run: which the command gets from us, and which it has got already.
//!
//! Read through a signalfd, which says who sent them. That is needed: what the terminal sends (Ctrl-C) goes to the whole
//! foreground group, the command included, and must not be passed on a second time.

use nix::sys::{
    signal::{self, SigHandler, SigSet, Signal},
    signalfd::{SfdFlags, SignalFd, siginfo},
};

/// Signals that are passed on.
const FORWARDED: [Signal; 9] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// What to do about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The command gets it from us.
    Forward(Signal),
    /// The command may have changed its state.
    LookAtCommand,
    /// It has got there without us.
    Nothing,
}

/// Blocks the signals of a run, to be read instead.
///
/// # Errors
/// If the kernel refuses.
pub fn block() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in FORWARDED {
        set.add(signal);
    }
    set.add(Signal::SIGCHLD);
    // Where it is ignored (some parents leave it so), the kernel throws a child's status away.
    // SAFETY: the default is no handler of ours.
    unsafe { signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// What a signal asks for, while the command runs.
#[must_use]
pub fn action(info: &siginfo) -> Action {
    action_of(info.ssi_signo as i32, info.ssi_code)
}

fn action_of(number: i32, code: i32) -> Action {
    match Signal::try_from(number) {
        Ok(Signal::SIGCHLD) => Action::LookAtCommand,
        // A hang-up goes to the leader of the session alone, which may be us.
        Ok(signal @ Signal::SIGHUP) => Action::Forward(signal),
        Ok(signal) if code != libc::SI_KERNEL => Action::Forward(signal),
        Ok(_) | Err(_) => Action::Nothing,
    }
}

/// The signal that ends us, of those that came before the command was started.
#[must_use]
pub fn ended_before_start(signals: &SignalFd) -> Option<Signal> {
    let mut ended = None;
    while let Ok(Some(info)) = signals.read_signal() {
        ended = ended.or(ends(info.ssi_signo as i32));
    }
    ended
}

fn ends(number: i32) -> Option<Signal> {
    let harmless = [Signal::SIGCHLD, Signal::SIGCONT, Signal::SIGWINCH, Signal::SIGTSTP];
    Signal::try_from(number).ok().filter(|signal| !harmless.contains(signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminals_signals_are_not_doubled() {
        for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGWINCH] {
            assert_eq!(action_of(signal as i32, libc::SI_KERNEL), Action::Nothing);
            assert_eq!(action_of(signal as i32, libc::SI_USER), Action::Forward(signal));
        }
        assert_eq!(action_of(libc::SIGHUP, libc::SI_KERNEL), Action::Forward(Signal::SIGHUP));
        assert_eq!(action_of(libc::SIGCHLD, libc::SI_KERNEL), Action::LookAtCommand);
    }

    #[test]
    fn only_what_would_end_a_program_ends_us_before_the_start() {
        assert_eq!(ends(libc::SIGTERM), Some(Signal::SIGTERM));
        assert_eq!((ends(libc::SIGCHLD), ends(libc::SIGWINCH)), (None, None));
    }
}
