//! Privileges and facilities of the kernel that reach beyond a tag: a policy gives them by name, or nobody there has them.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, programs::LsmContext};
use stockade_common::{
    event::{TargetBody, hook, kind, reason},
    process::{ALLOW_IO_URING, ALLOW_USERFAULTFD, Powers},
};

use crate::{
    confine,
    kernel::{self, QSTR_NAME, USER_NAMESPACE_LEVEL},
    maps::POWERS,
    overlay,
    tag::{self, Held},
};

/// `CAP_OPT_NOAUDIT`: the kernel asks what somebody could do, and has another way if he cannot.
const NO_AUDIT: u32 = 1 << 1;
/// Asked of whoever may pass over modes of files, before `CAP_DAC_OVERRIDE`.
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAPABILITIES: u32 = 63;

/// What the policy gives; without one, or for a helper's failure, nothing.
#[inline(always)]
fn powers(held: &Held) -> Powers {
    POWERS.get(held.setting.slot()).copied().unwrap_or(Powers { capabilities: 0, allow: 0, pad: 0 })
}

/// Whether the policy gives all of these `ALLOW_*`.
#[inline(always)]
pub fn gives(held: &Held, what: u32) -> bool {
    powers(held).allow & what == what
}

#[inline(always)]
fn refuse(held: Held, hook: u8, detail: u32) -> bool {
    let body = TargetBody { target_tgid: 0, detail };
    confine::refuse(held, kind::CONFINE, hook, body, reason::PRIVILEGE)
}

/// A hook that is only there for what `what` names.
#[inline(always)]
pub fn needs(what: u32, hook: u8, detail: u32) -> bool {
    let Some(held) = tag::current() else { return true };
    gives(&held, what) || refuse(held, hook, detail)
}

/// `lsm/capable(cred, ns, cap, opts)`, which is asked last: whoever comes here has the capability. One in a user namespace
/// of its own reaches only what is of that namespace; who makes them is asked by `userns_create`.
#[inline(always)]
pub fn capable(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let namespace: *const u8 = ctx.arg(1);
    // SAFETY: a typed kernel pointer.
    if unsafe { kernel::field::<u32>(namespace, &USER_NAMESPACE_LEVEL) } != 0 {
        return true;
    }
    let capability: u32 = ctx.arg(2);
    let options: u32 = ctx.arg(3);
    if capability <= CAPABILITIES && powers(&held).capabilities >> capability & 1 != 0 {
        return true;
    }
    // It keeps attributes of its own in its layers, for which it needs what nobody in the tag need have.
    if overlay::acts(&held) {
        return true;
    }
    // The kernel asks for these in passing, many times a second, and goes on with less.
    if options & NO_AUDIT != 0 || capability == CAP_DAC_READ_SEARCH {
        return !held.setting.enforces();
    }
    refuse(held, hook::CAPABLE, capability)
}

/// `lsm/inode_init_security_anon(inode, name, context)`: files that stand for a facility, by the kernel's name for them.
#[inline(always)]
pub fn anonymous(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let name: *const u8 = ctx.arg(1);
    let mut start = [0u8; 8];
    // SAFETY: a typed kernel pointer, and a local of that size.
    let read = unsafe {
        let text: *const u8 = kernel::field(name, &QSTR_NAME);
        bpf_probe_read_kernel(start.as_mut_ptr().cast(), start.len() as u32, text.cast())
    };
    let what = match (read, u64::from_le_bytes(start)) {
        (0, IO_URING) => ALLOW_IO_URING,
        (0, USERFAULTFD) => ALLOW_USERFAULTFD,
        (0, _) => return true,
        _ => ALLOW_IO_URING | ALLOW_USERFAULTFD,
    };
    gives(&held, what) || refuse(held, hook::INODE_INIT_SECURITY_ANON, what)
}

/// As `[io_uring]` and `[userfaultfd]` begin.
const IO_URING: u64 = u64::from_le_bytes(*b"[io_urin");
const USERFAULTFD: u64 = u64::from_le_bytes(*b"[userfau");
