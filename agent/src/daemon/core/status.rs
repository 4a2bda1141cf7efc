//! What the core says of itself.

use std::time::Instant;

use stockade_common::counter::{COUNTERS, Counter};

use super::{Core, cgroups::COUNTING, refused_by_kernel};
use crate::{
    audit::origin::Origin,
    daemon::command::{
        CgroupStatus, Decisions, Lost, MapFill, ProgramStatus, Refusal, ScopeStatus, Status, Verdicts,
    },
};

fn decisions(counters: &[u64; COUNTERS]) -> Decisions {
    let verdicts = |allowed: Option<Counter>, denied: Counter| Verdicts {
        allowed: allowed.map_or(0, |counter| counters[counter as usize]),
        denied: counters[denied as usize],
    };
    Decisions {
        file: verdicts(Some(Counter::FileAllowed), Counter::FileDenied),
        net: verdicts(Some(Counter::NetAllowed), Counter::NetDenied),
        process: verdicts(None, Counter::ProcessDenied),
    }
}

impl Core {
    pub(super) fn decisions(&mut self, name: &str) -> Result<Decisions, Refusal> {
        Ok(decisions(&self.counters(name)?))
    }

    pub(super) fn lost(&mut self, name: &str) -> Result<Lost, Refusal> {
        let counters = self.counters(name)?;
        let (undecoded, unwritten) = self.recorder.missing();
        let (denied, other) = (counters[Counter::LostDenied as usize], counters[Counter::LostOther as usize]);
        Ok(Lost { denied, other, undecoded, unwritten })
    }

    pub(super) fn status(&mut self) -> Result<Status, Refusal> {
        let end = Instant::now() + COUNTING;
        let names: Vec<String> = self.registry.scopes.keys().cloned().collect();
        let scopes = names.iter().map(|name| self.scope_status(name, end)).collect::<Result<Vec<_>, _>>()?;
        let maps = self.enforcer.fill().map_err(|error| refused_by_kernel(&error))?;
        let programs = self.enforcer.run_times();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: humantime::format_rfc3339_seconds(self.since).to_string(),
            kernel: Origin::read(0).kernel,
            guarantees: self.guarantees.clone(),
            degraded: self.degraded,
            adopted: self.adopted,
            reloads: self.reloads,
            policies: self.set.clone(),
            maps: maps
                .into_iter()
                .map(|(name, used, limit)| MapFill { name: name.to_owned(), used, limit })
                .collect(),
            programs: programs
                .into_iter()
                .map(|(name, runs, time)| ProgramStatus { name, runs, run_ns: time.as_nanos() as u64 })
                .collect(),
            scopes,
        })
    }

    pub(super) fn scope_status(&mut self, name: &str, end: Instant) -> Result<ScopeStatus, Refusal> {
        let decisions = self.decisions(name)?;
        let lost = self.lost(name)?;
        let numbers: Vec<_> = self.state(name)?.instances.iter().map(|instance| instance.scope).collect();
        let mut cgroups: Vec<CgroupStatus> = Vec::new();
        let ids: Vec<u64> = self.registry.cgroups.keys().copied().collect();
        for id in ids {
            let scope = self.enforcer.scope_of(id).map_err(|error| refused_by_kernel(&error))?;
            if scope.is_some_and(|scope| numbers.contains(&scope)) {
                cgroups.extend(self.cgroup_status(id, end).ok());
            }
        }
        let shadow = self.shadow_report(name);
        let state = self.state(name)?;
        let policy =
            state.instances.first().map(|instance| instance.context.policy.clone()).unwrap_or_default();
        Ok(ScopeStatus {
            name: name.to_owned(),
            kind: state.kind,
            policy: policy.name,
            digest: policy.digest,
            mode: state.effective_mode(),
            source: state.source.clone(),
            uid: state.uid,
            cgroups,
            decisions,
            lost,
            shadow,
        })
    }
}
