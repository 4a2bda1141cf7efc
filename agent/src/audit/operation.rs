//! Operations that are neither on files nor on the network, in words, and what a policy gives them by.

use stockade_common::{
    event::{hook, kind},
    process::{
        ALLOW_IPC, ALLOW_KERNEL_LOG, ALLOW_KEYRINGS, ALLOW_MODULES, ALLOW_MOUNTS, ALLOW_PERF,
        ALLOW_SCHEDULING, ALLOW_SIGNALS, ALLOW_USER_NAMESPACES, ALLOW_USERFAULTFD, RELAXATIONS,
    },
};

use super::decode::{Body, Record};
use crate::policy::process::CAPABILITIES;

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// For events.
    pub name: &'static str,
    /// For people, behind "refused to".
    pub text: &'static str,
    /// What a policy gives it by.
    pub needs: Need,
}

/// What a policy gives something by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing does.
    Nothing,
    /// An entry of `process.allow`.
    Facility(&'static str),
    /// An entry of `process.capabilities`.
    Capability(&'static str),
}

impl Need {
    /// The flag that gives it.
    #[must_use]
    pub fn flag(self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Facility(name) => Some(format!("--allow-process {name}")),
            Self::Capability(name) => Some(format!("--allow-capability {name}")),
        }
    }
}

/// What a record of a [`kind::CONFINE`], [`kind::SIGNAL`] or [`kind::PTRACE`] tells of.
#[must_use]
pub fn of(record: &Record) -> Operation {
    let Body::Target { detail, .. } = record.body else { return named("unknown", "leave the enforcement") };
    if record.header.kind == kind::PTRACE {
        return named("ptrace", "reach into a process");
    }
    match record.header.hook {
        hook::BPF => named("bpf", "use bpf()"),
        hook::TASK_ALLOC => named("clone_into_cgroup", "start a process in another cgroup"),
        hook::CAPABLE => {
            let name = CAPABILITIES.get(detail as usize).copied();
            let needs = name.map_or(Need::Nothing, Need::Capability);
            Operation { name: "capability", text: "use the capability", needs }
        }
        hook::USERNS_CREATE => by("user_namespace", "make a user namespace", ALLOW_USER_NAMESPACES),
        hook::SB_MOUNT | hook::SB_REMOUNT => by("mount", "mount", ALLOW_MOUNTS),
        hook::SB_UMOUNT => by("umount", "unmount", ALLOW_MOUNTS),
        hook::SB_PIVOTROOT => by("pivot_root", "change the root", ALLOW_MOUNTS),
        hook::MOVE_MOUNT => by("move_mount", "move a mount", ALLOW_MOUNTS),
        hook::PERF_EVENT_OPEN => by("perf_event_open", "open performance counters", ALLOW_PERF),
        hook::KEY_ALLOC => by("add_key", "make a key", ALLOW_KEYRINGS),
        hook::KEY_PERMISSION => by("key", "use a keyring", ALLOW_KEYRINGS),
        hook::KERNEL_MODULE_REQUEST => by("module_request", "have the kernel load a module", ALLOW_MODULES),
        hook::INODE_INIT_SECURITY_ANON if detail == ALLOW_USERFAULTFD => {
            by("userfaultfd", "use userfaultfd", detail)
        }
        hook::INODE_INIT_SECURITY_ANON => {
            by("io_uring", "set up io_uring", stockade_common::process::ALLOW_IO_URING)
        }
        hook::SYSLOG => by("syslog", "read the kernel's log", ALLOW_KERNEL_LOG),
        hook::TASK_KILL => by("signal", "send a signal to a process outside", ALLOW_SIGNALS),
        hook::FILE_FCNTL => by("set_owner", "have signals sent", ALLOW_SIGNALS),
        hook::FILE_IOCTL | hook::FILE_IOCTL_COMPAT if record.header.kind == kind::SIGNAL => {
            by("set_owner", "have signals sent", ALLOW_SIGNALS)
        }
        hook::FILE_IOCTL | hook::FILE_IOCTL_COMPAT => named("type_into_terminal", "type into a terminal"),
        hook::TASK_SETRLIMIT => by("set_limit", "set limits of a process outside", ALLOW_SCHEDULING),
        hook::TASK_SETSCHEDULER => {
            by("set_scheduler", "set the scheduler of a process outside", ALLOW_SCHEDULING)
        }
        hook::TASK_SETNICE => by("set_nice", "set the priority of a process outside", ALLOW_SCHEDULING),
        hook::TASK_SETIOPRIO => {
            by("set_io_priority", "set the I/O priority of a process outside", ALLOW_SCHEDULING)
        }
        hook::IPC_PERMISSION
        | hook::SHM_SHMCTL
        | hook::MSG_QUEUE_MSGCTL
        | hook::SEM_SEMCTL
        | hook::SHM_ALLOC_SECURITY
        | hook::MSG_QUEUE_ALLOC_SECURITY
        | hook::SEM_ALLOC_SECURITY => by("ipc", "use System V IPC of the host", ALLOW_IPC),
        _ => named("unknown", "leave the enforcement"),
    }
}

fn named(name: &'static str, text: &'static str) -> Operation {
    Operation { name, text, needs: Need::Nothing }
}

fn by(name: &'static str, text: &'static str, bit: u32) -> Operation {
    let facility = RELAXATIONS.iter().find(|(_, known)| *known == bit);
    Operation { name, text, needs: facility.map_or(Need::Nothing, |(name, _)| Need::Facility(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::sample;

    #[test]
    fn every_hook_that_asks_for_something_has_its_words() {
        let record = |hook, event| {
            let mut header = sample::header(event);
            header.hook = hook;
            Record { header, body: Body::Target { pid: 1, detail: 21 } }
        };
        for hook in hook::CAPABLE..=hook::SB_REMOUNT {
            let operation = of(&record(hook, kind::CONFINE));
            assert_ne!(operation.needs, Need::Nothing, "{}", hook::NAMES[usize::from(hook)]);
        }
        let capable = of(&record(hook::CAPABLE, kind::CONFINE));
        assert_eq!(capable.needs.flag().as_deref(), Some("--allow-capability sys_admin"));
        assert_eq!(of(&record(hook::FILE_IOCTL, kind::SIGNAL)).name, "set_owner");
        assert_eq!(of(&record(hook::FILE_IOCTL, kind::CONFINE)).needs, Need::Nothing);
    }
}
