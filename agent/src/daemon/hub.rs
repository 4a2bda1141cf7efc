//! Events from the core to whoever follows them. Publishing never waits: a reader that is too slow finds a gap, with how
//! many lines it stands for, in the place where they would have been.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;
use tokio::sync::Notify;

/// Lines that wait for one reader.
const QUEUE: usize = 4096;
/// Lines that are kept for those who ask what has been.
const HISTORY: usize = 4096;
/// Bytes of them.
const HISTORY_BYTES: usize = 8 << 20;
/// Bytes that are handed to a reader at once, about.
const CHUNK: usize = 32 << 10;

/// An event, as the core publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// One line of JSON, without the line feed.
    pub line: Arc<str>,
    /// Whose it is.
    pub scope: Arc<str>,
    /// Something was refused, or would have been in audit mode.
    pub denied: bool,
    /// Who started the run that it belongs to; `None` if it belongs to none.
    pub run_uid: Option<u32>,
}

/// Which events a reader gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this scope only.
    pub scope: Option<String>,
    /// Denials only.
    pub denied: bool,
    /// Of this user's runs only.
    pub run_uid: Option<u32>,
}

impl Filter {
    /// Whether an event passes.
    #[must_use]
    pub fn passes(&self, event: &Event) -> bool {
        let Self { scope, denied, run_uid } = self;
        scope.as_deref().is_none_or(|scope| scope == &*event.scope)
            && (!denied || event.denied)
            && (run_uid.is_none() || *run_uid == event.run_uid)
    }
}

/// Where events are published. Clones are the same hub.
#[derive(Debug, Clone, Default)]
pub struct Hub(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    readers: Vec<Arc<Reader>>,
    history: VecDeque<Event>,
    history_bytes: usize,
    dropped: u64,
    closed: bool,
}

#[derive(Debug)]
struct Reader {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug)]
struct Queue {
    filter: Filter,
    items: VecDeque<Item>,
    limit: usize,
    dropped: u64,
    /// Since when the reader has taken nothing although there was something.
    waiting: Option<Instant>,
    closed: bool,
}

#[derive(Debug)]
enum Item {
    Event(Event),
    /// Stands for so many events, and comes after the limit: a full queue ends with it.
    Gap(u64),
}

impl Item {
    fn line(self) -> Arc<str> {
        match self {
            Self::Event(event) => event.line,
            Self::Gap(lines) => gap(lines).into(),
        }
    }
}

impl Queue {
    fn push(&mut self, event: &Event) -> bool {
        self.waiting.get_or_insert_with(Instant::now);
        if self.items.len() < self.limit {
            self.items.push_back(Item::Event(event.clone()));
            return true;
        }
        self.dropped += 1;
        match self.items.back_mut() {
            Some(Item::Gap(lines)) => *lines += 1,
            _ => self.items.push_back(Item::Gap(1)),
        }
        false
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front();
        self.waiting = (!self.items.is_empty()).then(Instant::now);
        item
    }
}

/// A thread that panicked with the lock has left whole lines.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Gives an event to everybody whom it concerns.
    pub fn publish(&self, event: &Event) {
        let mut state = locked(&self.0);
        let mut dropped = 0;
        for reader in &state.readers {
            let mut queue = locked(&reader.queue);
            if queue.filter.passes(event) {
                dropped += u64::from(!queue.push(event));
                drop(queue);
                reader.arrived.notify_one();
            }
        }
        state.dropped += dropped;
        state.history_bytes += event.line.len();
        state.history.push_back(event.clone());
        while state.history.len() > HISTORY || state.history_bytes > HISTORY_BYTES {
            let Some(oldest) = state.history.pop_front() else { break };
            state.history_bytes -= oldest.line.len();
        }
    }

    /// What was published lately.
    #[must_use]
    pub fn recent(&self, filter: &Filter) -> Vec<Arc<str>> {
        let state = locked(&self.0);
        state.history.iter().filter(|event| filter.passes(event)).map(|event| event.line.clone()).collect()
    }

    /// From now on.
    #[must_use]
    pub fn subscribe(&self, filter: Filter) -> Subscription {
        self.subscribe_at_most(filter, QUEUE)
    }

    fn subscribe_at_most(&self, filter: Filter, limit: usize) -> Subscription {
        let mut state = locked(&self.0);
        let queue =
            Queue { filter, items: VecDeque::new(), limit, dropped: 0, waiting: None, closed: state.closed };
        let reader = Arc::new(Reader { queue: Mutex::new(queue), arrived: Notify::new() });
        state.readers.push(reader.clone());
        Subscription { hub: self.clone(), reader }
    }

    /// Readers at present.
    #[must_use]
    pub fn readers(&self) -> usize {
        locked(&self.0).readers.len()
    }

    /// Lines that readers did not get because they were too slow, of all readers there were.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        locked(&self.0).dropped
    }

    /// There will be no more: readers get what waits for them, and then the end.
    pub fn close(&self) {
        let mut state = locked(&self.0);
        state.closed = true;
        for reader in &state.readers {
            locked(&reader.queue).closed = true;
            reader.arrived.notify_one();
        }
    }
}

/// One reader's place. Given up when dropped.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    reader: Arc<Reader>,
}

impl Subscription {
    /// The next line; `None` when there will be no more. May be dropped before it is ready, and nothing is lost.
    pub async fn next(&self) -> Option<Arc<str>> {
        loop {
            {
                let mut queue = locked(&self.reader.queue);
                match queue.pop() {
                    Some(item) => return Some(item.line()),
                    None if queue.closed => return None,
                    None => {}
                }
            }
            self.reader.arrived.notified().await;
        }
    }

    /// The next lines, each with its line feed, as many as are there; `None` when there will be no more. Once ready they are
    /// taken.
    pub async fn lines(&self) -> Option<String> {
        let mut text = self.next().await?.to_string();
        text.push('\n');
        while text.len() < CHUNK {
            let Some(item) = locked(&self.reader.queue).pop() else { break };
            text.push_str(&item.line());
            text.push('\n');
        }
        Some(text)
    }

    /// From now on, and of what waits, those of this scope only.
    pub fn narrow(&self, scope: &str) {
        let mut queue = locked(&self.reader.queue);
        queue.items.retain(|item| {
            matches!(item, Item::Gap(_)) || matches!(item, Item::Event(event) if &*event.scope == scope)
        });
        queue.filter.scope = Some(scope.to_owned());
    }

    /// There will be no more for this reader: it gets what waits, and then the end.
    pub fn close(&self) {
        locked(&self.reader.queue).closed = true;
        self.reader.arrived.notify_one();
    }

    /// Lines that this reader did not get.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        locked(&self.reader.queue).dropped
    }

    /// For how long this reader has taken nothing although there was something.
    #[must_use]
    pub fn stalled(&self) -> Duration {
        locked(&self.reader.queue).waiting.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        locked(&self.hub.0).readers.retain(|reader| !Arc::ptr_eq(reader, &self.reader));
    }
}

/// Tells a reader what it has missed, in the words of a `gap` event.
#[must_use]
pub fn gap(lines: u64) -> String {
    let lost = json!({ "denied": 0, "other": 0, "undecoded": 0, "unwritten": lines });
    let time = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
    json!({ "schema": "stockade/stream/v1", "kind": "gap", "time": time, "lost": lost }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(scope: &str, text: &str, denied: bool, run_uid: Option<u32>) -> Event {
        Event { line: text.into(), scope: scope.into(), denied, run_uid }
    }

    fn lines(subscription: &Subscription) -> Vec<String> {
        subscription.close();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut lines = Vec::new();
            while let Some(line) = subscription.next().await {
                lines.push(line.to_string());
            }
            lines
        })
    }

    #[test]
    fn everybody_gets_what_concerns_them() {
        let hub = Hub::default();
        let all = hub.subscribe(Filter::default());
        let denied = hub.subscribe(Filter { denied: true, ..Filter::default() });
        let scope = hub.subscribe(Filter { scope: Some("ci".into()), ..Filter::default() });
        let own = hub.subscribe(Filter { run_uid: Some(1000), ..Filter::default() });
        hub.publish(&event("ci", "1", false, None));
        hub.publish(&event("ci", "2", true, None));
        hub.publish(&event("run-1", "3", true, Some(1000)));
        hub.publish(&event("run-2", "4", false, Some(1001)));
        assert_eq!(lines(&all), ["1", "2", "3", "4"]);
        assert_eq!(lines(&denied), ["2", "3"]);
        assert_eq!(lines(&scope), ["1", "2"]);
        assert_eq!(lines(&own), ["3"]);
        assert_eq!(hub.recent(&Filter { denied: true, ..Filter::default() }).len(), 2);
    }

    #[test]
    fn what_is_dropped_is_told_in_its_place() {
        let hub = Hub::default();
        let slow = hub.subscribe_at_most(Filter::default(), 2);
        for text in ["1", "2", "3", "4"] {
            hub.publish(&event("ci", text, false, None));
        }
        assert_eq!((slow.dropped(), hub.dropped()), (2, 2));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(slow.next()).as_deref(), Some("1"));
        assert_eq!(runtime.block_on(slow.next()).as_deref(), Some("2"));
        hub.publish(&event("ci", "5", false, None));
        let rest = lines(&slow);
        let gap: serde_json::Value = serde_json::from_str(&rest[0]).unwrap();
        assert_eq!((gap["kind"].as_str(), gap["lost"]["unwritten"].as_u64()), (Some("gap"), Some(2)));
        assert_eq!(rest[1..], ["5"]);
    }

    #[test]
    fn narrowing_forgets_what_waits_of_others() {
        let hub = Hub::default();
        let own = hub.subscribe(Filter { run_uid: Some(1000), ..Filter::default() });
        hub.publish(&event("run-1", "1", false, Some(1000)));
        hub.publish(&event("run-2", "2", false, Some(1000)));
        own.narrow("run-2");
        hub.publish(&event("run-1", "3", false, Some(1000)));
        hub.publish(&event("run-2", "4", false, Some(1000)));
        assert_eq!(lines(&own), ["2", "4"]);
    }

    #[test]
    fn a_thousand_readers_each_count_their_own() {
        let hub = Hub::default();
        let readers: Vec<Subscription> =
            (0..1000).map(|index| hub.subscribe_at_most(Filter::default(), index % 10 + 1)).collect();
        for number in 0..50 {
            hub.publish(&event("ci", &number.to_string(), false, None));
        }
        let mut total = 0;
        for (index, reader) in readers.iter().enumerate() {
            let kept = (index % 10 + 1) as u64;
            assert_eq!(reader.dropped(), 50 - kept);
            total += reader.dropped();
        }
        assert_eq!(hub.dropped(), total);
        drop(readers);
        assert_eq!(hub.readers(), 0);
    }

    #[test]
    fn history_is_bounded_by_number_and_size() {
        let hub = Hub::default();
        for _ in 0..HISTORY + 10 {
            hub.publish(&event("ci", "x", false, None));
        }
        assert_eq!(hub.recent(&Filter::default()).len(), HISTORY);
        let long = "x".repeat(HISTORY_BYTES / 2);
        for _ in 0..4 {
            hub.publish(&event("ci", &long, false, None));
        }
        assert_eq!(hub.recent(&Filter::default()).len(), 2);
    }

    #[test]
    fn a_closed_hub_ends_its_readers() {
        let hub = Hub::default();
        let reader = hub.subscribe(Filter::default());
        hub.close();
        assert!(lines(&reader).is_empty());
        assert!(lines(&hub.subscribe(Filter::default())).is_empty(), "and those who come later");
    }
}
