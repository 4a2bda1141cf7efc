//! `stockade doctor`: what this host really enforces, proved by trying.

use std::path::Path;

use serde_json::json;

use super::{exit, host, probe::GUARANTEES};
use crate::{kernel::LoadOptions, scope::cgroup::OwnCgroup};

/// `stockade doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

/// One line a guarantee; 0 if all hold.
#[must_use]
pub fn run(args: &Args) -> u8 {
    let (mut lines, mut held) = (Vec::new(), true);
    for (name, text, result) in findings() {
        held &= result.is_ok();
        let state = if result.is_ok() { "ENFORCED" } else { "UNAVAILABLE" };
        if args.json {
            lines.push(json!({ "name": name, "text": text, "state": state, "why": result.err() }));
        } else {
            let why = result.err().map_or_else(String::new, |why| format!(": {why}"));
            println!("{state:11} {name:13} {text}{why}");
        }
    }
    if args.json {
        println!("{}", json!({ "schema": "stockade/doctor/v1", "enforced": held, "guarantees": lines }));
    }
    if held { 0 } else { exit::UNAVAILABLE }
}

type Line = (&'static str, &'static str, Result<(), String>);

const OUTLIVES: (&str, &str) = ("survives_kill", "what is tagged stays policed when the agent is killed");

fn findings() -> Vec<Line> {
    let all = |why: &str| {
        let texts = GUARANTEES.iter().map(|g| (g.name, g.text)).chain([OUTLIVES]);
        texts.map(|(name, text)| (name, text, Err(why.to_owned()))).collect()
    };
    if !host::is_root() {
        return all("needs root: run with sudo");
    }
    let name = format!("stockade-doctor-{}", std::process::id());
    let cgroup = match OwnCgroup::create(&name) {
        Ok(cgroup) => cgroup,
        Err(error) => return all(&error.to_string()),
    };
    let attempt =
        |network_only| host::enforce(&LoadOptions { network_only, ..LoadOptions::default() }, &cgroup);
    match host::bpf_lsm().and_then(|()| attempt(false)) {
        Ok((enforcer, findings)) => {
            let outlives = host::outlives(enforcer, &cgroup, &Path::new(host::PINS).join(&name));
            let proved = findings.into_iter().map(|(g, result)| (g.name, g.text, result));
            proved.chain([(OUTLIVES.0, OUTLIVES.1, outlives)]).collect()
        }
        // What is left without LSM hooks.
        Err(why) => {
            let mut lines: Vec<Line> = all(&why);
            match attempt(true) {
                Ok((_, findings)) => {
                    for (guarantee, result) in findings {
                        for line in lines.iter_mut().filter(|line| line.0 == guarantee.name) {
                            line.2.clone_from(&result);
                        }
                    }
                }
                Err(network) => return all(&format!("{why}; without LSM: {network}")),
            }
            lines
        }
    }
}
