//! Files mapped to be executed: shared libraries, and whatever a loader is asked to run. Execution is more than `execve`: who
//! may read a program could have the loader map it.
//!
//! Memory without a file is not judged: a process may always write instructions of its own there.

use aya_ebpf::{EbpfContext as _, helpers::generated::bpf_get_func_arg, programs::LsmContext};
use stockade_common::{
    event::{hook, kind},
    file::ACCESS_EXEC,
};

use crate::{
    file::{self, Request},
    kernel::{self, VMA_VM_FILE},
    tag,
};

const PROT_EXEC: u64 = 4;

#[inline(always)]
fn executes(ctx: &LsmContext) -> bool {
    // Behind what was asked for: what the process's personality makes of it.
    ctx.arg::<u64>(2) & PROT_EXEC != 0
}

/// `lsm/mmap_file(file, reqprot, prot, flags)`.
#[inline(always)]
pub fn mmap(ctx: &LsmContext) -> bool {
    if !executes(ctx) {
        return true;
    }
    // verifier: some kernels (6.12, 6.18) are sure that there always is a file, and take out what compares the argument; later
    // ones (7.3) want it compared.
    let mut address = 0u64;
    // SAFETY: a local of that size (kernel 5.17).
    let read = unsafe { bpf_get_func_arg(ctx.as_ptr(), 0, &raw mut address) };
    let file: *const u8 = ctx.arg(0);
    if (read == 0 && address == 0) || file.is_null() {
        return true;
    }
    judge(file, hook::MMAP_FILE)
}

/// `lsm/file_mprotect(vma, reqprot, prot)`.
#[inline(always)]
pub fn mprotect(ctx: &LsmContext) -> bool {
    if !executes(ctx) {
        return true;
    }
    // SAFETY: a typed kernel pointer; null is checked.
    let file: *const u8 = unsafe { kernel::field(ctx.arg(0), &VMA_VM_FILE) };
    file.is_null() || judge(file, hook::FILE_MPROTECT)
}

#[inline(always)]
fn judge(file: *const u8, hook: u8) -> bool {
    let Some(held) = tag::current() else { return true };
    // SAFETY: a typed kernel pointer.
    let (dentry, mode) = unsafe {
        let dentry = kernel::file_dentry(file);
        (dentry, kernel::dentry_mode(dentry))
    };
    let request = Request { held, access: ACCESS_EXEC, mode, kind: kind::OPEN, hook, refused: 0 };
    file::remembered(dentry, &held, ACCESS_EXEC) || file::check(dentry, &request)
}
