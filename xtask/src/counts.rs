//! Counting what passed, failed and was skipped, from the lines that test programs print.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

/// What failed, to be said again at the end: there may be hours and thousands of lines in between.
static FAILED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note_failure(line: String) {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner).push(line);
}

/// Prints all that failed once more.
pub fn repeat_failures() {
    for line in FAILED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{line}");
    }
}

/// What became of the tests.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Held.
    pub passed: usize,
    /// Did not hold.
    pub failed: usize,
    /// Could not be tried here.
    pub skipped: usize,
}

impl Counts {
    /// Adds those of another part.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
pub fn cargo_line(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        rest.split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
            .unwrap_or(0)
    };
    Some(Counts { passed: number("passed"), failed: number("failed"), skipped: number("ignored") })
}

/// Takes note of a test of cargo's that failed: `test NAME ... FAILED`.
pub fn note_cargo_line(line: &str) {
    if line.starts_with("test ") && line.ends_with(" ... FAILED") {
        note_failure(line.to_owned());
    }
}

/// `3 passed, 0 failed, 1 skipped`
fn scenarios_line(line: &str) -> Option<Counts> {
    let mut numbers = line
        .trim()
        .split(", ")
        .zip(["passed", "failed", "skipped"])
        .map(|(part, word)| part.strip_suffix(word)?.trim().parse().ok());
    let counts = Counts { passed: numbers.next()??, failed: numbers.next()??, skipped: numbers.next()?? };
    Some(counts)
}

/// What the lines of single scenarios say, for a guest that did not come to its line of counts.
fn tallied(text: &str) -> Counts {
    let count = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
    Counts { passed: count("ok "), failed: count("FAIL "), skipped: count("skip ") }
}

/// Prints what it keeps, but for the guest's own line of counts: there is one such line, at the end.
#[derive(Default)]
pub struct Tee {
    kept: Vec<u8>,
    /// Before each line, where guests run side by side.
    prefix: String,
}

impl Tee {
    /// For a guest that is not alone.
    pub fn named(guest: &str) -> Self {
        Self { kept: Vec::new(), prefix: format!("[{guest}] ") }
    }

    /// What a guest that ended with `status` counted. One that failed without a failed test counts as a failure.
    pub fn counts(&self, guest: &str, status: u8) -> Counts {
        let text = String::from_utf8_lossy(&self.kept);
        let whole = text.lines().rev().find_map(scenarios_line);
        let mut counts = whole.unwrap_or_else(|| tallied(&text));
        let unexplained = counts.failed == 0 && (status != 0 || counts.passed == 0);
        if whole.is_none() || unexplained {
            let line =
                format!("FAIL {guest}: the scenarios ended with {status} after {} passed", counts.passed);
            println!("{line}");
            note_failure(line);
            counts.failed += 1;
        }
        counts
    }
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut seen = self.kept.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        self.kept.extend_from_slice(bytes);
        while let Some(length) = self.kept[seen..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.kept[seen..seen + length]).into_owned();
            match scenarios_line(&line) {
                Some(_) => println!("{}in this guest: {line}", self.prefix),
                None => {
                    let line = format!("{}{line}", self.prefix);
                    println!("{line}");
                    if line[self.prefix.len()..].starts_with("FAIL ") {
                        note_failure(line);
                    }
                }
            }
            seen += length + 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(cargo_line(line), Some(Counts { passed: 3, failed: 1, skipped: 2 }));
        assert_eq!(
            scenarios_line("12 passed, 0 failed, 3 skipped"),
            Some(Counts { passed: 12, failed: 0, skipped: 3 })
        );
        assert_eq!(scenarios_line("ok 12 passed"), None);
    }

    #[test]
    fn a_guest_that_was_cut_off_keeps_what_it_counted_and_fails() {
        let mut tee = Tee::named("6.1");
        tee.write_all(b"ok file_read\nFAIL file_write: allowed\nskip sctp: no module\nok net").unwrap();
        assert_eq!(tee.counts("6.1", 124), Counts { passed: 2, failed: 2, skipped: 1 });
    }
}
