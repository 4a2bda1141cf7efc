//! Descriptors that are handed in: by SCM_RIGHTS, pidfd_getfd and the like. A socket made outside the tag may be connected
//! already, to what no rule allows; nothing that is sent over it is judged again.

use aya_ebpf::{helpers::generated::bpf_sock_from_file, programs::LsmContext};
use stockade_common::event::{hook, kind, reason};

use crate::{
    emit::{self, Actor},
    file::Decision,
    socket::{self, Socket},
    tag,
};

/// `lsm/file_receive(file)`.
#[inline(always)]
pub fn receive(ctx: &LsmContext) -> bool {
    let Some(held) = tag::current() else { return true };
    let file: *mut u8 = ctx.arg::<*const u8>(0).cast_mut();
    // SAFETY: typed kernel pointers; null is checked.
    let socket = unsafe {
        let sock = bpf_sock_from_file(file.cast()).cast::<u8>().cast_const();
        if sock.is_null() {
            return true;
        }
        match Socket::with_sock(sock) {
            Some((_, sk)) if socket::made_inside(sk, &held) => return true,
            Some((socket, _)) => socket,
            None => Socket { family: 0, kind: 0, protocol: 0 },
        }
    };
    let actor = Actor { held, ppid: emit::ppid() };
    let decision = Decision::new(reason::OUTSIDE);
    socket::conclude(&actor, kind::RECEIVE, hook::FILE_RECEIVE, socket, None, &decision)
}
