//! The .deb as dpkg-deb reads it.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Outcome, Subject,
    expected::{self, Listing},
};
use crate::command;

/// What Debian's packages have and others have not.
pub const ONLY_HERE: [(&str, u32); 2] = [
    ("usr/share/doc/stockade/changelog.Debian.gz", 0o644),
    ("usr/share/zsh/vendor-completions/_stockade", 0o644),
];

fn field(deb: &Path, name: &str) -> Result<String> {
    let value = command::output(Command::new("dpkg-deb").arg("--field").arg(deb).arg(name))?;
    Ok(value.trim().to_owned())
}

pub fn control(subject: &Subject) -> Result<Outcome> {
    let (first, second) = (&subject.first.deb, &subject.second.deb);
    for (name, value) in [("Package", "stockade"), ("Architecture", "amd64"), ("Priority", "optional")] {
        let found = field(first, name)?;
        ensure!(found == value, "{name} is {found:?} instead of {value:?}");
    }
    let depends = field(first, "Depends")?;
    ensure!(depends.contains("libc6 (>= 2."), "Depends is {depends:?}: which C library?");
    let size: u64 = field(first, "Installed-Size")?.parse().context("Installed-Size")?;
    ensure!(size > 1024, "{size} KiB cannot hold the program");
    let (old, new) = (field(first, "Version")?, field(second, "Version")?);
    command::run(Command::new("dpkg").args(["--compare-versions", &new, "gt", &old]))
        .context("the second revision is no upgrade")?;
    Ok(Outcome::Passed)
}

pub fn contents(subject: &Subject) -> Result<Outcome> {
    let listing = command::output(Command::new("dpkg-deb").arg("--contents").arg(&subject.first.deb))?;
    expected::compare(&own(parse(&listing)?), &ONLY_HERE)?;
    Ok(Outcome::Passed)
}

/// `-rwxr-xr-x root/root 123 2026-11-25 09:30 ./usr/bin/stockade`
fn parse(listing: &str) -> Result<Listing> {
    let mut found = Listing::new();
    for line in listing.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [mode, owner, _, _, _, path] = words[..] else { bail!("dpkg-deb printed {line:?}") };
        ensure!(owner == "root/root", "{path} belongs to {owner}");
        found.insert(path.trim_start_matches("./").to_owned(), bits(mode)?);
    }
    Ok(found)
}

/// `rwxr-xr-x` to permission bits; there is nothing special in these packages.
fn bits(mode: &str) -> Result<u32> {
    let mut bits = 0;
    ensure!(mode.len() == 10 && mode.starts_with(['-', 'd']), "{mode:?} is no file or directory");
    for (letter, full) in mode[1..].chars().zip("rwxrwxrwx".chars()) {
        ensure!(letter == full || letter == '-', "{mode:?} is special");
        bits = bits << 1 | u32::from(letter == full);
    }
    Ok(bits)
}

/// Without directories that are the system's. Those must be as the system has them.
pub fn own(mut found: Listing) -> Listing {
    let owned: Vec<String> =
        found.keys().filter(|path| path.ends_with('/') && path.contains("/stockade/")).cloned().collect();
    found.retain(|path, mode| {
        !(path.is_empty() || path.ends_with('/')) || owned.contains(path) || *mode != 0o755
    });
    found
}

pub fn conffiles(subject: &Subject) -> Result<Outcome> {
    let list =
        command::output(Command::new("dpkg-deb").arg("--info").arg(&subject.first.deb).arg("conffiles"))?;
    ensure!(
        list == "/etc/stockade/policies.d/README\n/etc/stockade/stockade.toml\n",
        "the list of configuration is {list:?}"
    );
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read() {
        let found = parse(
            "drwxr-xr-x root/root         0 2026-11-25 09:30 ./\n\
             drwxr-xr-x root/root         0 2026-11-25 09:30 ./usr/\n\
             drwxr-xr-x root/root         0 2026-11-25 09:30 ./etc/stockade/\n\
             -rwxr-x--- root/root        12 2026-11-25 09:30 ./usr/x\n",
        )
        .unwrap();
        assert_eq!(found["usr/x"], 0o750);
        assert_eq!(own(found).into_keys().collect::<Vec<_>>(), ["etc/stockade/", "usr/x"]);
        assert!(parse("-rw-r--r-- me/me 1 2026-11-25 09:30 ./x\n").is_err());
        assert!(parse("-rwsr-xr-x root/root 1 2026-11-25 09:30 ./x\n").is_err());
    }
}
