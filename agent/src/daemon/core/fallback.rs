//! What is in force when `policies.d` cannot be: the last policies that were, or as much as can be read.

use std::time::{Duration, SystemTime};

use super::{Core, apart::Budget, refusal};
use crate::{
    daemon::{
        command::{BrokenPolicies, PolicySet, PolicySource, Refusal, RefusalKind},
        last_good::{self, Kept},
    },
    scope::host::{Readable, allowing_nothing, from_texts, load_readable},
};

/// What is waited for filesystems that do not answer, in all.
const WAITING: Duration = Duration::from_secs(8);

impl Core {
    /// The policies that have just been put in force are those of the directory: they are kept for a start at which they are
    /// broken.
    pub(super) fn keep_in_force(&mut self) {
        let digest = last_good::digest(&self.policies.texts);
        let kept = self.store.save(&self.directory, &self.policies.texts);
        let kept = kept.and_then(|digest| self.store.set_in_force(Some(&digest)));
        let unkept = kept.err().map(|error| error.to_string());
        if let Some(why) = &unkept {
            eprintln!(
                "stockade: these policies could not be kept for a start at which policies.d is broken; an older set may be: {why}"
            );
        }
        self.set = PolicySet { source: PolicySource::PoliciesD, digest: Some(digest), broken: None, unkept };
    }

    /// The files cannot be put in force: it is remembered since when, and why.
    pub(super) fn are_broken(&mut self, refusal: &Refusal) {
        let error = refusal.message.clone();
        match &mut self.set.broken {
            Some(broken) => broken.error = error,
            None => {
                let since = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
                self.set.broken = Some(BrokenPolicies { since, error, nothing_allowed: Vec::new() });
            }
        }
    }

    /// At a start at which the files cannot be put in force: what can be is.
    ///
    /// # Errors
    /// Why nothing can be. Nothing is held then.
    pub(super) fn fall_back(&mut self, refused: &Refusal) -> Result<(), Refusal> {
        let has_pins = !self.registry.scopes.is_empty();
        let why = match self.last_good(has_pins) {
            Ok(Kept { digest, saved, .. }) => {
                self.set.source = PolicySource::LastGood;
                self.set.digest = Some(digest.clone());
                let what = format!("the policies of {saved} are in force as a whole ({digest})");
                self.tell_broken(&what, refused);
                return Ok(());
            }
            Err(why) => why,
        };
        if has_pins {
            self.set.source = PolicySource::EarlierDaemon;
            let what = format!(
                "everything stays as an earlier daemon has left it; of the last policies that were right: {why}"
            );
            self.tell_broken(&what, refused);
            return Ok(());
        }
        let broken = self.readable().map_err(|error| {
            let message = format!(
                "{}\nnothing is held: a file with errors does not say whom it is for ({error}), and of the last policies that were \
                 right: {why}",
                refused.message
            );
            refusal(refused.kind, message)
        })?;
        self.set.source = PolicySource::Readable;
        let what = format!(
            "what {} are for is held to nothing allowed; of the last policies that were right: {why}",
            broken.join(", ")
        );
        if let Some(known) = &mut self.set.broken {
            known.nothing_allowed = broken;
        }
        self.tell_broken(&what, refused);
        Ok(())
    }

    /// Puts the last policies in force that were, if they can be. Why not, if not.
    fn last_good(&mut self, has_pins: bool) -> Result<Kept, String> {
        let kept = self.store.load(&self.directory).map_err(|error| error.to_string())?;
        // What the kernel is held to may be newer, if it could not be kept.
        if has_pins && self.store.in_force().as_ref() != Some(&kept.digest) {
            return Err(format!(
                "{} is not surely what the kernel is held to, and is not used",
                self.store.path().display()
            ));
        }
        let policies = from_texts(&kept.texts).map_err(|error| error.to_string())?;
        self.put_in_force(policies).map_err(|refusal| refusal.message)?;
        if let Err(error) = self.store.set_in_force(Some(&kept.digest)) {
            eprintln!("stockade: {error}");
        }
        Ok(kept)
    }

    /// Puts in force what can be read. Returns the policies that allow nothing.
    fn readable(&mut self) -> Result<Vec<String>, Refusal> {
        let Readable { mut policies, mut broken } =
            load_readable(&self.directory).map_err(|error| refusal(RefusalKind::Invalid, error))?;
        let mut budget = Budget::new(WAITING);
        for policy in &mut policies.policies {
            if self.compile(&policy.name, &policy.policy, &self.host, &mut budget).is_err() {
                policy.policy = allowing_nothing(&policy.policy);
                broken.push(policy.name.clone());
            }
        }
        self.put_in_force(policies)?;
        Ok(broken)
    }

    fn tell_broken(&mut self, what: &str, refused: &Refusal) {
        eprintln!("stockade: POLICIES ARE BROKEN: {what}\n{}", refused.message);
        self.tell_of_itself("policies_broken", &format!("{what}\n{}", refused.message));
    }
}
