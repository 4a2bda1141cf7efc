//! What each scope is held to, and counts: the `SCOPES` array, shared with the programs.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use stockade_common::{limits::MAX_SCOPES, tag::Setting};

const BYTES: usize = MAX_SCOPES as usize * size_of::<u64>();

/// The array, mapped: a store of a word is one step for the programs too, which an update by a system call is not said to
/// be.
#[derive(Debug)]
pub(super) struct Scopes {
    words: NonNull<AtomicU64>,
}

// SAFETY: the mapping is shared memory of atomics, valid until dropped.
unsafe impl Send for Scopes {}
// SAFETY: as above.
unsafe impl Sync for Scopes {}

impl Scopes {
    pub(super) fn map(array: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping of a map made with BPF_F_MMAPABLE, of exactly its size; checked for failure below.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                array.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast())
            .map(|words| Self { words })
            .ok_or_else(|| io::Error::other("mapped at 0"))
    }

    fn word(&self, scope: u32) -> Option<&AtomicU64> {
        // SAFETY: inside the mapping, which lives as long as this; zeroed or written as words.
        (scope < MAX_SCOPES).then(|| unsafe { self.words.add(scope as usize).as_ref() })
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

impl Drop for Scopes {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, unmapped once.
        unsafe { libc::munmap(self.words.as_ptr().cast(), BYTES) };
    }
}
