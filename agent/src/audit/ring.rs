//! The ring buffer as batches of records.

use std::io;

use aya::maps::{MapData, RingBuf};
use bytes::Bytes;
use tokio::io::{Interest, unix::AsyncFd};

/// Records taken at once, so that signals and the command's end are looked at in between.
const BATCH: usize = 1024;

/// The ring that the kernel programs write records into.
pub struct Ring(AsyncFd<RingBuf<MapData>>);

impl Ring {
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the ring's descriptor cannot be watched.
    pub fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor, and never replaces it.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(Self(ring))
    }

    /// Waits for records. Can be cancelled without losing any.
    ///
    /// # Errors
    /// If waiting fails.
    pub async fn batch(&mut self) -> io::Result<Vec<Bytes>> {
        let mut guard = self.0.readable_mut().await?;
        let batch = take(guard.get_inner_mut());
        // Told once for all that is there: only an empty ring may be waited for.
        if batch.len() < BATCH {
            guard.clear_ready();
        }
        Ok(batch)
    }

    /// What is there now.
    pub fn rest(&mut self) -> Vec<Bytes> {
        take(self.0.get_mut())
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ring").finish_non_exhaustive()
    }
}

fn take(ring: &mut RingBuf<MapData>) -> Vec<Bytes> {
    // Copied out, so that the room in the ring is free again before anything is done with the record.
    std::iter::from_fn(|| ring.next().map(|item| Bytes::copy_from_slice(&item))).take(BATCH).collect()
}

/// Throws away what is in a ring.
pub fn discard(ring: &mut RingBuf<MapData>) {
    while ring.next().is_some() {}
}
