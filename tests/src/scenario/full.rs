//! What becomes of a daemon when something is full.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};

use super::daemon::{
    Daemon, OPEN, PATIENCE, POLICY, SECRET, expect, holds, policy, prepare, reads, said_in, stockade, text,
    with_log,
};

const DISK: &str = "/small";

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if holds()? {
            return Ok(());
        }
        sleep(Duration::from_millis(500));
    }
    Err(format!("not in time: {what}"))
}

/// The log of events goes on when there is room again, and says how many are missing.
pub fn disk() -> Result<(), String> {
    fs::create_dir_all(DISK).map_err(text)?;
    Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none", DISK]).status().map_err(text)?;
    prepare("").map_err(text)?;
    let done = with_log(&format!("{DISK}/events.jsonl"), fill_disk);
    Command::new("umount").arg(DISK).status().map_err(text)?;
    done
}

fn fill_disk() -> Result<(), String> {
    let _daemon = Daemon::again()?;
    let log = || fs::read_to_string(format!("{DISK}/events.jsonl")).unwrap_or_default();
    holds("ci/log")?;
    until("events in the log", || Ok(log().contains("\"denied\"")))?;
    // It fails in the midst, when nothing more fits.
    let filler = format!("{DISK}/filler");
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    let unwritten = || Ok(!stockade(&["status", "--json"])?.contains("\"unwritten\": 0"));
    until("events that are unwritten", || {
        holds("ci/log")?;
        unwritten()
    })?;
    fs::remove_file(&filler).map_err(text)?;
    until("a gap in the log", || {
        holds("ci/log")?;
        Ok(log().contains("\"gap\""))
    })?;
    let behind = || {
        log()
            .rsplit_once("\"gap\"")
            .map(|(_, rest)| rest.contains("\"denied\":0") && rest.contains("\"verdict\":\"denied\""))
    };
    until("events behind the gap", || {
        holds("ci/log")?;
        Ok(behind().unwrap_or(false))
    })?;
    match log().lines().find(|line| serde_json::from_str::<serde_json::Value>(line).is_err()) {
        None => Ok(()),
        Some(line) => Err(format!("a torn line: {line}")),
    }
}

/// Puts tags of cgroups that are not there into a table until it is full; where the next may begin.
fn fill(tags: &mut HashMap<MapData, u64, u64>, from: u64) -> u64 {
    let mut id = from;
    while tags.insert(id, 1, 0).is_ok() {
        id += 1;
    }
    id
}

/// With no room for a single tag more, a new cgroup that its path would tag is allowed nothing, nor what is below it; others
/// are as always.
pub fn tags() -> Result<(), String> {
    prepare("").map_err(text)?;
    fs::write(POLICY, policy("").replace("[\"/ci\"]", "[\"/ci\", \"/only*\"]")).map_err(text)?;
    let _daemon = Daemon::again()?;
    holds("ci/before")?;
    let pin = "/sys/fs/bpf/stockade/daemon-v1/maps/TAGS";
    let map = MapData::from_pin(pin).map_err(text)?;
    let mut tags: HashMap<MapData, u64, u64> = Map::HashMap(map).try_into().map_err(text)?;
    let mut last = fill(&mut tags, 1 << 50);
    // The daemon takes away the tags of cgroups that are not there: others take their place at once.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let filler = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            last = fill(&mut tags, last);
            sleep(Duration::from_millis(20));
        }
        (tags, last)
    });
    let nothing = |cgroup: &str| match said_in(cgroup, &reads(OPEN))? {
        said if said.contains("went") => Err(format!("{cgroup} is not held: {said}")),
        _ => Ok(()),
    };
    let tried =
        nothing("only-one").and_then(|()| nothing("only-one/below")).and_then(|()| nothing("only-two"));
    let other = expect("another that is new", said_in("elsewhere-full", &reads(SECRET)), "went");
    let held = expect("what was tagged before", said_in("ci/before", &reads(OPEN)), "went");
    drop(stop);
    let (mut tags, last) = filler.join().map_err(|_| "the filler has failed")?;
    for id in (1u64 << 50)..last {
        let _ = tags.remove(&id);
    }
    tried.and(other).and(held).map_err(|why| format!("{} tags more: {why}", last - (1 << 50)))?;
    // There is room again.
    stockade(&["policy", "reload"])?;
    holds("only-one")?;
    holds("only-one/below")?;
    holds("only-three")?;
    holds("ci/after")
}
