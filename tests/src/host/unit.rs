//! Units of systemd.

use std::fs;

use super::exec::{Checked, run, until};
use super::probe::{self, Report};

/// A service that runs the workload; it ends with its value.
#[derive(Debug)]
pub struct Workload {
    /// The unit.
    pub unit: String,
    /// What the workload says.
    pub report: Report,
}

impl Workload {
    /// Starts `UNIT` in a slice; `more` are further lines of its `[Service]`.
    pub fn start(unit: &str, slice: &str, rounds: Option<u64>, more: &str) -> Checked<Self> {
        let report = Report::new(unit)?;
        let text = format!(
            "[Unit]\nDescription=Workload\n[Service]\nType=exec\nSlice={slice}\nExecStart={}\nStandardOutput=append:{}\n{more}\n",
            probe::words(rounds).join(" "),
            report.file()
        );
        write(unit, &text)?;
        let workload = Self { unit: unit.to_owned(), report };
        run(&["systemctl", "start", unit])?;
        Ok(workload)
    }

    /// Waits until a workload with a number of rounds is through.
    pub fn finish(&self) -> Checked {
        until(60, &format!("{} ends", self.unit), || {
            let state = property(&self.unit, "ActiveState")?;
            Ok((state == "inactive" || state == "failed").then_some(()))
        })
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = run(&["systemctl", "stop", &self.unit]);
        let _ = run(&["systemctl", "reset-failed", &self.unit]);
        let _ = fs::remove_file(format!("/run/systemd/system/{}", self.unit));
    }
}

/// Writes a unit that is gone with the next boot, and has systemd read it.
pub fn write(unit: &str, text: &str) -> Checked {
    let file = format!("/run/systemd/system/{unit}");
    fs::write(&file, text).map_err(|e| format!("{file}: {e}"))?;
    run(&["systemctl", "daemon-reload"]).map(drop)
}

/// A property of a unit.
pub fn property(unit: &str, name: &str) -> Checked<String> {
    run(&["systemctl", "show", "--value", "--property", name, unit]).map(|value| value.trim().to_owned())
}
