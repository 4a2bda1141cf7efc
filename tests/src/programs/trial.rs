//! Running a program where nothing holds it, and held to a policy.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::exec::{Checked, attempt, limited, text, until};
use super::network::NAMESERVER;
use super::offers::file;

/// Who runs programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// An ordinary user.
    User,
    /// Root, with all its capabilities.
    Root,
}

const UID: u32 = 1000;
/// The user's home.
pub const HOME: &str = "/home/user";
const STOCKADE: &str = "/payload/stockade";
const POLICY: &str = "/srv/programs.toml";
const WORK: &str = "/srv/work";
/// Files are not what this is about.
const POLICY_TEXT: &str = r#"version = 1
name = "programs"
[files]
lift = ["git-hooks", "git-config"]
read = ["/**"]
exec = ["/**"]
write = ["${home}/**", "/tmp/**"]
"#;

/// A daemon, which ends with this value: with it a run starts at once, as on a host where it is installed.
#[derive(Debug)]
pub struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the daemon, whose gate asks our name server.
pub fn daemon() -> Checked<Daemon> {
    file(POLICY, POLICY_TEXT)?;
    file("/etc/stockade/stockade.toml", &format!("[dns]\nupstream = [\"{NAMESERVER}\"]\n"))?;
    fs::create_dir_all("/etc/stockade/policies.d").map_err(|e| e.to_string())?;
    let log = fs::File::create("/srv/daemon.log").map_err(|e| e.to_string())?;
    let child =
        Command::new(STOCKADE).arg("daemon").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    let daemon = Daemon(child.map_err(|e| format!("starting the daemon: {e}"))?);
    let up = until(300, "the daemon is ready", || {
        Ok(attempt(&[STOCKADE, "status"])?.status.success().then_some(()))
    });
    up.map_err(|e| format!("{e}: {}", fs::read_to_string("/srv/daemon.log").unwrap_or_default()))?;
    Ok(daemon)
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status; 124 if it took too long.
    pub status: i32,
    /// What it printed.
    pub printed: String,
    /// All it said.
    pub said: String,
    /// How long it took.
    pub took: Duration,
    /// What was told of it meanwhile.
    pub events: Vec<Value>,
    folder: String,
}

impl Outcome {
    /// Whether there is a file, in the folder that it ran in.
    pub fn made(&self, path: &str) -> bool {
        fs::exists(format!("{}/{path}", self.folder)).unwrap_or(false)
    }

    /// Whether the gate refused a name.
    pub fn refused(&self, name: &str) -> bool {
        self.events
            .iter()
            .any(|event| event["kind"] == "dns" && event["outcome"] == "refused" && event["name"] == name)
    }

    /// What the policy denied, for an error.
    pub fn denied(&self) -> String {
        let denied = self.events.iter().filter(|event| event["verdict"] == "denied");
        let words = |event: &Value| {
            let fields = ["kind", "outcome", "name", "path", "address", "port", "reason"];
            let fields = fields.iter().filter(|key| !event[**key].is_null());
            fields.map(|key| format!("{} ", event[*key])).collect::<String>()
        };
        denied.map(words).collect::<Vec<_>>().join("; ")
    }
}

/// A folder of its own for a trial, with what `prepare` puts there.
fn folder(who: Who, prepare: &str) -> Checked<String> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let folder = format!("{WORK}/{}", NUMBER.fetch_add(1, Ordering::SeqCst));
    fs::create_dir_all(&folder).map_err(|e| format!("{folder}: {e}"))?;
    if who == Who::User {
        chown(&folder, Some(UID), Some(UID)).map_err(|e| format!("{folder}: {e}"))?;
    }
    if !prepare.is_empty() {
        let made = line(&mut limited(&[]), who, &folder, prepare)?;
        if made.status != 0 {
            return Err(format!("preparing: {}: {}", made.status, made.said));
        }
    }
    Ok(folder)
}

/// Runs a line of shell where nothing holds it.
pub fn free(who: Who, prepare: &str, words: &str) -> Checked<Outcome> {
    let folder = folder(who, prepare)?;
    line(&mut limited(&[]), who, &folder, words)
}

fn line(command: &mut Command, who: Who, folder: &str, words: &str) -> Checked<Outcome> {
    if who == Who::User {
        command.uid(UID).gid(UID);
    }
    finish(command.args(["sh", "-c", words]), who, folder)
}

/// Runs it held to rules on destinations.
pub fn held(who: Who, prepare: &str, rules: &[&str], words: &str) -> Checked<Outcome> {
    let folder = folder(who, prepare)?;
    let events = format!("{folder}.events");
    let mut command = limited(&[STOCKADE, "run", "--daemon=always", "--policy", POLICY]);
    command.args(["--workspace", &folder, "--events", &events]);
    match who {
        Who::User => command.args(["--user", "user"]),
        Who::Root => command.args(["--keep-capabilities", "--allow-write=/**"]),
    };
    for rule in rules {
        command.args(["--allow-net", rule]);
    }
    let mut outcome = finish(command.args(["--", "sh", "-c", words]), who, &folder)?;
    let told = fs::read_to_string(&events).unwrap_or_default();
    outcome.events = told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    Ok(outcome)
}

fn finish(command: &mut Command, who: Who, folder: &str) -> Checked<Outcome> {
    command.env_clear().current_dir(folder);
    command.env("HOME", if who == Who::User { HOME } else { "/root" });
    command.env("PATH", "/usr/local/bin:/usr/bin:/usr/sbin").env("LANG", "C.UTF-8").stdin(Stdio::null());
    let start = Instant::now();
    let output = command.output().map_err(|e| format!("starting {command:?}: {e}"))?;
    Ok(Outcome {
        status: output.status.code().unwrap_or(-1),
        printed: text(&output.stdout),
        said: format!("{} {}", text(&output.stdout), text(&output.stderr)),
        took: start.elapsed(),
        events: Vec::new(),
        folder: folder.to_owned(),
    })
}
