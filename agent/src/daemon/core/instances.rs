//! Which of a scope's instances a workload that stands belongs to, and whether it may be executed there.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use stockade_common::file::ACCESS_EXEC;

use super::{Core, refused_by_kernel};
use crate::{
    daemon::{
        command::Refusal,
        policies::{View, namespace_of},
    },
    kernel::Scope,
    policy::{checked::Mode, compile::path_bits},
    scope::tree::Node,
};

/// Who sees a mount namespace is looked for that long.
const SEARCH: Duration = Duration::from_millis(500);

impl Core {
    /// The highest cgroup above one that has the same tag.
    pub(super) fn top(&mut self, node: Node, tagged: Scope) -> Result<Node, Refusal> {
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
    pub(super) fn may_execute(&self, name: &str, scope: Scope, pid: u32) -> Option<String> {
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

    /// The number of a scope's instance for a view, if there is one.
    pub(super) fn known_instance(
        &mut self,
        name: &str,
        view: &View,
        pid: u32,
    ) -> Result<Option<Scope>, Refusal> {
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
                return Ok(Some(scope));
            }
        }
        Ok(None)
    }

    /// Whether a policed process, other than the one that is stopped, sees a mount namespace.
    fn is_lived_in(&mut self, scope: Scope, namespace: u32, stopped: u32) -> Result<bool, Refusal> {
        let kernel = |error| refused_by_kernel(&error);
        let starters: Vec<u32> =
            self.enforcer.starters().map_err(kernel)?.into_iter().map(|(pid, _)| pid).collect();
        let cgroups: Vec<(u64, PathBuf)> =
            self.registry.cgroups.iter().map(|(id, cgroup)| (*id, cgroup.path.clone())).collect();
        let end = Instant::now() + SEARCH;
        for (id, path) in cgroups {
            if self.enforcer.scope_of(id).map_err(kernel)? != Some(scope) {
                continue;
            }
            // What cannot be listed, or not in time, may be there.
            let Ok((pids, problems)) = self.tree.all_processes(&path, Some(end)) else { continue };
            let policed = |pid: &u32| *pid != stopped && !starters.contains(pid);
            let sees = |pid: &u32| namespace_of(*pid).is_ok_and(|seen| seen == namespace);
            let is_there = pids.iter().any(|pid| Instant::now() >= end || (policed(pid) && sees(pid)));
            if !problems.is_empty() || is_there {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
