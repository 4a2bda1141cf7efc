//! Records for tests.

use bytes::Bytes;
use stockade_common::{
    event::{EVENT_VERSION, EventHeader, hook, kind, reason, verdict},
    file::NO_RULE,
    limits::ABSTRACT_DEV,
};

use super::decode::{Body, File, Net, Record};

/// A refusal by no rule.
pub fn header(kind: u16) -> EventHeader {
    EventHeader {
        size: 0,
        kind,
        version: EVENT_VERSION,
        boot_ns: 5_000_000_000,
        cgroup_id: 7,
        tgid: 100,
        tid: 101,
        ppid: 99,
        uid: 1000,
        slot: 1,
        rule: NO_RULE,
        reason: reason::NO_RULE,
        verdict: verdict::DENIED,
        hook: hook::FILE_OPEN,
        scope: 1,
        comm: *b"sh\\\xff\0\0\0\0\0\0\0\0\0\0\0\0",
    }
}

pub fn file(access: u32, path: &[u8]) -> File {
    File { dev: 8 << 20 | 1, access, mode: 0o100_644, path: Bytes::copy_from_slice(path) }
}

pub fn net(addr: [u8; 4], port: u16, protocol: u16) -> Net {
    let mut mapped = [0; 16];
    mapped[10..12].fill(0xff);
    mapped[12..].copy_from_slice(&addr);
    Net { addr: mapped, port, protocol, family: 2, sock_type: 1 }
}

/// One record of each kind.
pub fn each_kind() -> Vec<Record> {
    let file = || file(3, b"/a\n\xff\\");
    let net = || Body::Net(net([192, 0, 2, 7], 443, 6));
    let target = || Body::Target { pid: 1, detail: 2 };
    let exec = Body::Exec { file: file(), argv: Bytes::from_static(b"a\0\xff\0b"), full_len: 9 };
    [
        (kind::OPEN, Body::File(file())),
        (kind::CHANGE, Body::File(file())),
        (kind::EXEC, exec),
        (kind::CONNECT, net()),
        (kind::SEND, net()),
        (kind::SOCKET, net()),
        (kind::UNIX, net()),
        (kind::UNIX_NAMED, Body::File(File { mode: 1, ..file() })),
        (kind::UNIX_NAMED, Body::File(File { mode: 5, dev: ABSTRACT_DEV, ..file() })),
        (kind::LISTEN, net()),
        (kind::ACCEPT, net()),
        (kind::RECEIVE, net()),
        (kind::FORK, Body::Fork { child: 2 }),
        (kind::EXIT, Body::Exit { status: 256 }),
        (kind::PTRACE, target()),
        (kind::CONFINE, target()),
        (kind::SIGNAL, target()),
    ]
    .into_iter()
    .map(|(event, body)| {
        let mut header = header(event);
        match event {
            kind::EXEC | kind::FORK | kind::EXIT => {
                (header.verdict, header.reason) = (verdict::ALLOWED, reason::RULE_ALLOW);
            }
            kind::CONFINE => header.hook = hook::BPF,
            kind::SIGNAL => header.hook = hook::TASK_KILL,
            _ => {}
        }
        Record { header, body }
    })
    .collect()
}
