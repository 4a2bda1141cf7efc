//! What `agent.sh` prints: each step between `@work NAME COMMAND` or `@reach NAME COMMAND` and `@end NAME STATUS`.

/// A step that has ended, or was cut off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// The command line.
    pub command: String,
    /// Whether it reaches for something forbidden.
    pub reaches: bool,
    /// What it printed.
    pub output: Vec<String>,
    /// Exit status; none if the end was never seen.
    pub status: Option<i32>,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It got what it wanted.
    Allowed,
    /// The kernel refused with this errno.
    Refused(&'static str),
    /// Something else went wrong: proves nothing.
    Failed(String),
}

impl Step {
    /// By the last line of what it printed; `attempt` prints `allowed` or `denied ERRNO`, other programs the error's text.
    pub fn outcome(&self) -> Outcome {
        let last = self.output.last().map_or("", String::as_str);
        match (self.status, last) {
            (Some(0), "denied EPERM") => Outcome::Refused("EPERM"),
            (Some(0), "denied EACCES") => Outcome::Refused("EACCES"),
            (Some(0), text) if text.starts_with("error ") || text.starts_with("skipped ") => {
                Outcome::Failed(text.to_owned())
            }
            (Some(0), _) => Outcome::Allowed,
            (Some(_), text) if text.ends_with("Operation not permitted") => Outcome::Refused("EPERM"),
            (Some(_), text) if text.ends_with("Permission denied") => Outcome::Refused("EACCES"),
            (Some(status), text) => Outcome::Failed(format!("status {status}: {text}")),
            (None, _) => Outcome::Failed("it did not end".to_owned()),
        }
    }
}

/// Reads the lines one by one.
#[derive(Debug, Default)]
pub struct Reader {
    current: Option<Step>,
}

impl Reader {
    /// Takes a line; returns the step that it ends.
    pub fn line(&mut self, line: &str) -> Option<Step> {
        let begin = [("@work ", false), ("@reach ", true)]
            .into_iter()
            .find_map(|(prefix, reaches)| Some((line.strip_prefix(prefix)?, reaches)));
        if let Some((rest, reaches)) = begin {
            let (name, command) = rest.split_once(' ').unwrap_or((rest, ""));
            let step =
                Step { name: name.to_owned(), command: command.to_owned(), reaches, ..Step::default() };
            return self.current.replace(step);
        }
        if let Some((name, status)) = line.strip_prefix("@end ").and_then(|rest| rest.split_once(' '))
            && self.current.as_ref().is_some_and(|step| step.name == name)
        {
            let mut step = self.current.take()?;
            step.status = status.parse().ok();
            return Some(step);
        }
        if let Some(step) = &mut self.current
            && !line.is_empty()
        {
            step.output.push(line.to_owned());
        }
        None
    }

    /// The step that was cut off, if there is one.
    pub fn finish(self) -> Option<Step> {
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Vec<Step> {
        let mut reader = Reader::default();
        let mut steps: Vec<_> = text.lines().filter_map(|line| reader.line(line)).collect();
        steps.extend(reader.finish());
        steps
    }

    #[test]
    fn steps_are_read_with_what_they_print() {
        let steps = steps(
            "@work run ./greet\nHello\n\n@end run 0\n@reach key cat k\ncat: k: Operation not permitted\n\n@end key 1\n",
        );
        assert_eq!(steps.len(), 2);
        assert_eq!(
            (steps[0].command.as_str(), steps[0].output.as_slice()),
            ("./greet", &["Hello".into()][..])
        );
        assert_eq!(steps[0].outcome(), Outcome::Allowed);
        assert!(steps[1].reaches);
        assert_eq!(steps[1].outcome(), Outcome::Refused("EPERM"));
    }

    #[test]
    fn what_is_no_refusal_is_not_taken_for_one() {
        let outcome = |text: &str| steps(text)[0].outcome();
        assert_eq!(outcome("@reach tcp a\nallowed\n@end tcp 0\n"), Outcome::Allowed);
        assert_eq!(outcome("@reach tcp a\ndenied EPERM\n@end tcp 0\n"), Outcome::Refused("EPERM"));
        assert!(matches!(outcome("@reach tcp a\nerror ECONNREFUSED\n@end tcp 0\n"), Outcome::Failed(_)));
        assert!(matches!(outcome("@reach key a\ncat: not found\n@end key 127\n"), Outcome::Failed(_)));
        assert!(matches!(outcome("@reach key a\nx: Operation not permitted\n"), Outcome::Failed(_)));
    }
}
