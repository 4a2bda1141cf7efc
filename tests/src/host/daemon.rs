//! The package and the daemon, brought to where a scenario needs them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use super::exec::{Checked, attempt, ensure, run, said, text, until};
use super::removal;
use super::unit::property;

/// The daemon's unit.
pub const UNIT: &str = "stockade.service";
/// Where policies are.
pub const POLICIES: &str = "/etc/stockade/policies.d";
/// Where its pins are.
pub const PINS: &str = "/sys/fs/bpf/stockade";
/// Where its API is.
pub const SOCKET: &str = "/run/stockade/stockade.sock";
/// What it keeps between starts.
pub const STATE: &str = "/var/lib/stockade";
pub const PACKAGE: &str = "/payload/stockade.deb";
/// The same, built once more, with a higher version.
pub const NEXT_PACKAGE: &str = "/payload/stockade-next.deb";

/// The policy of the slice `ci.slice`: the workload may do what is allowed, and nothing else.
pub const CI: (&str, &str) = (
    "ci.toml",
    r#"version = 1
name = "ci"
[scope]
slices = ["ci.slice"]
[network]
allow = ["127.0.0.1:7001/tcp"]
[files]
read = ["/srv/probe/open"]
exec = ["/srv/probe/host"]
"#,
);

/// The daemon runs and holds to exactly these policies.
pub fn ready(policies: &[(&str, &str)]) -> Checked {
    install()?;
    place(policies)?;
    if is_active()? { reload() } else { start() }
}

/// Installs the package unless it is.
pub fn install() -> Checked {
    // A second try takes as long as the first, and ends like it.
    static FAILED: OnceLock<String> = OnceLock::new();
    if let Some(why) = FAILED.get() {
        return Err(why.clone());
    }
    let state = attempt(&["dpkg-query", "--show", "--showformat=${db:Status-Status}", "stockade"])?;
    if text(&state.stdout) == "installed" {
        return Ok(());
    }
    let installed = if Path::new(PACKAGE).exists() {
        removal::remember().and_then(|()| run(&["dpkg", "--install", PACKAGE]).map(drop))
    } else {
        Err("there is no package: run `cargo xtask package`".to_owned())
    };
    installed.map_err(|why| FAILED.get_or_init(|| format!("installing: {why}")).clone())
}

/// Writes policies in place of those that are there.
pub fn place(policies: &[(&str, &str)]) -> Checked {
    let place = || -> std::io::Result<()> {
        for entry in fs::read_dir(POLICIES)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "toml") {
                fs::remove_file(entry.path())?;
            }
        }
        policies.iter().try_for_each(|(name, text)| fs::write(format!("{POLICIES}/{name}"), text))
    };
    place().map_err(|e| format!("writing policies into {POLICIES}: {e}"))
}

/// Whether the daemon runs.
pub fn is_active() -> Checked<bool> {
    Ok(property(UNIT, "ActiveState")? == "active")
}

/// Starts it, and returns when it has said that it is ready.
pub fn start() -> Checked {
    run(&["systemctl", "start", UNIT]).map(drop).map_err(|e| format!("{e}: {}", log()))
}

/// Has it read its policies again.
pub fn reload() -> Checked {
    run(&["systemctl", "reload", UNIT]).map(drop).map_err(|e| format!("{e}: {}", log()))
}

/// Has it read its policies again by a request of our own, which takes no process of the guest's time.
pub fn reload_by_request() -> Checked {
    let ask = || -> std::io::Result<String> {
        let mut socket = UnixStream::connect(SOCKET)?;
        socket.write_all(b"POST /v1/reload HTTP/1.1\r\nHost: stockade\r\nContent-Length: 0\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|e| format!("{SOCKET}: {e}"))?;
    ensure(answer.starts_with("HTTP/1.1 200"), || answer.clone())
}

/// Waits until another daemon than `before` answers, which has taken over what that one has left.
pub fn another(before: &str) -> Checked {
    until(120, "another daemon", || {
        // In this order: the one before may end between the two questions.
        let pid = property(UNIT, "MainPID")?;
        Ok((pid != "0" && pid != before && is_active()?).then_some(()))
    })
    .map_err(|e| format!("{e}: {}", log()))?;
    let adopted = status()?["adopted"].clone();
    ensure(adopted.as_u64().is_some_and(|count| count > 0), || format!("nothing was taken over: {adopted}"))
}

/// Kills it, and leaves it dead until the returned value is gone.
pub fn kill() -> Checked<Dead> {
    let folder = format!("/run/systemd/system/{UNIT}.d");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(format!("{folder}/dead.conf"), "[Service]\nRestart=no\n"))
        .map_err(|e| format!("{folder}: {e}"))?;
    let dead = Dead { folder };
    run(&["systemctl", "daemon-reload"])?;
    run(&["kill", "-9", &pid()?])?;
    until(30, "the daemon is dead", || Ok((!is_active()?).then_some(())))?;
    Ok(dead)
}

/// A daemon that was killed: systemd doesn't start it again.
#[derive(Debug)]
pub struct Dead {
    folder: String,
}

impl Drop for Dead {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        let _ = run(&["systemctl", "daemon-reload"]);
        let _ = run(&["systemctl", "reset-failed", UNIT]);
        let _ = run(&["systemctl", "start", UNIT]);
    }
}

/// Its process id.
pub fn pid() -> Checked<String> {
    let pid = property(UNIT, "MainPID")?;
    if pid == "0" { Err(format!("the daemon does not run: {}", log())) } else { Ok(pid) }
}

/// What `stockade status --json` says.
pub fn status() -> Checked<Value> {
    let words = ["stockade", "status", "--json"];
    let output = attempt(&words)?;
    serde_json::from_slice(&output.stdout).map_err(|e| format!("{e}: {}", said(&words, &output)))
}

/// What it says of one scope.
pub fn scope(name: &str) -> Checked<Value> {
    let status = status()?;
    let scopes = status["scopes"].as_array().into_iter().flatten();
    scopes
        .clone()
        .find(|scope| scope["name"] == name)
        .cloned()
        .ok_or_else(|| format!("no scope {name}: {status}"))
}

/// Waits until a scope holds a cgroup whose path contains `part`.
pub fn tagged(name: &str, part: &str) -> Checked {
    until(30, &format!("{part} is held to {name}"), || {
        let scope = scope(name)?;
        let mut cgroups = scope["cgroups"].as_array().into_iter().flatten();
        let held = cgroups.any(|cgroup| cgroup["path"].as_str().is_some_and(|path| path.contains(part)));
        Ok(held.then_some(()))
    })
}

/// The end of its journal, on one line.
pub fn log() -> String {
    let _ = attempt(&["journalctl", "--sync"]);
    let words = ["journalctl", "--no-pager", "--quiet", "--lines=8", "--output=cat", "--unit", UNIT];
    attempt(&words).map_or_else(|e| e, |output| text(&output.stdout))
}

/// What it has logged since `marker`, which [`mark`] returned.
pub fn log_since(marker: &str) -> Checked<String> {
    run(&["journalctl", "--sync"])?;
    // Not `--unit`: if the marked entry is another unit's, the first of this one is passed over.
    let entries = run(&["journalctl", "--no-pager", "--quiet", "--output=json", "--after-cursor", marker])?;
    let entries = entries.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own = entries.filter(|entry| entry["_SYSTEMD_UNIT"] == UNIT);
    let lines: Vec<String> = own.filter_map(|entry| entry["MESSAGE"].as_str().map(str::to_owned)).collect();
    Ok(lines.join("\n"))
}

/// The last denials it has told of, for an error.
pub fn denied() -> String {
    let said = attempt(&["stockade", "events", "--denied", "--format", "json"]);
    let said = said.map_or_else(|e| e, |output| text(&output.stdout));
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(3)..].join(" ")
}

/// Where the journal ends now.
pub fn mark() -> Checked<String> {
    let shown = run(&["journalctl", "--no-pager", "--quiet", "--lines=1", "--show-cursor"])?;
    let cursor = shown.lines().find_map(|line| line.strip_prefix("-- cursor: "));
    cursor.map(str::to_owned).ok_or_else(|| format!("no cursor: {shown}"))
}
