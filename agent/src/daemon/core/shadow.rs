//! A scope's policy compared with another one, while it is enforced.

use std::{sync::Arc, time::Duration};

use super::{Core, apart::Budget, refusal, refused_by_kernel};
use crate::{
    audit::origin::boot_ns,
    daemon::{
        command::{Refusal, RefusalKind, ShadowReport},
        policies::View,
        shadow::Comparison,
    },
    kernel::{Scope, Slot},
    policy::{checked::CheckedPolicy, image::MapImage},
    scope::host::given,
};

/// What the beginning of a comparison waits for filesystems that do not answer, in all.
const WAITING: Duration = Duration::from_secs(8);
/// What a workload that begins waits for that.
const WAITING_FOR_ONE: Duration = Duration::from_secs(1);

impl Core {
    /// Begins a comparison, or ends it.
    pub(super) fn shadow(&mut self, name: &str, policy: Option<String>) -> Result<ShadowReport, Refusal> {
        self.state(name)?;
        match policy {
            Some(text) => self.begin_shadow(name, &text),
            None => self.end_shadow(name, "ended")?.ok_or_else(|| {
                refusal(RefusalKind::NotFound, format!("the policy of {name:?} is compared with none"))
            }),
        }
    }

    fn begin_shadow(&mut self, name: &str, text: &str) -> Result<ShadowReport, Refusal> {
        let policy = given(&self.directory, text).map_err(|error| refusal(RefusalKind::Invalid, error))?;
        let state = self.state(name)?;
        let mut comparison = Comparison::new(state.audit_all);
        let instances: Vec<(Scope, Option<View>)> = state
            .instances
            .iter()
            .map(|instance| (instance.scope, instance.compiled.as_ref().map(|(view, _)| view.clone())))
            .collect();
        let mut budget = Budget::new(WAITING);
        for (index, (scope, view)) in instances.into_iter().enumerate() {
            let view = view.and_then(|view| self.present(scope, view));
            let image = match view.map(|view| self.compile_shadow(name, &policy, &view, &mut budget)) {
                Some(Ok(image)) => Some(image),
                Some(Err(refusal)) if index == 0 => return Err(refusal),
                Some(Err(refusal)) => {
                    eprintln!(
                        "stockade: {name}: what happens in one of its containers is not compared: {refusal}"
                    );
                    None
                }
                None => None,
            };
            comparison.see(scope, image);
        }
        // What was lost before belongs to none, or to the one that ends.
        self.take_losses(name);
        let before = self.registry.scopes.get_mut(name).and_then(|state| state.shadow.replace(policy));
        if let Err(refusal) = self.hold_again(name) {
            if let Some(state) = self.registry.scopes.get_mut(name) {
                state.shadow = before;
            }
            return Err(refusal);
        }
        self.recorder.compare(name, comparison);
        self.tell_of_itself("shadow", &format!("{name}: a comparison begins"));
        Ok(ShadowReport::default())
    }

    /// Ends a comparison, if there is one.
    pub(super) fn end_shadow(&mut self, name: &str, how: &str) -> Result<Option<ShadowReport>, Refusal> {
        self.take_losses(name);
        let Some(report) = self.recorder.end_comparison(name) else { return Ok(None) };
        let ShadowReport { compared, missed, differences, more } = &report;
        let kinds = format!("{}{}", differences.len(), if *more { " and more" } else { "" });
        let message = format!(
            "{name}: the comparison has {how}: {compared} decisions compared, {missed} missed, {kinds} kinds of differences"
        );
        self.tell_of_itself("shadow", &message);
        if let Some(state) = self.registry.scopes.get_mut(name) {
            state.shadow = None;
            self.hold_again(name)?;
        }
        Ok(Some(report))
    }

    /// What a comparison has found so far.
    pub(super) fn shadow_report(&mut self, name: &str) -> Option<ShadowReport> {
        self.recorder.comparison(name)?;
        self.take_losses(name);
        self.recorder.comparison(name).map(|comparison| comparison.report())
    }

    /// A new instance of a scope whose policy is compared.
    pub(super) fn shadow_instance(&mut self, name: &str, scope: Scope, view: &View) {
        let Some(policy) = self.registry.scopes.get(name).and_then(|state| state.shadow.clone()) else {
            return;
        };
        let image = self.compile_shadow(name, &policy, view, &mut Budget::new(WAITING_FOR_ONE));
        let image = image.inspect_err(|refusal| {
            eprintln!("stockade: {name}: what happens in a new container is not compared: {refusal}");
        });
        if let Some(comparison) = self.recorder.comparison(name) {
            comparison.see(scope, image.ok());
        }
    }

    fn compile_shadow(
        &self,
        name: &str,
        policy: &CheckedPolicy,
        view: &View,
        budget: &mut Budget,
    ) -> Result<Arc<MapImage>, Refusal> {
        let compiled = self.compile(name, policy, view, budget);
        compiled.map(|compiled| Arc::new(compiled.image)).map_err(Refusal::from)
    }

    /// A view whose links can be read: the process it was read from may have ended, and another be in its place.
    fn present(&mut self, scope: Scope, view: View) -> Option<View> {
        let tags = self.enforcer.tags().ok()?;
        self.seen_by_somebody(&tags, scope, &view)
    }

    /// Tells of what a scope has lost until now.
    fn take_losses(&mut self, name: &str) {
        let instances: Vec<(Scope, Slot)> = self
            .registry
            .scopes
            .get(name)
            .map(|state| state.instances.iter().map(|instance| (instance.scope, instance.slot)).collect())
            .unwrap_or_default();
        for (scope, slot) in instances {
            self.take_losses_of(scope, slot);
        }
    }

    /// The same for one number.
    pub(super) fn take_losses_of(&mut self, scope: Scope, slot: Slot) {
        match self.enforcer.counters(scope) {
            Ok(counters) => self.recorder.losses(scope, slot, &counters, boot_ns()),
            Err(error) => eprintln!("stockade: {}", refused_by_kernel(&error)),
        }
    }
}
