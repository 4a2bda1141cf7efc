//! What each scope is held to, and counts: the `SCOPES` array, shared with the programs.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
};

use stockade_common::{limits::MAX_SCOPES, tag::Setting};

use super::sys::Mapping;

const BYTES: usize = MAX_SCOPES as usize * size_of::<u64>();

/// The array, mapped: a store of a word is one step for the programs too, which an update by a system call is not said to
/// be.
#[derive(Debug)]
pub(super) struct Scopes(Mapping);

impl Scopes {
    pub(super) fn map(array: BorrowedFd<'_>) -> io::Result<Self> {
        Mapping::new(array, BYTES).map(Self)
    }

    fn word(&self, scope: u32) -> Option<&AtomicU64> {
        // SAFETY: inside the mapping, which lives as long as this; zeroed or written as words.
        (scope < MAX_SCOPES)
            .then(|| unsafe { self.0.words().cast::<AtomicU64>().add(scope as usize).as_ref() })
    }

    /// What a scope is held to.
    pub(super) fn get(&self, scope: u32) -> Setting {
        Setting::from_word(self.word(scope).map_or(0, |word| word.load(Ordering::Acquire)))
    }

    /// Holds a scope to something else, in one step. False: there is no such scope.
    pub(super) fn set(&self, scope: u32, setting: Setting) -> bool {
        self.word(scope).map(|word| word.store(setting.word(), Ordering::Release)).is_some()
    }

    /// The highest generation in use.
    pub(super) fn generation(&self) -> u32 {
        (0..MAX_SCOPES).map(|scope| self.get(scope).generation()).max().unwrap_or(0)
    }
}
