//! Attaching the programs, and what holds them when this process is gone.

use std::{fs::File, os::fd::AsFd as _, path::Path};

use aya::{
    maps::Array,
    programs::{BtfTracePoint, CgroupSkb, CgroupSock, CgroupSockAddr, FEntry, Lsm},
};

use super::{
    AUDIT_TRACEPOINTS, Build, CGROUP_PROGRAMS, Enforcer, FUNCTIONS, KernelError, LSM_HOOKS, MAPS,
    METADATA_HOOKS, PinnedDirectory, Pins, TAG_TRACEPOINTS, descriptor, links::Link, map, program, sys,
};

impl Enforcer {
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
        let metadata = self.metadata;
        let hooks = LSM_HOOKS.into_iter().chain(self.later_hooks.clone());
        for name in hooks.filter(|name| metadata || !METADATA_HOOKS.contains(name)) {
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
            let fd = match name {
                "sock_create" => program::<CgroupSock>(&mut self.ebpf, name)?.fd(),
                "egress" => program::<CgroupSkb>(&mut self.ebpf, name)?.fd(),
                _ => program::<CgroupSockAddr>(&mut self.ebpf, name)?.fd(),
            };
            let fd = fd.map_err(failed)?;
            self.links.push(Link::cgroup(name, fd, cgroup, attach_type)?);
        }
        Ok(())
    }

    /// Detaches the cgroup programs from wherever [`Self::attach_cgroup`] has attached them.
    pub fn detach_cgroup(&mut self) {
        self.links.retain(|link| !CGROUP_PROGRAMS.iter().any(|(name, _)| *name == link.name()));
    }

    /// What this build makes, for comparison with what is pinned.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn build(&self) -> Result<Build, KernelError> {
        let mut build = Build::default();
        for name in MAPS {
            let failed =
                |source| KernelError::System { step: "asking about", object: format!("map {name}"), source };
            let map = descriptor(&self.ebpf, name)?;
            build.maps.insert(name.to_owned(), sys::map_info(map.as_fd()).map_err(failed)?.into());
        }
        for link in &self.links {
            let failed =
                |source| KernelError::System { step: "asking about", object: link.name().to_owned(), source };
            let info = link.program().map_err(failed)?;
            build.programs.insert(link.name().to_owned(), (info.kind, info.tag));
        }
        Ok(build)
    }

    /// Pins all links in place of those of an earlier daemon, and has these programs report from now on.
    ///
    /// # Errors
    /// If something cannot be pinned or removed; the programs of both daemons are attached then.
    pub fn take_over(&mut self, pins: &Pins, boot_ns: u64) -> Result<(), KernelError> {
        let mut active: Array<_, u64> = map(&mut self.ebpf, "ACTIVE")?;
        active.set(0, self.instance, 0).map_err(|source| KernelError::Map { map: "ACTIVE", source })?;
        pins.replace_links(&self.links, boot_ns)
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
