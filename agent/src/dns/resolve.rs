//! Finds out about names: one question upstream at a time for each name and type, whoever waits for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hickory_proto::rr::{Name, RecordType};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    answer::{self, Data, Facts, MAX_CHAIN, Unusable},
    cache::Remembered,
    clock::boot_seconds,
    core::Core,
    name::Key,
    question::Question,
    upstream::{Upstream, UpstreamError},
};

/// For an answer, all told: the resolvers of C libraries wait for five seconds.
const PATIENCE: Duration = Duration::from_millis(4500);
/// Most questions upstream for one of a client.
const MAX_ASKED: usize = 8;

/// What waiting comes to.
type Found = Result<Remembered, String>;
type Waiting = HashMap<(Key, u16), watch::Receiver<Option<Found>>>;

/// Asks upstream, and remembers.
pub struct Resolver {
    core: Arc<Core>,
    upstream: Upstream,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("no answer after {} ms", PATIENCE.as_millis())]
    Late,
}

impl Resolver {
    pub fn new(core: Arc<Core>, upstream: Upstream) -> Self {
        Self { core, upstream, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a question's name has.
    pub async fn find(self: Arc<Self>, question: &Question) -> Found {
        let key = (question.key.clone(), u16::from(question.kind()));
        let mut receiver = {
            let mut waiting = self.waiting();
            match waiting.get(&key) {
                Some(receiver) => receiver.clone(),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    waiting.insert(key.clone(), receiver.clone());
                    let asked = Asked { resolver: Arc::clone(&self), key };
                    let (name, kind) = (question.query.name.to_lowercase(), question.kind());
                    tokio::spawn(async move {
                        let found = asked.resolver.ask(&asked.key.0, &name, kind).await;
                        drop(asked);
                        sender.send_replace(Some(found));
                    });
                    receiver
                }
            }
        };
        match receiver.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(found)) => found.clone(),
            Ok(None) | Err(_) => Err("the search for an answer has broken off".into()),
        }
    }

    async fn ask(&self, key: &Key, name: &Name, kind: RecordType) -> Found {
        let deadline = Instant::now() + PATIENCE;
        let found = match timeout_at(deadline, follow(&self.upstream, name, kind)).await {
            Ok(found) => found,
            Err(_) => Err(ResolveError::Late),
        };
        match found {
            Ok(facts) => Ok(self.core.cache().put(key.clone(), kind, Arc::new(facts), boot_seconds())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A question that is under way; others wait for it until this is dropped.
struct Asked {
    resolver: Arc<Resolver>,
    key: (Key, u16),
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.resolver.waiting().remove(&self.key);
    }
}

/// Asks for a name, and for what it leads to where the server leaves that to us.
async fn follow(upstream: &Upstream, name: &Name, kind: RecordType) -> Result<Facts, ResolveError> {
    let mut chain: Vec<Name> = Vec::new();
    let mut ttl = answer::TTL.1;
    for _ in 0..MAX_ASKED {
        let current = chain.last().unwrap_or(name);
        let message = upstream.ask(current, kind).await?;
        let facts = answer::read(&message, current, kind)?;
        ttl = ttl.min(facts.ttl);
        for next in facts.chain {
            if next == *name || chain.contains(&next) {
                return Err(Unusable::Circle(Key::of(&next).to_string()).into());
            }
            chain.push(next);
        }
        if chain.len() > MAX_CHAIN {
            return Err(Unusable::Long.into());
        }
        if facts.data != Data::Open {
            return Ok(Facts { chain, data: facts.data, ttl });
        }
    }
    Err(Unusable::Long.into())
}
