//! Starts that fail, policies that are gone, hosts that lack something: what is held then, and what is not.

use std::fs;
use std::process::{Command, Output};

use super::daemon::{
    Daemon, OPEN, POLICY, SECRET, TREE, expect, holds, policy, prepare, reads, said_in, stockade, text,
};

/// A policy for what is tagged by hand: the secret may be read there, and nothing else is.
const BY_HAND: &str = "/etc/stockade/policies.d/hand.toml";

/// A daemon that is not expected to stay.
fn daemon(words: &[&str]) -> Result<(Option<i32>, String), String> {
    let started: Result<Output, _> = Command::new("stockade").arg("daemon").args(words).output();
    let output = started.map_err(text)?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn ends(what: &str, words: &[&str], code: i32, said: &str) -> Result<(), String> {
    match daemon(words)? {
        (Some(ended), message) if ended == code && message.contains(said) => Ok(()),
        (ended, message) => Err(format!("{what}: {ended:?} instead of {code}, {said:?} in {message:?}")),
    }
}

/// Whose policy file is gone is let go, at a reload and at a start.
pub fn file_gone() -> Result<(), String> {
    let daemon = Daemon::start("")?;
    holds("ci/before")?;
    fs::remove_file(POLICY).map_err(text)?;
    holds("ci/before-the-reload")?;
    stockade(&["policy", "reload"])?;
    expect("after the reload", said_in("ci/before", &reads(SECRET)), "went")?;
    fs::write(POLICY, policy("")).map_err(text)?;
    stockade(&["policy", "reload"])?;
    holds("ci/before")?;
    daemon.kill()?;
    fs::remove_file(POLICY).map_err(text)?;
    holds("ci/before")?;
    let _daemon = Daemon::again()?;
    expect("after the start", said_in("ci/before", &reads(SECRET)), "went")
}

/// With nothing pinned and a policy that cannot be read the daemon does not start, and nothing is held.
pub fn broken_at_boot() -> Result<(), String> {
    prepare("").map_err(text)?;
    // Nothing that an earlier daemon has kept may take the place of the file.
    let _ = fs::remove_dir_all("/var/lib/stockade");
    fs::write(POLICY, "version = 1\n[scope\n").map_err(text)?;
    ends("a broken policy", &[], 2, "ci.toml")?;
    expect("without a daemon", said_in("ci/unheld", &reads(SECRET)), "went")?;
    let _daemon = Daemon::start("")?;
    holds("ci/unheld")
}

/// What was tagged by hand is let go with all below; what a rule has tagged is not, and what a rule matches goes back to it.
pub fn untag() -> Result<(), String> {
    Daemon::shared("")?;
    let text_of = policy("").replace("\"ci\"", "\"hand\"").replace("[scope]\ncgroups = [\"/ci\"]\n", "");
    fs::write(BY_HAND, text_of.replace(OPEN, SECRET)).map_err(text)?;
    let checked = by_hand();
    fs::remove_file(BY_HAND).map_err(text)?;
    checked
}

fn by_hand() -> Result<(), String> {
    stockade(&["policy", "reload"])?;
    fs::create_dir_all(format!("{TREE}/hand/below")).map_err(text)?;
    let sees = |what: &str, cgroup: &str, secret: &str, open: &str| {
        expect(
            what,
            said_in(cgroup, &format!("{}; {}", reads(SECRET), reads(OPEN))),
            &format!("{secret} {open}"),
        )
    };
    stockade(&["tag", "/hand", "--policy", "hand"])?;
    sees("tagged", "hand", "went", "refused")?;
    sees("below", "hand/below", "went", "refused")?;
    stockade(&["untag", "/hand"])?;
    sees("untagged", "hand", "went", "went")?;
    sees("below", "hand/below", "went", "went")?;
    holds("ci/ruled")?;
    let refused = stockade(&["untag", "/ci"]).err().ok_or("what a rule has tagged was let go")?;
    if !refused.contains("change the policy") {
        return Err(refused);
    }
    holds("ci/ruled")?;
    stockade(&["tag", "/ci/ruled", "--policy", "hand"])?;
    sees("taken from a rule", "ci/ruled", "went", "refused")?;
    stockade(&["untag", "/ci/ruled"])?;
    // At the next walk, if not at once.
    let mut said = String::new();
    for _ in 0..60 {
        said = said_in("ci/ruled", &reads(SECRET))?;
        if said == "refused" {
            return holds("ci/ruled");
        }
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    Err(format!("the rule does not take it again: {said:?}"))
}

/// A host without cgroup v2 is refused. On a hybrid one the v2 cgroup alone counts.
pub fn hierarchies() -> Result<(), String> {
    prepare("").map_err(text)?;
    let mount = |words: &[&str]| -> Result<(), String> {
        let status = Command::new("mount").args(words).status().map_err(text)?;
        if status.success() { Ok(()) } else { Err(format!("mount {words:?}: {status}")) }
    };
    Command::new("umount").args(["-l", TREE]).status().map_err(text)?;
    let refused = ends("without cgroup v2", &[], 125, "cgroup");
    mount(&["-t", "cgroup2", "cgroup", TREE])?;
    refused?;
    let old = "/daemon/v1";
    fs::create_dir_all(old).map_err(text)?;
    mount(&["-t", "cgroup", "-o", "none,name=old", "old", old])?;
    let checked = hybrid(old);
    let _ = Command::new("umount").args(["-l", old]).status();
    checked
}

fn hybrid(old: &str) -> Result<(), String> {
    let _daemon = Daemon::start("")?;
    for folder in ["ci", "other"] {
        fs::create_dir_all(format!("{old}/{folder}")).map_err(text)?;
    }
    let in_both = |v1: &str, v2: &str| {
        let script = format!(
            "echo $$ > {old}/{v1}/cgroup.procs; exec /bin/sh -c '{}'",
            reads(SECRET).replace('\'', "")
        );
        super::daemon::entering(v2, &script)
    };
    expect("in a v1 cgroup of the name alone", in_both("ci", "elsewhere"), "went")?;
    expect("in a v1 cgroup of another name", in_both("other", "ci/hybrid"), "refused")?;
    holds("ci/hybrid")
}

/// Without the BPF LSM the daemon does not start, unless it may do with the network alone, and says so then.
pub fn degraded() -> Result<(), String> {
    prepare("").map_err(text)?;
    // Nothing listens in this boot, and a port of 0 is no port.
    fs::write(POLICY, policy("").replace(":0/tcp", ":1/tcp")).map_err(text)?;
    ends("without the BPF LSM", &[], 3, "lsm=")?;
    let _daemon = Daemon::with(&["--allow-degraded", "network-only"])?;
    let status = stockade(&["status"])?;
    if !status.contains("DEGRADED") {
        return Err(format!("status does not say it: {status}"));
    }
    expect("a file", said_in("ci/degraded", &reads(SECRET)), "went")?;
    let connect = "nc -w1 127.0.0.1 9 2>&1";
    let (inside, outside) = (said_in("ci/degraded", connect)?, said_in("elsewhere", connect)?);
    let denied = "Operation not permitted";
    if inside.contains(denied) && !outside.contains(denied) {
        Ok(())
    } else {
        Err(format!("a connect: {inside:?}, outside {outside:?}"))
    }
}
