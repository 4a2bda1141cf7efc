//! While the command runs: records are taken from the ring, signals are passed on, its stops and its end are seen.

use std::{
    io,
    os::{fd::AsFd as _, unix::process::ExitStatusExt as _},
    process::ExitStatus,
    time::Duration,
};

use nix::{
    sys::{
        signal::{self, Signal},
        signalfd::SignalFd,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use stockade_common::counter::{COUNTERS, Counter};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::Receiver,
    time::{MissedTickBehavior, interval},
};

use super::prepare::SCOPE;
use crate::{
    audit::{origin::boot_ns, ring::Ring, trail::Trail},
    dns::GateEvent,
    kernel::{Enforcer, KernelError},
    scope::{
        interface,
        signals::{self, Action},
        terminal,
    },
};

/// More than the ring can hold: should something survive that makes records for ever, there is an end all the same.
const LAST_BATCHES: usize = 256;
/// Between looks at what nobody tells of.
const TICK: Duration = Duration::from_secs(1);

/// What is supervised.
#[derive(Debug)]
pub struct Supervisor<'a> {
    /// The command.
    pub pid: Pid,
    /// Where records come from.
    pub ring: Ring,
    /// Where they go.
    pub trail: Trail,
    /// Where decisions and losses are counted.
    pub enforcer: &'a mut Enforcer,
    /// What was counted before the command was started.
    pub before: [u64; COUNTERS],
    /// What happens at the DNS gate.
    pub asked: &'a mut Receiver<GateEvent>,
    /// The interface by which all must leave.
    pub egress: Option<String>,
}

/// The command as a process: what becomes of it, and signals for it.
#[derive(Debug, Clone, Copy)]
pub struct Command(pub Pid);

impl Supervisor<'_> {
    /// Until the command has ended.
    ///
    /// # Errors
    /// If the ring, the signals or the command cannot be watched.
    pub async fn follow(&mut self, signals: &SignalFd) -> io::Result<ExitStatus> {
        let command = Command(self.pid);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        command
            .follow(signals, async || {
                tokio::select! {
                    batch = self.ring.batch() => {
                        let batch = batch?;
                        self.take(batch).map_err(io::Error::other)
                    }
                    Some(event) = self.asked.recv() => {
                        self.trail.asked(&event, boot_ns());
                        Ok(())
                    }
                    _ = tick.tick(), if self.egress.is_some() => self.follow_interface().map_err(io::Error::other),
                }
            })
            .await
    }

    /// An interface has another number when it comes again.
    fn follow_interface(&mut self) -> Result<(), KernelError> {
        match &self.egress {
            Some(name) => self.enforcer.set_egress(SCOPE, interface::index(name)),
            None => Ok(()),
        }
    }

    /// Takes what is in the ring when the command has ended.
    ///
    /// # Errors
    /// If the losses cannot be read.
    pub fn rest(&mut self) -> Result<(), KernelError> {
        while let Ok(event) = self.asked.try_recv() {
            self.trail.asked(&event, boot_ns());
        }
        for _ in 0..LAST_BATCHES {
            let batch = self.ring.rest();
            let empty = batch.is_empty();
            self.take(batch)?;
            if empty {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, batch: Vec<bytes::Bytes>) -> Result<(), KernelError> {
        let counters = self.counters()?;
        let lost = (counters[Counter::LostDenied as usize], counters[Counter::LostOther as usize]);
        self.trail.take(batch, lost, boot_ns());
        Ok(())
    }

    /// What was counted since.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&mut self) -> Result<[u64; COUNTERS], KernelError> {
        let mut counters = self.enforcer.counters(SCOPE)?;
        for (counter, before) in counters.iter_mut().zip(self.before) {
            *counter = counter.saturating_sub(before);
        }
        Ok(counters)
    }
}

impl Command {
    /// Until it has ended; `meanwhile` is done over and over, and given up wherever it waits when a signal comes.
    ///
    /// # Errors
    /// If the signals or the command cannot be watched, or what is done meanwhile fails.
    pub async fn follow(
        self,
        signals: &SignalFd,
        mut meanwhile: impl AsyncFnMut() -> io::Result<()>,
    ) -> io::Result<ExitStatus> {
        // Came while there was no command yet that the terminal could have sent them to.
        if let Some(status) = self.signals(signals, true)? {
            return Ok(status);
        }
        // SAFETY: the descriptor is borrowed for longer than this lives, and stays the same.
        let arrival = unsafe { AsyncFd::register_with_interest(signals.as_fd(), Interest::READABLE) }?;
        loop {
            tokio::select! {
                biased;
                ready = arrival.readable() => {
                    let mut ready = ready?;
                    if let Some(status) = self.signals(signals, false)? {
                        return Ok(status);
                    }
                    ready.clear_ready();
                }
                done = meanwhile() => done?,
            }
        }
    }

    /// Passes on what came; the command's status, if it has ended. `early`: nobody has passed on anything yet, not even the
    /// terminal.
    ///
    /// # Errors
    /// If the signals or the command cannot be looked at.
    fn signals(self, signals: &SignalFd, early: bool) -> io::Result<Option<ExitStatus>> {
        let mut look = early;
        while let Some(info) = signals.read_signal()? {
            match signals::action(&info) {
                Action::LookAtCommand => look = true,
                Action::Forward(signal) => self.send(signal),
                Action::Nothing if early => {
                    if let Ok(signal) = Signal::try_from(info.ssi_signo as i32) {
                        self.send(signal);
                    }
                }
                Action::Nothing => {}
            }
        }
        if look { self.state() } else { Ok(None) }
    }

    fn send(self, signal: Signal) {
        // It may have ended meanwhile.
        let _ = signal::kill(self.0, signal);
    }

    /// The command's status, if it has ended. If it was stopped by job control, so are we.
    fn state(self) -> io::Result<Option<ExitStatus>> {
        loop {
            match waitpid(self.0, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(_, code)) => return Ok(Some(ExitStatus::from_raw((code & 0xff) << 8))),
                Ok(WaitStatus::Signaled(_, signal, core)) => {
                    return Ok(Some(ExitStatus::from_raw(signal as i32 | if core { 0x80 } else { 0 })));
                }
                Ok(WaitStatus::Stopped(_, by)) => {
                    if terminal::stop_like(by) {
                        self.send(Signal::SIGCONT);
                    }
                }
                Ok(_) => return Ok(None),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
