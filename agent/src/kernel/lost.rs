//! Tags that could not be noted, because the table is full.

use aya::maps::Array;
use stockade_common::{
    limits::TAG_FILTER_BUCKETS,
    tag::{FILTER_TAGGED, filter_bucket, filter_with_lack},
};

use super::{Enforcer, KernelError, hold::failed, map};

/// How often a tag could not be noted. Only good for being compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostTags(u32);

impl LostTags {
    /// Whether one was lost, so that programs ask ancestors, and nobody starts anything.
    #[must_use]
    pub fn any(self) -> bool {
        self.0 != 0
    }
}

impl Enforcer {
    /// Tags that could not be noted until now.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn lost_tags(&mut self) -> Result<LostTags, KernelError> {
        let lost: Array<_, u32> = map(&mut self.ebpf, "INHERIT_LOST")?;
        lost.get(&0, 0).map(LostTags).map_err(failed("INHERIT_LOST"))
    }

    /// Every cgroup that should be tagged has a tag of its own again. Nothing is changed if more were lost since.
    ///
    /// # Errors
    /// If the maps cannot be changed.
    pub fn mend_lost_tags(&mut self, seen: LostTags) -> Result<(), KernelError> {
        if self.lost_tags()? != seen {
            return Ok(());
        }
        let mut lost: Array<_, u32> = map(&mut self.ebpf, "INHERIT_LOST")?;
        lost.set(0, 0, 0).map_err(failed("INHERIT_LOST"))?;
        let mut filter: Array<_, u32> = map(&mut self.ebpf, "TAG_FILTER")?;
        for bucket in 0..TAG_FILTER_BUCKETS as u32 {
            if filter.get(&bucket, 0).map_err(failed("TAG_FILTER"))? > FILTER_TAGGED {
                filter.set(bucket, FILTER_TAGGED, 0).map_err(failed("TAG_FILTER"))?;
            }
        }
        Ok(())
    }

    /// Allows nothing in a cgroup that cannot be tagged, nor below it, until it is or [`Self::mend_lost_tags`] is called.
    ///
    /// # Errors
    /// If the maps cannot be changed.
    pub fn hold_untagged(&mut self, cgroup_id: u64) -> Result<(), KernelError> {
        let mut filter: Array<_, u32> = map(&mut self.ebpf, "TAG_FILTER")?;
        let bucket = filter_bucket(cgroup_id);
        let value = filter.get(&bucket, 0).map_err(failed("TAG_FILTER"))?;
        filter.set(bucket, filter_with_lack(value, cgroup_id), 0).map_err(failed("TAG_FILTER"))?;
        let mut lost: Array<_, u32> = map(&mut self.ebpf, "INHERIT_LOST")?;
        let times = lost.get(&0, 0).map_err(failed("INHERIT_LOST"))?;
        lost.set(0, times.wrapping_add(1) | 1 << 31, 0).map_err(failed("INHERIT_LOST"))
    }
}
