//! Policies in slots, scopes held to slots, cgroups in scopes, and what is counted of them.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Array, HashMap, MapError, PerCpuArray};
use stockade_common::{
    counter::COUNTERS,
    limits::{MAX_SCOPES, MAX_SLOTS},
    process::Powers,
    tag::{
        FILTER_TAGGED, LABEL_NAME, Label, Setting, Starter, TAG_AT_ONCE, TAG_BY_HAND, Tag, filter_bucket,
        label_kind,
    },
};

use super::{
    Enforcer, KernelError, Scope, Slot, descriptor, map,
    policy_maps::{self, OUTER, PolicyMaps},
    scopes::Scopes,
};
use crate::policy::{image::MapImage, process::Process};

/// What is tagged by its path when it is made, and what starts workloads, stands in the slot that this scope is held to.
const HOST: u32 = 0;
/// [`Powers`]
type PowersWords = [u64; size_of::<Powers>() / 8];

/// What a scope is, for the daemon that comes after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeLabel {
    /// One of [`label_kind`].
    pub kind: u32,
    /// Who started a run.
    pub uid: u32,
    /// Its name.
    pub name: String,
}

/// When those who enter a tagged cgroup from outside are policed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// At once.
    AtOnce,
    /// From their first execution on: they are what starts a workload.
    Starting,
}

impl Enforcer {
    /// Copies a compiled policy into a slot that is free. Nothing is held to it yet.
    ///
    /// # Errors
    /// [`KernelError::TooBig`], or the map that refused; no slot is taken then.
    pub fn install(&mut self, image: &MapImage) -> Result<Slot, KernelError> {
        self.learn_overlays(None)?;
        let maps = PolicyMaps::create(image)?;
        let outer = self.outer()?;
        // Not asked of the kernel: on 6.1 each look into an array of maps waits for all programs. What a killed daemon has put
        // into a slot that nothing is held to is replaced.
        let slot =
            (1..MAX_SLOTS).find(|slot| !self.slots.contains(slot)).map(Slot).ok_or(KernelError::NoSlot)?;
        self.set_powers(slot, image.powers)?;
        maps.install(&outer, slot).inspect_err(|_| {
            // What is in place already must not be taken for a policy later.
            let _ = policy_maps::remove(&outer, slot);
        })?;
        self.slots.insert(slot.0);
        self.names.put(slot, maps.into_names());
        Ok(slot)
    }

    /// Takes a policy away to which no scope is held any more.
    ///
    /// # Errors
    /// If the kernel refuses; or a scope is still held to it.
    pub fn remove(&mut self, slot: Slot) -> Result<(), KernelError> {
        let scopes = self.scopes()?;
        if (0..MAX_SCOPES).any(|scope| scopes.get(scope).slot() == slot.0) {
            return Err(KernelError::InUse(slot));
        }
        let outer = self.outer()?;
        policy_maps::wait_for_programs(&outer)?;
        policy_maps::remove(&outer, slot)?;
        self.set_powers(slot, Powers::default())?;
        self.slots.remove(&slot.0);
        self.names.put(slot, None);
        Ok(())
    }

    /// What every policy gives, for all slots that are taken.
    pub(super) fn give_basic_powers(&mut self) -> Result<(), KernelError> {
        let slots: Vec<u32> = self.slots.iter().copied().collect();
        slots.into_iter().try_for_each(|slot| self.set_powers(Slot(slot), Process::default().into()))
    }

    /// What the processes of scopes may do that are held to the slot.
    fn set_powers(&mut self, slot: Slot, powers: Powers) -> Result<(), KernelError> {
        let mut map: Array<_, PowersWords> = map(&mut self.ebpf, "POWERS")?;
        let Powers { capabilities, allow, pad } = powers;
        let words = [capabilities, u64::from(pad) << 32 | u64::from(allow)];
        map.set(slot.0, words, 0).map_err(|source| KernelError::Map { map: "POWERS", source })
    }

    /// Slots that scopes are held to: after another daemon.
    pub(super) fn find_slots(&mut self) -> Result<(), KernelError> {
        let scopes = self.scopes()?;
        self.slots =
            (0..MAX_SCOPES).map(|scope| scopes.get(scope).slot()).filter(|slot| *slot != 0).collect();
        self.find_names()
    }

    /// The arrays that hold policies' maps.
    fn outer(&self) -> Result<[OwnedFd; OUTER.len()], KernelError> {
        let outer = OUTER.iter().map(|name| descriptor(&self.ebpf, name)).collect::<Result<Vec<_>, _>>()?;
        outer.try_into().map_err(|_| KernelError::Mismatch("table of policies"))
    }

    fn scopes(&self) -> Result<Scopes, KernelError> {
        let array = descriptor(&self.ebpf, "SCOPES")?;
        Scopes::map(array.as_fd()).map_err(|source| KernelError::System {
            step: "mapping",
            object: "map SCOPES".into(),
            source,
        })
    }

    /// Holds a scope to the policy in a slot, with `SCOPE_*` flags: in one step, for all of its cgroups.
    ///
    /// # Errors
    /// If there is no such scope or slot.
    pub fn hold(&mut self, scope: Scope, slot: Slot, flags: u32) -> Result<(), KernelError> {
        if slot.0 == 0 || slot.0 >= MAX_SLOTS || scope.0 == 0 {
            return Err(KernelError::Mismatch("scope or slot of that number"));
        }
        let scopes = self.scopes()?;
        // What programs remember of directories is of one generation.
        let generation = scopes.generation().wrapping_add(1);
        if scopes.set(scope.0, Setting::new(slot.0, flags, generation)) {
            Ok(())
        } else {
            Err(KernelError::Mismatch("scope of that number"))
        }
    }

    /// Holds a scope to nothing: what is still in it is allowed nothing.
    ///
    /// # Errors
    /// If the map cannot be changed.
    pub fn let_go(&mut self, scope: Scope) -> Result<(), KernelError> {
        // The generation stays: no later one may be the same.
        let scopes = self.scopes()?;
        scopes.set(scope.0, Setting::new(0, 0, scopes.get(scope.0).generation()));
        Ok(())
    }

    /// What a scope is held to; slot 0: nothing, and nothing is allowed in it.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn held_to(&self, scope: Scope) -> Result<Setting, KernelError> {
        Ok(self.scopes()?.get(scope.0))
    }

    /// Puts a cgroup into a scope. New children inherit that once [`Self::attach_tracking`] has run.
    ///
    /// # Errors
    /// If the map is full.
    pub fn tag(&mut self, cgroup_id: u64, scope: Scope, entry: Entry) -> Result<(), KernelError> {
        self.put_tag(cgroup_id, scope, if entry == Entry::AtOnce { TAG_AT_ONCE } else { 0 })
    }

    /// The same by hand: [`Self::is_by_hand`] says so of it, and of what is made in it, also to a later daemon.
    ///
    /// # Errors
    /// As [`Self::tag`].
    pub fn tag_by_hand(&mut self, cgroup_id: u64, scope: Scope, entry: Entry) -> Result<(), KernelError> {
        let flags = if entry == Entry::AtOnce { TAG_AT_ONCE } else { 0 };
        self.put_tag(cgroup_id, scope, flags | TAG_BY_HAND)
    }

    /// Whether a cgroup was tagged by hand, or is below one that was.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn is_by_hand(&mut self, cgroup_id: u64) -> Result<bool, KernelError> {
        let tags: HashMap<_, u64, Tag> = map(&mut self.ebpf, "TAGS")?;
        match tags.get(&cgroup_id, 0) {
            Ok(tag) => Ok(tag.flags & TAG_BY_HAND != 0),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(failed("TAGS")(error)),
        }
    }

    fn put_tag(&mut self, cgroup_id: u64, scope: Scope, flags: u32) -> Result<(), KernelError> {
        // The filter first: a tag the filter doesn't know of would not be found.
        let mut filter: Array<_, u32> = map(&mut self.ebpf, "TAG_FILTER")?;
        let bucket = filter_bucket(cgroup_id);
        if filter.get(&bucket, 0).map_err(failed("TAG_FILTER"))? == 0 {
            filter.set(bucket, FILTER_TAGGED, 0).map_err(failed("TAG_FILTER"))?;
        }
        let mut tags: HashMap<_, u64, Tag> = map(&mut self.ebpf, "TAGS")?;
        tags.insert(cgroup_id, Tag { scope: scope.0, flags }, 0).map_err(failed("TAGS"))
    }

    /// Lets a cgroup go. Its children keep their tags. True: it was tagged.
    ///
    /// # Errors
    /// If the map cannot be changed.
    pub fn untag(&mut self, cgroup_id: u64) -> Result<bool, KernelError> {
        let mut tags: HashMap<_, u64, Tag> = map(&mut self.ebpf, "TAGS")?;
        was_there(tags.remove(&cgroup_id)).map_err(failed("TAGS"))
    }

    /// Scope of a cgroup.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn scope_of(&mut self, cgroup_id: u64) -> Result<Option<Scope>, KernelError> {
        let tags: HashMap<_, u64, Tag> = map(&mut self.ebpf, "TAGS")?;
        match tags.get(&cgroup_id, 0) {
            Ok(tag) => Ok(Some(Scope(tag.scope))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("TAGS")(error)),
        }
    }

    /// All tagged cgroups, by kernel id.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn tags(&mut self) -> Result<Vec<(u64, Scope)>, KernelError> {
        let tags: HashMap<_, u64, Tag> = map(&mut self.ebpf, "TAGS")?;
        let tags = tags.iter().map(|entry| entry.map(|(id, tag)| (id, Scope(tag.scope))));
        tags.collect::<Result<_, _>>().map_err(failed("TAGS"))
    }

    /// Tags by cgroup, and tells the programs how many there are. What they have counted meanwhile is counted on top: this takes
    /// its time, and a number from before it would give more of the room away.
    ///
    /// # Errors
    /// If a map cannot be read or changed.
    pub fn count_tags(&mut self) -> Result<Vec<(u64, Scope)>, KernelError> {
        let before = self.tag_count()?;
        let tags = self.tags()?;
        let since = self.tag_count()?.saturating_sub(before);
        let mut count: Array<_, u64> = map(&mut self.ebpf, "TAG_COUNT")?;
        count.set(0, tags.len() as u64 + since, 0).map_err(failed("TAG_COUNT"))?;
        Ok(tags)
    }

    fn tag_count(&mut self) -> Result<u64, KernelError> {
        let count: Array<_, u64> = map(&mut self.ebpf, "TAG_COUNT")?;
        count.get(&0, 0).map_err(failed("TAG_COUNT"))
    }

    /// Processes that are in a tagged cgroup and not policed yet: id, and nanoseconds since boot at which they entered.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn starters(&mut self) -> Result<Vec<(u32, u64)>, KernelError> {
        let starters: HashMap<_, u32, Starter> = map(&mut self.ebpf, "STARTERS")?;
        let starters = starters.iter().map(|entry| entry.map(|(pid, starter)| (pid, starter.since)));
        starters.collect::<Result<_, _>>().map_err(failed("STARTERS"))
    }

    /// Processes that were stopped when they had executed a workload whose policy or mounts were not known, with their
    /// cgroup.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn held(&mut self) -> Result<Vec<(u32, u64)>, KernelError> {
        let held: HashMap<_, u32, u64> = map(&mut self.ebpf, "HELD")?;
        held.iter().collect::<Result<_, _>>().map_err(failed("HELD"))
    }

    /// The cgroup of a process that was stopped; `None`: it was not, or was let go.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn held_in(&mut self, pid: u32) -> Result<Option<u64>, KernelError> {
        let held: HashMap<_, u32, u64> = map(&mut self.ebpf, "HELD")?;
        match held.get(&pid, 0) {
            Ok(cgroup_id) => Ok(Some(cgroup_id)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("HELD")(error)),
        }
    }

    /// Forgets that a process was stopped. To be called before it is let go, or killed.
    ///
    /// # Errors
    /// If the map cannot be changed.
    pub fn release(&mut self, pid: u32) -> Result<(), KernelError> {
        let mut held: HashMap<_, u32, u64> = map(&mut self.ebpf, "HELD")?;
        was_there(held.remove(&pid)).map(drop).map_err(failed("HELD"))
    }

    /// Puts a host's own table in place of what was there: see [`crate::policy::host`].
    ///
    /// # Errors
    /// As [`Self::install`]; what was there stays then.
    pub fn hold_host(&mut self, image: &MapImage) -> Result<(), KernelError> {
        let slot = self.install(image)?;
        let scopes = self.scopes()?;
        let before = scopes.get(HOST);
        scopes.set(HOST, Setting::new(slot.0, 0, scopes.generation().wrapping_add(1)));
        if before.slot() == 0 { Ok(()) } else { self.remove(Slot(before.slot())) }
    }

    /// Says what a scope is. `None`: it is free.
    ///
    /// # Errors
    /// If the name is too long or the map refuses.
    pub fn label(&mut self, scope: Scope, label: Option<&ScopeLabel>) -> Result<(), KernelError> {
        let mut raw = Label { kind: label_kind::FREE, uid: 0, name: [0; LABEL_NAME] };
        if let Some(ScopeLabel { kind, uid, name }) = label {
            (raw.kind, raw.uid) = (*kind, *uid);
            let room = raw.name.get_mut(..name.len()).ok_or(KernelError::TooBig {
                what: "bytes for a scope's name",
                need: name.len(),
                have: LABEL_NAME,
            })?;
            room.copy_from_slice(name.as_bytes());
        }
        let mut labels: Array<_, Label> = map(&mut self.ebpf, "LABELS")?;
        labels.set(scope.0, raw, 0).map_err(failed("LABELS"))
    }

    /// All scopes that are in use.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn labels(&mut self) -> Result<Vec<(Scope, ScopeLabel)>, KernelError> {
        let labels: Array<_, Label> = map(&mut self.ebpf, "LABELS")?;
        let mut used = Vec::new();
        for scope in 1..MAX_SCOPES {
            let Label { kind, uid, name } = labels.get(&scope, 0).map_err(failed("LABELS"))?;
            if kind != label_kind::FREE {
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(LABEL_NAME);
                let name = String::from_utf8_lossy(&name[..end]).into_owned();
                used.push((Scope(scope), ScopeLabel { kind, uid, name }));
            }
        }
        Ok(used)
    }

    /// A scope's counters, summed over CPUs, indexed by [`stockade_common::counter::Counter`]. Scope 0 has those of what
    /// could not be attributed.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&mut self, scope: Scope) -> Result<[u64; COUNTERS], KernelError> {
        let counters: PerCpuArray<_, u64> = map(&mut self.ebpf, "COUNTERS")?;
        let mut sums = [0; COUNTERS];
        for (index, sum) in (scope.0 * COUNTERS as u32..).zip(&mut sums) {
            let values =
                counters.get(&index, 0).map_err(|source| KernelError::Map { map: "COUNTERS", source })?;
            *sum = values.iter().sum();
        }
        Ok(sums)
    }

    /// Sets a scope's counters to zero, for the next that has its number.
    ///
    /// # Errors
    /// If the map refuses.
    pub fn clear_counters(&mut self, scope: Scope) -> Result<(), KernelError> {
        let mut counters: PerCpuArray<_, u64> = map(&mut self.ebpf, "COUNTERS")?;
        let cpus = counters.get(&0, 0).map_err(failed("COUNTERS"))?.len();
        for index in scope.0 * COUNTERS as u32..(scope.0 + 1) * COUNTERS as u32 {
            let zeros = aya::maps::PerCpuValues::try_from(vec![0u64; cpus]);
            let zeros = zeros.map_err(|source| KernelError::System {
                step: "clearing",
                object: "map COUNTERS".into(),
                source,
            })?;
            counters.set(index, zeros, 0).map_err(failed("COUNTERS"))?;
        }
        Ok(())
    }
}

/// Whether something was taken out of a map: what is not there needs not be.
fn was_there(removed: Result<(), MapError>) -> Result<bool, MapError> {
    match removed {
        Ok(()) => Ok(true),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn failed(map: &'static str) -> impl FnOnce(MapError) -> KernelError + use<> {
    move |source| KernelError::Map { map, source }
}
