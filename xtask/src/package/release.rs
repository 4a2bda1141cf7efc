//! Which version it is, and when it was made.

use std::{env, process::Command};

use anyhow::{Context as _, Result};

use crate::command;

/// A version, the number of this package of it, and the date that everything in it bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Of the agent.
    pub version: &'static str,
    /// Of the package.
    pub revision: u32,
    /// Seconds since 1970: SOURCE_DATE_EPOCH, else the last commit's.
    pub date: u32,
}

impl Release {
    /// Of this checkout.
    pub fn current(revision: u32) -> Result<Self> {
        let date = match env::var("SOURCE_DATE_EPOCH") {
            Ok(date) => date,
            Err(_) => command::output(Command::new("git").current_dir(command::root()).args([
                "log",
                "-1",
                "--format=%ct",
            ]))
            .context("asking git for the date of the last commit; without git set SOURCE_DATE_EPOCH")?,
        };
        Ok(Self { version: env!("CARGO_PKG_VERSION"), revision, date: seconds(&date)? })
    }

    /// As package managers compare it: `0.1.0-1`.
    pub fn full(&self) -> String {
        format!("{}-{}", self.version, self.revision)
    }

    /// As Debian's changelogs have it.
    pub fn rfc2822(&self) -> Result<String> {
        let date = command::output(
            Command::new("date")
                .env("LC_ALL", "C")
                .args(["--utc", "+%a, %d %b %Y %H:%M:%S +0000"])
                .arg(format!("--date=@{}", self.date)),
        )?;
        Ok(date.trim().to_owned())
    }
}

fn seconds(date: &str) -> Result<u32> {
    date.trim().parse().with_context(|| format!("{:?} is no number of seconds since 1970", date.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(revision: u32) -> Release {
        Release { version: "0.1.0", revision, date: 1_600_000_000 }
    }

    #[test]
    fn a_higher_revision_is_a_higher_version() {
        assert_eq!((release(1).full(), release(2).full()), ("0.1.0-1".into(), "0.1.0-2".into()));
    }

    #[test]
    fn dates_are_utc_and_english() {
        assert_eq!(release(1).rfc2822().unwrap(), "Sun, 13 Sep 2020 12:26:40 +0000");
    }

    #[test]
    fn what_is_no_date_is_refused_by_its_text() {
        assert_eq!(seconds("1600000000\n").unwrap(), 1_600_000_000);
        for bad in ["", "yesterday", "-1", "99999999999"] {
            assert!(format!("{:#}", seconds(bad).unwrap_err()).contains(bad), "{bad}");
        }
    }
}
