//! What can be seen of the programs and their maps from outside the decisions.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use stockade_common::{
    limits::{MAX_SCOPES, MAX_SLOTS, MAX_STARTERS, MAX_TAGS, UNDECIDED_SCOPE},
    tag::{Tag, filter_bucket, filter_says_lack},
};

use super::{Enforcer, KernelError, Scope, descriptor, sys};

/// Reads which cgroups are tagged, from any thread.
#[derive(Debug)]
pub struct TagReader {
    tags: OwnedFd,
    lost: OwnedFd,
    filter: OwnedFd,
}

impl TagReader {
    /// Scope of a cgroup.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn scope_of(&self, cgroup_id: u64) -> Result<Option<Scope>, KernelError> {
        let mut value = [0; size_of::<Tag>()];
        let found = sys::map_lookup(self.tags.as_fd(), &cgroup_id.to_ne_bytes(), &mut value);
        let found = found.map_err(failed("TAGS"))?;
        let [a, b, c, d, ..] = value;
        if !found && self.lacks(cgroup_id)? {
            return Ok(Some(Scope(UNDECIDED_SCOPE)));
        }
        Ok(found.then_some(Scope(u32::from_ne_bytes([a, b, c, d]))))
    }

    /// Whether a cgroup should be tagged, and could not be noted.
    fn lacks(&self, cgroup_id: u64) -> Result<bool, KernelError> {
        let mut value = [0; 4];
        sys::map_lookup(self.filter.as_fd(), &filter_bucket(cgroup_id).to_ne_bytes(), &mut value)
            .map_err(failed("TAG_FILTER"))?;
        Ok(filter_says_lack(u32::from_ne_bytes(value), cgroup_id) && self.lost()?)
    }

    /// Whether a tag could not be inherited once, so that a cgroup may be held to what one above it is tagged with.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn lost(&self) -> Result<bool, KernelError> {
        let mut value = [0; 4];
        sys::map_lookup(self.lost.as_fd(), &0u32.to_ne_bytes(), &mut value)
            .map_err(failed("INHERIT_LOST"))?;
        Ok(value != [0; 4])
    }
}

fn failed(map: &'static str) -> impl FnOnce(std::io::Error) -> KernelError {
    move |source| KernelError::System { step: "reading", object: format!("map {map}"), source }
}

impl Enforcer {
    /// A reader of tags of its own.
    ///
    /// # Errors
    /// If the descriptors cannot be copied.
    pub fn tag_reader(&self) -> Result<TagReader, KernelError> {
        let of = |name| descriptor(&self.ebpf, name);
        Ok(TagReader { tags: of("TAGS")?, lost: of("INHERIT_LOST")?, filter: of("TAG_FILTER")? })
    }

    /// Of tables that have a limit: name, entries, most entries.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn fill(&mut self) -> Result<Vec<(&'static str, u64, u64)>, KernelError> {
        let count = |name, key| -> Result<u64, KernelError> {
            let map = descriptor(&self.ebpf, name)?;
            Ok(sys::map_count(map.as_fd(), key, MAX_TAGS as usize).map_err(failed(name))? as u64)
        };
        let (tags, starters, held) = (count("TAGS", 8)?, count("STARTERS", 4)?, count("HELD", 4)?);
        let slots = self.slots.len() as u64;
        let scopes = self.labels()?.len() as u64;
        Ok(vec![
            ("tags", tags, u64::from(MAX_TAGS)),
            ("scopes", scopes, u64::from(MAX_SCOPES - 3)),
            ("policies", slots, u64::from(MAX_SLOTS - 1)),
            ("starters", starters, u64::from(MAX_STARTERS)),
            ("held", held, u64::from(MAX_STARTERS)),
        ])
    }

    /// Of each program, how often it ran and for how long, where the kernel counts (`kernel.bpf_stats_enabled`).
    #[must_use]
    pub fn run_times(&self) -> Vec<(String, u64, Duration)> {
        let programs = self.ebpf.programs();
        programs
            .filter_map(|(name, program)| {
                let info = program.info().ok()?;
                Some((name.to_owned(), info.run_count(), info.run_time()))
            })
            .collect()
    }
}
