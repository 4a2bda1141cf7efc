//! Ring-buffer records to [`Record`]. Total: any bytes give a record or an error.

use bytes::{Buf as _, Bytes, TryGetError};
use stockade_common::event::{EVENT_VERSION, EventHeader, kind};

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// It ends too early.
    #[error("event record is cut: {0}")]
    Cut(#[from] TryGetError),
    /// Written by programs of another build.
    #[error("event record has version {0}, not {EVENT_VERSION}")]
    Version(u16),
    /// Not one of [`kind`].
    #[error("event record has the unknown kind {0}")]
    Kind(u16),
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Common part.
    pub header: EventHeader,
    /// The rest.
    pub body: Body,
}

/// A file, named by the filesystem it is on and the path inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Kernel encoding of the filesystem's device.
    pub dev: u32,
    /// `ACCESS_*` bits.
    pub access: u32,
    /// `i_mode`.
    pub mode: u32,
    /// Inside the filesystem; empty where it has no name that the programs could give.
    pub path: Bytes,
}

/// A destination or socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    /// IPv4 mapped.
    pub addr: [u8; 16],
    /// Host order.
    pub port: u16,
    /// `IPPROTO_*`.
    pub protocol: u16,
    /// `AF_*`.
    pub family: u16,
    /// `SOCK_*`.
    pub sock_type: u16,
}

/// What differs by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// An open or change; a unix socket with a name.
    File(File),
    /// A connect, send, or the making of a socket.
    Net(Net),
    /// A program and its command line.
    Exec {
        /// The program.
        file: File,
        /// Its words, each ended by a NUL.
        argv: Bytes,
        /// Bytes the command line has; more than there are in `argv` where it was cut.
        full_len: u32,
    },
    /// A new process.
    Fork {
        /// Its id.
        child: u32,
    },
    /// The end of a process.
    Exit {
        /// Wait status.
        status: u32,
    },
    /// Another process, or an operation.
    Target {
        /// Process id, or 0.
        pid: u32,
        /// The hook's detail.
        detail: u32,
    },
}

/// Decodes one record; its bytes are shared, not copied.
///
/// # Errors
/// If it is cut or unknown.
pub fn decode(mut bytes: Bytes) -> Result<Record, DecodeError> {
    let bytes = &mut bytes;
    // In the order of `EventHeader`'s fields; the compiler holds both to be complete.
    let header = EventHeader {
        size: bytes.try_get_u32_ne()?,
        kind: bytes.try_get_u16_ne()?,
        version: bytes.try_get_u16_ne()?,
        boot_ns: bytes.try_get_u64_ne()?,
        cgroup_id: bytes.try_get_u64_ne()?,
        tgid: bytes.try_get_u32_ne()?,
        tid: bytes.try_get_u32_ne()?,
        ppid: bytes.try_get_u32_ne()?,
        uid: bytes.try_get_u32_ne()?,
        slot: bytes.try_get_u32_ne()?,
        rule: bytes.try_get_u32_ne()?,
        reason: bytes.try_get_u16_ne()?,
        verdict: bytes.try_get_u8()?,
        hook: bytes.try_get_u8()?,
        scope: bytes.try_get_u32_ne()?,
        comm: array(bytes)?,
    };
    if header.version != EVENT_VERSION {
        return Err(DecodeError::Version(header.version));
    }
    let body = match header.kind {
        kind::OPEN | kind::CHANGE | kind::CGROUP | kind::UNIX_NAMED => Body::File(file(bytes)?),
        kind::EXEC | kind::STARTED => {
            let file = file(bytes)?;
            let (length, full_len) = (bytes.try_get_u32_ne()?, bytes.try_get_u32_ne()?);
            Body::Exec { file, argv: part(bytes, length)?, full_len }
        }
        kind::CONNECT
        | kind::SEND
        | kind::SOCKET
        | kind::UNIX
        | kind::LISTEN
        | kind::ACCEPT
        | kind::RECEIVE => Body::Net(Net {
            addr: array(bytes)?,
            port: bytes.try_get_u16_ne()?,
            protocol: bytes.try_get_u16_ne()?,
            family: bytes.try_get_u16_ne()?,
            sock_type: bytes.try_get_u16_ne()?,
        }),
        kind::FORK => Body::Fork { child: bytes.try_get_u32_ne()? },
        kind::EXIT => Body::Exit { status: bytes.try_get_u32_ne()? },
        kind::PTRACE | kind::CONFINE | kind::SIGNAL => {
            Body::Target { pid: bytes.try_get_u32_ne()?, detail: bytes.try_get_u32_ne()? }
        }
        unknown => return Err(DecodeError::Kind(unknown)),
    };
    Ok(Record { header, body })
}

fn file(bytes: &mut Bytes) -> Result<File, TryGetError> {
    let (dev, access, mode) = (bytes.try_get_u32_ne()?, bytes.try_get_u32_ne()?, bytes.try_get_u32_ne()?);
    let length = bytes.try_get_u32_ne()?;
    Ok(File { dev, access, mode, path: part(bytes, length)? })
}

fn array<const N: usize>(bytes: &mut Bytes) -> Result<[u8; N], TryGetError> {
    let mut out = [0; N];
    bytes.try_copy_to_slice(&mut out)?;
    Ok(out)
}

fn part(bytes: &mut Bytes, length: u32) -> Result<Bytes, TryGetError> {
    let (requested, available) = (length as usize, bytes.remaining());
    if requested > available {
        return Err(TryGetError { requested, available });
    }
    Ok(bytes.split_to(requested))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(kind: u16) -> Vec<u8> {
        let mut bytes = vec![0u8; size_of::<EventHeader>()];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&EVENT_VERSION.to_ne_bytes());
        bytes
    }

    #[test]
    fn exec_carries_path_and_command_line() {
        let mut bytes = head(kind::EXEC);
        for word in [8 << 20 | 1, 4, 0o100_755, 3u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(b"/sh");
        bytes.extend(6u32.to_ne_bytes());
        bytes.extend(9u32.to_ne_bytes());
        bytes.extend(b"sh\0-c\0");
        let record = decode(Bytes::from(bytes)).unwrap();
        let file = File { dev: 8 << 20 | 1, access: 4, mode: 0o100_755, path: Bytes::from_static(b"/sh") };
        assert_eq!(record.body, Body::Exec { file, argv: Bytes::from_static(b"sh\0-c\0"), full_len: 9 });
    }

    #[test]
    fn cut_and_foreign_records_are_refused() {
        let cut = decode(Bytes::from(head(kind::EXIT)));
        assert_eq!(cut, Err(DecodeError::Cut(TryGetError { requested: 4, available: 0 })));
        assert_eq!(decode(Bytes::from(head(999))), Err(DecodeError::Kind(999)));
        let mut old = head(kind::EXIT);
        old[6] = 1;
        assert_eq!(decode(Bytes::from(old)), Err(DecodeError::Version(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(Bytes::from(bytes));
        }

        #[test]
        fn known_kinds_of_any_length(kind in 100u16..310, tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = head(kind);
            bytes.extend(tail);
            let _ = decode(Bytes::from(bytes));
        }
    }
}
