//! Whether the demo showed what it promises; pure, so that its failing can be tested.

use super::{
    events::Event,
    forbidden::{By, FORBIDDEN, WORK},
    script::{Outcome, Step},
};

/// Everything that was observed.
#[derive(Debug)]
pub struct Evidence {
    /// Steps outside the tag.
    pub controls: Vec<Step>,
    /// Steps under Stockade.
    pub policed: Vec<Step>,
    /// Exit statuses of the two runs under Stockade.
    pub statuses: [i32; 2],
    /// Of both runs, with who was watched.
    pub events: Vec<(By, Event)>,
    /// The demo's directory.
    pub base: String,
    /// Listeners: name, how many came in the controls, how many from under Stockade.
    pub heard: Vec<(String, usize, usize)>,
    /// Whether the shell profile is as it was.
    pub profile_is_intact: bool,
}

fn find<'a>(steps: &'a [Step], name: &str) -> Option<&'a Step> {
    steps.iter().find(|step| step.name == name)
}

/// Counts of what went as it should.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Honest steps that succeeded.
    pub worked: usize,
    /// Forbidden steps that were refused, with an event each.
    pub refused: usize,
    /// Controls that succeeded.
    pub controls: usize,
    /// What did not go as it should.
    pub problems: Vec<String>,
}

/// Weighs the evidence.
pub fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    let mut problems = Vec::new();
    for name in WORK {
        match find(&evidence.policed, name) {
            Some(Step { status: Some(0), .. }) => verdict.worked += 1,
            Some(step) => problems.push(format!("the agent could not {name}: {:?}", step.output)),
            None => problems.push(format!("the agent never came to {name}")),
        }
    }
    for forbidden in &FORBIDDEN {
        let (name, text) = (forbidden.name, forbidden.text);
        match find(&evidence.controls, name).map(Step::outcome) {
            Some(Outcome::Allowed) => verdict.controls += 1,
            other => problems.push(format!("control outside the tag, {text}: {}", say(other))),
        }
        match find(&evidence.policed, name).map(Step::outcome) {
            Some(Outcome::Refused("EPERM")) => {
                let told = |(by, event): &(By, Event)| {
                    *by == forbidden.by && event.refuses(forbidden.trace, &evidence.base)
                };
                if evidence.events.iter().any(told) {
                    verdict.refused += 1;
                } else {
                    problems.push(format!("{text}: refused, but no event says so"));
                }
            }
            other => problems.push(format!("{text}: {} instead of EPERM", say(other))),
        }
    }
    for (name, outside, inside) in &evidence.heard {
        if *outside == 0 {
            problems.push(format!("the listener {name} was not reached from outside the tag either"));
        }
        if *inside > 0 {
            problems.push(format!("the listener {name} was reached {inside} times from inside"));
        }
    }
    if !evidence.profile_is_intact {
        problems.push("the shell profile was changed".to_owned());
    }
    for (run, status) in ["the agent", "root"].into_iter().zip(evidence.statuses) {
        if status != 0 {
            problems.push(format!("the run of {run} ended with {status}"));
        }
    }
    verdict.problems = problems;
    verdict
}

fn say(outcome: Option<Outcome>) -> String {
    match outcome {
        None => "never tried".to_owned(),
        Some(Outcome::Allowed) => "went through".to_owned(),
        Some(Outcome::Refused(errno)) => format!("refused with {errno}"),
        Some(Outcome::Failed(why)) => format!("failed ({why})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{events, forbidden::Trace};

    fn step(name: &str, reaches: bool, status: i32, output: &str) -> Step {
        let (command, output) = (String::new(), vec![output.to_owned()]);
        Step { name: name.to_owned(), command, reaches, output, status: Some(status) }
    }

    fn event(trace: Trace) -> String {
        let (kind, rest) = match trace {
            Trace::Inside(path) => ("open", format!(r#""file":{{"path":"/d/{path}"}}"#)),
            Trace::File(path) => ("open", format!(r#""file":{{"path":"{path}"}}"#)),
            Trace::Net(address, port) => {
                ("connect", format!(r#""net":{{"address":"{address}","port":{port}}}"#))
            }
            Trace::Socket => ("socket", r#""net":{}"#.to_owned()),
        };
        format!("{{\"kind\":\"{kind}\",\"verdict\":\"denied\",{rest}}}\n")
    }

    fn good() -> Evidence {
        let forbidden =
            |output: &str| FORBIDDEN.map(|f| step(f.name, true, 0, output)).into_iter().collect::<Vec<_>>();
        let mut policed: Vec<_> = WORK.map(|name| step(name, false, 0, "")).into_iter().collect();
        policed.extend(forbidden("denied EPERM"));
        let events = FORBIDDEN.map(|f| (f.by, events::parse(&event(f.trace)).unwrap().remove(0)));
        Evidence {
            controls: forbidden("allowed"),
            policed,
            statuses: [0, 0],
            events: events.into_iter().collect(),
            base: "/d".to_owned(),
            heard: vec![("127.0.0.1:1/tcp".to_owned(), 1, 0)],
            profile_is_intact: true,
        }
    }

    #[test]
    fn what_is_promised_passes() {
        let verdict = judge(&good());
        assert_eq!(verdict.problems, Vec::<String>::new());
        assert_eq!(
            (verdict.worked, verdict.refused, verdict.controls),
            (WORK.len(), FORBIDDEN.len(), FORBIDDEN.len())
        );
    }

    #[test]
    fn an_agent_that_nobody_polices_fails() {
        let mut evidence = good();
        for step in evidence.policed.iter_mut().filter(|step| step.reaches) {
            step.output = vec!["allowed".to_owned()];
        }
        assert_eq!(judge(&evidence).problems.len(), FORBIDDEN.len());
    }

    #[test]
    fn each_thing_that_is_wrong_is_a_problem() {
        let breakages: [fn(&mut Evidence); 11] = [
            |e| e.policed[0].status = Some(1),
            |e| drop(e.policed.remove(3)),
            |e| drop(e.policed.pop()),
            |e| e.policed[WORK.len()].output = vec!["denied EACCES".to_owned()],
            |e| e.policed[WORK.len()].status = None,
            |e| e.controls[0].output = vec!["error ECONNREFUSED".to_owned()],
            |e| e.heard[0].1 = 0,
            |e| e.heard[0].2 = 1,
            |e| e.profile_is_intact = false,
            |e| e.statuses[1] = 3,
            |e| drop(e.events.pop()),
        ];
        for (index, breakage) in breakages.into_iter().enumerate() {
            let mut evidence = good();
            breakage(&mut evidence);
            assert!(!judge(&evidence).problems.is_empty(), "breakage {index}");
        }
    }
}
