//! What can be held.

use std::fmt;

use stockade_common::file::{ACCESS_READ, ACCESS_WRITE};

use super::net::Socket;

/// Something that was there before. What reaches furthest stands first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// A process has hold of it.
    TracedBy {
        /// Which.
        pid: u32,
    },
    /// It has hold of a process that is not in the cgroup.
    Traces {
        /// Which.
        pid: u32,
    },
    /// A socket.
    Socket(Socket),
    /// What was prepared in it is done later.
    IoUring,
    /// A BPF map, program or link.
    Bpf {
        /// Which of them, and its type.
        kind: String,
    },
    /// Another process, to signal or to take descriptors from.
    Pidfd {
        /// Which; `None` if it is gone or cannot be named here.
        pid: Option<u32>,
    },
    /// A namespace that can be entered.
    Namespace {
        /// `net`, `mnt`, ...
        kind: String,
        /// `net:[4026531840]`.
        link: String,
    },
    /// Something else without a path.
    Other {
        /// What the kernel calls it.
        kind: String,
    },
    /// A device.
    Device {
        /// Its path.
        path: String,
        /// `ACCESS_*` bits.
        access: u32,
    },
    /// A file.
    File {
        /// Its path.
        path: String,
        /// `ACCESS_*` bits.
        access: u32,
    },
    /// A directory, whose names it may read.
    Directory {
        /// Its path.
        path: String,
    },
    /// A file that has no name any more.
    Deleted {
        /// The name it had.
        path: String,
        /// `ACCESS_*` bits.
        access: u32,
    },
    /// Memory with a descriptor.
    Memory {
        /// `/memfd:NAME`.
        name: String,
    },
    /// A mapping that changes a file, or memory others have too.
    Mapping {
        /// Of what.
        path: String,
    },
    /// A file the loader executes with each program that is started.
    Preload {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = |access: &u32| match *access {
            ACCESS_READ => "for reading",
            ACCESS_WRITE => "for writing",
            _ => "for reading and writing",
        };
        match self {
            Self::TracedBy { pid } => write!(f, "ptrace by process {pid}"),
            Self::Traces { pid } => write!(f, "ptrace of process {pid}"),
            Self::Socket(socket) => write!(f, "{socket}"),
            Self::IoUring => f.write_str("io_uring, with what was prepared and registered in it"),
            Self::Bpf { kind } => write!(f, "BPF {kind}"),
            Self::Pidfd { pid: Some(pid) } => write!(f, "pidfd of process {pid}"),
            Self::Pidfd { pid: None } => f.write_str("pidfd of a process that is gone or out of sight"),
            Self::Namespace { kind, link } => write!(f, "{kind} namespace {link}"),
            Self::Other { kind } => f.write_str(kind),
            Self::Device { path, access: bits } => write!(f, "device {path} {}", access(bits)),
            Self::File { path, access: bits } => write!(f, "file {path} {}", access(bits)),
            Self::Directory { path } => write!(f, "directory {path}"),
            Self::Deleted { path, access: bits } => write!(f, "deleted file {path} {}", access(bits)),
            Self::Memory { name } => write!(f, "memory {name}"),
            Self::Mapping { path } => write!(f, "shared writable mapping of {path}"),
            Self::Preload { variable, value } => write!(f, "environment {variable}={value}"),
        }
    }
}
