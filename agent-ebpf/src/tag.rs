//! What the current task is held to.

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id,
    generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_task_btf},
};
use stockade_common::{
    limits::UNDECIDED_SCOPE,
    tag::{FILTER_TAGGED, Setting, TAG_AT_ONCE, Tag, filter_bucket, filter_says_lack, filter_with_lack},
};

use crate::{
    kernel::{self, CGROUP_ROOT, CGROUP_ROOT_HIERARCHY_ID},
    maps::{INHERIT_LOST, SCOPES, TAG_FILTER, TAGS},
    startup,
};

/// Levels of ancestors asked once a tag was lost; `stockade run` keeps its subtree shallower.
const ANCESTOR_LEVELS: i32 = 32;

/// What a task is held to at this moment: read once, so that all of a decision is by one policy.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Held {
    /// Its cgroup.
    pub cgroup_id: u64,
    /// The policy and how it is applied.
    pub setting: Setting,
    /// The scope its cgroup belongs to.
    pub scope: u32,
    pad: u32,
}

impl Held {
    /// What the cgroups of a scope are held to.
    #[inline(always)]
    pub fn to(cgroup_id: u64, scope: u32) -> Self {
        // SAFETY: a map value; read once.
        let word = SCOPES.get_ptr(scope).map_or(0, |word| unsafe { word.read_volatile() });
        Self { cgroup_id, setting: Setting::from_word(word), scope, pad: 0 }
    }
}

/// Scope of a cgroup; `None` if it is not tagged.
#[inline(always)]
pub fn scope_of(cgroup_id: u64) -> Option<u32> {
    match TAG_FILTER.get(filter_bucket(cgroup_id)) {
        Some(0) | None => None,
        // SAFETY: the value is copied out at once.
        Some(_) => unsafe { TAGS.get(&cgroup_id) }.map(|tag| tag.scope),
    }
}

/// What the current task is held to.
#[inline(always)]
pub fn current() -> Option<Held> {
    candidate().and_then(tagged)
}

/// The current task's cgroup, if the filter does not rule out that it is tagged.
#[inline(always)]
pub fn candidate() -> Option<u64> {
    // Typed loads: the helper that gives the id takes and leaves a lock around the same.
    // SAFETY: a typed pointer to the current task.
    filtered(unsafe { kernel::task_cgroup_id(bpf_get_current_task_btf().cast::<u8>().cast_const()) })
}

/// [`current`] for cgroup programs, which on 6.1 may not ask for the task.
#[inline(always)]
pub fn current_by_helper() -> Option<Held> {
    // SAFETY: takes no arguments.
    filtered(unsafe { bpf_get_current_cgroup_id() }).and_then(tagged)
}

/// A cgroup, if the filter does not rule out that it is tagged.
#[inline(always)]
pub fn filtered(id: u64) -> Option<u64> {
    match TAG_FILTER.get(filter_bucket(id)) {
        Some(0) | None => None,
        Some(_) => Some(id),
    }
}

/// What a [`candidate`] is held to, if it is tagged and no longer starting.
#[inline(always)]
pub fn tagged(id: u64) -> Option<Held> {
    tag_of(id).filter(|tag| !startup::goes_on(tag)).map(|tag| Held::to(id, tag.scope))
}

/// The tag of a cgroup itself.
#[inline(always)]
pub fn exact(id: u64) -> Option<Tag> {
    // SAFETY: the value is copied out at once.
    unsafe { TAGS.get(&id) }.copied()
}

/// Whether a tag was ever lost, so that ancestors have to be asked.
#[inline(always)]
pub fn lost() -> bool {
    INHERIT_LOST.get(0).is_none_or(|lost| *lost != 0)
}

/// Slot of the host's own table: what is tagged by path, and what starts workloads. 0: there is none.
#[inline(always)]
pub fn host() -> u32 {
    // SAFETY: a map value; read once.
    SCOPES.get_ptr(0).map_or(0, |word| Setting::from_word(unsafe { word.read_volatile() }).slot())
}

/// The tag of a [`candidate`].
#[inline(always)]
pub fn tag_of(id: u64) -> Option<Tag> {
    // SAFETY: any level may be asked for.
    tag_above(id, |level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}

/// The tag of a cgroup; `above` gives its ancestor at a level, 0 if there is none.
#[inline(always)]
pub fn tag_above(id: u64, above: impl Fn(i32) -> u64) -> Option<Tag> {
    if let Some(tag) = exact(id) {
        return Some(tag);
    }
    if !lost() {
        return None;
    }
    if lacks(id) {
        return Some(LACKING);
    }
    for level in 1..ANCESTOR_LEVELS {
        let ancestor = above(level);
        if ancestor == 0 {
            break;
        }
        if let Some(tag) = exact(ancestor) {
            return Some(tag);
        }
        if lacks(ancestor) {
            return Some(LACKING);
        }
    }
    None
}

/// Of a cgroup for whose tag there was no room: nothing is allowed, nor is anything started.
const LACKING: Tag = Tag { scope: UNDECIDED_SCOPE, flags: TAG_AT_ONCE };

/// Whether a cgroup should be tagged, and could not be noted.
#[inline(always)]
fn lacks(id: u64) -> bool {
    TAG_FILTER.get(filter_bucket(id)).is_some_and(|value| filter_says_lack(*value, id))
}

/// Takes note that a cgroup should be tagged, and cannot be noted. Only [`lost`] makes it count.
#[inline(always)]
pub fn set_lacking(id: u64) {
    if let Some(value) = TAG_FILTER.get_ptr_mut(filter_bucket(id)) {
        // SAFETY: a map value. Cgroups are made one after the other, under the kernel's lock.
        unsafe { *value = filter_with_lack(*value, id) };
    }
}

/// Takes note that a cgroup may be tagged. False: it could not be.
#[inline(always)]
pub fn set_filtered(id: u64) -> bool {
    let Some(value) = TAG_FILTER.get_ptr_mut(filter_bucket(id)) else { return false };
    // SAFETY: a map value; what says more of others of the bucket stays.
    unsafe {
        if *value == 0 {
            *value = FILTER_TAGGED;
        }
    }
    true
}

/// Whether a cgroup is of the v2 hierarchy, the default one, whose number is 0. Each hierarchy numbers its groups for
/// itself, so a v1 group may have the id of a tagged one.
///
/// # Safety
/// `cgroup` must be a typed kernel pointer.
#[inline(always)]
pub unsafe fn is_v2(cgroup: *const u8) -> bool {
    // SAFETY: checked by the verifier.
    unsafe { kernel::field::<u32>(kernel::field(cgroup, &CGROUP_ROOT), &CGROUP_ROOT_HIERARCHY_ID) == 0 }
}
