//! Events as they come from a real kernel, against the published schema.

use std::fs;
use std::process::Command;

use serde_json::Value;

const SCHEMA: &str = include_str!("../../../docs/schema/event-v1.json");
const FILE: &str = "/lifecycle/work/events.jsonl";

fn recorded(script: &str) -> Result<Vec<Value>, String> {
    let mut run = Command::new("stockade");
    run.args(["run", "--workspace", "/lifecycle/work", "--audit", "all", "--events", FILE]);
    let output = run.args(["--", "sh", "-c", script]).output().map_err(|e| e.to_string())?;
    let text =
        fs::read_to_string(FILE).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    text.lines().map(|line| serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))).collect()
}

/// What the schema says against a line.
pub fn complaint(line: &str) -> Option<String> {
    let schema: Value = serde_json::from_str(SCHEMA).ok()?;
    let validator = jsonschema::validator_for(&schema).ok()?;
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    validator.validate(&event).err().map(|error| format!("{error}: {line}"))
}

/// Every line is as the schema says, the run is framed, and nothing the workload does reaches the file.
pub fn schema() -> Result<(), String> {
    let schema: Value = serde_json::from_str(SCHEMA).map_err(|e| e.to_string())?;
    let validator = jsonschema::validator_for(&schema).map_err(|e| e.to_string())?;
    let script = "cat /lifecycle/secret; echo x > /lifecycle/work/new; rm /lifecycle/work/new; nc -w1 127.0.0.1 1; \
                  (sh -c 'exit 3' \"$(printf '\\377')\"); echo forged >> /lifecycle/work/events.jsonl; kill -9 $$";
    let events = recorded(script)?;
    for event in &events {
        if let Err(error) = validator.validate(event) {
            return Err(format!("{error}: {event}"));
        }
    }
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
    let framed = kinds.first() == Some(&"start") && kinds.last() == Some(&"end");
    let all = ["exec", "fork", "exit", "open", "change", "connect"].iter().all(|kind| kinds.contains(kind));
    if !framed || !all {
        return Err(format!("not all kinds, or not framed: {kinds:?}"));
    }
    let end = &events[events.len() - 1];
    if end["exit_code"] != 137 || end["exit"]["signal"] != 9 {
        return Err(format!("wrong end: {end}"));
    }
    Ok(())
}

/// An exec has its command line, and what a process does is told with its program and who forked it.
pub fn descent() -> Result<(), String> {
    let events = recorded("cat /lifecycle/secret \"$(printf '\\377')\"; true")?;
    let exec = events.iter().find(|event| event["kind"] == "exec" && event["argv"][0] == "cat");
    let exec = exec.ok_or("no exec of cat")?;
    if exec["argv"] != serde_json::json!(["cat", "/lifecycle/secret", "\\xff"]) || exec["truncated"] != false
    {
        return Err(format!("wrong command line: {exec}"));
    }
    let denied = events.iter().find(|event| event["verdict"] == "denied").ok_or("nothing denied")?;
    let process = &denied["process"];
    let parent = &process["ancestors"][0];
    let known = process["exe"] == exec["file"]["path"]
        && parent["pid"] == process["ppid"]
        && parent["exe"].as_str().is_some_and(|exe| exe.starts_with('/'));
    if known { Ok(()) } else { Err(format!("{denied}")) }
}

/// A symbolic link where the events are to go is not followed.
pub fn planted() -> Result<(), String> {
    let (link, victim) = ("/lifecycle/work/planted", "/lifecycle/victim");
    fs::write(victim, "precious").map_err(|e| e.to_string())?;
    std::os::unix::fs::symlink(victim, link).map_err(|e| e.to_string())?;
    let mut run = Command::new("stockade");
    let output = run.args(["run", "--events", link, "--", "true"]).output().map_err(|e| e.to_string())?;
    let left = fs::read_to_string(victim).map_err(|e| e.to_string())?;
    if output.status.code() == Some(2) && left == "precious" {
        Ok(())
    } else {
        Err(format!("{}: {left}", output.status))
    }
}
