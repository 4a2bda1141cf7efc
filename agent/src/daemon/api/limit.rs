//! How much of the daemon one user can take up. Root's share is its own: no member can use it up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Numbers and times.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections of root's.
    pub root: usize,
    /// Connections of everybody else's together.
    pub others: usize,
    /// Connections of one user, root aside.
    pub per_user: usize,
    /// Connections of which none can be taken and that are told so, at once.
    pub refusals: usize,
    /// Connections to the metrics by TCP.
    pub tcp: usize,
    /// Bytes of a body.
    pub body: usize,
    /// Bodies that are read at once, root's aside.
    pub bodies: usize,
    /// Commands to the core that wait at once, root's aside.
    pub commands: usize,
    /// Until the header has come.
    pub header: Duration,
    /// Until the body has come.
    pub read: Duration,
    /// Until an answer that is no stream has been taken.
    pub write: Duration,
    /// Until a reader of events has taken what waits for it.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            root: 4096,
            others: 256,
            per_user: 128,
            refusals: 32,
            tcp: 32,
            body: 2 << 20,
            bodies: 16,
            commands: 4,
            header: Duration::from_secs(10),
            read: Duration::from_secs(10),
            write: Duration::from_secs(30),
            stall: Duration::from_secs(300),
        }
    }
}

/// Connections by user.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<HashMap<u32, usize>>>);

/// One connection's place. Given back when dropped.
#[derive(Debug)]
pub struct Place {
    connections: Connections,
    uid: u32,
}

impl Connections {
    /// A place for a connection of this user's, if there is one.
    #[must_use]
    pub fn take(&self, uid: u32, limits: &Limits) -> Option<Place> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = users.get(&uid).copied().unwrap_or(0);
        let free = if uid == 0 {
            own < limits.root
        } else {
            let all: usize = users.iter().filter(|(uid, _)| **uid != 0).map(|(_, number)| number).sum();
            own < limits.per_user && all < limits.others
        };
        if !free {
            return None;
        }
        users.insert(uid, own + 1);
        Some(Place { connections: self.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = users.get_mut(&self.uid) {
            *number -= 1;
            if *number == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_users_connections_are_limited_and_roots_are_apart() {
        let limits = Limits { root: 1, others: 3, per_user: 2, ..Limits::default() };
        let connections = Connections::default();
        let take = |uid| connections.take(uid, &limits);
        let first = take(1000);
        let _second = take(1000);
        assert!(first.is_some() && take(1000).is_none());
        let _third = take(1001);
        assert!(take(1001).is_none() && take(1002).is_none(), "of all together");
        let root = take(0);
        assert!(root.is_some() && take(0).is_none());
        drop(first);
        assert!(take(1000).is_some());
        drop(root);
        assert!(take(0).is_some());
    }
}
