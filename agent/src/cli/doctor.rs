//! `stockade doctor`: what this host really enforces, proved by trying.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    exit,
    guarantee::{GUARANTEES, Hooks, Proof},
    host, remedy,
};
use crate::{
    kernel::{LoadOptions, find_debug_object},
    scope::cgroup::OwnCgroup,
};

/// `stockade doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As one JSON object.
    #[arg(long)]
    json: bool,
    /// Also show the lines that kernel programs built with `debug-log` write; STOCKADE_BPF_OBJECT names their object.
    #[arg(long)]
    kernel_log: bool,
}

/// One line a guarantee; 0 if all hold, or lack their subject here.
#[must_use]
pub fn run(args: &Args) -> u8 {
    if args.kernel_log
        && let Err(error) = find_debug_object()
    {
        eprintln!("stockade: --kernel-log: {error}");
        return exit::USAGE;
    }
    let lines = findings(args.kernel_log);
    if args.json {
        println!("{}", report(&lines));
    } else {
        lines.iter().for_each(|line| println!("{}", line.text()));
    }
    if holds(&lines) { 0 } else { exit::UNAVAILABLE }
}

#[derive(Debug, Clone)]
struct Line {
    name: &'static str,
    text: &'static str,
    hooks: Hooks,
    proof: Proof,
}

impl Line {
    fn state(&self) -> (&'static str, Option<&str>) {
        match &self.proof {
            Proof::Enforced => ("ENFORCED", None),
            Proof::Absent(why) => ("ABSENT", Some(why)),
            Proof::Failed(why) => ("UNAVAILABLE", Some(why)),
        }
    }

    fn text(&self) -> String {
        let Self { name, text, .. } = self;
        let (state, why) = self.state();
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        format!("{state:11} {name:13} {text}{why}")
    }

    fn json(&self) -> Value {
        let Self { name, text, hooks, .. } = self;
        let (state, why) = self.state();
        let hooks = if *hooks == Hooks::Both { json!(["cgroup", "lsm"]) } else { json!(["lsm"]) };
        json!({ "name": name, "text": text, "hooks": hooks, "state": state, "why": why })
    }
}

fn holds(lines: &[Line]) -> bool {
    !lines.iter().any(|line| matches!(line.proof, Proof::Failed(_)))
}

/// `stockade/doctor/v1` (docs/schema/doctor-v1.json).
fn report(lines: &[Line]) -> Value {
    let guarantees: Vec<Value> = lines.iter().map(Line::json).collect();
    json!({ "schema": "stockade/doctor/v1", "enforced": holds(lines), "guarantees": guarantees })
}

fn outlives(proof: Proof) -> Line {
    let text = "what is tagged stays policed when the agent is killed";
    Line { name: "survives_kill", text, hooks: Hooks::Both, proof }
}

fn all(why: &str) -> Vec<Line> {
    let failed = || Proof::Failed(why.to_owned());
    let lines =
        GUARANTEES.iter().map(|g| Line { name: g.name, text: g.text, hooks: g.hooks, proof: failed() });
    lines.chain([outlives(failed())]).collect()
}

fn findings(kernel_log: bool) -> Vec<Line> {
    if !host::is_root() {
        return all("needs root: run with sudo");
    }
    if let Err(why) = remedy::kernel() {
        return all(&why);
    }
    let name = format!("stockade-doctor-{}", std::process::id());
    let cgroup = match OwnCgroup::create(&name) {
        Ok(cgroup) => cgroup,
        Err(error) => return all(&error.to_string()),
    };
    let options = LoadOptions { debug_log: kernel_log, metadata: true, ..LoadOptions::default() };
    match remedy::bpf_lsm().and_then(|()| host::enforce(&options, &cgroup)) {
        Ok((mut enforcer, findings)) => {
            let log = kernel_log.then(|| enforcer.kernel_log());
            let survived = host::outlives(enforcer, &cgroup, &Path::new(host::PINS).join(&name));
            match log {
                Some(Ok(mut log)) => log.print(),
                Some(Err(error)) => eprintln!("stockade: {error}"),
                None => {}
            }
            let proved = findings.into_iter().map(|(g, proof)| Line {
                name: g.name,
                text: g.text,
                hooks: g.hooks,
                proof,
            });
            let survived = survived.map_or_else(Proof::Failed, |()| Proof::Enforced);
            proved.chain([outlives(survived)]).collect()
        }
        Err(why) => without_lsm(&why, &LoadOptions { network_only: true, ..options }, &cgroup),
    }
}

/// What is left without LSM hooks.
fn without_lsm(why: &str, options: &LoadOptions, cgroup: &OwnCgroup) -> Vec<Line> {
    let findings = match host::enforce(options, cgroup) {
        Ok((_, findings)) => findings,
        Err(network) if network == why => return all(why),
        Err(network) => return all(&format!("{why}; without LSM: {network}")),
    };
    let mut lines = all(why);
    for (guarantee, proof) in findings {
        for line in lines.iter_mut().filter(|line| line.name == guarantee.name) {
            line.proof = proof.clone();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = include_str!("../../../docs/schema/doctor-v1.json");

    #[test]
    fn the_report_is_as_the_schema_says() {
        let validator = jsonschema::validator_for(&serde_json::from_str(SCHEMA).unwrap()).unwrap();
        let mut lines = all("no");
        assert!(validator.is_valid(&report(&lines)), "{}", report(&lines));
        assert!(!holds(&lines));
        for line in &mut lines {
            line.proof = Proof::Enforced;
        }
        lines[0].proof = Proof::Absent("nothing there");
        assert!(validator.is_valid(&report(&lines)), "{}", report(&lines));
        assert!(holds(&lines));
        let mut bad = report(&lines);
        bad["guarantees"][1]["why"] = json!("enforced, but");
        assert!(!validator.is_valid(&bad));
        bad["guarantees"] = json!([]);
        assert!(!validator.is_valid(&bad));
    }
}
