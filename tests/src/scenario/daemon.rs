//! The daemon without systemd: cgroups tagged as they are made, what starts workloads, its death and its return.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(super) const POLICY: &str = "/etc/stockade/policies.d/ci.toml";
pub(super) const TREE: &str = "/sys/fs/cgroup";
pub(super) const OPEN: &str = "/daemon/open";
pub(super) const SECRET: &str = "/daemon/secret";
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

static SHARED: Mutex<Option<Daemon>> = Mutex::new(None);

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A daemon; it is killed, and all is let go, when this is dropped.
pub(super) struct Daemon(pub(super) Child);

impl Daemon {
    /// Starts one with the policy `ci` for `/ci`.
    pub(super) fn start(more: &str) -> Result<Self, String> {
        Self::end_shared()?;
        prepare(more).map_err(text)?;
        Self::again()
    }

    pub(super) fn again() -> Result<Self, String> {
        Self::with(&[])
    }

    /// One with the policy `ci` for `/ci` that goes on after the scenario: a start takes long, and who only tries what is held needs
    /// none of his own. Cgroups of one scenario are there for the next.
    pub(super) fn shared(more: &str) -> Result<(), String> {
        let mut shared = SHARED.lock().map_err(text)?;
        if shared.is_some() {
            prepare(more).map_err(text)?;
            return stockade(&["policy", "reload"]).map(drop);
        }
        *shared = Some(Self::alone(&[], || prepare(more).map_err(text))?);
        Ok(())
    }

    /// Process id of the one that scenarios share.
    pub(super) fn shared_id() -> Result<u32, String> {
        let shared = SHARED.lock().map_err(text)?;
        shared.as_ref().map(|daemon| daemon.0.id()).ok_or_else(|| "no daemon is shared".into())
    }

    /// Ends the one that scenarios share, if there is one.
    pub(super) fn end_shared() -> Result<(), String> {
        drop(SHARED.lock().map_err(text)?.take());
        Ok(())
    }

    /// Starts one for the policies that are there.
    pub(super) fn with(words: &[&str]) -> Result<Self, String> {
        Self::end_shared()?;
        Self::alone(words, || Ok(()))
    }

    fn alone(words: &[&str], prepare: impl FnOnce() -> Result<(), String>) -> Result<Self, String> {
        prepare()?;
        let mut command = Command::new("stockade");
        let child = command.arg("daemon").args(words).stdin(Stdio::null()).spawn().map_err(text)?;
        let mut daemon = Self(child);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = daemon.0.try_wait().map_err(text)? {
                return Err(format!("the daemon ended with {status}"));
            }
            if stockade(&["status"]).is_ok() {
                return Ok(daemon);
            }
            sleep(Duration::from_millis(100));
        }
        Err("the daemon was not ready in time".into())
    }

    pub(super) fn kill(mut self) -> Result<(), String> {
        self.0.kill().and_then(|()| self.0.wait()).map_err(text)?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if stockade(&["detach", "--all", "--yes"]).is_err() {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
        // The kernel lets go of programs some time after the last pin.
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && said_in("ci/after", &reads(SECRET)).is_ok_and(|said| said != "went") {
            sleep(Duration::from_millis(100));
        }
    }
}

pub(super) fn policy(more: &str) -> String {
    let port = super::listeners::port();
    format!(
        "version = 1\nname = \"ci\"\nextends = [\"base\"]\n[scope]\ncgroups = [\"/ci\"]\n[network]\nallow = \
         [\"127.0.0.1:{port}/tcp\"]\n[files]\nread = [\"{OPEN}\", \"/payload/**\", \"/bin/**\"]\nexec = [\"/bin/**\", \
         \"/payload/**\"]\n{more}\n"
    )
}

pub(super) fn prepare(more: &str) -> io::Result<()> {
    for folder in ["/daemon", "/etc/stockade/policies.d"] {
        fs::create_dir_all(folder)?;
    }
    fs::write(OPEN, "for everybody\n")?;
    fs::write(SECRET, "for nobody\n")?;
    fs::write(POLICY, policy(more))
}

/// Does something while the configuration names a log of events. A daemon that reads it must be started there.
pub(super) fn with_log(log: &str, act: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    const CONFIG: &str = "/etc/stockade/stockade.toml";
    fs::create_dir_all("/etc/stockade").map_err(text)?;
    fs::write(CONFIG, format!("[events]\nlog = \"{log}\"\n")).map_err(text)?;
    let done = act();
    fs::remove_file(CONFIG).map_err(text)?;
    done
}

pub(super) fn stockade(words: &[&str]) -> Result<String, String> {
    let output = Command::new("stockade").args(words).output().map_err(text)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{words:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// A script's line that says `went` or `refused`, by a builtin, so that nothing is executed for it.
pub(super) fn reads(file: &str) -> String {
    format!("if read x < {file}; then echo went; else echo refused; fi 2>/dev/null")
}

/// What a script says that a shell executes once it is in a cgroup.
pub(super) fn said_in(cgroup: &str, script: &str) -> Result<String, String> {
    entering(cgroup, &format!("exec /bin/sh -c '{script}'"))
}

/// What a shell says that is still what started it: it has executed nothing since it entered the cgroup.
pub(super) fn entering(cgroup: &str, script: &str) -> Result<String, String> {
    let folder = format!("{TREE}/{cgroup}");
    fs::create_dir_all(&folder).map_err(|e| format!("{folder}: {e}"))?;
    let script = format!("echo $$ > {folder}/cgroup.procs || exit 9\n{script}");
    let output = Command::new("sh").args(["-c", &script]).output().map_err(text)?;
    let said = String::from_utf8_lossy(&output.stdout).trim().replace('\n', " ");
    Ok(if output.status.success() { said } else { format!("{said}{}", output.status) })
}

pub(super) fn expect(what: &str, got: Result<String, String>, wanted: &str) -> Result<(), String> {
    let got = got.map_err(|why| format!("{what}: {why}"))?;
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?} instead of {wanted:?}")) }
}

/// Removes a cgroup with all below it, in which no process is left.
fn remove(cgroup: &Path) -> io::Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    for below in fs::read_dir(cgroup)? {
        let below = below?;
        if below.file_type()?.is_dir() {
            remove(&below.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Denied, the allowed twin, and the control outside; in a cgroup that is new.
pub(super) fn holds(cgroup: &str) -> Result<(), String> {
    expect("denied", said_in(cgroup, &reads(SECRET)), "refused")?;
    expect("allowed", said_in(cgroup, &reads(OPEN)), "went")?;
    expect("outside", said_in("elsewhere", &reads(SECRET)), "went")
}

/// A cgroup is held to its policy as it is made, and so is what is made in it, whatever it is called.
pub fn at_creation() -> Result<(), String> {
    // An earlier scenario may have left it, and what is there when the daemon starts is not tagged as it is made.
    remove(Path::new(TREE).join("ci").as_path()).map_err(text)?;
    Daemon::shared("")?;
    holds("ci/first")?;
    holds("ci/first/nested")?;
    let status = stockade(&["status", "--json"])?;
    if status.contains("\"at_creation\"") { Ok(()) } else { Err(format!("status: {status}")) }
}

/// `kill -9` changes nothing; a new daemon takes over what the dead one has left.
pub fn killed() -> Result<(), String> {
    let daemon = Daemon::start("")?;
    holds("ci/before")?;
    daemon.kill()?;
    holds("ci/before")?;
    holds("ci/made-while-it-is-dead")?;
    let _daemon = Daemon::again()?;
    holds("ci/before")?;
    holds("ci/after-it-is-back")?;
    let status = stockade(&["status", "--json"])?;
    if status.contains("\"adopted\": null") { Err(format!("nothing was adopted: {status}")) } else { Ok(()) }
}

/// From entering to its first execution a starter is not policed, nor what it forks; from then on all is.
pub fn starter() -> Result<(), String> {
    Daemon::shared("")?;
    let (now, forked) = (reads(SECRET), format!("( {} )", reads(SECRET)));
    expect("a starter", entering("ci/start", &now), "went")?;
    expect("its child", entering("ci/start", &forked), "went")?;
    expect("what it executes", entering("ci/start", &format!("exec /bin/sh -c '{now}'")), "refused")?;
    expect(
        "what its child executes",
        entering("ci/start", &format!("( exec /bin/sh -c '{now}' )")),
        "refused",
    )?;
    // What it executes is judged: nothing below /daemon may be.
    fs::copy("/bin/busybox", "/daemon/sh").map_err(text)?;
    let refused = entering("ci/start", "exec /daemon/sh -c 'echo went' 2>/dev/null")?;
    if refused.contains("went") { Err("it executed what it may not".into()) } else { Ok(()) }
}

/// Who was policed once is no starter again, wherever it moves, with a policy that lets it.
pub fn no_starter_again() -> Result<(), String> {
    Daemon::shared("write = [\"/sys/fs/cgroup/**\"]")?;
    fs::create_dir_all(format!("{TREE}/ci/one/two")).map_err(text)?;
    let script = format!(
        "echo $$ > {TREE}/ci/one/two/cgroup.procs && echo moved; {}; mkdir {TREE}/ci/one/three; echo $$ > \
         {TREE}/ci/one/three/cgroup.procs && echo moved; {}",
        reads(SECRET),
        reads(SECRET)
    );
    expect("after moving itself", said_in("ci/one", &script), "moved refused moved refused")
}

/// A cgroup that a policy says is policed at once lets nobody start anything.
pub fn at_once() -> Result<(), String> {
    Daemon::shared("")?;
    let text_of = policy("").replace("[network]", "start = \"at-once\"\n[network]");
    fs::write(POLICY, text_of).map_err(text)?;
    stockade(&["policy", "reload"])?;
    // Made by the table as any other, and corrected when the daemon has heard of it.
    expect("who enters", entering("ci/once", &reads(SECRET)), "refused")?;
    expect("allowed", entering("ci/once", &reads(OPEN)), "went")
}

/// A workload with mounts of its own waits until they are known, and is then held by what it sees.
pub fn other_mounts() -> Result<(), String> {
    // The program that mounts is executed in the cgroup already.
    let more =
        "write = [\"/daemon/own/**\"]\n[process]\ncapabilities = [\"sys_admin\"]\nallow = [\"mounts\"]";
    let daemon = Daemon::start(more)?;
    fs::create_dir_all("/daemon/own").map_err(text)?;
    let script = format!(
        "mount -t tmpfs none /daemon/own && echo mounted; exec /bin/sh -c '{}; {}; echo x > /daemon/own/f && {}'",
        reads(SECRET),
        reads(OPEN),
        reads("/daemon/own/f")
    );
    let inside = |cgroup: &str| -> Result<String, String> {
        let folder = format!("{TREE}/{cgroup}");
        fs::create_dir_all(&folder).map_err(text)?;
        let script = format!("echo $$ > {folder}/cgroup.procs || exit 9\n{script}");
        let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().map_err(text)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().replace('\n', " "))
    };
    expect("with mounts of its own", inside("ci/mounts"), "mounted refused went went")?;
    expect("once more", inside("ci/mounts"), "mounted refused went went")?;
    // Nobody is there who could know: it does not run.
    daemon.kill()?;
    let folder = format!("{TREE}/ci/waiting");
    fs::create_dir_all(&folder).map_err(text)?;
    let waits = format!("echo $$ > {folder}/cgroup.procs; exec /bin/sh -c 'echo ran'");
    let mut waiting = Command::new("unshare")
        .args(["-m", "sh", "-c", &waits])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let state = || -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", waiting.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    };
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && state() != Some('T') {
        sleep(Duration::from_millis(50));
    }
    let stopped = state() == Some('T');
    let _daemon = Daemon::again()?;
    let mut said = String::new();
    if let Some(out) = waiting.stdout.as_mut() {
        out.read_to_string(&mut said).map_err(text)?;
    }
    waiting.wait().map_err(text)?;
    match (stopped, said.trim()) {
        (true, "ran") => Ok(()),
        (stopped, said) => Err(format!("without a daemon: stopped {stopped}, and said {said:?}")),
    }
}

/// A comparison tells where another policy differs, and changes nothing.
pub fn shadow() -> Result<(), String> {
    Daemon::shared("")?;
    let other = "/daemon/ci.toml";
    fs::write(other, policy("").replace(OPEN, SECRET)).map_err(text)?;
    stockade(&["policy", "apply", "--shadow", other])?;
    holds("ci/compared")?;
    let found = stockade(&["policy", "shadow", "ci"])?;
    for difference in [
        "open /daemon/open read\n          active: allowed",
        "open /daemon/secret read\n          active: denied",
    ] {
        if !found.contains(difference) {
            return Err(format!("no {difference:?} in {found}"));
        }
    }
    stockade(&["policy", "shadow", "ci", "--end"])?;
    if stockade(&["policy", "shadow", "ci"]).is_ok() {
        return Err("the comparison goes on after its end".into());
    }
    holds("ci/compared-no-more")
}

/// A mode that is set by hand is what the file says again after a reload, though no rule has changed.
pub fn mode() -> Result<(), String> {
    Daemon::shared("")?;
    holds("ci/mode")?;
    stockade(&["policy", "mode", "ci", "audit"])?;
    expect("in audit mode", said_in("ci/mode", &reads(SECRET)), "went")?;
    stockade(&["policy", "reload"])?;
    holds("ci/mode")
}

/// Whatever is wrong with policies, pins or the place of another daemon: an error, and all as before.
pub fn bad_input() -> Result<(), String> {
    let daemon = Daemon::start("")?;
    fs::write(POLICY, "version = 1\nnonsense = 1\n").map_err(text)?;
    let refused = stockade(&["policy", "reload"]).err().ok_or("a broken policy was taken")?;
    if !refused.contains("nonsense") {
        return Err(refused);
    }
    holds("ci/broken-policy")?;
    let second = Command::new("stockade").arg("daemon").output().map_err(text)?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    if second.status.success() || !said.contains("daemon") {
        return Err(format!("a second daemon: {}: {said}", second.status));
    }
    holds("ci/second-daemon")?;
    daemon.kill()?;
    // What the dead one left holds on, and so it does under a new one that cannot read the policy.
    let daemon = Daemon::again()?;
    holds("ci/broken-at-start")?;
    daemon.kill()?;
    let maps = Path::new("/sys/fs/bpf/stockade/daemon-v1/maps");
    fs::rename(maps.join("TAGS"), maps.join("STRANGER")).map_err(text)?;
    fs::write(POLICY, policy("")).map_err(text)?;
    let foreign = Command::new("stockade").arg("daemon").output().map_err(text)?;
    let said = String::from_utf8_lossy(&foreign.stderr).into_owned();
    fs::rename(maps.join("STRANGER"), maps.join("TAGS")).map_err(text)?;
    if foreign.status.success() || !said.contains("STRANGER") {
        return Err(format!("a foreign pin: {}: {said}", foreign.status));
    }
    holds("ci/foreign-pin")?;
    let _daemon = Daemon::again()?;
    holds("ci/again")
}
