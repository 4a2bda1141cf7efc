//! Keeps a workload that asks the same forbidden thing over and over from filling the event log. What is left out is counted.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use super::name::Key;

/// Seconds in which a question is told of once.
const WINDOW: u32 = 10;
/// Questions that are told of in a window.
const MAX_TOLD: usize = 128;

/// What was told of lately.
#[derive(Debug, Default)]
pub struct Quiet {
    number: u32,
    told: HashSet<u64>,
    unreported: u32,
    hasher: RandomState,
}

impl Quiet {
    /// Whether to tell of it, and of how many others nobody was told.
    pub fn tell(&mut self, name: &Key, kind: u16, now: u32) -> Option<u32> {
        self.is_new(name, kind, now).then(|| std::mem::take(&mut self.unreported))
    }

    /// Whether to tell of it.
    pub fn is_new(&mut self, name: &Key, kind: u16, now: u32) -> bool {
        if self.number != now / WINDOW {
            self.number = now / WINDOW;
            self.told.clear();
        }
        if self.told.len() >= MAX_TOLD || !self.told.insert(self.hasher.hash_one((name, kind))) {
            self.unreported = self.unreported.saturating_add(1);
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_again_is_counted() {
        let mut quiet = Quiet::default();
        let (a, b) = (Key::parse("a.test").unwrap(), Key::parse("b.test").unwrap());
        assert_eq!(quiet.tell(&a, 1, 0), Some(0));
        assert_eq!(quiet.tell(&a, 1, 1), None);
        assert_eq!(quiet.tell(&a, 1, 9), None);
        assert_eq!(quiet.tell(&a, 28, 9), Some(2));
        assert_eq!(quiet.tell(&b, 1, 9), Some(0));
        assert_eq!(quiet.tell(&a, 1, 10), Some(0));
    }

    #[test]
    fn a_flood_of_different_names_is_counted() {
        let mut quiet = Quiet::default();
        let keys: Vec<_> = (0..1000).map(|index| Key::parse(&format!("n{index}.test")).unwrap()).collect();
        assert_eq!(keys.iter().filter_map(|key| quiet.tell(key, 1, 5)).count(), MAX_TOLD);
        assert_eq!(quiet.tell(&keys[0], 1, 20), Some(1000 - u32::try_from(MAX_TOLD).unwrap()));
    }
}
