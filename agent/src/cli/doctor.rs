//! `stockade doctor`: what this host really enforces, proved by trying.

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
    let findings = findings();
    let pins = if host::has_bpffs() { Ok(()) } else { Err("no bpf filesystem at /sys/fs/bpf".to_owned()) };
    let all =
        findings.into_iter().chain([("survives_kill", "enforcement outlives a killed agent (bpffs)", pins)]);
    let (mut lines, mut held) = (Vec::new(), true);
    for (name, text, result) in all {
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

fn findings() -> Vec<Line> {
    let all = |why: &str| GUARANTEES.iter().map(|g| (g.name, g.text, Err(why.to_owned()))).collect();
    if !host::is_root() {
        return all("needs root: run with sudo");
    }
    let cgroup = match OwnCgroup::create(&format!("stockade-doctor-{}", std::process::id())) {
        Ok(cgroup) => cgroup,
        Err(error) => return all(&error.to_string()),
    };
    let lsm = host::bpf_lsm();
    let attempt = |network_only| {
        let options = LoadOptions { network_only, ..LoadOptions::default() };
        host::enforce(&options, &cgroup).map(|(_, findings)| findings)
    };
    let whole = lsm.and_then(|()| attempt(false));
    match whole {
        Ok(findings) => findings.into_iter().map(|(g, result)| (g.name, g.text, result)).collect(),
        // What is left without LSM hooks.
        Err(why) => match attempt(true) {
            Err(network) => all(&format!("{why}; without LSM: {network}")),
            Ok(findings) => GUARANTEES
                .iter()
                .map(|g| {
                    let found = findings.iter().find(|(other, _)| other.name == g.name);
                    (g.name, g.text, found.map_or_else(|| Err(why.clone()), |(_, result)| result.clone()))
                })
                .collect(),
        },
    }
}
