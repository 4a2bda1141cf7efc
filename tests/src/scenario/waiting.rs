//! Workloads that stand before their first instruction, since nobody knows yet what they may do: who lets them go, and what
//! becomes of them if it is somebody else.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::daemon::{
    Daemon, OPEN, PATIENCE, POLICY, SECRET, TREE, expect, holds, policy, prepare, reads, said_in, stockade,
    text, with_log,
};

/// Where a workload has a filesystem of its own.
const OWN: &str = "/daemon/own";

/// A process with mounts of its own that enters a cgroup and executes something there; it is killed when this is dropped.
struct Workload(Child);

impl Workload {
    /// `before` is done outside the cgroup.
    fn start(before: &str, cgroup: &str, executes: &str) -> Result<Self, String> {
        let folder = format!("{TREE}/{cgroup}");
        fs::create_dir_all(&folder).map_err(|e| format!("{folder}: {e}"))?;
        let script = format!("{before}\necho $$ > {folder}/cgroup.procs || exit 9\nexec {executes}");
        let mut unshare = Command::new("unshare");
        unshare.args(["-m", "sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        unshare.spawn().map(Self).map_err(text)
    }

    /// Its state, as `/proc` has it.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Waits until it stands.
    fn stands(&self) -> Result<(), String> {
        until("a workload stands", || Ok(self.state() == Some('T')))
    }

    /// Continues it, as anybody might who may send it signals.
    fn go_on(&self) -> Result<(), String> {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGCONT).map_err(text)
    }

    /// What it says until its end, and how it ends unless that is well.
    fn said(mut self) -> Result<String, String> {
        let mut said = String::new();
        if let Some(out) = self.0.stdout.as_mut() {
            out.read_to_string(&mut said).map_err(text)?;
        }
        let status = self.0.wait().map_err(text)?;
        let said = said.trim().replace('\n', " ");
        Ok(if status.success() { said } else { format!("{said} {status}").trim().to_owned() })
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if holds()? {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    Err(format!("{what}: not within {} s", PATIENCE.as_secs()))
}

/// A shell that says which of these it could read.
fn shell(files: &[&str]) -> String {
    let script: Vec<String> = files.iter().map(|file| reads(file)).collect();
    format!("/bin/sh -c '{}'", script.join("; "))
}

/// Events of a kind that the daemon has told of.
fn told(kind: &str) -> Result<Vec<String>, String> {
    let kind = format!("\"kind\":\"{kind}\"");
    let events = stockade(&["events", "--format", "json"])?;
    Ok(events.lines().filter(|line| line.replace(": ", ":").contains(&kind)).map(str::to_owned).collect())
}

/// What no rule lets be executed is killed before it runs where the kernel cannot judge it.
pub fn refused() -> Result<(), String> {
    Daemon::shared("")?;
    fs::copy("/bin/busybox", "/daemon/sh").map_err(text)?;
    let run = |cgroup: &str, program: &str| {
        Workload::start("", cgroup, &format!("{program} -c 'echo ran'"))?.said()
    };
    expect("what may not be executed", run("ci/refused", "/daemon/sh"), "signal: 9 (SIGKILL)")?;
    expect("what may", run("ci/refused", "/bin/sh"), "ran")?;
    expect("outside", run("elsewhere", "/daemon/sh"), "ran")?;
    let told = told("start_refused")?;
    if told.iter().any(|event| event.contains("/daemon/sh")) {
        Ok(())
    } else {
        Err(format!("told: {told:?}"))
    }
}

/// Without a daemon somebody continues what stands: it runs under what the kernel knows, to which its own filesystem is
/// unknown. When a daemon is back it is ended, since nobody has judged it.
pub fn continued() -> Result<(), String> {
    let daemon = Daemon::start(&format!("write = [\"{OWN}/**\"]"))?;
    fs::create_dir_all(OWN).map_err(text)?;
    holds("ci/before")?;
    daemon.kill()?;
    let own = format!("{OWN}/file");
    let mount = format!("mount -t tmpfs none {OWN} && echo > {own}");
    let workload = Workload::start(&mount, "ci/continued", &shell(&[SECRET, OPEN, &own]))?;
    workload.stands()?;
    workload.go_on()?;
    expect("continued", workload.said(), "refused went refused")?;
    let lingers = Workload::start("", "ci/lingers", "/bin/sh -c 'echo ran; read x; echo to its end'")?;
    lingers.stands()?;
    lingers.go_on()?;
    let _daemon = Daemon::again()?;
    expect("continued, and met by a daemon", lingers.said(), "ran signal: 9 (SIGKILL)")?;
    let told = told("start_refused")?;
    if !told.iter().any(|event| event.contains("somebody else")) {
        return Err(format!("told: {told:?}"));
    }
    holds("ci/after")
}

/// The same where it is not known whose the cgroup is: nothing is allowed then.
pub fn continued_undecided() -> Result<(), String> {
    prepare("").map_err(text)?;
    let rule = "containers = [{ runtime = \"docker\", name = \"job-*\" }]";
    fs::write(POLICY, policy("").replace("cgroups = [\"/ci\"]", rule)).map_err(text)?;
    let daemon = Daemon::again()?;
    daemon.kill()?;
    let container = format!("docker/{}", "0123456789abcdef".repeat(4));
    // Not even what a refusal could be thrown away to.
    let script = shell(&[SECRET, OPEN]).replace(" 2>/dev/null", "");
    let workload = Workload::start("", &container, &script)?;
    workload.stands()?;
    workload.go_on()?;
    let said = workload.said();
    let control = Workload::start("", "elsewhere", &script)?.said();
    let _daemon = Daemon::again()?;
    expect("continued", said, "refused refused")?;
    expect("outside", control, "went went")
}

/// With a broken policy the daemon starts over what is pinned, and what stands goes on standing until the policy is right.
pub fn broken_policy() -> Result<(), String> {
    let daemon = Daemon::start("")?;
    holds("ci/before")?;
    daemon.kill()?;
    // Nothing that an earlier daemon has kept may take the place of the file.
    let _ = fs::remove_dir_all("/var/lib/stockade");
    fs::write(POLICY, "version = 1\n[scope\n").map_err(text)?;
    let _daemon = Daemon::again()?;
    let workload = Workload::start("", "ci/broken", &shell(&[SECRET, OPEN]))?;
    workload.stands()?;
    holds("ci/meanwhile")?;
    // The daemon has looked at it some times by then.
    sleep(Duration::from_secs(4));
    if workload.state() != Some('T') {
        return Err(format!("it goes on with a broken policy: {:?}", workload.state()));
    }
    fs::write(POLICY, policy("")).map_err(text)?;
    stockade(&["policy", "reload"])?;
    expect("with the policy put right", workload.said(), "refused went")
}

/// Where the daemon writes its events while records are lost.
const LOG: &str = "/run/lost-events.jsonl";

/// Stopped for as long as this lives.
struct Stopped(Pid);

impl Stopped {
    fn new(daemon: &Daemon) -> Result<Self, String> {
        let pid = Pid::from_raw(daemon.0.id() as i32);
        kill(pid, Signal::SIGSTOP).map(|()| Self(pid)).map_err(text)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The ring is full of denials that nobody reads: decisions are as ever, and the start and the cgroup whose records were lost
/// are found all the same.
pub fn lost_records() -> Result<(), String> {
    with_log(LOG, lose_records)
}

fn lose_records() -> Result<(), String> {
    prepare("").map_err(text)?;
    fs::write(POLICY, policy("").replace("\"/ci\"", "\"/lost-*\"")).map_err(text)?;
    let daemon = Daemon::again()?;
    let deep = vec!["d".repeat(200); 18].join("/");
    let deep = format!("/daemon/{deep}");
    fs::create_dir_all(&deep).map_err(text)?;
    let file = format!("{deep}/file");
    fs::write(&file, "").map_err(text)?;
    let flood = format!(
        "i=0; while [ $i -lt 2000 ]; do read x < {file} && echo went; i=$((i+1)); done 2>/dev/null; {}; {}",
        reads(SECRET),
        reads(OPEN)
    );
    let stopped = Stopped::new(&daemon)?;
    expect("with the ring full", said_in("lost-1/flood", &flood), "refused went")?;
    let workload = Workload::start("", "lost-2/late", &shell(&[SECRET, OPEN]))?;
    workload.stands()?;
    drop(stopped);
    expect("whose start was lost", workload.said(), "refused went")?;
    until("the lost cgroup is told of", || Ok(stockade(&["status", "--json"])?.contains("/lost-2")))?;
    // In the log, since among the last events it may be past already: all that was in the ring comes behind it.
    let gap = "\"kind\":\"gap\"";
    until("a gap is told of", || {
        Ok(fs::read_to_string(LOG).map_err(text)?.replace(": ", ":").contains(gap))
    })?;
    holds("lost-2/after")
}
