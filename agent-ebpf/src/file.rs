//! The decision on a file, and the open hook.

use aya_ebpf::programs::LsmContext;
use stockade_common::{
    counter::Counter,
    event::{hook, kind, reason},
    file::{ACCESS_CONNECT, ACCESS_EXEC, ACCESS_LOOK, ACCESS_READ, ACCESS_WRITE, NO_RULE},
    limits::MAX_PATH,
    tag::SCOPE_AUDIT_ALL,
};

use crate::{
    automaton, directory, emit,
    kernel::{
        self, DENTRY_D_SB, FILE_F_FLAGS, FILE_F_MODE, S_IFBLK, S_IFMT, SUPER_BLOCK_S_DEV, SUPER_BLOCK_S_MAGIC,
    },
    maps::count,
    overlay,
    path::{self, PathBuffer, walk_error},
    rules::{by_path, judge},
    startup,
    tag::{self, Held},
};

const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
const FMODE_EXEC: u32 = 0x20;
/// A file that the kernel opens for itself, which no process gets (kernel 4.19).
const FMODE_NOACCOUNT: u32 = 1 << 29;
/// `FMODE_BACKING`, which is the second of these since 6.14 or so: the file behind a file of a stacked filesystem (overlayfs,
/// kernel 6.5). Before 6.5 its path is the one in the stacked filesystem. The bits mean other things, too, but not of a file
/// that no process gets.
const FMODE_BACKING: u32 = 1 << 25 | 1 << 24;
const O_ACCMODE: u32 = 3;
const O_TRUNC: u32 = 0o1000;
const PIPEFS_MAGIC: u64 = 0x5049_5045;
/// Of descriptors of processes, from 6.9 on; before that they are opened nowhere.
const PIDFS_MAGIC: u64 = 0x5049_4446;

/// What a program asks of a file.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Request {
    /// What the task is held to.
    pub held: Held,
    /// `ACCESS_*` bits.
    pub access: u32,
    /// `inode.i_mode`, or the mode of what is to be made.
    pub mode: u32,
    /// Event kind.
    pub kind: u16,
    /// Event hook.
    pub hook: u8,
    /// Never allowed, whatever the rules: the hook has already found a reason to refuse.
    pub refused: u8,
}

/// A decision before the scope's mode is considered.
#[derive(Clone, Copy)]
pub struct Decision {
    pub reason: u16,
    pub rule: u32,
}

impl Decision {
    #[inline(always)]
    pub fn new(reason: u16) -> Self {
        Self { reason, rule: NO_RULE }
    }
    #[inline(always)]
    pub fn allows(self) -> bool {
        matches!(self.reason, reason::RULE_ALLOW | reason::INSIDE | reason::OWN_LISTENER | reason::DNS_GATE)
    }
}

/// `lsm/file_open(file)`.
#[inline(always)]
pub fn open(ctx: &LsmContext) -> bool {
    tag::candidate().is_none_or(|cgroup_id| judge_open(ctx.arg(0), cgroup_id))
}

/// An open by a process that may be tagged. A function of its own, so that others need not save the registers it uses.
#[inline(never)]
fn judge_open(file: *const u8, cgroup_id: u64) -> bool {
    let Some(tag) = tag::tag_of(cgroup_id) else { return true };
    // SAFETY: a typed kernel pointer.
    let (dentry, flags, fmode) = unsafe {
        (
            kernel::file_dentry(file),
            kernel::field::<u32>(file, &FILE_F_FLAGS),
            kernel::field::<u32>(file, &FILE_F_MODE),
        )
    };
    // What starts a workload is the first to open something there: what the overlay does next is known from then on.
    // SAFETY: a typed kernel pointer.
    unsafe { overlay::note(dentry) };
    if startup::goes_on(&tag)
        && (flags & FMODE_EXEC == 0 || startup::executes_starter(dentry) || startup::awaits(&tag))
    {
        return true;
    }
    let held = Held::to(cgroup_id, tag.scope);
    if overlay::acts(&held) {
        return true;
    }
    // Whoever opens it has been judged by the name in the stacked filesystem.
    if fmode & FMODE_NOACCOUNT != 0 && fmode & FMODE_BACKING != 0 {
        return true;
    }
    let mut access = 0;
    if flags & FMODE_EXEC != 0 {
        access |= ACCESS_EXEC;
    } else if fmode & FMODE_READ != 0 {
        access |= ACCESS_READ;
    }
    // O_RDONLY | O_TRUNC does truncate.
    if fmode & FMODE_WRITE != 0 || flags & O_TRUNC != 0 {
        access |= ACCESS_WRITE;
    }
    // Access mode 3 opens for neither, but lets ioctl through to drivers.
    if flags & O_ACCMODE == O_ACCMODE {
        access |= ACCESS_READ | ACCESS_WRITE;
    }
    if access == 0 {
        access = ACCESS_READ;
    }
    // SAFETY: as above.
    let mode = unsafe { kernel::dentry_mode(dentry) };
    // A pipe has no content at rest; one of another process is out of reach, because following /proc/PID/fd needs ptrace
    // access, which is refused outside the tag. What is done by a descriptor of a process is asked about when it is done.
    // SAFETY: as above.
    let magic = unsafe { kernel::field::<u64>(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_MAGIC) };
    if magic == PIPEFS_MAGIC || magic == PIDFS_MAGIC {
        return true;
    }
    let refused = if mode & S_IFMT == S_IFBLK { reason::DEVICE as u8 } else { 0 };
    if access & ACCESS_WRITE == 0 && refused == 0 && remembered(dentry, &held, access) {
        return true;
    }
    let request = Request { held, access, mode, kind: kind::OPEN, hook: hook::FILE_OPEN, refused };
    check(dentry, &request)
}

/// Whether an access is allowed by what is remembered of its directory, and to be reported to nobody, so that its path is
/// not needed, and counts it; false says nothing.
#[inline(never)]
pub fn remembered(dentry: *const u8, held: &Held, access: u32) -> bool {
    let policy = held.setting;
    if policy.flags() & SCOPE_AUDIT_ALL != 0 {
        return false;
    }
    let Some(buffer) = path::claim(held.scope) else { return false };
    // SAFETY: `dentry` is a typed kernel pointer, the buffer was claimed.
    let allowed = unsafe {
        let access = PathBuffer::forget(buffer, access);
        directory::recall(dentry, buffer, policy)
            .and_then(|(states, last)| automaton::run(policy.slot(), buffer, last, last, states))
            .is_some_and(|way| judge(held, way.end, access).reason == reason::RULE_ALLOW)
    };
    path::release(buffer);
    if allowed {
        count(held.scope, Counter::FileAllowed);
    }
    allowed
}

/// Decides on `dentry` and reports. False: refuse.
#[inline(never)]
pub fn check(dentry: *const u8, request: &Request) -> bool {
    let Some(buffer) = path::claim(request.held.scope) else {
        count(request.held.scope, outcome(request.access & ACCESS_CONNECT != 0, false));
        return !request.held.setting.enforces();
    };
    // SAFETY: `dentry` is a typed kernel pointer, the buffer was claimed.
    let allow = unsafe { check_in(dentry, request, buffer) };
    path::release(buffer);
    allow
}

/// What a decision counts as.
#[inline(always)]
pub fn outcome(network: bool, allow: bool) -> Counter {
    match (network, allow) {
        (false, true) => Counter::FileAllowed,
        (false, false) => Counter::FileDenied,
        (true, true) => Counter::NetAllowed,
        (true, false) => Counter::NetDenied,
    }
}

#[inline(always)]
unsafe fn check_in(dentry: *const u8, request: &Request, buffer: *mut PathBuffer) -> bool {
    let Held { scope, setting, .. } = request.held;
    // verifier: what the hook put in as constants would be followed through all that comes, once for each.
    // SAFETY: as promised by the caller.
    let (access, refused) = unsafe {
        (
            PathBuffer::forget(buffer, request.access),
            PathBuffer::forget(buffer, u32::from(request.refused)) as u8,
        )
    };
    let request = &Request { access, refused, ..*request };
    // SAFETY: as promised by the caller.
    let (dev, walk) = unsafe {
        let dev = kernel::field::<u32>(kernel::field(dentry, &DENTRY_D_SB), &SUPER_BLOCK_S_DEV);
        (dev, path::walk(dentry, buffer))
    };
    let mut start = MAX_PATH as u32;
    let mut decision = match walk.start {
        walk_error::NO_NAME => {
            // Whoever has hold of it has been judged, or has made it.
            if request.access == ACCESS_LOOK {
                Decision::new(reason::RULE_ALLOW)
            } else {
                count(scope, Counter::NoName);
                Decision::new(reason::NO_NAME)
            }
        }
        walk_error::TOO_LONG => {
            count(scope, Counter::PathTooLong);
            Decision::new(reason::PATH_TOO_LONG)
        }
        walk_error::FAILED => {
            count(scope, Counter::HelperFailed);
            Decision::new(reason::INTERNAL)
        }
        walk_error::RACED => {
            count(scope, Counter::Raced);
            Decision::new(reason::INTERNAL)
        }
        position => {
            start = position;
            // SAFETY: as promised by the caller.
            unsafe { by_path(dentry, buffer, walk, request, dev) }
        }
    };
    if request.refused != 0 {
        decision = Decision::new(u16::from(request.refused));
    }
    // verifier: all ways to a decision meet here, or the report is verified for each of them.
    // SAFETY: the buffer was claimed.
    let (start, decision) = unsafe {
        let reason = PathBuffer::forget(buffer, u32::from(decision.reason)) as u16;
        let rule = PathBuffer::forget(buffer, decision.rule);
        (PathBuffer::forget(buffer, start), Decision { reason, rule })
    };
    let allow = decision.allows();
    let connects = request.access & ACCESS_CONNECT != 0;
    count(scope, outcome(connects, allow));
    // Of unix sockets what is said of addresses: connects are reported, sends when they are refused.
    let reported = request.access & ACCESS_WRITE != 0 || request.hook == hook::UNIX_STREAM_CONNECT;
    if !allow || reported || setting.flags() & SCOPE_AUDIT_ALL != 0 {
        // SAFETY: the buffer was claimed.
        unsafe { emit::file(buffer, start, request, dev, &decision) };
    }
    allow || !setting.enforces()
}
