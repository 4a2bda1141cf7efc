//! Debian packages fetched beside the machine's own apt state: its mirrors, their sister suites, a state folder of ours.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Suites that carry kernels of the matrix; one that a mirror does not have is passed over.
const SUITES: [&str; 5] =
    ["bookworm", "bookworm-backports", "trixie", "trixie-backports", "bookworm-updates"];
const SECURITY_SUITES: [&str; 2] = ["bookworm-security", "trixie-security"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// An apt state of our own.
pub struct Apt {
    config: PathBuf,
    archives: PathBuf,
}

impl Apt {
    /// Opens the state, and reads the package lists if they are missing or a week old.
    pub fn open(refresh: bool) -> Result<Self> {
        let base = command::cache()?.join("apt");
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(base.join(folder))?;
        }
        fs::write(base.join("status"), "")?;
        let config = base.join("apt.conf");
        let sources = base.join("sources.list");
        fs::write(
            &config,
            format!(
                "Dir::Etc::sourcelist \"{0}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
                 Dir::Etc::preferencesparts \"/dev/null\";\nDir::State::lists \"{0}/lists\";\n\
                 Dir::State::status \"{0}/status\";\nDir::Cache \"{0}\";\nDir::Cache::archives \"{0}/archives\";\n\
                 Acquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n",
                base.display()
            ),
        )?;
        fs::write(&sources, sources_list(&machine_sources()?)?)?;
        let apt = Self { config, archives: base.join("archives") };
        let stamp = base.join("updated");
        let fresh = fs::metadata(&stamp)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age < MAX_AGE));
        if refresh || !fresh {
            eprintln!("reading package lists");
            // A suite that has gone leaves a warning and the others.
            let _ = apt.command("apt-get").args(["update", "-qq"]).status();
            fs::write(&stamp, "")?;
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).current_dir(&self.archives);
        command
    }

    /// Names of all packages.
    pub fn names(&self) -> Result<BTreeSet<String>> {
        Ok(command::output(self.command("apt-cache").arg("pkgnames"))?.lines().map(str::to_owned).collect())
    }

    /// Downloads a package and unpacks it into `folder`.
    pub fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        command::run(self.command("apt-get").args(["download", "-qq", package]))
            .with_context(|| format!("fetching {package}"))?;
        let prefix = format!("{package}_");
        let deb = fs::read_dir(&self.archives)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
            .with_context(|| format!("{package} was not downloaded"))?;
        command::run(Command::new("dpkg").arg("-x").arg(&deb).arg(folder))?;
        fs::remove_file(deb)?;
        Ok(())
    }
}

/// The machine's Debian mirrors: (main, security).
fn machine_sources() -> Result<(String, String)> {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        for entry in entries.flatten() {
            text.push('\n');
            text.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
        }
    }
    mirrors(&text).with_context(|| {
        format!(
            "no Debian mirror in the apt sources (proxies of apt itself are honoured: {:?})",
            env::var_os("http_proxy")
        )
    })
}

/// Finds the mirrors in the text of apt sources of either form.
fn mirrors(text: &str) -> Option<(String, String)> {
    let urls = || {
        text.lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
            .flat_map(str::split_whitespace)
            .filter(|word| {
                word.starts_with("http") || word.starts_with("mirror+") || word.starts_with("file:")
            })
            .map(|url| url.trim_end_matches('/').to_owned())
    };
    let main = urls().find(|url| url.ends_with("/debian"))?;
    let security =
        urls().find(|url| url.ends_with("debian-security")).unwrap_or_else(|| format!("{main}-security"));
    Some((main, security))
}

fn sources_list((main, security): &(String, String)) -> Result<String> {
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing: install debian-archive-keyring");
    }
    let line = |url: &str, suite: &str| format!("deb [signed-by={KEYRING}] {url} {suite} main\n");
    let main = SUITES.iter().map(|suite| line(main, suite));
    let security = SECURITY_SUITES.iter().map(|suite| line(security, suite));
    Ok(main.chain(security).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_found_in_both_forms() {
        let deb822 = "Types: deb\n# http://old.test/debian\nURIs: http://mirror.test/debian/\nSuites: x\n\n\
                      URIs: http://mirror.test/debian-security\n";
        let expected =
            Some(("http://mirror.test/debian".into(), "http://mirror.test/debian-security".into()));
        assert_eq!(mirrors(deb822), expected);
        let lines = "deb http://mirror.test/debian bookworm main\n";
        assert_eq!(mirrors(lines), expected);
        assert_eq!(mirrors("deb http://other.test/ubuntu noble main"), None);
    }
}
