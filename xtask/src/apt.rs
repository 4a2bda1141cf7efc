//! Debian packages fetched beside the machine's own apt state: its mirrors, their sister suites, a state folder of ours.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    sources::{self, Form, Mirrors},
};

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
        let mirrors = machine_mirrors()?;
        fs::write(&sources, sources_list(&mirrors)?)?;
        let apt = Self { config, archives: base.join("archives") };
        let stamp = base.join("updated");
        let fresh = fs::metadata(&stamp)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age < MAX_AGE));
        if refresh || !fresh {
            eprintln!("reading package lists");
            // A suite that has gone leaves a warning and the others.
            let _ = apt.command("apt-get").args(["update", "-qq"]).status();
            if apt.names()?.is_empty() {
                bail!("no package list could be read from {}: is it reachable from here?", mirrors.main);
            }
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

/// The machine's Debian mirrors.
fn machine_mirrors() -> Result<Mirrors> {
    let mut paths: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths.insert(0, "/etc/apt/sources.list".into());
    let form = |path: &Path| match path.extension()?.to_str()? {
        "list" => Some(Form::Line),
        "sources" => Some(Form::Deb822),
        _ => None,
    };
    let files: Vec<_> =
        paths.iter().filter_map(|path| Some((form(path)?, fs::read_to_string(path).ok()?))).collect();
    sources::mirrors(&files, |path| fs::read_to_string(path).ok()).context(
        "kernels and roots for guests come from a Debian mirror, and the apt sources of this machine name none: add a line \
         `deb http://MIRROR/debian trixie main` in /etc/apt/sources.list.d/debian.list, with a mirror that you can reach",
    )
}

fn sources_list(mirrors: &Mirrors) -> Result<String> {
    lines(mirrors, &SUITES, &SECURITY_SUITES)
}

/// One suite and its security updates, as lines for apt.
pub fn suite_sources(suite: &str) -> Result<String> {
    lines(&machine_mirrors()?, &[suite], &[&format!("{suite}-security")])
}

/// A release, its backports and security updates, as lines for apt.
pub fn backports_sources(release: &str) -> Result<String> {
    let backports = format!("{release}-backports");
    lines(&machine_mirrors()?, &[release, &backports], &[&format!("{release}-security")])
}

/// Every archive is checked against Debian's own keyring.
fn lines(mirrors: &Mirrors, suites: &[&str], security: &[&str]) -> Result<String> {
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing: install debian-archive-keyring");
    }
    let line = |url: &str, suite: &str| format!("deb [signed-by={KEYRING}] {url} {suite} main\n");
    let main = suites.iter().map(|suite| line(&mirrors.main, suite));
    let security = security.iter().map(|suite| line(&mirrors.security, suite));
    Ok(main.chain(security).collect())
}
