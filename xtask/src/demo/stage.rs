//! Where the demo happens: a temporary directory with a home, a workspace, a repository and the agent, and a network
//! namespace of its own. Nothing of the machine is changed, and everything is gone at the end.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt as _, chown},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{forbidden::By, servers};
use crate::command;

const AGENT: &str = include_str!("agent.sh");
/// The policy that the reader is shown.
pub const POLICY: &str = include_str!("demo.toml");
/// The shell profile before anybody reaches for it.
const PROFILE: &str = "umask 022\n";
/// Files of the repository that is cloned.
const REPOSITORY: [(&str, u32, &str); 2] = [
    ("greeting.txt", 0o644, "Hello, world!\n"),
    (
        "build.sh",
        0o755,
        "#!/bin/sh\n# Makes ./greet out of greeting.txt.\nset -e\nread -r text < greeting.txt\n\
         printf '#!/bin/sh\\necho \"%s\"\\n' \"$text\" > greet\nchmod +x greet\necho \"built ./greet\"\n",
    ),
];

/// The machine's git.
#[derive(Debug, Clone)]
pub struct Git {
    /// Its real file.
    pub program: PathBuf,
    /// The one that git itself runs.
    pub inner: PathBuf,
    /// Its server.
    pub daemon: PathBuf,
    /// Folder of its parts.
    exec_path: PathBuf,
}

impl Git {
    /// Finds it; there may be several, and each has its own parts.
    pub fn find() -> Result<Self> {
        let program = command::which("git").context("git is missing")?;
        let exec_path = PathBuf::from(command::output(Command::new(&program).arg("--exec-path"))?.trim());
        let daemon = exec_path.join("git-daemon");
        if !daemon.is_file() {
            bail!("{} is missing: install the part of git that brings `git daemon`", daemon.display());
        }
        let real = |path: &Path| fs::canonicalize(path).with_context(|| path.display().to_string());
        Ok(Self { program: real(&program)?, inner: real(&exec_path.join("git"))?, daemon, exec_path })
    }

    /// An environment in which only the demo's own configuration counts.
    pub fn environment(&self, home: &Path) -> Vec<(String, String)> {
        let folder = self.program.parent().unwrap_or(Path::new("/usr/bin"));
        [
            ("PATH", format!("{}:/usr/bin:/bin", folder.display())),
            ("HOME", home.display().to_string()),
            ("GIT_EXEC_PATH", self.exec_path.display().to_string()),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_TEMPLATE_DIR", String::new()),
            ("LC_ALL", "C".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Name, for Stockade and the reader.
    pub name: String,
    uid: u32,
    gid: u32,
}

/// Who called sudo, else `nobody`.
fn person(passwd: &str, sudo_uid: Option<&str>) -> Option<Person> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
        let wanted = match sudo_uid {
            Some(id) if id != "0" => uid == id,
            _ => name == "nobody",
        };
        wanted
            .then(|| Some(Person { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? }))?
    })
}

/// Everything that is set up; dropping it removes the directory.
#[derive(Debug)]
pub struct Stage {
    folder: tempfile::TempDir,
    /// Where it is, without symbolic links.
    pub base: PathBuf,
    /// Who the agent is.
    pub person: Person,
    /// The machine's git.
    pub git: Git,
    programs: PathBuf,
}

impl Stage {
    /// Sets everything up but the servers.
    pub fn build(programs: &Path) -> Result<Self> {
        own_network()?;
        let passwd = fs::read_to_string("/etc/passwd")?;
        let person = person(&passwd, env::var("SUDO_UID").ok().as_deref())
            .context("there is neither the user who called sudo nor `nobody` in /etc/passwd")?;
        let folder = tempfile::Builder::new().prefix("stockade-demo-").tempdir()?;
        let base = fs::canonicalize(folder.path())?;
        let git = Git::find()?;
        let stage = Self { folder, base, person, git, programs: programs.to_path_buf() };
        fs::set_permissions(stage.folder.path(), fs::Permissions::from_mode(0o755))?;
        for name in ["home", "home/.ssh", "work", "control"] {
            fs::create_dir(stage.path(name))?;
            stage.give(name, 0o700)?;
        }
        stage.file("home/.ssh/id_ed25519", 0o600, "the demo's private key\n")?;
        stage.give("home/.ssh/id_ed25519", 0o600)?;
        stage.reset_profile()?;
        stage.file("agent.sh", 0o755, AGENT)?;
        stage.file("demo.toml", 0o644, POLICY)?;
        fs::copy(programs.join("attempt"), stage.path("attempt"))
            .with_context(|| format!("copying attempt from {}", programs.display()))?;
        stage.repository()?;
        Ok(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    fn file(&self, name: &str, mode: u32, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// To the agent's user, so that no permission bit is what refuses.
    fn give(&self, name: &str, mode: u32) -> Result<()> {
        let path = self.path(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        chown(&path, Some(self.person.uid), Some(self.person.gid))
            .with_context(|| format!("giving {} to {}", path.display(), self.person.name))
    }

    /// The shell profile as it was.
    pub fn reset_profile(&self) -> Result<()> {
        self.file("home/.profile", 0o644, PROFILE)?;
        self.give("home/.profile", 0o644)
    }

    /// Whether the shell profile is as it was.
    pub fn profile_is_intact(&self) -> bool {
        fs::read_to_string(self.path("home/.profile")).is_ok_and(|text| text == PROFILE)
    }

    fn repository(&self) -> Result<()> {
        fs::create_dir_all(self.path("server/greeter"))?;
        for (name, mode, text) in REPOSITORY {
            self.file(&format!("server/greeter/{name}"), mode, text)?;
        }
        for words in ["init --quiet --initial-branch=main", "add .", "commit --quiet --message=Greet"] {
            command::run(
                Command::new(&self.git.program)
                    .args(["-c", "user.name=demo", "-c", "user.email=demo@example.org"])
                    .args(words.split(' '))
                    .current_dir(self.path("server/greeter"))
                    .env_clear()
                    .envs(self.git.environment(&self.path("server"))),
            )?;
        }
        Ok(())
    }

    /// Starts the git server.
    pub fn serve(&self) -> Result<()> {
        servers::git(&self.git, &self.path("server"))
    }

    /// The events file of a run.
    pub fn events(&self, by: By) -> PathBuf {
        self.path(if by == By::Agent { "agent.jsonl" } else { "root.jsonl" })
    }

    fn environment(&self, command: &mut Command, workspace: &Path) {
        command
            .env_clear()
            .envs(self.git.environment(&self.path("home")))
            .env("DEMO_HOME", self.path("home"))
            .env("DEMO_WORKSPACE", workspace)
            .env("DEMO_SERVER", servers::GIT)
            .env("DEMO_ATTEMPT", self.path("attempt"))
            .current_dir(workspace);
    }

    /// `agent.sh` without Stockade.
    pub fn outside(&self, by: By, workspace: &str, parts: &[&str]) -> Command {
        let mut command = Command::new(self.path("agent.sh"));
        command.args(parts);
        self.environment(&mut command, &self.path(workspace));
        if by == By::Agent {
            command.uid(self.person.uid).gid(self.person.gid);
        }
        command
    }

    /// `agent.sh` under Stockade, and the words of that command line.
    pub fn policed(&self, by: By, parts: &[&str]) -> (Command, Vec<String>) {
        let path = |name: &str| self.path(name).display().to_string();
        let mut words = vec!["run".to_owned()];
        let mut flag = |name: &str, value: String| words.extend([name.to_owned(), value]);
        flag("--policy", path("demo.toml"));
        flag("--workspace", path("work"));
        flag("--allow-net", format!("{}/tcp", servers::GIT));
        flag("--allow-exec", self.git.program.display().to_string());
        if self.git.inner != self.git.program {
            flag("--allow-exec", self.git.inner.display().to_string());
        }
        flag("--allow-exec", path("attempt"));
        flag("--events", self.events(by).display().to_string());
        flag("--user", if by == By::Agent { self.person.name.clone() } else { "root".to_owned() });
        if by == By::Root {
            words.push("--keep-capabilities".to_owned());
        }
        words.extend(["--".to_owned(), path("agent.sh")]);
        words.extend(parts.iter().map(|part| (*part).to_owned()));
        let mut command = Command::new(self.programs.join("stockade"));
        command.args(&words);
        self.environment(&mut command, &self.path("work"));
        (command, words)
    }
}

/// Brings up loopback and the metadata address; refuses to do so in the machine's own network.
fn own_network() -> Result<()> {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
    let ours = namespace("self").context("reading /proc/self/ns/net")?;
    let machine = namespace("1").context("reading /proc/1/ns/net: this part of the demo needs root")?;
    if ours == machine {
        bail!("this part of the demo runs in a network namespace of its own only");
    }
    for words in ["link set lo up", "addr add 169.254.169.254/32 dev lo"] {
        command::run(ip()?.args(words.split(' ')))?;
    }
    Ok(())
}

/// iproute2's, or busybox's.
fn ip() -> Result<Command> {
    if let Some(ip) = command::which("ip") {
        return Ok(Command::new(ip));
    }
    let busybox = command::which("busybox").context("neither ip (iproute2) nor busybox is installed")?;
    let mut command = Command::new(busybox);
    command.arg("ip");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_who_called_sudo_or_nobody() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        let name = |sudo| person(passwd, sudo).map(|person| (person.name, person.uid, person.gid));
        assert_eq!(name(Some("1000")), Some(("ann".into(), 1000, 1001)));
        assert_eq!(name(None), Some(("nobody".into(), 65534, 65534)));
        assert_eq!(name(Some("0")), name(None));
        assert_eq!(name(Some("7")), None);
    }
}
