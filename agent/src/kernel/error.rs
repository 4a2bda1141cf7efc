//! What can go wrong between the agent and the kernel.

use aya::programs::ProgramError;
use stockade_common::limits::MAX_SLOTS;

use super::{Slot, VMLINUX_BTF, btf};

/// What went wrong, with the step and the object.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The binary carries no eBPF object.
    #[error("no eBPF object: {0}")]
    NoObject(String),
    /// No BTF, or a field is missing.
    #[error("cannot read {VMLINUX_BTF}: {0} (the kernel needs CONFIG_DEBUG_INFO_BTF)")]
    NoBtf(std::io::Error),
    /// A kernel struct is not as expected.
    #[error("kernel layout: {0}")]
    Layout(#[from] btf::BtfError),
    /// aya could not read the object or make its maps.
    #[error("loading the eBPF object: {0}")]
    Load(#[from] aya::EbpfError),
    /// A program was refused.
    #[error("{step} program {program}: {source}")]
    Program {
        /// "loading" or "attaching".
        step: &'static str,
        /// Which.
        program: String,
        /// The kernel's answer; the verifier's log is in it.
        source: ProgramError,
    },
    /// A map operation failed.
    #[error("map {map}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// The kernel's answer.
        source: aya::maps::MapError,
    },
    /// A system call failed.
    #[error("{step} {object}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// To what.
        object: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The object lacks something the agent expects.
    #[error("the eBPF object has no {0}: agent and object are of different builds")]
    Mismatch(&'static str),
    /// A policy that is to be taken away is in use.
    #[error("policy slot {} is still in use", .0.0)]
    InUse(Slot),
    /// All slots are taken.
    #[error("there are {MAX_SLOTS} policy slots, and all are in use")]
    NoSlot,
    /// The policy does not fit.
    #[error("the policy needs {need} {what}, the tables hold {have}")]
    TooBig {
        /// Of what.
        what: &'static str,
        /// How many.
        need: usize,
        /// Room.
        have: usize,
    },
}

impl KernelError {
    /// Whether the kernel refused for lack of permission: BPF LSM disabled by configuration or lockdown, or no privilege.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let Self::Program { source, .. } = self else { return false };
        match source {
            ProgramError::LoadError { io_error, .. } => io_error.raw_os_error() == Some(libc::EPERM),
            ProgramError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::EPERM),
            _ => false,
        }
    }
}
