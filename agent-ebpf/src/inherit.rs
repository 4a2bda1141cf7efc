//! Tags of new cgroups: their parent's, or what the host's own table says about their path.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, programs::BtfTracePointContext};
use stockade_common::{
    counter::Counter,
    event::{FileBody, hook, kind},
    file::ACCESS_READ,
    limits::{CGROUP_DEV, MAX_CGROUP_PATH, MAX_INHERITED_TAGS, MAX_PATH, UNDECIDED_SCOPE},
    tag::{HOST_FIRST, HOST_LAST, SCOPE_AT_ONCE, TAG_AT_ONCE, Tag, host_scope},
};

use crate::{
    debug,
    emit::{self, Actor},
    kernel::{self, CGROUP_PARENT, CSS_CGROUP},
    maps::{INHERIT_LOST, TAG_COUNT, TAGS, count},
    path::{self, PathBuffer},
    rules,
    tag::{self, Held, is_v2},
};

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
    if tag::lost() {
        // Its parent's tag may be the one that was lost: its tasks must get as far as asking their ancestors.
        let _ = tag::set_filtered(id);
    }
    // Who is policed cannot choose another policy by choosing a name.
    if tag::host() != 0 && tag::current().is_none() {
        let text: *const u8 = ctx.arg(1);
        if by_path(id, text as u64) {
            return;
        }
    }
    let Some(tag) = tag::exact(parent) else { return };
    // Whether there is room for its own tag or not: its tasks must get as far as asking.
    let _ = tag::set_filtered(id);
    let Some(count) = TAG_COUNT.get_ptr_mut(0) else { return lose(&tag) };
    // What is made inside a tag must leave room for what only its path can tag: its ancestors say whose it is.
    // SAFETY: a map value; a lost addition is made good by userspace.
    unsafe {
        if *count >= u64::from(MAX_INHERITED_TAGS) {
            return lose(&tag);
        }
        *count += 1;
    }
    put(id, &tag);
}

/// From now on ancestors are asked.
#[inline(always)]
fn lose(tag: &Tag) {
    count(tag.scope, Counter::InheritFailed);
    if let Some(times) = INHERIT_LOST.get_ptr_mut(0) {
        // SAFETY: a map value. Userspace sees from the number whether more were lost since it looked; never is it 0 again.
        unsafe { *times = (*times).wrapping_add(1) | 1 << 31 };
    }
}

/// Notes what a cgroup's path says. There is nobody else to ask: if there is no room nothing is allowed in it.
#[inline(always)]
fn put_by_path(id: u64, tag: &Tag) -> bool {
    if !put(id, tag) {
        tag::set_lacking(id);
    }
    true
}

const UNDECIDED: Tag = Tag { scope: UNDECIDED_SCOPE, flags: 0 };

/// False: the tag was lost, and is looked for at ancestors from now on.
#[inline(always)]
fn put(id: u64, tag: &Tag) -> bool {
    // The filter first: a tag the filter doesn't know of would not be found.
    if !tag::set_filtered(id) || TAGS.insert(&id, tag, 0).is_err() {
        lose(tag);
        return false;
    }
    debug::inherited(id, tag.scope);
    true
}

/// Tags a cgroup by its path, and reports it. True: what becomes of it is decided.
#[inline(never)]
fn by_path(id: u64, text: u64) -> bool {
    // Whose it is cannot be found out here: nothing runs in it until userspace has.
    let Some(buffer) = path::claim(0) else { return put_by_path(id, &UNDECIDED) };
    // SAFETY: the buffer was claimed.
    let tagged = unsafe { by_path_in(buffer, id, text) };
    path::release(buffer);
    tagged
}

#[inline(always)]
unsafe fn by_path_in(buffer: *mut PathBuffer, id: u64, text: u64) -> bool {
    // SAFETY: lengths and positions are masked; the area has room for a path behind its last position.
    let start = unsafe {
        let length = bpf_probe_read_kernel_str(
            PathBuffer::byte(buffer, 0).cast(),
            MAX_CGROUP_PATH as u32,
            text as *const _,
        );
        // The length counts the NUL. What a path that is cut would match is not known.
        if length <= 1 || length >= MAX_CGROUP_PATH as i64 {
            return put_by_path(id, &UNDECIDED);
        }
        let length = PathBuffer::forget(buffer, length as u32) & (MAX_CGROUP_PATH as u32 - 1);
        let start = (MAX_PATH as u32).wrapping_sub(length).wrapping_add(1) & (MAX_PATH as u32 - 1);
        bpf_probe_read_kernel_str(PathBuffer::byte(buffer, start).cast(), length, text as *const _);
        PathBuffer::forget(buffer, start)
    };
    // SAFETY: as promised by the caller.
    let Some(found) = (unsafe { rules::look_up(tag::host(), buffer, start, CGROUP_DEV) }) else {
        return put_by_path(id, &UNDECIDED);
    };
    if found.allow & ACCESS_READ == 0 {
        return false;
    }
    let mut scope = host_scope(found.allow_rule[HOST_FIRST]);
    if found.deny & ACCESS_READ != 0 {
        let alone = host_scope(found.allow_rule[HOST_LAST]) == scope;
        if alone && host_scope(found.deny_rule[HOST_FIRST]) == scope {
            // Left out of what it is in, too.
            return true;
        }
        // Whose it is of several, with what they leave out, is for userspace to find out.
        scope = UNDECIDED_SCOPE;
    }
    let held = Held::to(id, scope);
    let flags = if held.setting.flags() & SCOPE_AT_ONCE == 0 { 0 } else { TAG_AT_ONCE };
    put_by_path(id, &Tag { scope, flags });
    let actor = Actor { held, ppid: emit::ppid() };
    let body = FileBody { dev: CGROUP_DEV, access: 0, mode: 0, path_len: 0 };
    // SAFETY: the buffer holds the path from `start` on.
    unsafe { emit::path(buffer, start, &actor, kind::CGROUP, hook::CGROUP_MKDIR, body, &emit::observed()) };
    true
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
