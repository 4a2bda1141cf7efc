//! What starts a workload: systemd, a container runtime. Between entering the tagged cgroup and executing the workload,
//! a process there is still the starter's own code, which makes mounts and changes roots; only what it executes is
//! judged. From its first execution on it is policed, and so is all that it forks.
//!
//! Only who enters from outside, at the hand of somebody outside, can be starting: a policed task never is again. A table
//! that is full, or a start that takes too long, means policed.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_task_btf, bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_send_signal},
    },
    programs::FEntryContext,
};
use stockade_common::{
    file::{ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE},
    limits::{MAX_PATH, STARTUP_JIFFIES, STARTUP_NS, UNDECIDED_SCOPE},
    tag::{Starter, TAG_AT_ONCE, Tag},
};

use crate::{
    kernel::{
        self, DENTRY_D_SB, MM_EXE_FILE, MNT_NAMESPACE_NS_INUM, NSPROXY_MNT_NS, SUPER_BLOCK_S_DEV, TASK_MM,
        TASK_NSPROXY, TASK_PID, TASK_TGID,
    },
    maps::{HELD, STARTERS, STARTING_UNTIL},
    path::{self, walk_error},
    rules, tag,
};

/// Number of the mount namespace that policies are compiled for first: the host's.
#[unsafe(no_mangle)]
pub static HOST_MOUNTS: Global<u32> = Global::new(0);

const SIGSTOP: u32 = 19;

fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The current task's entry, if it is starting a workload.
#[inline(always)]
fn current() -> Option<Starter> {
    let until = STARTING_UNTIL.get(0).copied()?;
    // SAFETY: takes no arguments.
    if until < unsafe { bpf_jiffies64() } {
        return None;
    }
    // SAFETY: the value is copied out at once.
    let starter = unsafe { STARTERS.get(&tgid()) }.copied()?;
    // SAFETY: takes no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    (now.wrapping_sub(starter.since) < STARTUP_NS).then_some(starter)
}

/// Whether the current task, in a cgroup with this tag, is not policed yet.
#[inline(always)]
pub fn goes_on(tag: &Tag) -> bool {
    tag.flags & TAG_AT_ONCE == 0 && current().is_some()
}

#[inline(always)]
fn enter(tgid: u32, since: u64) {
    // SAFETY: takes no arguments.
    let until = unsafe { bpf_jiffies64() } + STARTUP_JIFFIES;
    // If either fails the task is policed.
    if STARTERS.insert(&tgid, &Starter { since, executes: 0 }, 0).is_ok() {
        let _ = STARTING_UNTIL.set(0, until, 0);
    }
}

/// Whether a process is starting something, or was when it ended: nobody who is policed may reach into it.
#[inline(always)]
pub fn is_starter(tgid: u32) -> bool {
    // SAFETY: only whether there is one.
    unsafe { STARTERS.get(&tgid) }.is_some()
}

/// Whether a tag lets those who enter start something.
#[inline(always)]
fn admits(cgroup_id: u64) -> bool {
    tag::exact(cgroup_id).is_some_and(|tag| tag.flags & TAG_AT_ONCE == 0)
}

/// `fentry/cgroup_attach_task(dst_cgrp, leader, threadgroup)`: a process is about to be moved, and is where it was.
#[inline(always)]
pub fn moved(ctx: &FEntryContext) {
    let (to, task): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    // SAFETY: typed kernel pointers.
    let (to, from, tgid) = unsafe {
        if !tag::is_v2(to) {
            return;
        }
        (kernel::cgroup_id(to), kernel::task_cgroup_id(task), kernel::field::<u32>(task, &TASK_TGID))
    };
    if !admits(to) || tag::current().is_some() {
        return;
    }
    // From a tagged cgroup comes who is policed, or who is starting already.
    if tag::scope_of(from).is_none() && !tag::lost() {
        // SAFETY: takes no arguments.
        enter(tgid, unsafe { bpf_ktime_get_boot_ns() });
    }
}

/// `tp_btf/sched_process_fork(parent, child)`: what a starter forks goes on starting; what is born in a tagged cgroup, of
/// a parent outside, begins to.
#[inline(always)]
pub fn forked(child: *const u8) {
    // SAFETY: typed kernel pointers.
    let (cgroup_id, tgid, tid) = unsafe {
        (
            kernel::task_cgroup_id(child),
            kernel::field::<u32>(child, &TASK_TGID),
            kernel::field::<u32>(child, &TASK_PID),
        )
    };
    if tgid != tid {
        return;
    }
    if tag::scope_of(cgroup_id).is_some() && admits(cgroup_id) {
        if let Some(starter) = current() {
            enter(tgid, starter.since);
            return;
        }
        if tag::current().is_none() && !tag::lost() {
            // SAFETY: takes no arguments.
            enter(tgid, unsafe { bpf_ktime_get_boot_ns() });
            return;
        }
    }
    // Its number may have been another's, which was moved out of all tags before it ended.
    forget(tgid);
}

/// A number may be another process's from now on.
#[inline(always)]
fn forget(tgid: u32) {
    // SAFETY: takes no arguments.
    if STARTING_UNTIL.get(0).is_some_and(|until| *until >= unsafe { bpf_jiffies64() }) {
        let _ = STARTERS.remove(&tgid);
        let _ = HELD.remove(&tgid);
    }
}

/// The current task is executing `dentry`, and cannot go back. True: it goes on starting.
#[inline(always)]
pub fn executed(dentry: *const u8) -> bool {
    let goes_on = current().is_some_and(|starter| starter.executes == dentry as u64);
    if !goes_on {
        let _ = STARTERS.remove(&tgid());
    }
    goes_on
}

/// Whether what the current task executes in a cgroup with this tag cannot be judged yet: whose it is, or what mounts it
/// sees, is not known.
#[inline(always)]
pub fn awaits(tag: &Tag) -> bool {
    tag.scope == UNDECIDED_SCOPE || !sees_host()
}

/// Whether the current task sees the mounts that policies are compiled for first.
#[inline(always)]
fn sees_host() -> bool {
    // SAFETY: typed kernel pointers; null is checked.
    unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>().cast_const();
        let namespaces: *const u8 = kernel::field(task, &TASK_NSPROXY);
        if namespaces.is_null() {
            return false;
        }
        let mounts: *const u8 = kernel::field(namespaces, &NSPROXY_MNT_NS);
        !mounts.is_null() && kernel::field::<u32>(mounts, &MNT_NAMESPACE_NS_INUM) == HOST_MOUNTS.load()
    }
}

/// Stops the current task's process before it runs on, for userspace to judge. If that fails it runs under what its cgroup
/// is held to already, which does not know its mounts, until userspace finds that it does not stand, and kills it.
#[inline(always)]
pub fn hold(cgroup_id: u64) {
    if HELD.insert(&tgid(), &cgroup_id, 0).is_ok() {
        // SAFETY: takes a number.
        unsafe { bpf_send_signal(SIGSTOP) };
    }
}

/// The current task's process ends, wherever it is by now.
#[inline(always)]
pub fn ended() {
    forget(tgid());
}

/// Whether a starter may open `dentry` to execute it, whatever the policy says: another starter (`systemd-executor`), what
/// loads one; a container runtime its own program once more, or the copy of it that it has made in memory. Only where the
/// host's mounts are seen: elsewhere a path is what an image says it is.
#[inline(never)]
pub fn executes_starter(dentry: *const u8) -> bool {
    let Some(starter) = current() else { return false };
    if !sees_host() {
        return false;
    }
    let known = known(dentry);
    let goes_on = if known == NAMELESS || known & ACCESS_WRITE != 0 {
        is_runtime(dentry, known)
    } else {
        known & ACCESS_EXEC != 0
    };
    if goes_on {
        return STARTERS.insert(&tgid(), &Starter { executes: dentry as u64, ..starter }, 0).is_ok();
    }
    known != NAMELESS && known & ACCESS_READ != 0
}

/// Whether the current task runs a container runtime's program, and `dentry` is that, or has no name.
#[inline(always)]
fn is_runtime(dentry: *const u8, asked: u32) -> bool {
    // SAFETY: typed kernel pointers; null is checked.
    let own = unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>().cast_const();
        let mm: *const u8 = kernel::field(task, &TASK_MM);
        if mm.is_null() {
            return false;
        }
        let exe: *const u8 = kernel::field(mm, &MM_EXE_FILE);
        if exe.is_null() {
            return false;
        }
        kernel::file_dentry(exe)
    };
    if own == dentry {
        return asked != NAMELESS;
    }
    let runs = known(own);
    asked == NAMELESS && runs != NAMELESS && runs & ACCESS_WRITE != 0
}

/// What [`known`] says of a file that has no name: it is not one that the table could hold.
const NAMELESS: u32 = u32::MAX;

/// What the host's own table says about a file: `ACCESS_EXEC` for starters, `ACCESS_READ` for what loads them,
/// `ACCESS_WRITE` for container runtimes.
#[inline(never)]
fn known(dentry: *const u8) -> u32 {
    let host = tag::host();
    let Some(buffer) = path::claim(0) else { return 0 };
    // SAFETY: a typed kernel pointer; the buffer was claimed.
    let known = unsafe {
        let dev: u32 = kernel::field(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_DEV);
        let walk = path::walk(dentry, buffer);
        if walk.start == walk_error::NO_NAME {
            NAMELESS
        } else if walk.start < MAX_PATH as u32 {
            rules::look_up(host, buffer, walk.start, dev).map_or(0, |found| found.allow & !found.deny)
        } else {
            0
        }
    };
    path::release(buffer);
    known
}
