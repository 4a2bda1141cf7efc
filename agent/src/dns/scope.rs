//! What the gate keeps for a scope.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{budget::Budget, ledger::Ledger, quiet::Quiet, ready::Ready, table::NameTable};

/// A scope.
#[derive(Debug)]
pub struct Scope {
    /// Its number.
    pub id: u32,
    state: Mutex<State>,
    /// Questions that wait for a name server.
    pub waiting: Tally,
    /// Connections.
    pub connections: Tally,
}

/// What changes.
#[derive(Debug, Default)]
pub struct State {
    /// The names of its policy. None at first: nothing is answered.
    pub table: Arc<NameTable>,
    /// What the kernel has been told.
    pub ledger: Ledger,
    /// What it may ask.
    pub budget: Budget,
    /// What was told of lately.
    pub quiet: Quiet,
    /// This host's own addresses.
    pub own: Arc<HashSet<IpAddr>>,
    /// Replies that it was given.
    pub ready: Ready,
    /// Nothing is granted to it any more.
    pub forgotten: bool,
}

impl Scope {
    /// One without a policy, on a host with these addresses.
    pub fn new(id: u32, own: Arc<HashSet<IpAddr>>) -> Arc<Self> {
        Arc::new(Self {
            id,
            state: Mutex::new(State { own, ..State::default() }),
            waiting: Tally::default(),
            connections: Tally::default(),
        })
    }

    /// Its state. Held for computations and map updates only, never while waiting.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what there may be a number of.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<AtomicU32>);

/// One of what is counted, until it is dropped.
#[derive(Debug)]
pub struct Counted(Arc<AtomicU32>);

impl Tally {
    /// One more, if there are fewer than `limit`.
    pub fn take(&self, limit: u32) -> Option<Counted> {
        let counted = Counted(Arc::clone(&self.0));
        (self.0.fetch_add(1, Ordering::Relaxed) < limit).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_has_a_limit_and_gives_back() {
        let tally = Tally::default();
        let (one, two) = (tally.take(2), tally.take(2));
        assert!(one.is_some() && two.is_some() && tally.take(2).is_none());
        drop(one);
        assert!(tally.take(2).is_some());
    }
}
