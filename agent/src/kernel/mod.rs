//! The kernel side seen from userspace: BTF offsets, load, attach, apply, tag.
//!
//! [`Enforcer`] owns the loaded programs. Nothing here knows about policies: it copies a [`crate::policy::image`] into
//! the maps of a slot, says which slot a scope is held to, and which cgroups belong to the scope.

pub mod btf;
mod debug_log;
mod links;
mod object;
mod policy_maps;
mod rename_lock;
mod scopes;
mod sys;

use std::{
    fs::{self, File},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, CgroupSock, CgroupSockAddr, FEntry, Lsm, Program, ProgramError},
};
use stockade_common::{
    counter::COUNTERS,
    limits::{MAX_SCOPES, MAX_SLOTS},
    tag::{Setting, TAG_AT_ONCE, Tag, filter_bucket},
};

pub use debug_log::KernelLog;
pub use links::{PinnedDirectory, remove_stale_pins};
pub use object::find_debug as find_debug_object;

use self::{
    links::Link,
    policy_maps::{OUTER, PolicyMaps},
    scopes::Scopes,
};
use crate::policy::image::MapImage;

/// Where the kernel shows its own BTF.
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// LSM programs, all required: each closes a way around the others.
pub const LSM_HOOKS: [&str; 23] = [
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
    "netlink_send",
    "unix_stream_connect",
    "unix_may_send",
    "ptrace_access_check",
    "task_alloc",
    "bpf",
    "inode_setxattr",
    "inode_removexattr",
    "file_ioctl",
];
/// LSM programs for hooks that older kernels do not have, because there the ones above see the same: access control lists
/// are extended attributes before 6.2, 32-bit ioctls are `file_ioctl`'s before 6.6.
const LATER_HOOKS: [&str; 3] = ["inode_set_acl", "inode_remove_acl", "file_ioctl_compat"];
/// Tracepoint programs that keep tags true.
const TAG_TRACEPOINTS: [&str; 2] = ["cgroup_mkdir", "cgroup_rmdir"];
/// Programs on kernel functions: who enters a tagged cgroup.
const FUNCTIONS: [&str; 1] = ["cgroup_attach_task"];
/// Tracepoint programs for the audit.
const AUDIT_TRACEPOINTS: [&str; 3] = ["sched_process_exec", "sched_process_fork", "sched_process_exit"];
/// Cgroup programs with their `enum bpf_attach_type`.
const CGROUP_PROGRAMS: [(&str, u32); 5] =
    [("connect4", 10), ("connect6", 11), ("sendmsg4", 14), ("sendmsg6", 15), ("sock_create", 2)];

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
    /// An object whose programs write lines for [`Enforcer::kernel_log`].
    pub debug_log: bool,
}

/// The loaded programs. Dropping it detaches what is not pinned.
#[derive(Debug)]
pub struct Enforcer {
    ebpf: Ebpf,
    btf: Btf,
    /// Those of [`LATER_HOOKS`] that this kernel has.
    later_hooks: Vec<&'static str>,
    links: Vec<Link>,
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
        let mut enforcer = Self { ebpf: loader.load(&object)?, btf, later_hooks, links: Vec::new() };
        enforcer.load_programs(options.network_only)?;
        Ok(enforcer)
    }

    /// Has the programs verified, which is most of the time a start takes: on as many CPUs as there are.
    fn load_programs(&mut self, network_only: bool) -> Result<(), KernelError> {
        let Self { ebpf, btf, later_hooks, .. } = self;
        let wanted = |name: &str, program: &Program| {
            let missing = LATER_HOOKS.contains(&name) && !later_hooks.contains(&name);
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

    /// Attaches the tracepoint programs: inheritance of tags, then the process audit.
    ///
    /// # Errors
    /// The program that could not be attached.
    pub fn attach_tracking(&mut self) -> Result<(), KernelError> {
        for name in TAG_TRACEPOINTS.into_iter().chain(AUDIT_TRACEPOINTS) {
            let failed =
                |source| KernelError::Program { step: "attaching", program: name.to_owned(), source };
            let program: &mut BtfTracePoint = program(&mut self.ebpf, name)?;
            self.links.push(Link::traced(name, program.fd().map_err(failed)?)?);
        }
        for name in FUNCTIONS {
            let failed =
                |source| KernelError::Program { step: "attaching", program: name.to_owned(), source };
            let program: &mut FEntry = program(&mut self.ebpf, name)?;
            self.links.push(Link::traced(name, program.fd().map_err(failed)?)?);
        }
        Ok(())
    }

    /// Attaches the LSM programs. That says nothing yet: where `bpf` is not an active LSM this succeeds and no hook
    /// ever runs, so the caller must prove them by an attempt.
    ///
    /// # Errors
    /// The program that could not be attached.
    pub fn attach_lsm(&mut self) -> Result<(), KernelError> {
        for name in LSM_HOOKS.into_iter().chain(self.later_hooks.clone()) {
            let failed =
                |source| KernelError::Program { step: "attaching", program: name.to_owned(), source };
            let program: &mut Lsm = program(&mut self.ebpf, name)?;
            self.links.push(Link::traced(name, program.fd().map_err(failed)?)?);
        }
        Ok(())
    }

    /// Attaches the cgroup programs to a cgroup-v2 directory: they run for sockets made in it and below.
    ///
    /// # Errors
    /// The program that could not be attached.
    pub fn attach_cgroup(&mut self, cgroup: &File) -> Result<(), KernelError> {
        for (name, attach_type) in CGROUP_PROGRAMS {
            let failed =
                |source| KernelError::Program { step: "attaching", program: name.to_owned(), source };
            let fd = if name == "sock_create" {
                program::<CgroupSock>(&mut self.ebpf, name)?.fd().map_err(failed)?
            } else {
                program::<CgroupSockAddr>(&mut self.ebpf, name)?.fd().map_err(failed)?
            };
            self.links.push(Link::cgroup(name, fd, cgroup, attach_type)?);
        }
        Ok(())
    }

    /// Copies a compiled policy into a slot that is free. Nothing is held to it yet.
    ///
    /// # Errors
    /// [`KernelError::TooBig`], or the map that refused; no slot is taken then.
    pub fn install(&mut self, image: &MapImage) -> Result<Slot, KernelError> {
        let maps = PolicyMaps::create(image)?;
        let outer = self.outer()?;
        let slot = policy_maps::free(&outer)?;
        maps.install(&outer, slot).inspect_err(|_| {
            // What is in place already must not be taken for a policy later.
            let _ = policy_maps::remove(&outer, slot);
        })?;
        Ok(slot)
    }

    /// Takes a policy away to which no scope is held any more.
    ///
    /// # Errors
    /// If the kernel refuses; or a scope is still held to it.
    pub fn remove(&mut self, slot: Slot) -> Result<(), KernelError> {
        let scopes = self.scopes()?;
        if (0..MAX_SCOPES).any(|scope| scopes.get(scope).slot() == slot.0) {
            return Err(KernelError::InUse(slot));
        }
        let outer = self.outer()?;
        policy_maps::wait_for_programs(&outer)?;
        policy_maps::remove(&outer, slot)
    }

    /// The arrays that hold policies' maps.
    fn outer(&self) -> Result<[OwnedFd; OUTER.len()], KernelError> {
        let outer = OUTER.iter().map(|name| descriptor(&self.ebpf, name)).collect::<Result<Vec<_>, _>>()?;
        outer.try_into().map_err(|_| KernelError::Mismatch("table of policies"))
    }

    fn scopes(&self) -> Result<Scopes, KernelError> {
        let array = descriptor(&self.ebpf, "SCOPES")?;
        Scopes::map(array.as_fd()).map_err(|source| KernelError::System {
            step: "mapping",
            object: "map SCOPES".into(),
            source,
        })
    }

    /// Holds a scope to the policy in a slot, with `SCOPE_*` flags: in one step, for all of its cgroups.
    ///
    /// # Errors
    /// If there is no such scope or slot.
    pub fn hold(&mut self, scope: Scope, slot: Slot, flags: u32) -> Result<(), KernelError> {
        if slot.0 == 0 || slot.0 >= MAX_SLOTS || scope.0 == 0 {
            return Err(KernelError::Mismatch("scope or slot of that number"));
        }
        let scopes = self.scopes()?;
        // What programs remember of directories is of one generation.
        let generation = scopes.generation().wrapping_add(1);
        if scopes.set(scope.0, Setting::new(slot.0, flags, generation)) {
            Ok(())
        } else {
            Err(KernelError::Mismatch("scope of that number"))
        }
    }

    /// What a scope is held to; slot 0: nothing, and nothing is allowed in it.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn held_to(&self, scope: Scope) -> Result<Setting, KernelError> {
        Ok(self.scopes()?.get(scope.0))
    }

    /// Puts a cgroup into a scope. New children inherit that once [`Self::attach_tracking`] has run.
    ///
    /// # Errors
    /// If the map is full.
    pub fn tag(&mut self, cgroup_id: u64, scope: Scope) -> Result<(), KernelError> {
        // The filter first: a tag the filter doesn't know of would not be found.
        let mut filter: Array<_, u32> = map(&mut self.ebpf, "TAG_FILTER")?;
        filter
            .set(filter_bucket(cgroup_id), 1, 0)
            .map_err(|source| KernelError::Map { map: "TAG_FILTER", source })?;
        let mut tags: HashMap<_, u64, Tag> = map(&mut self.ebpf, "TAGS")?;
        tags.insert(cgroup_id, Tag { scope: scope.0, flags: TAG_AT_ONCE }, 0)
            .map_err(|source| KernelError::Map { map: "TAGS", source })
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

    /// A scope's counters, summed over CPUs, indexed by [`stockade_common::counter::Counter`]. Scope 0 has those of what
    /// could not be attributed.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&mut self, scope: Scope) -> Result<[u64; COUNTERS], KernelError> {
        let counters: PerCpuArray<_, u64> = map(&mut self.ebpf, "COUNTERS")?;
        let mut sums = [0; COUNTERS];
        for (index, sum) in (scope.0 * COUNTERS as u32..).zip(&mut sums) {
            let values =
                counters.get(&index, 0).map_err(|source| KernelError::Map { map: "COUNTERS", source })?;
            *sum = values.iter().sum();
        }
        Ok(sums)
    }

    /// Pins every link into a new directory on a bpffs, so that the end of this process, however it comes, changes
    /// nothing. The returned guard removes the pins.
    ///
    /// # Errors
    /// If the directory cannot be made or is not on a bpffs.
    pub fn pin(&mut self, directory: &Path) -> Result<PinnedDirectory, KernelError> {
        PinnedDirectory::create(directory, &self.links)
    }
}

fn load_program(name: &str, program: &mut Program, btf: &Btf) -> Result<(), KernelError> {
    let result = match program {
        Program::Lsm(program) => program.load(name, btf),
        Program::BtfTracePoint(program) => program.load(name, btf),
        Program::FEntry(program) => program.load(name, btf),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
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
        Some(Map::Array(data) | Map::ArrayOfMaps(data)) => {
            data.fd().as_fd().try_clone_to_owned().map_err(failed)
        }
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
