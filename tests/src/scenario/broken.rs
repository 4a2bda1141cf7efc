//! What a daemon holds that starts with broken policies, as after a boot: nothing is pinned.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use super::daemon::{
    Daemon, OPEN, POLICY, entering, expect, holds, policy, prepare, reads, said_in, stockade, text,
};

const OTHER: &str = "/etc/stockade/policies.d/other.toml";
const KEPT: &str = "/var/lib/stockade/policies/last-good.json";
const BROKEN: &str = "version = 1\nnonsense = 1\n";

fn has(text: &str, parts: &[&str]) -> Result<(), String> {
    match parts.iter().find(|part| !text.contains(**part)) {
        None => Ok(()),
        Some(part) => Err(format!("no {part:?} in {text}")),
    }
}

fn metrics() -> std::io::Result<String> {
    let mut socket = UnixStream::connect("/run/stockade/stockade.sock")?;
    socket.write_all(b"GET /v1/metrics HTTP/1.1\r\nHost: stockade\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

fn missing(path: &str) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{path}: {error}")),
        _ => Ok(()),
    }
}

/// Starts a daemon that must not come up; what it says.
fn refused() -> Result<String, String> {
    let output = Command::new("stockade").arg("daemon").output().map_err(text)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(2) { Ok(said) } else { Err(format!("{}: {said}", output.status)) }
}

/// The last policies that were right are in force as a whole, and all say so, until the files are right again.
pub fn last_good() -> Result<(), String> {
    let daemon = Daemon::start("")?;
    holds("ci/right")?;
    drop(daemon);
    fs::write(POLICY, BROKEN).map_err(text)?;
    let daemon = Daemon::again()?;
    holds("ci/broken-at-boot")?;
    has(
        &stockade(&["status"])?,
        &["POLICIES ARE BROKEN since", "the last policies that were right", "nonsense"],
    )?;
    has(&metrics().map_err(text)?, &["stockade_policies_broken 1", "source=\"last_good\""])?;
    has(&stockade(&["events", "--format", "json"])?, &["\"policies_broken\""])?;
    has(&stockade(&["policy", "reload"]).err().unwrap_or_default(), &["nonsense"])?;
    holds("ci/broken-and-reloaded")?;
    // With pins the same.
    daemon.kill()?;
    let daemon = Daemon::again()?;
    holds("ci/broken-and-killed")?;
    has(&stockade(&["status"])?, &["the last policies that were right"])?;
    drop(daemon);
    // One taken away on purpose, while another is broken: nothing is let go that may have been meant to be held.
    missing(POLICY)?;
    fs::write(OTHER, BROKEN).map_err(text)?;
    let _daemon = Daemon::again()?;
    holds("ci/gone-beside-a-broken-one")?;
    missing(OTHER)?;
    fs::write(POLICY, policy("")).map_err(text)?;
    stockade(&["policy", "reload"])?;
    holds("ci/right-again")?;
    let status = stockade(&["status"])?;
    if status.contains("BROKEN") { Err(status) } else { Ok(()) }
}

/// Where nothing was kept, what can be read of the files is held: a policy that says for whom it is allows nothing.
pub fn readable() -> Result<(), String> {
    prepare("").map_err(text)?;
    missing(KEPT)?;
    fs::write(POLICY, policy("").replace("read = [", "raed = [")).map_err(text)?;
    let daemon = Daemon::again()?;
    let said = said_in("ci/nothing-allowed", &reads(OPEN))?;
    expect("outside", said_in("elsewhere", &reads(OPEN)), "went")?;
    has(&stockade(&["status"])?, &["what can be read of them", "nothing is allowed by ci", "raed"])?;
    if said.contains("went") {
        return Err(format!("it was executed: {said}"));
    }
    fs::write(POLICY, policy("")).map_err(text)?;
    stockade(&["policy", "reload"])?;
    holds("ci/right-again")?;
    drop(daemon);
    // Not even that can be read: nothing is held, and nobody is told otherwise.
    missing(KEPT)?;
    fs::write(POLICY, "version = 1\n[scope]\ncgroups = [\"/ci\"\n").map_err(text)?;
    has(&refused()?, &["ci.toml", "does not say whom it is for", "last-good.json"])?;
    expect("nothing is held", entering("ci/unheld", &reads(OPEN)), "went")
}

/// What is not what was written is not used, and named.
pub fn damaged() -> Result<(), String> {
    drop(Daemon::start("")?);
    fs::write(POLICY, "version = 1\n[scope]\ncgroups = [\"/ci\"\n").map_err(text)?;
    let whole = fs::read_to_string(KEPT).map_err(text)?;
    for (what, changed, says) in [
        ("cut", whole[..whole.len() / 2].to_owned(), "is damaged"),
        ("changed", whole.replace("/payload/**", "/**"), "its digest is not"),
        ("of another version", whole.replace("\"format\":1", "\"format\":9"), "has format 9"),
    ] {
        fs::write(KEPT, changed).map_err(text)?;
        has(&refused().map_err(|why| format!("{what}: {why}"))?, &["last-good.json", says])?;
    }
    fs::write(KEPT, whole).map_err(text)?;
    let _daemon = Daemon::again()?;
    holds("ci/whole-again")
}

/// Policies that cannot be kept are enforced, and it is said that they are not kept.
pub fn read_only() -> Result<(), String> {
    let state = "/var/lib/stockade";
    fs::create_dir_all(state).map_err(text)?;
    let mount = |words: &[&str]| Command::new("mount").args(words).status().map_err(text);
    mount(&["-t", "tmpfs", "-o", "ro", "none", state])?;
    let held = Daemon::start("").and_then(|daemon| {
        holds("ci/read-only")?;
        has(&stockade(&["status"])?, &["NOT KEPT: ", "Read-only"])?;
        // What is kept may be older than what the kernel is held to.
        daemon.kill()?;
        fs::write(POLICY, BROKEN).map_err(text)?;
        let _daemon = Daemon::again()?;
        has(&stockade(&["status"])?, &["what an earlier daemon has left"])?;
        holds("ci/read-only-and-broken")
    });
    Command::new("umount").arg(state).status().map_err(text)?;
    held
}
