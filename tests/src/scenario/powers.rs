//! `[process]`: what is given to whom, in a run and in a cgroup that the daemon holds.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::batch;
use super::daemon::{Daemon, expect, said_in, text};
use super::fellow::Fellow;

/// What needs a capability that the table of `attempt` can show without changing anything.
const CAPABILITIES: [&str; 9] = [
    "sys_admin",
    "sys_chroot",
    "sys_time",
    "sys_rawio",
    "sys_boot",
    "sys_module",
    "net_admin",
    "sys_nice",
    "sys_resource",
];

fn tried(cgroup: &str, words: &str) -> Result<String, String> {
    // The one that the policy names.
    let attempt = std::env::current_exe().map_err(text)?.with_file_name("attempt");
    said_in(cgroup, &format!("{} {words}", attempt.display()))
}

/// Some system calls make EACCES of a refusal.
fn refused(what: &str, got: Result<String, String>) -> Result<(), String> {
    let got = got.map_err(|why| format!("{what}: {why}"))?;
    if got.starts_with("denied ") { Ok(()) } else { Err(format!("{what}: {got:?}")) }
}

/// Root in a cgroup has all capabilities, and of those only what the policy gives counts.
pub fn capabilities() -> Result<(), String> {
    Daemon::shared("")?;
    for name in CAPABILITIES {
        let words = format!("capability {name}");
        expect(&format!("{name} outside"), tried("elsewhere", &words), "allowed")?;
        refused(&format!("{name} in the tag"), tried("ci/root", &words))?;
    }
    expect("setuid is basic", tried("ci/root", "capability setuid"), "allowed")?;
    let listed: Vec<String> = CAPABILITIES.iter().map(|name| format!("{name:?}")).collect();
    Daemon::shared(&format!("[process]\ncapabilities = [{}]", listed.join(", ")))?;
    for name in CAPABILITIES {
        expect(&format!("{name} given"), tried("ci/root", &format!("capability {name}")), "allowed")?;
    }
    Daemon::shared("")?;
    expect("taken again", tried("ci/root", "capability sys_admin"), "denied EPERM")
}

/// In a user namespace of its own a process has all capabilities, over what is of that namespace.
pub fn user_namespaces() -> Result<(), String> {
    Daemon::shared("")?;
    expect("none by default", tried("ci/root", "user-namespace"), "denied EPERM")?;
    Daemon::shared("[process]\nallow = ['user-namespaces']")?;
    expect("given", tried("ci/root", "user-namespace"), "allowed")?;
    expect("a mount in it", tried("ci/root", "user-namespace-bind"), "denied EPERM")?;
    Daemon::shared("[process]\nallow = ['user-namespaces', 'mounts']")?;
    expect("a mount that is given", tried("ci/root", "user-namespace-bind"), "allowed")?;
    Daemon::shared("")
}

/// What is in the host's IPC namespace is others'; a namespace of one's own is one's own.
pub fn ipc() -> Result<(), String> {
    Daemon::shared("")?;
    let fellow = Fellow::start(0).map_err(text)?;
    let ways = [format!("shared-memory {}", fellow.key), format!("shared-memory-set {}", fellow.segment)];
    for words in ways.iter().map(String::as_str).chain(["own-semaphore"]) {
        expect(&format!("{words} outside"), tried("elsewhere", words), "allowed")?;
        refused(&format!("{words} in the tag"), tried("ci/root", words))?;
    }
    Daemon::shared("[process]\nallow = ['ipc']")?;
    for words in ways.iter().map(String::as_str).chain(["own-semaphore"]) {
        expect(&format!("{words} given"), tried("ci/root", words), "allowed")?;
    }
    Daemon::shared("")
}

/// Signals within a tag go on, whoever sends them; from outside as well.
pub fn signals() -> Result<(), String> {
    Daemon::shared("")?;
    let fellow = Fellow::start(0).map_err(text)?;
    let to_fellow = format!("signal {}", fellow.id());
    expect("to the outside", tried("ci/signals", &to_fellow), "denied EPERM")?;
    expect("within", tried("ci/signals", "own-signals"), "allowed")?;
    expect("none at all", tried("ci/signals", &format!("signal-nothing {}", fellow.id())), "allowed")?;
    Daemon::shared("[process]\ncapabilities = ['sys_admin']")?;
    expect("to itself", tried("ci/signals", "own-file-owner"), "allowed")?;
    Daemon::shared("")?;
    // Of several processes in one scope, in cgroups one below the other.
    let script = "sleep 100 & kill $! && wait $!; echo $?";
    expect("to a neighbour", said_in("ci/signals/below", script), "143")?;
    expect("outside to outside", tried("elsewhere", &to_fellow), "allowed")
}

/// The host's queue of messages, made by this process; it is gone when this is dropped.
struct Queue {
    _descriptor: std::os::fd::OwnedFd,
}

impl Queue {
    const NAME: &std::ffi::CStr = c"stockade-outside";

    fn make() -> Result<Self, String> {
        let flags = libc::O_CREAT | libc::O_RDWR;
        // SAFETY: passes a string that ends with NUL, and takes what the kernel returns.
        let queue = unsafe {
            libc::syscall(libc::SYS_mq_open, Self::NAME.as_ptr(), flags, 0o666, std::ptr::null::<u8>())
        };
        if queue < 0 {
            return Err(text(std::io::Error::last_os_error()));
        }
        // SAFETY: just made, and nobody else's.
        Ok(Self { _descriptor: unsafe { std::os::fd::FromRawFd::from_raw_fd(queue as i32) } })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: passes a string that ends with NUL.
        unsafe { libc::syscall(libc::SYS_mq_unlink, Self::NAME.as_ptr()) };
    }
}

/// Root in a tagged cgroup can reach nothing by which Stockade, or others' cgroups, are governed.
pub fn governed() -> Result<(), String> {
    Daemon::shared("")?;
    let queue = Queue::make()?;
    let pins = "/sys/fs/bpf/outside";
    let cgroup = "/sys/fs/cgroup/elsewhere";
    std::fs::create_dir_all(cgroup).map_err(text)?;
    let pid = Daemon::shared_id()?;
    let attempts = [
        format!("signal {pid}"),
        format!("limit {pid}"),
        format!("write-open /proc/{pid}/oom_score_adj"),
        format!("write-open {}", super::daemon::POLICY),
        format!("write-open {cgroup}/cgroup.procs"),
        format!("write-open {cgroup}/cgroup.kill"),
        format!("write-open {cgroup}/cgroup.freeze"),
        "write-open /sys/fs/cgroup/ci/cgroup.procs".into(),
        "write-open /proc/sys/kernel/core_pattern".into(),
        "write-open /proc/sysrq-trigger".into(),
        "unix-stream /run/stockade/stockade.sock".into(),
        format!("message-queue {}", Queue::NAME.to_string_lossy()),
        format!("rmdir {pins}"),
    ];
    for words in &attempts {
        std::fs::create_dir_all(pins).map_err(text)?;
        refused(&format!("{words} in the tag"), tried("ci/root", words))?;
        expect(&format!("{words} outside"), tried("elsewhere", words), "allowed")?;
    }
    drop(queue);
    Ok(())
}

/// What comes of each line, and what the run says at its end.
fn run(flags: &[&str], lines: &[String]) -> Result<(Vec<String>, String), String> {
    let attempt = batch::attempt().map_err(text)?;
    let mut command = Command::new("stockade");
    command.args(["run", "--workspace", "/lifecycle/work"]).args(flags).arg("--").arg(attempt);
    let pipes = command.args(["--batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.stderr(Stdio::piped()).spawn().map_err(text)?;
    if let Some(mut input) = child.stdin.take() {
        // A refusal to start closes the pipe; its message says more than EPIPE.
        let _ = input.write_all((lines.join("\n") + "\n").as_bytes());
    }
    let output = child.wait_with_output().map_err(text)?;
    let said = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    Ok((said, String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// What a run does with its own processes and namespaces goes on; what is the host's is not there.
pub fn own() -> Result<(), String> {
    let fellow = Fellow::start(0).map_err(text)?;
    let hosts = format!("shared-memory {}", fellow.key);
    let lines = ["own-signals", "own-semaphore", "eventfd", &hosts].map(str::to_owned);
    let (said, told) = run(&[], &lines)?;
    if said != ["allowed", "allowed", "allowed", "error ENOENT"] {
        return Err(format!("{lines:?}: {said:?}: {told}"));
    }
    let (said, told) = run(&["--allow-process", "ipc"], &[hosts])?;
    if said == ["allowed"] { Ok(()) } else { Err(format!("--allow-process ipc: {said:?}: {told}")) }
}

/// What was refused is told with the flag that gives it, and as the schema says.
pub fn told() -> Result<(), String> {
    let file = "/lifecycle/powers.jsonl";
    let fellow = Fellow::start(0).map_err(text)?;
    let cases = [
        ("io_uring-setup".to_owned(), "--allow-process io-uring", "io_uring"),
        (format!("signal {}", fellow.id()), "--allow-process signals", "signal"),
        ("user-namespace".to_owned(), "--allow-process user-namespaces", "user_namespace"),
    ];
    let lines = cases.each_ref().map(|(line, ..)| line.clone());
    let (said, told) = run(&["--events", file], &lines)?;
    let events = std::fs::read_to_string(file).map_err(text)?;
    std::fs::remove_file(file).map_err(text)?;
    for ((line, flag, name), said) in cases.iter().zip(&said) {
        let named = |event: &str| {
            let event: Value = serde_json::from_str(event).unwrap_or_default();
            event["operation"]["name"] == *name && event["verdict"] == "denied"
        };
        if said != "denied EPERM" || !told.contains(flag) || !events.lines().any(named) {
            return Err(format!("{line}: {said}: {told}: {events}"));
        }
    }
    if said.len() != cases.len() {
        return Err(format!("{said:?}: {told}"));
    }
    events.lines().find_map(super::events::complaint).map_or(Ok(()), Err)
}

/// The kernel looks for a filesystem that it has not, and would load a module for it.
pub fn modules() -> Result<(), String> {
    let file = "/lifecycle/modules.jsonl";
    let flags =
        ["--keep-capabilities", "--allow-process", "mounts", "--allow-exec", "/bin/**", "--events", file];
    let mut command = Command::new("stockade");
    command.args(["run", "--workspace", "/lifecycle/work"]).args(flags);
    let words = ["--", "sh", "-c", "mount -t nosuchfs none /lifecycle/work"];
    let output = command.args(words).output().map_err(text)?;
    let lines = std::fs::read_to_string(file).map_err(text)?;
    let named = lines.contains("\"module_request\"") && lines.contains("process modules");
    std::fs::remove_file(file).map_err(text)?;
    if named { Ok(()) } else { Err(format!("{}: {lines}", String::from_utf8_lossy(&output.stderr))) }
}
