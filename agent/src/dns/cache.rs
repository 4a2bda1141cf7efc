//! Answers that are remembered. They are facts: what a scope is given of them is decided each time.

use std::sync::Arc;

use hickory_proto::rr::RecordType;
use quick_cache::{Weighter, unsync};

use super::{
    answer::{Data, Facts},
    name::Key,
};

/// Bytes of memory, about.
const BYTES: u64 = 16 << 20;
/// Answers that are expected to fit.
const ITEMS: usize = 16_384;

/// Facts, and when they are over.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// What is known.
    pub facts: Arc<Facts>,
    /// Seconds since boot.
    pub expires: u32,
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<(Key, u16), Remembered> for Weight {
    fn weight(&self, (key, _): &(Key, u16), value: &Remembered) -> u64 {
        let Facts { chain, data, ttl: _ } = &*value.facts;
        let data = match data {
            Data::Addresses(addresses) => addresses.len() * 24,
            Data::Services(services) => {
                services.iter().map(|service| 256 + service.svc_params.len() * 512).sum()
            }
            // The longest answer there is.
            Data::Others(_) => 1 << 16,
            Data::Nothing | Data::Nonexistent | Data::Open => 0,
        };
        (256 + key.bytes().len() + chain.len() * 320 + data) as u64
    }
}

/// The memory.
#[derive(Debug)]
pub struct Cache(unsync::Cache<(Key, u16), Remembered, Weight>);

impl Cache {
    /// Nothing is remembered yet.
    pub fn new() -> Self {
        Self(unsync::Cache::with_weighter(ITEMS, BYTES, Weight))
    }

    /// What is remembered and not over.
    pub fn get(&self, name: &Key, kind: RecordType, now: u32) -> Option<Remembered> {
        let found = self.0.get(&(name.clone(), kind.into()))?;
        (found.expires > now).then(|| found.clone())
    }

    /// Remembers.
    pub fn put(&mut self, name: Key, kind: RecordType, facts: Arc<Facts>, now: u32) -> Remembered {
        let remembered = Remembered { expires: now.saturating_add(facts.ttl), facts };
        self.0.insert((name, kind.into()), remembered.clone());
        remembered
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;

    use super::*;

    #[test]
    fn what_is_over_is_not_there() {
        let mut cache = Cache::new();
        let key = Key::parse("a.test").unwrap();
        let facts = Arc::new(Facts { chain: vec![], data: Data::Nothing, ttl: 10 });
        cache.put(key.clone(), RecordType::A, facts, 100);
        assert!(cache.get(&key, RecordType::A, 109).is_some());
        assert!(cache.get(&key, RecordType::A, 110).is_none());
        assert!(cache.get(&key, RecordType::AAAA, 109).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut cache = Cache::new();
        let chain = vec![Name::from_ascii("x.test.").unwrap(); 16];
        for index in 0..100_000 {
            let facts = Arc::new(Facts { chain: chain.clone(), data: Data::Nothing, ttl: 10 });
            cache.put(Key::parse(&format!("n{index}.test")).unwrap(), RecordType::A, facts, 0);
        }
        assert!(cache.0.weight() <= BYTES);
        assert!(cache.0.len() > 1000);
    }
}
