//! The .deb's life below a scratch directory: dpkg itself, with the real maintainer scripts. They see from DPKG_ROOT that they
//! are not to touch the running system.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Outcome, Subject,
    deb::{ONLY_HERE, own},
    expected::{self, Listing},
};
use crate::command;

const CONFIG: &str = "etc/stockade/stockade.toml";
const ENABLED: &str = "etc/systemd/system/basic.target.wants/stockade.service";
/// Where programs of the system keep what is theirs: dpkg, deb-systemd-helper, and the lists of accounts.
const THEIRS: [&str; 6] =
    ["var/lib/dpkg/", "var/lib/systemd/", "etc/systemd/", "etc/.pwd.lock", "etc/group", "etc/gshadow"];

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Result<Self> {
        let root = Self(tempfile::tempdir()?);
        for folder in ["var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/dpkg/triggers", "etc"] {
            fs::create_dir_all(root.path(folder))?;
        }
        fs::write(root.path("var/lib/dpkg/status"), "")?;
        fs::write(root.path("etc/group"), "root:x:0:\n")?;
        Ok(root)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn dpkg(&self, words: &[&str], deb: Option<&Path>) -> Result<String> {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", self.0.path().display()));
        // There are no other packages, and the machine's settings may leave out documentation.
        dpkg.args(["--force-depends", "--force-script-chrootless", "--path-include=*"]);
        dpkg.arg(format!("--log={}", self.path("var/lib/dpkg/log").display()));
        let path = std::env::var("PATH").unwrap_or_default();
        dpkg.env("PATH", format!("{path}:/usr/sbin:/sbin")).args(words).args(deb);
        let output = dpkg.output().context("starting dpkg")?;
        ensure!(
            output.status.success(),
            "dpkg {} ended with {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// All files below, but for [`THEIRS`].
    fn listing(&self) -> Result<Listing> {
        let mut found = Listing::new();
        walk(self.0.path(), "", &mut found)?;
        found.retain(|path, _| !THEIRS.iter().any(|theirs| path.starts_with(theirs)));
        Ok(found)
    }

    fn has_group(&self) -> Result<bool> {
        Ok(fs::read_to_string(self.path("etc/group"))?.lines().any(|line| line.starts_with("stockade:")))
    }
}

fn walk(folder: &Path, name: &str, found: &mut Listing) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.path().symlink_metadata()?;
        let mut path = format!("{name}{}", entry.file_name().to_string_lossy());
        if metadata.is_dir() {
            path.push('/');
            walk(&entry.path(), &path, found)?;
        }
        found.insert(path, metadata.permissions().mode() & 0o7777);
    }
    Ok(())
}

pub fn life(subject: &Subject) -> Result<Outcome> {
    for program in ["systemd-sysusers", "deb-systemd-helper", "groupdel"] {
        if command::which(program).is_none() {
            return Ok(Outcome::Skipped(format!("the scripts need {program}, which this machine lacks")));
        }
    }
    if !command::is_root() {
        return Ok(Outcome::Skipped("dpkg and the scripts need root's rights".into()));
    }
    let root = Root::new()?;
    let before = root.listing()?;
    installed(&root, subject).context("installing")?;
    upgraded(&root, subject).context("upgrading")?;
    removed(&root).context("removing")?;

    fs::create_dir_all(root.path("var/lib/stockade/x"))?;
    fs::create_dir_all(root.path("var/log/stockade"))?;
    fs::write(root.path("var/log/stockade/events.jsonl"), "")?;
    root.dpkg(&["--purge", "stockade"], None).context("purging")?;
    let mut after = root.listing()?;
    // On a host it is another package's.
    after.remove("var/log/");
    ensure!(after == before, "purging leaves {after:?}, and there was {before:?}");
    ensure!(!root.has_group()?, "purging leaves the group");
    ensure!(!root.path(ENABLED).is_symlink(), "purging leaves the unit enabled");
    Ok(Outcome::Passed)
}

fn installed(root: &Root, subject: &Subject) -> Result<()> {
    root.dpkg(&["--install"], Some(&subject.first.deb))?;
    expected::compare(&own(root.listing()?), &ONLY_HERE)?;
    ensure!(root.has_group()?, "there is no group stockade");
    ensure!(root.path(ENABLED).is_symlink(), "the unit is not enabled");
    let changed = root.dpkg(&["--verify", "stockade"], None)?;
    ensure!(changed.is_empty(), "dpkg finds changed: {changed}");
    Ok(())
}

fn upgraded(root: &Root, subject: &Subject) -> Result<()> {
    fs::write(root.path(CONFIG), "# mine\n")?;
    fs::write(root.path("etc/stockade/policies.d/mine.toml"), "version = 1\n")?;
    root.dpkg(&["--install"], Some(&subject.second.deb))?;
    let status = fs::read_to_string(root.path("var/lib/dpkg/status"))?;
    let version = format!("Version: {}-2\n", env!("CARGO_PKG_VERSION"));
    ensure!(status.contains(&version), "dpkg does not know the second revision: {status}");
    ensure!(fs::read_to_string(root.path(CONFIG))? == "# mine\n", "the configuration was replaced");
    ensure!(root.path(ENABLED).is_symlink(), "the unit is no longer enabled");
    Ok(())
}

fn removed(root: &Root) -> Result<()> {
    root.dpkg(&["--remove", "stockade"], None)?;
    let left: Vec<_> = root.listing()?.into_keys().filter(|path| !path.ends_with('/')).collect();
    ensure!(
        left == [
            "etc/stockade/policies.d/README",
            "etc/stockade/policies.d/mine.toml",
            "etc/stockade/stockade.toml"
        ],
        "removing leaves {left:?}"
    );
    Ok(())
}
