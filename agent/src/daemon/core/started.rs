//! Workloads that were stopped before their first instruction: what they may do depends on whose they are and what mounts
//! they see, and both can be read now.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use stockade_common::{file::ACCESS_EXEC, limits::UNDECIDED_SCOPE};

use super::{
    Core,
    cgroups::{UNDECIDED, Wanted},
    refusal, refused_by_kernel,
    registry::How,
};
use crate::{
    audit::origin::boot_ns,
    daemon::{
        announce,
        command::{Refusal, RefusalKind},
        policies::{Compiled, View, namespace_of},
    },
    kernel::Scope,
    policy::{checked::Mode, compile::path_bits},
    scope::tree::{Node, of_proc_file},
};

/// Turns of 5 ms that are waited for a process to stop.
const STOPPING_TURNS: u32 = 100;
/// Where the mounts of containers are written down, for a later daemon of this boot.
pub(super) const VIEWS: &str = "/run/stockade/views";

impl Core {
    pub(super) fn saved_view(&self, scope: Scope) -> PathBuf {
        PathBuf::from(VIEWS).join(scope.0.to_string())
    }

    /// Workloads whose records were lost, or that an earlier daemon has left.
    pub(super) fn look_at_held(&mut self) -> Result<(), Refusal> {
        let held = self.enforcer.held().map_err(|error| refused_by_kernel(&error))?;
        for (pid, cgroup_id) in held {
            self.started(pid, cgroup_id)?;
        }
        Ok(())
    }

    /// A workload stands before its first instruction.
    pub(super) fn started(&mut self, pid: u32, cgroup_id: u64) -> Result<(), Refusal> {
        let kernel = |error| refused_by_kernel(&error);
        // Told of by its record and by the table: the second time it may be running.
        if self.enforcer.held_in(pid).map_err(kernel)? != Some(cgroup_id) {
            return Ok(());
        }
        // Its number cannot become another's as long as this is held.
        let process = match Process::open(pid) {
            Ok(process) => process,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                return self.enforcer.release(pid).map_err(kernel);
            }
            Err(error) => {
                return Err(refusal(RefusalKind::Failed, format!("opening process {pid}: {error}")));
            }
        };
        let Some(path) = cgroup_of(pid) else { return self.enforcer.release(pid).map_err(kernel) };
        if !self.policies_known {
            // Whose it is cannot be told: it waits, as it would without a daemon, and is looked at again.
            return Ok(());
        }
        let stands = |refused: Option<String>| match refused {
            None if !process.stands(pid) => Some("somebody else has let it run on".to_owned()),
            refused => refused,
        };
        let refused = stands(None).map_or_else(|| self.admit(pid, &path), |why| Ok(Some(why)));
        let refused = stands(refused.unwrap_or_else(|refusal| Some(refusal.message)));
        let signal = if refused.is_some() { Signal::SIGKILL } else { Signal::SIGCONT };
        if let Some(why) = refused {
            let name = self.registry.above(&path).and_then(|id| self.enforcer.scope_of(id).ok().flatten());
            let name = name.and_then(|scope| self.registry.find(scope)).map(|(name, _)| name.to_owned());
            let name = name.unwrap_or_else(|| UNDECIDED.to_owned());
            eprintln!("stockade: {}: process {pid} was killed before it ran: {why}", path.display());
            let said = announce::start_refused(&self.boot, boot_ns(), &name, pid, cgroup_id, &path, &why);
            self.recorder.tell(&said, &name, None);
        }
        match process.send(signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                // It stays held, and is looked at again.
                Err(refusal(RefusalKind::Failed, format!("sending {signal} to process {pid}: {error}")))
            }
            _ => self.enforcer.release(pid).map_err(kernel),
        }
    }

    /// Puts the cgroup of a stopped workload into the scope it belongs to. `Some`: it may not be executed, and why.
    fn admit(&mut self, pid: u32, path: &std::path::Path) -> Result<Option<String>, Refusal> {
        let tree = |error: &dyn std::fmt::Display| refusal(RefusalKind::Failed, error);
        // What is left of a namespace whose number has come again must not be taken for this one's.
        self.collect()?;
        let own = Node { path: path.to_path_buf(), id: self.tree.id(path).map_err(|error| tree(&error))? };
        let tagged = self.enforcer.scope_of(own.id).map_err(|error| refused_by_kernel(&error))?;
        let Some(tagged) = tagged else { return Ok(None) };
        let (name, top) = if tagged == Scope(UNDECIDED_SCOPE) {
            let top = self.top(own, tagged)?;
            let belongs = self.inspector.belongs(&self.matcher, path);
            for warning in &belongs.warnings {
                eprintln!("stockade: warning: {warning}");
            }
            let found = belongs.to.and_then(|found| self.policies.policies.get(found.policy));
            match found.map(|policy| policy.name.clone()) {
                Some(name) => (name, top),
                None => {
                    self.untag_below(&top, UNDECIDED)?;
                    return Ok(None);
                }
            }
        } else {
            match self.registry.find(tagged) {
                Some((name, _)) => (name.to_owned(), own),
                None => {
                    return Err(refusal(RefusalKind::NotFound, format!("nobody knows scope {}", tagged.0)));
                }
            }
        };
        let view = View::of(pid).map_err(|error| {
            refusal(RefusalKind::Failed, format!("reading the mounts of process {pid}: {error}"))
        })?;
        let scope = self.instance(&name, &view, pid)?;
        self.open_gate(scope, Some(pid));
        if scope != tagged {
            let entry = self.state(&name)?.entry;
            let wanted =
                Wanted { node: &top, name: &name, scope, entry, how: How::AtStart, window: Vec::new() };
            self.tag(wanted)?;
        }
        Ok(self.may_execute(&name, scope, pid))
    }

    /// The highest cgroup above one that has the same tag.
    fn top(&mut self, node: Node, tagged: Scope) -> Result<Node, Refusal> {
        let mut top = node;
        while let Some(parent) = top.path.parent().filter(|parent| parent.parent().is_some()) {
            let Ok(id) = self.tree.id(parent) else { break };
            let scope = self.enforcer.scope_of(id).map_err(|error| refused_by_kernel(&error))?;
            if scope != Some(tagged) {
                break;
            }
            top = Node { path: parent.to_path_buf(), id };
        }
        Ok(top)
    }

    /// The kernel let the execution pass, because it could not know: the same question is asked here.
    fn may_execute(&self, name: &str, scope: Scope, pid: u32) -> Option<String> {
        let state = self.registry.scopes.get(name)?;
        let (view, image) = self.registry.find(scope)?.1.compiled.as_ref()?;
        let program = match std::fs::read_link(format!("/proc/{pid}/exe")) {
            Ok(program) => program,
            Err(error) => return Some(format!("its program cannot be read: {error}")),
        };
        let bytes = program.as_os_str().as_encoded_bytes();
        let allowed = view.mounts.inside(bytes).is_some_and(|(mount, inside)| {
            path_bits(image, mount.dev, &inside)
                .is_some_and(|(allow, deny)| allow & ACCESS_EXEC != 0 && deny & ACCESS_EXEC == 0)
        });
        if allowed || state.effective_mode() == Mode::Audit {
            return None;
        }
        Some(format!("no rule of {name:?} lets {} be executed: files.exec", program.display()))
    }

    /// The number of a scope's instance for a view; it is made if there is none.
    fn instance(&mut self, name: &str, view: &View, pid: u32) -> Result<Scope, Refusal> {
        // What was mounted in a namespace since its workload began is the workload's doing: it is not read again. What a
        // starter executes before that (a hook, `mount`) does not count.
        let state = self.state(name)?;
        let known: Vec<(Scope, bool)> = state
            .instances
            .iter()
            .filter_map(|instance| {
                let (known, _) = instance.compiled.as_ref()?;
                (known.namespace == view.namespace).then(|| (instance.scope, known.shows_the_same(view)))
            })
            .collect();
        for (scope, same) in known {
            if same || self.is_lived_in(scope, view.namespace, pid)? {
                return Ok(scope);
            }
        }
        let state = self.state(name)?;
        let Some(policy) = &state.policy else {
            let message = format!("the policy of {name:?} is gone: nothing new is started in its scope");
            return Err(refusal(RefusalKind::NotFound, message));
        };
        let Compiled { image, context, warnings } =
            view.compile(name, policy, &self.boot).map_err(|error| refusal(RefusalKind::Invalid, error))?;
        for warning in warnings {
            eprintln!("stockade: warning: {warning}");
        }
        self.install(name, (view.clone(), Arc::new(image)), context)
    }
}

impl Core {
    /// Whether a policed process, other than the one that is stopped, sees a mount namespace.
    fn is_lived_in(&mut self, scope: Scope, namespace: u32, stopped: u32) -> Result<bool, Refusal> {
        let kernel = |error| refused_by_kernel(&error);
        let starters: Vec<u32> =
            self.enforcer.starters().map_err(kernel)?.into_iter().map(|(pid, _)| pid).collect();
        let cgroups: Vec<(u64, PathBuf)> =
            self.registry.cgroups.iter().map(|(id, cgroup)| (*id, cgroup.path.clone())).collect();
        for (id, path) in cgroups {
            if self.enforcer.scope_of(id).map_err(kernel)? != Some(scope) {
                continue;
            }
            // What cannot be listed may be there.
            let Ok((pids, problems)) = self.tree.all_processes(&path) else { continue };
            let policed = |pid: &u32| *pid != stopped && !starters.contains(pid);
            let sees = |pid: &u32| namespace_of(*pid).is_ok_and(|seen| seen == namespace);
            if !problems.is_empty() || pids.iter().any(|pid| policed(pid) && sees(pid)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A process, whatever becomes of its number.
struct Process(OwnedFd);

impl Process {
    fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: takes numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor the kernel has just given out.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Whether it is stopped. The signal that stops it may be on its way.
    fn stands(&self, pid: u32) -> bool {
        for _ in 0..STOPPING_TURNS {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
                Some('T') => return true,
                Some('R' | 'S' | 'D') => std::thread::sleep(Duration::from_millis(5)),
                _ => return false,
            }
        }
        false
    }

    fn send(&self, signal: Signal) -> io::Result<()> {
        let nothing: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: takes a descriptor and numbers; no information is given.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal as i32, nothing, 0)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn cgroup_of(pid: u32) -> Option<PathBuf> {
    of_proc_file(&std::fs::read(format!("/proc/{pid}/cgroup")).ok()?)
}
