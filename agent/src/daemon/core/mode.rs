//! A scope is held again to the tables that it has, in the mode that it should have now.

use std::{sync::Arc, time::Instant};

use super::{Core, cgroups::COUNTING};
use crate::{
    audit::{digest::mode_name, json::Context},
    daemon::command::{Refusal, ScopeStatus},
    policy::checked::Mode,
};

impl Core {
    /// Holds a scope to the tables that it has, with the flags that it should have now.
    pub(super) fn hold_again(&mut self, name: &str) -> Result<(), Refusal> {
        let Some(state) = self.registry.scopes.get_mut(name) else { return Ok(()) };
        let (mode, flags, uid) = (state.effective_mode(), state.flags(self.degraded), state.uid);
        let policy = state.policy.clone();
        let mut held = Vec::new();
        // Slot 0 has no tables: nothing is allowed in it, whatever the flags.
        for instance in state.instances.iter_mut().filter(|instance| instance.slot.0 != 0) {
            let mut context = Context::clone(&instance.context);
            context.policy.mode = mode_name(mode);
            instance.context = Arc::new(context);
            self.recorder.know(instance.slot, instance.context.clone(), uid);
            held.push((instance.scope, instance.slot, flags));
        }
        for held in held {
            self.hold(held, policy.as_ref().map(|policy| (policy, mode)))?;
        }
        Ok(())
    }

    pub(super) fn set_mode(&mut self, name: &str, mode: Mode) -> Result<ScopeStatus, Refusal> {
        self.state(name)?;
        if let Some(state) = self.registry.scopes.get_mut(name) {
            state.mode = Some(mode);
        }
        self.hold_again(name)?;
        self.tell_of_itself("mode", &format!("{name}: {}", mode_name(mode)));
        self.scope_status(name, Instant::now() + COUNTING)
    }
}
