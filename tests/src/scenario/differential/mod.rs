//! The kernel's verdicts on files beside those of a reference model: a random tree with random mounts and links, random rules,
//! random operations. What differs is made smaller until nothing can be left out.

mod case;
mod model;
mod world;

use std::cell::Cell;
use std::fs;
use std::process::Command;

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::daemon::{Daemon, POLICY, TREE, text};
use super::reloads::ask_to_reload;
use case::Case;
use model::{Right, Rules, Target};
use world::World;

/// How many cases, unless `DIFFERENTIAL_CASES` says another number.
const CASES: u32 = 40;
/// What the numbers are drawn from, unless `DIFFERENTIAL_SEED` says another.
const SEED: u64 = 1;
/// Tries at making a failing case smaller: each takes about a second in an emulated guest.
const SHRINKING: u32 = 200;
/// Operations, one a line; may be read by the workload.
const OPERATIONS: &str = "/payload/differential-operations";

/// Verdicts of the kernel and of the model are the same.
pub fn same_as_model() -> Result<(), String> {
    Daemon::shared("")?;
    let (cases, seed) =
        (from_environment("DIFFERENTIAL_CASES", CASES)?, from_environment("DIFFERENTIAL_SEED", SEED)?);
    let mut seeds = [0; 32];
    seeds[..8].copy_from_slice(&seed.to_le_bytes());
    let config =
        Config { cases, max_shrink_iters: SHRINKING, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seeds));
    let (allowed, denied) = (Cell::new(0u32), Cell::new(0u32));
    let outcome = runner.run(&case::cases(), |case| {
        let counts = compare(&case).map_err(proptest::test_runner::TestCaseError::fail)?;
        allowed.set(allowed.get() + counts.0);
        denied.set(denied.get() + counts.1);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => {
            return Err(format!("seed {seed}: {why}\nsmallest case:\n{case}"));
        }
        Err(TestError::Abort(why)) => return Err(format!("seed {seed}: {why}")),
    }
    let (allowed, denied) = (allowed.get(), denied.get());
    println!(
        "differential: seed {seed}, {cases} cases, {allowed} operations allowed and {denied} denied, by both"
    );
    // A model and a kernel that deny everything agree as well.
    let total = allowed + denied;
    if allowed * 10 < total || denied * 10 < total || total < cases * 10 {
        return Err(format!("{allowed} allowed and {denied} denied prove too little"));
    }
    Ok(())
}

fn from_environment<T: std::str::FromStr>(name: &str, otherwise: T) -> Result<T, String> {
    match std::env::var(name) {
        Ok(value) => value.parse().map_err(|_| format!("{name}={value} is not a number")),
        Err(_) => Ok(otherwise),
    }
}

/// Makes the world, puts the rules in force, tries the operations; how many both allow and both deny.
fn compare(case: &Case) -> Result<(u32, u32), String> {
    let world = World::make(&case.steps)?;
    let rules = Rules(case.rules.clone());
    fs::write(POLICY, policy(&rules)).map_err(text)?;
    match ask_to_reload().map_err(text) {
        // Such a policy is refused for what it says; there is nothing to compare.
        Err(why) if why.contains("the rule allows nothing") => return Ok((0, 0)),
        put => put?,
    }
    let planned = world.plan(&case.operations);
    let expected: Vec<bool> = planned.iter().map(|operation| permitted(&world, &rules, operation)).collect();
    let lines: Vec<&str> = planned.iter().map(|operation| operation.line.as_str()).collect();
    let seen = attempt(&lines)?;
    let mut counts = (0, 0);
    for (index, (expected, seen)) in expected.iter().zip(&seen).enumerate() {
        let allowed = match seen.as_str() {
            // The kernel let it through; that a directory cannot be read(2) is another matter.
            "allowed" | "error EISDIR" => true,
            denied if denied.starts_with("denied ") => false,
            other => return Err(format!("`{}`: {other}", lines[index])),
        };
        if allowed != *expected {
            let (kernel, model) = if allowed { ("allows", "denies") } else { ("denies", "allows") };
            return Err(format!("the kernel {kernel} `{}`, the model {model} it", lines[index]));
        }
        if allowed { counts.0 += 1 } else { counts.1 += 1 }
    }
    Ok(counts)
}

/// The rules, and what the program that tries needs itself.
fn policy(rules: &Rules) -> String {
    let list = |target: Target, own: &[&str]| {
        let globs: Vec<&str> = own.iter().copied().chain(rules.list(target)).collect();
        format!("{} = {globs:?}\n", target.key())
    };
    [
        "version = 1\nname = \"ci\"\nextends = [\"base\"]\n[scope]\ncgroups = [\"/ci\"]\n[files]\n"
            .to_owned(),
        list(Target::Read, &["/payload/**", "/bin/**"]),
        list(Target::Write, &[]),
        list(Target::Exec, &["/payload/**", "/bin/**"]),
        list(Target::Deny, &[]),
    ]
    .concat()
}

fn permitted(world: &World, rules: &Rules, operation: &world::Planned) -> bool {
    operation.needs.iter().all(|(path, right): &(String, Right)| rules.permit(&world.names(path), *right))
}

/// What each operation came to for a process in the policed cgroup.
fn attempt(lines: &[&str]) -> Result<Vec<String>, String> {
    let text_of_all: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(OPERATIONS, text_of_all).map_err(text)?;
    let folder = format!("{TREE}/ci/differential");
    fs::create_dir_all(&folder).map_err(text)?;
    let script = format!("echo $$ > {folder}/cgroup.procs && exec /payload/attempt --batch {OPERATIONS}");
    let output = Command::new("sh").args(["-c", &script]).output().map_err(text)?;
    let said: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    if said.len() != lines.len() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{} results for {} operations: {}: {errors}",
            said.len(),
            lines.len(),
            output.status
        ));
    }
    Ok(said)
}
