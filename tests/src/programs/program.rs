//! What is asked of a program: that it works with its names, and that it says at once which of them is missing.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use super::exec::{Checked, ensure};
use super::trial::{Outcome, Who, free, held};

/// A scenario, and what it is called.
pub type Scenario = (String, Box<dyn Fn() -> Checked>);

/// How much longer than twice the time of the same program where nothing holds it: machines that emulate this one have other
/// things to do. Some programs try a name again before they give up, whoever says that there is none.
const AT_ONCE: Duration = Duration::from_secs(20);

/// How long each program takes where nothing holds it.
static OUTSIDE: LazyLock<Mutex<HashMap<&str, Duration>>> = LazyLock::new(Mutex::default);

/// A program, and what it is to do.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// What its scenarios are called.
    pub name: &'static str,
    /// Who runs it.
    pub who: Who,
    /// A line of shell that puts into an empty folder what it needs, where nothing is held.
    pub prepare: &'static str,
    /// The line of shell.
    pub line: &'static str,
    /// The file that is there afterwards.
    pub makes: &'static str,
    /// All rules that it needs; each is one name.
    pub rules: &'static [&'static str],
}

impl Program {
    /// What is to hold of it.
    pub fn scenarios(self) -> Vec<Scenario> {
        let mut all: Vec<Scenario> =
            vec![(format!("{}_works_by_name", self.name), Box::new(move || self.works()))];
        for rule in self.rules {
            let host = rule.split(':').next().unwrap_or(rule);
            let short = host.split('.').next().unwrap_or(host);
            let name = format!("{}_says_that_{short}_is_missing", self.name);
            all.push((name, Box::new(move || self.fails_without(rule, host))));
        }
        all
    }

    /// The control outside: it does its work there, in this time.
    fn outside(self) -> Checked<Duration> {
        let known = || OUTSIDE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(took) = known().get(self.name) {
            return Ok(*took);
        }
        let outside = free(self.who, self.prepare, self.line)?;
        self.did(&outside).map_err(|e| format!("control outside: {e}"))?;
        known().insert(self.name, outside.took);
        Ok(outside.took)
    }

    /// The same under its rules.
    fn works(self) -> Checked {
        let outside = self.outside()?;
        let inside = held(self.who, self.prepare, self.rules, self.line)?;
        let took = inside.took;
        println!(
            "   {}: {:.1} s outside, {:.1} s under its rules",
            self.name,
            outside.as_secs_f32(),
            took.as_secs_f32()
        );
        self.did(&inside)?;
        ensure(took < outside * 2 + AT_ONCE, || format!("{took:?} under its rules, {outside:?} outside"))?;
        // Programs do without a bus or a cache of names; what they connect to is what the rules are for.
        let connects =
            inside.events.iter().filter(|event| event["kind"] == "connect" && event["verdict"] == "denied");
        ensure(connects.count() == 0, || format!("it works, and yet was denied: {}", inside.denied()))
    }

    /// It did its work.
    pub fn did(self, outcome: &Outcome) -> Checked {
        ensure(outcome.status == 0 && outcome.made(self.makes), || {
            format!(
                "status {} after {:.1} s: {}; denied: {}",
                outcome.status,
                outcome.took.as_secs_f32(),
                outcome.said,
                outcome.denied()
            )
        })
    }

    fn fails_without(self, rule: &str, host: &str) -> Checked {
        let outside = self.outside()?;
        // Never none at all: the gate is to be what refuses.
        let mut rules: Vec<&str> = self.rules.iter().copied().filter(|other| other != &rule).collect();
        rules.push("none.programs.test");
        let outcome = held(self.who, self.prepare, &rules, self.line)?;
        println!("   {}: {:.1} s: {}", self.name, outcome.took.as_secs_f32(), excerpt(&outcome.said, host));
        ensure(outcome.status != 0 && outcome.status != 124 && !outcome.made(self.makes), || {
            format!("status {}: {}; denied: {}", outcome.status, outcome.said, outcome.denied())
        })?;
        ensure(excerpt(&outcome.said, host).contains(host), || {
            format!("it does not say which host: {}", outcome.said)
        })?;
        ensure(outcome.refused(host), || format!("no event tells of {host}: {}", outcome.denied()))?;
        ensure(outcome.took < outside * 2 + AT_ONCE, || {
            format!("that was told after {:?}: {}", outcome.took, outcome.said)
        })
    }
}

/// The line of what a program itself said that names a host. The summary at the end is ours.
fn excerpt<'a>(said: &'a str, host: &str) -> &'a str {
    let own = said.lines().take_while(|line| !line.starts_with("stockade: "));
    own.filter(|line| line.contains(host)).last().unwrap_or_default()
}
