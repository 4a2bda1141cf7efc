//! What the core waits for itself, though filesystems are asked that need not answer: so it does not wait long.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{Core, apart::Budget, refusal};
use crate::{
    daemon::{
        command::{Refusal, RefusalKind},
        policies::{Compiled, View},
    },
    policy::checked::CheckedPolicy,
    scope::matcher::{Belongs, Holds},
};

/// For one policy and view.
const COMPILING: Duration = Duration::from_secs(4);
/// For what a container's runtime keeps of it.
const STATE: Duration = Duration::from_secs(1);

/// Why a policy was not compiled.
#[derive(Debug)]
pub(super) enum NotCompiled {
    /// It is wrong.
    Refused(Refusal),
    /// What it depends on cannot be read, now.
    NoAnswer(String),
}

impl From<NotCompiled> for Refusal {
    fn from(error: NotCompiled) -> Self {
        match error {
            NotCompiled::Refused(refusal) => refusal,
            NotCompiled::NoAnswer(why) => refusal(RefusalKind::Failed, why),
        }
    }
}

impl Core {
    /// Compiles a policy for a view.
    pub(super) fn compile(
        &self,
        name: &str,
        policy: &CheckedPolicy,
        view: &View,
        budget: &mut Budget,
    ) -> Result<Compiled, NotCompiled> {
        let (named, of, for_view, boot) = (name.to_owned(), policy.clone(), view.clone(), self.boot.clone());
        let begin = Instant::now();
        let compiling =
            self.asking.begin(budget.end(COMPILING), move || for_view.compile(&named, &of, &boot));
        match compiling.and_then(|compiling| compiling.wait()) {
            Ok(compiled) => {
                compiled.map_err(|error| NotCompiled::Refused(refusal(RefusalKind::Invalid, error)))
            }
            Err(why) => {
                budget.wasted(begin);
                Err(NotCompiled::NoAnswer(format!("compiling {name:?} for the mounts it is for: {why}")))
            }
        }
    }

    /// Where a cgroup belongs, with what the state of containers says. If that cannot be read in time the rule counts as one
    /// that holds.
    pub(super) fn belongs(&self, path: &Path) -> Belongs {
        let matches = self.matcher.match_path(path);
        if matches.needs_container.is_empty() {
            return matches.decide(|_| Holds::Yes);
        }
        let (inspector, matcher, asked) = (self.inspector.clone(), self.matcher.clone(), path.to_path_buf());
        let answer = self.asking.begin(Instant::now() + STATE, move || inspector.belongs(&matcher, &asked));
        answer.and_then(|answer| answer.wait()).unwrap_or_else(|why| {
            matches.decide(|_| Holds::Unknown(format!("the state of the container: {why}")))
        })
    }
}
