//! Policing that must last: in nested cgroups, and after the death of `stockade run`.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// A policed shell that says its pid and waits for a line before it reaches for the secret.
struct Waiting {
    run: Child,
    pid: String,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

fn start(script: &str) -> io::Result<Waiting> {
    let script = format!("echo $$; read go; {script}");
    let mut run = Command::new("stockade")
        .args(["run", "--workspace", "/lifecycle/work", "--allow-read=/proc/**", "--", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (Some(input), Some(output)) = (run.stdin.take(), run.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let mut output = BufReader::new(output);
    let mut pid = String::new();
    output.read_line(&mut pid)?;
    Ok(Waiting { run, pid: pid.trim().to_owned(), input, output })
}

/// A process moved into a child cgroup made after the start is still policed.
pub fn nested_cgroup() -> Result<(), String> {
    let printed = nested().map_err(|e| e.to_string())?;
    if printed.contains("/nested") && !printed.contains("content") { Ok(()) } else { Err(printed) }
}

fn nested() -> io::Result<String> {
    let mut waiting = start("cat /proc/self/cgroup; cat /lifecycle/secret")?;
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", waiting.pid))?;
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let nested = format!("/sys/fs/cgroup{path}/nested");
    fs::create_dir(&nested)?;
    fs::write(format!("{nested}/cgroup.procs"), &waiting.pid)?;
    waiting.input.write_all(b"go\n")?;
    let mut printed = String::new();
    waiting.output.read_to_string(&mut printed)?;
    waiting.run.wait()?;
    Ok(printed)
}

/// What outlives a killed `stockade run` is policed still: a grandchild in a session of its own, which dies with nobody.
pub fn killed() -> Result<(), String> {
    let (alive, leaked) = kill_nine().map_err(|e| e.to_string())?;
    match (alive, leaked) {
        (_, true) => Err("a survivor read the secret".into()),
        (false, false) => Err("nothing survived: this proves nothing".into()),
        (true, false) => Ok(()),
    }
}

fn kill_nine() -> io::Result<(bool, bool)> {
    let script = "setsid sh -c 'echo > /lifecycle/work/born; while [ ! -e /lifecycle/work/go ]; do sleep 1; done; \
                  read x < /lifecycle/secret && echo $x > /lifecycle/work/leaked; echo > /lifecycle/work/alive' \
                  > /dev/null 2>&1 & sleep 100";
    let mut waiting = start(script)?;
    waiting.input.write_all(b"go\n")?;
    appears("/lifecycle/work/born")?;
    waiting.run.kill()?;
    waiting.run.wait()?;
    fs::write("/lifecycle/work/go", "")?;
    let alive = appears("/lifecycle/work/alive")?;
    Ok((alive, fs::exists("/lifecycle/work/leaked")?))
}

fn appears(path: &str) -> io::Result<bool> {
    for _ in 0..100 {
        if fs::exists(path)? {
            return Ok(true);
        }
        sleep(Duration::from_millis(100));
    }
    Ok(false)
}

/// Pins and cgroup of a killed run go with the next one, and those of a live one stay.
pub fn cleared() -> Result<(), String> {
    let (before, after) = clear().map_err(|e| e.to_string())?;
    if before == 2 && after == 1 { Ok(()) } else { Err(format!("{before} pinned runs, then {after}")) }
}

fn clear() -> io::Result<(usize, usize)> {
    let pinned = || fs::read_dir("/sys/fs/bpf/stockade").map(Iterator::count);
    let mut dead = start("true")?;
    dead.run.kill()?;
    dead.run.wait()?;
    // The command is killed with it, and leaves the cgroup empty.
    while fs::exists(format!("/proc/{}", dead.pid))? {
        sleep(Duration::from_millis(50));
    }
    let mut live = start("true")?;
    // That has cleared what earlier runs left; one more dies, so that there is one of each.
    let mut dead = start("true")?;
    dead.run.kill()?;
    dead.run.wait()?;
    sleep(Duration::from_millis(500));
    let before = pinned()?;
    Command::new("stockade").args(["run", "--", "true"]).stderr(Stdio::null()).status()?;
    let after = pinned()?;
    live.input.write_all(b"go\n")?;
    live.run.wait()?;
    Ok((before, after))
}
