//! From patterns to the row-displaced tables of [`stockade_common::file`].

use std::collections::HashMap;

use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense},
    util::{primitives::StateID, start, syntax},
};
use stockade_common::{
    file::{ACCESS_KINDS, Accept, DEAD, STOP, next_entry, state_entry, step},
    limits::TABLE_ENTRIES,
};

/// Memory a determinisation may take.
const DFA_LIMIT: usize = 1 << 30;
const ROW: usize = 256;
/// Bases below the highest one that are searched for room: all of them would take a time that grows with the square of
/// their number, and leave few more holes.
const SEARCHED: usize = 2048;

/// A pattern and what its match means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// For the whole path.
    pub regex: String,
    /// `ACCESS_*` bits.
    pub access: u32,
    /// Denies instead of allowing.
    pub deny: bool,
    /// Rule id.
    pub rule: u32,
}

/// The patterns do not fit.
#[derive(Debug, thiserror::Error)]
pub enum AutomatonError {
    /// regex-automata gave up.
    #[error("the path rules are too many or too tangled to determinise: {0}")]
    Build(#[from] Box<dense::BuildError>),
    /// No start state.
    #[error("the automaton has no start: {0}")]
    Start(String),
    /// Past the kernel tables.
    #[error("the path rules need more than the {TABLE_ENTRIES} table entries there are")]
    TooLarge,
}

/// The tables under construction; several automata share them.
#[derive(Debug)]
pub struct Tables {
    /// See [`stockade_common::file`].
    pub next: Vec<u64>,
    /// See [`stockade_common::file`].
    pub states: Vec<u64>,
    /// See [`stockade_common::file`].
    pub accepts: Vec<Accept>,
    accept_ids: HashMap<Accept, u32>,
    is_base: Vec<bool>,
    lowest_free: usize,
    highest_base: usize,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            next: vec![0; ROW],
            states: vec![state_entry(0, DEAD); ROW],
            accepts: vec![Accept::NOTHING],
            accept_ids: HashMap::from([(Accept::NOTHING, 0)]),
            is_base: vec![false; ROW],
            lowest_free: 1,
            highest_base: 1,
        }
    }
}

struct Row {
    accept: u32,
    default: usize,
    exceptions: Vec<(u8, usize)>,
}

impl Tables {
    /// Adds an automaton for `patterns` and returns its start state; [`DEAD`] if there are none.
    ///
    /// # Errors
    /// If it does not fit.
    pub fn add(&mut self, patterns: &[Pattern]) -> Result<u32, AutomatonError> {
        if patterns.is_empty() {
            return Ok(DEAD);
        }
        let regexes: Vec<&str> = patterns.iter().map(|pattern| pattern.regex.as_str()).collect();
        let dfa = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .match_kind(MatchKind::All)
                    .minimize(false)
                    .accelerate(false)
                    .dfa_size_limit(Some(DFA_LIMIT))
                    .determinize_size_limit(Some(DFA_LIMIT)),
            )
            .syntax(syntax::Config::new().unicode(false).utf8(false).dot_matches_new_line(true))
            .build_many(&regexes)
            .map_err(Box::new)?;
        let first = dfa
            .start_state(&start::Config::new().anchored(Anchored::Yes))
            .map_err(|error| AutomatonError::Start(error.to_string()))?;
        let rows = self.rows(&dfa, first, patterns);
        self.place(&rows)
    }

    /// The states that can be reached, state 0 first.
    fn rows(&mut self, dfa: &dense::DFA<Vec<u32>>, first: StateID, patterns: &[Pattern]) -> Vec<Option<Row>> {
        let classes = dfa.byte_classes();
        let mut ids = HashMap::from([(first, 0usize)]);
        let mut queue = vec![first];
        let mut rows = Vec::new();
        while rows.len() < queue.len() {
            let state = queue[rows.len()];
            if dfa.is_dead_state(state) || dfa.is_quit_state(state) {
                rows.push(None);
                continue;
            }
            let mut by_class: Vec<Option<usize>> = vec![None; classes.alphabet_len()];
            let mut targets = [0usize; ROW];
            for byte in 0..=u8::MAX {
                let class = usize::from(classes.get(byte));
                let target = *by_class[class].get_or_insert_with(|| {
                    let target = dfa.next_state(state, byte);
                    *ids.entry(target).or_insert_with(|| {
                        queue.push(target);
                        queue.len() - 1
                    })
                });
                targets[usize::from(byte)] = target;
            }
            let mut counts: HashMap<usize, usize> = HashMap::new();
            for target in &targets {
                *counts.entry(*target).or_default() += 1;
            }
            // Ties by index, so that the same rules always give the same tables.
            let default = counts
                .into_iter()
                .max_by_key(|(target, count)| (*count, std::cmp::Reverse(*target)))
                .map_or(0, |c| c.0);
            let exceptions = (0..=u8::MAX)
                .filter(|byte| targets[usize::from(*byte)] != default)
                .map(|byte| (byte, targets[usize::from(byte)]))
                .collect();
            // Matches are reported one transition late.
            let end = dfa.next_eoi_state(state);
            let matched = if dfa.is_match_state(end) {
                (0..dfa.match_len(end)).map(|index| dfa.match_pattern(end, index).as_usize()).collect()
            } else {
                Vec::new()
            };
            let accept = self.intern(&matched, patterns);
            rows.push(Some(Row { accept, default, exceptions }));
        }
        rows
    }

    fn intern(&mut self, matched: &[usize], patterns: &[Pattern]) -> u32 {
        let mut accept = Accept::NOTHING;
        for pattern in matched.iter().map(|index| &patterns[*index]) {
            let (mask, rules) = if pattern.deny {
                (&mut accept.deny, &mut accept.deny_rule)
            } else {
                (&mut accept.allow, &mut accept.allow_rule)
            };
            *mask |= pattern.access;
            for (kind, rule) in rules.iter_mut().enumerate().take(ACCESS_KINDS) {
                if pattern.access & 1 << kind != 0 {
                    // The lowest id, whatever the order.
                    *rule = pattern.rule.min(*rule);
                }
            }
        }
        let accepts = &mut self.accepts;
        *self.accept_ids.entry(accept).or_insert_with(|| {
            accepts.push(accept);
            accepts.len() as u32 - 1
        })
    }

    /// Gives each row a base, then writes the entries.
    fn place(&mut self, rows: &[Option<Row>]) -> Result<u32, AutomatonError> {
        let mut references = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter().enumerate() {
            references.push(match row {
                None => DEAD,
                Some(row) => {
                    let base = self.reserve(row)?;
                    let is_sink = row.exceptions.is_empty() && row.default == index;
                    if is_sink { base | STOP } else { base }
                }
            });
        }
        for (row, reference) in rows.iter().zip(&references) {
            let Some(row) = row else { continue };
            let base = (reference & !STOP) as usize;
            self.states[base] = state_entry(row.accept, references[row.default]);
            for (byte, target) in &row.exceptions {
                self.next[base + usize::from(*byte)] = next_entry(base as u32, references[*target]);
            }
        }
        Ok(references.first().copied().unwrap_or(DEAD))
    }

    /// First fit: a base whose exception slots are all free.
    fn reserve(&mut self, row: &Row) -> Result<u32, AutomatonError> {
        while self.next.get(self.lowest_free).is_some_and(|entry| *entry != 0) {
            self.lowest_free += 1;
        }
        let first = row.exceptions.first().map_or(0, |(byte, _)| usize::from(*byte));
        let mut base = self.lowest_free.saturating_sub(first).max(1);
        base = base.max(self.highest_base.saturating_sub(SEARCHED));
        loop {
            if base + ROW > TABLE_ENTRIES {
                return Err(AutomatonError::TooLarge);
            }
            if base + ROW > self.next.len() {
                let length = base + ROW;
                self.next.resize(length, 0);
                self.states.resize(length, state_entry(0, DEAD));
                self.is_base.resize(length, false);
            }
            let fits = !self.is_base[base]
                && row.exceptions.iter().all(|(byte, _)| self.next[base + usize::from(*byte)] == 0);
            if fits {
                break;
            }
            base += 1;
        }
        self.is_base[base] = true;
        self.highest_base = self.highest_base.max(base);
        for (byte, _) in &row.exceptions {
            // Taken: any value but 0 will do until the entry is written.
            self.next[base + usize::from(*byte)] = u64::MAX;
        }
        Ok(base as u32)
    }

    /// The state after `bytes`.
    #[must_use]
    pub fn run(&self, start: u32, bytes: &[u8]) -> u32 {
        run(&self.next, &self.states, start, bytes)
    }
}

/// The state after `bytes`, as the kernel programs get to it.
#[must_use]
pub fn run(next: &[u64], states: &[u64], start: u32, bytes: &[u8]) -> u32 {
    let mut state = start;
    for byte in bytes {
        if state & STOP != 0 {
            break;
        }
        state = step(next, states, state, *byte);
    }
    state
}
