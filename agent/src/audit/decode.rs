//! Ring-buffer records to [`Record`]. Total: any bytes give a record or an error.

use stockade_common::event::{EventHeader, kind};

/// A record is cut, or of a kind or version this agent does not know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("event record of {0} bytes cannot be decoded")]
pub struct DecodeError(pub usize);

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Common part.
    pub header: EventHeader,
    /// The rest.
    pub body: Body,
}

/// What differs by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A file.
    File {
        /// Kernel encoding of the filesystem's device.
        dev: u32,
        /// `ACCESS_*` bits.
        access: u32,
        /// `i_mode`.
        mode: u32,
        /// Inside the filesystem.
        path: Vec<u8>,
    },
    /// A destination or socket.
    Net {
        /// IPv4 mapped.
        addr: [u8; 16],
        /// Host order.
        port: u16,
        /// `IPPROTO_*`.
        protocol: u16,
        /// `AF_*`.
        family: u16,
        /// `SOCK_*`.
        sock_type: u16,
    },
    /// A command line.
    Argv {
        /// NUL-separated.
        bytes: Vec<u8>,
        /// Bytes it really has.
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

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }
    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|bytes| bytes[0])
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }
}

/// Decodes one record.
///
/// # Errors
/// If it is cut or unknown.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    record(&mut Reader(bytes)).ok_or(DecodeError(bytes.len()))
}

fn record(reader: &mut Reader<'_>) -> Option<Record> {
    // In the order of `EventHeader`'s fields; the compiler holds both to be complete.
    let header = EventHeader {
        size: reader.u32()?,
        kind: reader.u16()?,
        version: reader.u16()?,
        boot_ns: reader.u64()?,
        cgroup_id: reader.u64()?,
        tgid: reader.u32()?,
        tid: reader.u32()?,
        ppid: reader.u32()?,
        uid: reader.u32()?,
        slot: reader.u32()?,
        rule: reader.u32()?,
        reason: reader.u16()?,
        verdict: reader.u8()?,
        hook: reader.u8()?,
        pad: reader.u32()?,
        comm: reader.array()?,
    };
    if header.version != stockade_common::event::EVENT_VERSION {
        return None;
    }
    let body = match header.kind {
        kind::OPEN | kind::CHANGE | kind::EXEC => {
            let (dev, access, mode, length) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
            Body::File { dev, access, mode, path: reader.bytes(length as usize)?.to_vec() }
        }
        kind::CONNECT | kind::SEND | kind::SOCKET | kind::UNIX => Body::Net {
            addr: reader.array()?,
            port: reader.u16()?,
            protocol: reader.u16()?,
            family: reader.u16()?,
            sock_type: reader.u16()?,
        },
        kind::ARGV => {
            let (length, full_len) = (reader.u32()?, reader.u32()?);
            Body::Argv { bytes: reader.bytes(length as usize)?.to_vec(), full_len }
        }
        kind::FORK => Body::Fork { child: reader.u32()? },
        kind::EXIT => Body::Exit { status: reader.u32()? },
        kind::PTRACE | kind::CONFINE => Body::Target { pid: reader.u32()?, detail: reader.u32()? },
        _ => return None,
    };
    Some(Record { header, body })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn known_kinds_of_any_length(kind in 100u16..310, tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = vec![0u8; 72];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[6..8].copy_from_slice(&1u16.to_ne_bytes());
            bytes.extend(tail);
            let _ = decode(&bytes);
        }
    }
}
