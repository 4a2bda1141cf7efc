//! The lines that scenarios print, which `cargo xtask test` counts.

/// What one scenario came to.
#[derive(Debug)]
pub enum Verdict {
    /// It held.
    Ok,
    /// It did not, and why.
    Fail(String),
    /// It cannot be tried here, and why.
    Skip(String),
}

/// Counts of what was reported.
#[derive(Debug, Default)]
pub struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    /// Prints one scenario's line and counts it.
    pub fn report(&mut self, name: &str, verdict: Verdict) {
        match verdict {
            Verdict::Ok => {
                self.passed += 1;
                println!("ok {name}");
            }
            Verdict::Fail(why) => {
                self.failed += 1;
                println!("FAIL {name}: {}", why.replace('\n', " | "));
            }
            Verdict::Skip(reason) => {
                self.skipped += 1;
                println!("skip {name}: {reason}");
            }
        }
    }

    /// Prints the counts; true if some passed and none failed.
    pub fn finish(&self) -> bool {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        self.failed == 0 && self.passed > 0
    }
}
