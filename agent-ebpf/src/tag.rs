//! What the current task is held to, and the inheritance of tags by new child cgroups.

use aya_ebpf::{
    helpers::{
        bpf_get_current_cgroup_id,
        generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_task_btf},
    },
    programs::BtfTracePointContext,
};
use stockade_common::{
    counter::Counter,
    tag::{Setting, Tag, filter_bucket},
};

use crate::{
    debug,
    kernel::{self, CGROUP_PARENT, CGROUP_ROOT, CGROUP_ROOT_HIERARCHY_ID, CSS_CGROUP},
    maps::{INHERIT_LOST, SCOPES, TAG_FILTER, TAGS, count},
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
    #[inline(always)]
    fn to(cgroup_id: u64, scope: u32) -> Self {
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

#[inline(always)]
fn filtered(id: u64) -> Option<u64> {
    match TAG_FILTER.get(filter_bucket(id)) {
        Some(0) | None => None,
        Some(_) => Some(id),
    }
}

/// What a [`candidate`] is held to, if it is tagged.
#[inline(always)]
pub fn tagged(id: u64) -> Option<Held> {
    tag_of(id).map(|tag| Held::to(id, tag.scope))
}

#[inline(always)]
fn tag_of(id: u64) -> Option<Tag> {
    // SAFETY: the value is copied out at once.
    if let Some(tag) = unsafe { TAGS.get(&id) } {
        return Some(*tag);
    }
    if INHERIT_LOST.get(0).is_none_or(|lost| *lost == 0) {
        return None;
    }
    for level in 1..ANCESTOR_LEVELS {
        // SAFETY: any level may be asked for; 0 means there is none.
        let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if ancestor == 0 {
            break;
        }
        // SAFETY: as above.
        if let Some(tag) = unsafe { TAGS.get(&ancestor) } {
            return Some(*tag);
        }
    }
    None
}

/// `tp_btf/cgroup_mkdir(cgrp, path)`: runs before the new directory can be seen, so there is no untagged instant.
#[inline(always)]
pub fn cgroup_mkdir(ctx: &BtfTracePointContext) {
    let cgroup: *const u8 = ctx.arg(0);
    // SAFETY: typed kernel pointers; the parent of a group that is being made exists, the root alone has none.
    let (id, parent) = unsafe {
        if !is_v2(cgroup) {
            return;
        }
        let css: *const u8 = kernel::field(cgroup, &CGROUP_PARENT);
        if css.is_null() {
            return;
        }
        (kernel::cgroup_id(cgroup), kernel::cgroup_id(kernel::field(css, &CSS_CGROUP)))
    };
    if INHERIT_LOST.get(0).is_none_or(|lost| *lost != 0) {
        // Its parent's tag may be the one that was lost: its tasks must get as far as asking their ancestors.
        let _ = TAG_FILTER.set(filter_bucket(id), 1, 0);
    }
    // SAFETY: the value is copied out at once.
    let Some(tag) = unsafe { TAGS.get(&parent) }.copied() else { return };
    // The filter first: a tag the filter doesn't know of would not be found.
    let filtered = TAG_FILTER.set(filter_bucket(id), 1, 0);
    if filtered.is_err() || TAGS.insert(&id, &tag, 0).is_err() {
        count(tag.scope, Counter::InheritFailed);
        let _ = INHERIT_LOST.set(0, 1, 0);
        return;
    }
    debug::inherited(id, tag.scope);
}

/// Whether a cgroup is of the v2 hierarchy, the default one, whose number is 0. Each hierarchy numbers its groups for
/// itself, so a v1 group may have the id of a tagged one.
///
/// # Safety
/// `cgroup` must be a typed kernel pointer.
#[inline(always)]
unsafe fn is_v2(cgroup: *const u8) -> bool {
    // SAFETY: checked by the verifier.
    unsafe { kernel::field::<u32>(kernel::field(cgroup, &CGROUP_ROOT), &CGROUP_ROOT_HIERARCHY_ID) == 0 }
}

/// `tp_btf/cgroup_rmdir(cgrp, path)`. Ids of v2 groups are never used again, so this only gives back the room.
#[inline(always)]
pub fn cgroup_rmdir(ctx: &BtfTracePointContext) {
    let cgroup: *const u8 = ctx.arg(0);
    // SAFETY: a typed kernel pointer.
    unsafe {
        if is_v2(cgroup) {
            let id = kernel::cgroup_id(cgroup);
            let _ = TAGS.remove(&id);
        }
    }
}
