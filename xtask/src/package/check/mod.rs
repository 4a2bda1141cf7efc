//! What the packages must be, tried on packages: they are built, read back and installed below a scratch directory.

mod deb;
mod expected;
mod install;
mod rpm;
mod scripts;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{Packages, Sources, release::Release};
use crate::{build, setup};

/// What a check came to, if it did not fail.
enum Outcome {
    Passed,
    /// Nothing was checked, and why.
    Skipped(String),
}

/// Packages to check: of the revisions 1 and 2, and of revision 1 once more.
struct Subject {
    first: Packages,
    second: Packages,
    again: Packages,
    agent: PathBuf,
}

type Check = fn(&Subject) -> Result<Outcome>;

/// Each is a test named `package_NAME`.
const CHECKS: [(&str, Check); 10] = [
    ("package_is_the_same_when_built_again", same),
    ("package_deb_says_what_it_is_and_needs", deb::control),
    ("package_deb_holds_what_is_expected", deb::contents),
    ("package_deb_knows_its_configuration", deb::conffiles),
    ("package_deb_installs_upgrades_and_purges", install::life),
    ("package_rpm_holds_what_the_deb_does", rpm::contents),
    ("package_rpm_says_what_it_is_and_needs", rpm::metadata),
    ("package_scripts_are_plain_sh", scripts::shell),
    ("package_units_are_understood_by_systemd", scripts::units),
    ("package_examples_are_policies", scripts::examples),
];

/// Runs those whose name contains `filter`; returns how many passed, failed and were skipped.
pub fn all(filter: Option<&str>) -> Result<(usize, usize, usize)> {
    let checks: Vec<_> =
        CHECKS.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter))).collect();
    if checks.is_empty() {
        return Ok((0, 0, 0));
    }
    setup::ensure_package()?;
    let scratch = tempfile::tempdir()?;
    let subject = Subject::build(&scratch)?;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, check) in checks {
        match check(&subject) {
            Ok(Outcome::Passed) => {
                passed += 1;
                println!("ok {name}");
            }
            Ok(Outcome::Skipped(why)) => {
                skipped += 1;
                println!("skip {name}: {why}");
            }
            Err(error) => {
                failed += 1;
                println!("FAIL {name}: {error:#}");
            }
        }
    }
    Ok((passed, failed, skipped))
}

impl Subject {
    fn build(scratch: &tempfile::TempDir) -> Result<Self> {
        let agent = build::all()?;
        let packages = |name: &str, revision| {
            let release = Release::current(revision)?;
            Sources::collect(&agent, &release)?.write(&release, &scratch.path().join(name))
        };
        let (first, second, again) = (packages("first", 1)?, packages("second", 2)?, packages("again", 1)?);
        Ok(Self { first, second, again, agent })
    }
}

fn same(subject: &Subject) -> Result<Outcome> {
    for (one, other) in [(&subject.first.deb, &subject.again.deb), (&subject.first.rpm, &subject.again.rpm)] {
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("reading {}", path.display()));
        if read(one)? != read(other)? {
            bail!("{} and {} differ", one.display(), other.display());
        }
    }
    Ok(Outcome::Passed)
}
