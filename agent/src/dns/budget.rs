//! How much of a scope's questions may go upstream: names that are asked for can carry data out. Pure.

use super::event::Quota;
use crate::policy::checked::DnsSettings;

const MINUTE: u32 = 60;
const HOUR: u32 = 3600;

/// What a scope has used.
#[derive(Debug, Default)]
pub struct Budget {
    queries: Window,
    bytes: Window,
    waiting: Window,
}

/// A count since the last full minute or hour.
#[derive(Debug, Default)]
struct Window {
    number: u32,
    used: u32,
    told: bool,
}

/// There is nothing left.
#[derive(Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// Of what.
    pub quota: Quota,
    /// How much there is in a window.
    pub limit: u32,
    /// Whether this is the first time in the window.
    pub first: bool,
}

impl Window {
    fn at(&mut self, number: u32) -> &mut Self {
        if self.number != number {
            *self = Self { number, used: 0, told: false };
        }
        self
    }

    fn exhausted(&mut self, quota: Quota, limit: u32) -> Exhausted {
        let first = !std::mem::replace(&mut self.told, true);
        Exhausted { quota, limit, first }
    }
}

impl Budget {
    /// Takes a question with so many bytes of its own.
    ///
    /// # Errors
    /// If it may not go upstream; it costs nothing then.
    pub fn take(&mut self, settings: &DnsSettings, unspelled: usize, now: u32) -> Result<(), Exhausted> {
        let bytes = u32::try_from(unspelled).unwrap_or(u32::MAX);
        let queries = self.queries.at(now / MINUTE);
        if queries.used >= settings.queries_per_minute {
            return Err(queries.exhausted(Quota::QueriesPerMinute, settings.queries_per_minute));
        }
        let carried = self.bytes.at(now / HOUR);
        if carried.used.saturating_add(bytes) > settings.label_bytes_per_hour {
            return Err(carried.exhausted(Quota::LabelBytesPerHour, settings.label_bytes_per_hour));
        }
        queries.used += 1;
        carried.used += bytes;
        Ok(())
    }

    /// Too many are waiting.
    pub fn too_many_waiting(&mut self, limit: u32, now: u32) -> Exhausted {
        self.waiting.at(now / MINUTE).exhausted(Quota::Waiting, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: DnsSettings = DnsSettings {
        refusal: crate::policy::checked::DnsRefusal::Nxdomain,
        queries_per_minute: 3,
        label_bytes_per_hour: 100,
    };

    #[test]
    fn a_minute_has_so_many_questions_and_tells_once() {
        let mut budget = Budget::default();
        for _ in 0..3 {
            assert_eq!(budget.take(&SETTINGS, 0, 60), Ok(()));
        }
        let over = |first| Err(Exhausted { quota: Quota::QueriesPerMinute, limit: 3, first });
        assert_eq!(budget.take(&SETTINGS, 0, 60), over(true));
        assert_eq!(budget.take(&SETTINGS, 0, 119), over(false));
        assert_eq!(budget.take(&SETTINGS, 0, 120), Ok(()));
    }

    #[test]
    fn an_hour_has_so_many_bytes_and_spelled_names_cost_none() {
        let mut budget = Budget::default();
        assert_eq!(budget.take(&SETTINGS, 60, 0), Ok(()));
        let over = Err(Exhausted { quota: Quota::LabelBytesPerHour, limit: 100, first: true });
        assert_eq!(budget.take(&SETTINGS, 60, 100), over);
        assert_eq!(budget.take(&SETTINGS, 0, 200), Ok(()));
        assert_eq!(budget.take(&SETTINGS, 40, 300), Ok(()));
        assert_eq!(budget.take(&SETTINGS, 60, 3600), Ok(()));
    }
}
