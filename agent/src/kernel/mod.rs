//! The kernel side seen from userspace: BTF offsets, load, attach, apply, tag.
//!
//! [`Enforcer`] owns the loaded programs. Nothing here knows about policies: it copies a [`crate::policy::image`] into
//! the maps of a slot, says which slot a scope is held to, and which cgroups belong to the scope.

mod attach;
pub mod btf;
mod debug_log;
mod error;
mod hold;
mod links;
mod lost;
mod names;
mod object;
mod observe;
mod overlay;
mod pins;
mod policy_maps;
mod rename_lock;
mod scopes;
mod sys;

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Map, MapData, RingBuf},
    programs::Program,
};
pub use debug_log::KernelLog;
pub use error::KernelError;
pub use hold::{Entry, ScopeLabel};
pub use links::{PinnedDirectory, remove_stale_pins};
pub use lost::LostTags;
pub use names::{Gate, Granter};
pub use object::find_debug as find_debug_object;
pub use observe::TagReader;
pub use pins::{Build, Found, Pins};

use self::{links::Link, names::Names};

/// Where the kernel shows its own BTF.
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// LSM programs, all required: each closes a way around the others.
pub const LSM_HOOKS: [&str; 62] = [
    "file_open",
    "path_mknod",
    "path_mkdir",
    "path_rmdir",
    "path_unlink",
    "path_symlink",
    "path_link",
    "path_rename",
    "path_truncate",
    "path_chmod",
    "path_chown",
    "socket_create",
    "socket_connect",
    "socket_sendmsg",
    "socket_listen",
    "socket_bind",
    "socket_accept",
    "socket_setsockopt",
    "file_receive",
    "netlink_send",
    "unix_stream_connect",
    "unix_may_send",
    "ptrace_access_check",
    "task_alloc",
    "bpf",
    "inode_setxattr",
    "inode_removexattr",
    "file_ioctl",
    "inode_setattr",
    "mmap_file",
    "file_mprotect",
    "inode_getattr",
    "inode_readlink",
    "inode_getxattr",
    "inode_listxattr",
    "path_notify",
    "capable",
    "userns_create",
    "sb_mount",
    "sb_umount",
    "sb_pivotroot",
    "move_mount",
    "perf_event_open",
    "key_alloc",
    "key_permission",
    "kernel_module_request",
    "inode_init_security_anon",
    "syslog",
    "task_kill",
    "task_setrlimit",
    "task_setscheduler",
    "task_setnice",
    "task_setioprio",
    "file_fcntl",
    "ipc_permission",
    "shm_shmctl",
    "msg_queue_msgctl",
    "sem_semctl",
    "shm_alloc_security",
    "msg_queue_alloc_security",
    "sem_alloc_security",
    "sb_remount",
];
/// Those of them that only policies with `SCOPE_LOOK` or `SCOPE_GUARDED` need.
const METADATA_HOOKS: [&str; 6] =
    ["inode_getattr", "inode_readlink", "inode_getxattr", "inode_listxattr", "path_notify", "inode_get_acl"];
/// LSM programs for hooks that older kernels do not have, because there the ones above see the same: access control lists
/// are extended attributes before 6.2, 32-bit ioctls are `file_ioctl`'s before 6.6.
const LATER_HOOKS: [&str; 4] = ["inode_set_acl", "inode_remove_acl", "inode_get_acl", "file_ioctl_compat"];
/// Tracepoint programs that keep tags true.
const TAG_TRACEPOINTS: [&str; 2] = ["cgroup_mkdir", "cgroup_rmdir"];
/// Programs on kernel functions: who enters a tagged cgroup.
const FUNCTIONS: [&str; 1] = ["cgroup_attach_task"];
/// Tracepoint programs for the audit.
const AUDIT_TRACEPOINTS: [&str; 3] = ["sched_process_exec", "sched_process_fork", "sched_process_exit"];
/// Cgroup programs with their `enum bpf_attach_type`.
const CGROUP_PROGRAMS: [(&str, u32); 12] = [
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("bind4", 8),
    ("bind6", 9),
    ("sock_create", 2),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
    ("egress", 1),
];

/// All maps, as the object names them, but for its constants.
const MAPS: [&str; 29] = [
    "TAG_FILTER",
    "TAGS",
    "INHERIT_LOST",
    "TAG_COUNT",
    "STARTERS",
    "HELD",
    "STARTING_UNTIL",
    "SCOPES",
    "LABELS",
    "FILESYSTEMS",
    "NEXT",
    "STATES",
    "ACCEPTS",
    "PREFIXES",
    "PORTS",
    "POWERS",
    "NAMES",
    "GATES",
    "PEERS",
    "ASKERS",
    "EGRESS",
    "SOCKETS",
    "OVERLAYS",
    "OVERLAY_CRED",
    "DIRECTORIES",
    "COUNTERS",
    "PATH_BUFFERS",
    "EVENTS",
    "ACTIVE",
];

/// A policy slot: where one compiled policy is. 0 is never given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// A scope: cgroups that are held to the same policy, whatever it is at the moment. 0 is never given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(pub u32);

/// What to load.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Only the cgroup programs and tags: for kernels where `bpf` is no active LSM.
    pub network_only: bool,
    /// Also the programs that judge who looks at files without opening them: a start takes longer, and only a policy that
    /// [asks for it](crate::policy::checked::CheckedPolicy::scope_flags) needs them.
    pub metadata: bool,
    /// An object whose programs write lines for [`Enforcer::kernel_log`].
    pub debug_log: bool,
    /// Inode number of the mount namespace that policies are compiled for. What is started in another one is stopped until it
    /// is [let go](Enforcer::release).
    pub host_mounts: u32,
    /// Use the maps that are pinned there, and pin those that are not. [`Pins::find`] must have found nothing foreign.
    pub pins: Option<Pins>,
}

/// The loaded programs. Dropping it detaches what is not pinned.
#[derive(Debug)]
pub struct Enforcer {
    ebpf: Ebpf,
    btf: Btf,
    /// Those of [`LATER_HOOKS`] that this kernel has.
    later_hooks: Vec<&'static str>,
    /// Whether [`METADATA_HOOKS`] have programs.
    metadata: bool,
    /// Which of all programs that use the same maps these are.
    instance: u64,
    links: Vec<Link>,
    /// Policy slots that are taken.
    slots: BTreeSet<u32>,
    /// What names have given to them.
    names: Names,
}

impl Enforcer {
    /// Loads the object, sets the kernel's field offsets and has every program verified.
    ///
    /// Kernel 6.1 or newer; needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// The step that failed.
    pub fn load(options: &LoadOptions) -> Result<Self, KernelError> {
        let object = object::bytes(options.debug_log)?;
        let blob = fs::read(VMLINUX_BTF).map_err(KernelError::NoBtf)?;
        let offsets = btf::kernel_offsets(&blob)?;
        let btf =
            Btf::parse(&blob, aya::Endianness::default()).map_err(|error| KernelError::Load(error.into()))?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf));
        let idmap = u32::from(btf::lsm_parameters(&blob, "inode_setattr")? > 2);
        loader.override_global("SETATTR_IDMAP", &idmap, false);
        for (field, offset) in &offsets {
            loader.override_global(field.global, offset, false);
        }
        let later_hooks = LATER_HOOKS.into_iter().filter(|hook| btf::has_lsm_hook(&blob, hook)).collect();
        let lock = rename_lock::address().unwrap_or_default();
        let key = rename_lock::key().map_err(|source| KernelError::System {
            step: "asking for",
            object: "a random number".into(),
            source,
        })?;
        loader.override_global("RENAME_LOCK", &lock, false);
        loader.override_global("TAG_KEY", &key, false);
        // Alone, all programs are the ones that report.
        let instance = if options.pins.is_some() { key } else { 0 };
        loader.override_global("INSTANCE", &instance, false);
        loader.override_global("HOST_MOUNTS", &options.host_mounts, false);
        let netns = sys::netns_cookie().map_err(|source| KernelError::System {
            step: "asking for",
            object: "the network namespace".into(),
            source,
        })?;
        loader.override_global("HOST_NETNS", &netns, false);
        // Left by a daemon whose programs asked for no capabilities: they are held to what every policy gives.
        let without_powers = options.pins.as_ref().is_some_and(|pins| {
            let pinned = |map: &str| pins.maps().join(map).exists();
            pinned("SCOPES") && !pinned("POWERS")
        });
        if let Some(pins) = &options.pins {
            pins.prepare()?;
            for map in MAPS {
                loader.map_pin_path(map, pins.maps().join(map));
            }
        }
        let mut enforcer = Self {
            ebpf: loader.load(&object)?,
            btf,
            later_hooks,
            metadata: options.metadata,
            instance,
            links: Vec::new(),
            slots: BTreeSet::new(),
            names: Names::default(),
        };
        if options.pins.is_some() {
            enforcer.find_slots()?;
        }
        if without_powers {
            enforcer.give_basic_powers()?;
        }
        enforcer.learn_overlays(overlay::built_in(&blob))?;
        enforcer.load_programs(options.network_only)?;
        Ok(enforcer)
    }

    /// Has the programs verified, which is most of the time a start takes: on as many CPUs as there are.
    fn load_programs(&mut self, network_only: bool) -> Result<(), KernelError> {
        let Self { ebpf, btf, later_hooks, metadata, .. } = self;
        let metadata = *metadata;
        let wanted = |name: &str, program: &Program| {
            let missing = LATER_HOOKS.contains(&name) && !later_hooks.contains(&name)
                || METADATA_HOOKS.contains(&name) && !metadata;
            !(missing || network_only && matches!(program, Program::Lsm(_)))
        };
        let queue = Mutex::new(ebpf.programs_mut().filter(|(name, program)| wanted(name, program)));
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some((name, program)) = next() {
                load_program(name, program, btf)?;
            }
            Ok(())
        };
        let workers = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let workers: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = workers.into_iter().map(|worker| {
                worker.join().unwrap_or(Err(KernelError::Mismatch("program that can be loaded")))
            });
            others.fold(own, Result::and)
        })
    }

    /// Of each program, how many instructions the verifier looked at (kernel 5.16).
    #[must_use]
    pub fn verified_instructions(&self) -> Vec<(&str, u32)> {
        let programs = self.ebpf.programs();
        programs
            .filter_map(|(name, program)| Some((name, program.info().ok()?.verified_instruction_count()?)))
            .collect()
    }

    /// The ring of events; can be taken once.
    ///
    /// # Errors
    /// If it was taken already.
    pub fn take_ring(&mut self) -> Result<RingBuf<MapData>, KernelError> {
        let map = self.ebpf.take_map("EVENTS").ok_or(KernelError::Mismatch("map EVENTS"))?;
        RingBuf::try_from(map).map_err(|source| KernelError::Map { map: "EVENTS", source })
    }

    /// The lines its programs write; can be taken once.
    ///
    /// # Errors
    /// If they write none.
    pub fn kernel_log(&mut self) -> Result<KernelLog, KernelError> {
        KernelLog::open(&mut self.ebpf)
    }
}

fn load_program(name: &str, program: &mut Program, btf: &Btf) -> Result<(), KernelError> {
    let result = match program {
        Program::Lsm(program) => program.load(name, btf),
        Program::BtfTracePoint(program) => program.load(name, btf),
        Program::FEntry(program) => program.load(name, btf),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::SocketFilter(program) => program.load(),
        _ => return Err(KernelError::Mismatch("program of a kind that is known")),
    };
    result.map_err(|source| KernelError::Program { step: "loading", program: name.to_owned(), source })
}

fn program<'e, P>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut P, KernelError>
where
    &'e mut P: TryFrom<&'e mut Program>,
{
    ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or(KernelError::Mismatch(name))
}

/// A descriptor of a map of its own.
fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, KernelError> {
    let failed = |source| KernelError::System { step: "opening", object: format!("map {name}"), source };
    match ebpf.map(name) {
        Some(
            Map::Array(data)
            | Map::ArrayOfMaps(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::PerCpuArray(data)
            | Map::RingBuf(data)
            | Map::SkStorage(data),
        ) => data.fd().as_fd().try_clone_to_owned().map_err(failed),
        _ => Err(KernelError::Mismatch(name)),
    }
}

fn map<'e, M>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<M, KernelError>
where
    M: TryFrom<&'e mut Map, Error = aya::maps::MapError>,
{
    ebpf.map_mut(name)
        .ok_or(KernelError::Mismatch(name))?
        .try_into()
        .map_err(|source| KernelError::Map { map: name, source })
}
