//! Runs the table: per user one `stockade run` for the denials, one for the twins, one control.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::table::{SCENARIOS, Scenario};
use stockade_common::process::RELAXATIONS;

use super::fellow::Fellow;
use super::{Tally, Verdict, listeners};

const ROOT: &str = "/scenario";
const WORK: &str = "/scenario/work";

/// Who tries the operations.
#[derive(Clone, Copy, PartialEq)]
pub enum User {
    Root,
    Ordinary,
}

impl User {
    fn name(self) -> &'static str {
        if self == Self::Root { "root" } else { "user" }
    }

    fn id(self) -> u32 {
        if self == Self::Root { 0 } else { 1000 }
    }

    /// Root keeps its capabilities, so that a hook and not their lack is what refuses.
    fn flags(self) -> &'static [&'static str] {
        if self == Self::Root { &["--keep-capabilities"] } else { &["--user", "1000"] }
    }
}

/// The program that tries operations: a copy of the one beside this one, where any user may run it.
pub fn attempt() -> io::Result<String> {
    let path = "/scenario-program/attempt";
    if !Path::new(path).exists() {
        fs::create_dir_all("/scenario-program")?;
        fs::copy(std::env::current_exe()?.with_file_name("attempt"), path)?;
    }
    Ok(path.to_owned())
}

/// Whether a scenario matches.
pub fn has_any(filter: &str) -> bool {
    SCENARIOS.iter().any(|scenario| super::is_chosen(scenario.name, filter))
}

/// Runs every matching scenario as `user`.
pub fn run(user: User, port: u16, filter: &str, tally: &mut Tally) -> io::Result<()> {
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|s| super::is_chosen(s.name, filter) && (user == User::Root || !s.root_only))
        .collect();
    if chosen.is_empty() {
        return Ok(());
    }
    let attempt = attempt()?;
    let fellow = Fellow::start(user.id())?;
    let policed = |extra: &[&str]| {
        let mut command = Command::new("stockade");
        command.args(["run", "--workspace", WORK]).args(user.flags()).args(extra).args(["--", &attempt]);
        command
    };
    let powers = powers();
    let strict = |scenario: &&Scenario| scenario.power;
    let mut denied = Vec::new();
    if chosen.iter().any(strict) {
        denied = results(policed(&[]), user, port, &fellow, &chosen)?;
    }
    if !chosen.iter().all(strict) {
        let relaxed = results(policed(&powers), user, port, &fellow, &chosen)?;
        let tried = |(i, scenario): (usize, &&Scenario)| {
            if scenario.power { denied[i].clone() } else { relaxed[i].clone() }
        };
        denied = chosen.iter().enumerate().map(tried).collect();
    }
    let all = ["--allow-write=/scenario/out/**", "--allow-exec=/scenario/out/**"];
    let net = ["--allow-net=127.0.0.0/8", "--allow-net=::1/128", "--allow-net=0.0.0.0/32"];
    let unix = ["--allow-net=unix:/scenario-program/**", "--allow-net=unix:@stockade-outside"];
    let listen = ["--allow-listen=0.0.0.0", "--allow-listen=::"];
    let flags = [&all[..], &net[..], &unix[..], &listen[..], &powers[..]].concat();
    let twin = results(policed(&flags), user, port, &fellow, &chosen)?;
    let mut outside = Command::new(&attempt);
    outside.uid(user.id()).gid(user.id());
    let control = results(outside, user, port, &fellow, &chosen)?;
    for (i, scenario) in chosen.iter().enumerate() {
        let twin = scenario.twin.then(|| twin[i].as_str());
        tally.report(&format!("{}_{}", scenario.name, user.name()), judge(&denied[i], twin, &control[i]));
    }
    Ok(())
}

/// The flags that give all of `[process]`; capabilities are [`User::flags`]'s.
fn powers() -> Vec<&'static str> {
    RELAXATIONS.iter().flat_map(|(name, _)| ["--allow-process", name]).collect()
}

fn judge(denied: &str, twin: Option<&str>, control: &str) -> Verdict {
    if control.starts_with("skipped") {
        return Verdict::Skip(control.to_owned());
    }
    if control != "allowed" {
        return Verdict::Fail(format!("control outside: {control}"));
    }
    if !denied.starts_with("denied ") {
        return Verdict::Fail(format!("under the policy: {denied}"));
    }
    match twin {
        Some(twin) if twin != "allowed" => Verdict::Fail(format!("allowed twin: {twin}")),
        _ => Verdict::Ok,
    }
}

/// One line for each scenario, from one run of `attempt --batch -` over fresh files.
fn results(
    mut command: Command,
    user: User,
    port: u16,
    fellow: &Fellow,
    chosen: &[&Scenario],
) -> io::Result<Vec<String>> {
    if Path::new(ROOT).exists() {
        fs::remove_dir_all(ROOT)?;
    }
    let mut batch = String::new();
    give(WORK, user, |path| fs::create_dir_all(path))?;
    for (i, scenario) in chosen.iter().enumerate() {
        let dir = format!("{ROOT}/out/{i}");
        let work = format!("{WORK}/{i}");
        let program = format!("{dir}/program");
        give(&dir, user, |path| fs::create_dir_all(path))?;
        give(&work, user, |path| fs::create_dir_all(path))?;
        give(&format!("{dir}/file"), user, |path| fs::write(path, "content\n"))?;
        give(&format!("{dir}/empty"), user, |path| fs::create_dir(path))?;
        if scenario.op.contains("{program}") {
            give(&program, user, |path| fs::copy(attempt()?, path).map(drop))?;
        }
        let op =
            scenario.op.replace("{file}", &format!("{dir}/file")).replace("{new}", &format!("{dir}/new"));
        let op = op.replace("{dir}", &dir).replace("{empty}", &format!("{dir}/empty"));
        let op = op.replace("{program}", &program).replace("{work}", &work);
        let op = op.replace("{socket}", listeners::SOCKET);
        let op = op.replace("{outsider}", &std::process::id().to_string());
        let op = op.replace("{descriptor}", &listeners::descriptor()?.to_string());
        let op = op.replace("{fellow}", &fellow.id().to_string());
        batch += &op.replace("{port}", &port.to_string());
        batch.push('\n');
    }
    let pipes = command.args(["--batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.stderr(Stdio::piped()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A refusal to start closes the pipe; its message below says more than EPIPE.
        let _ = input.write_all(batch.as_bytes());
    }
    let output = child.wait_with_output()?;
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let tail: String = stderr.chars().take(300).collect();
    lines.resize(chosen.len(), format!("no result ({}; {tail})", output.status));
    Ok(lines)
}

/// Makes something and hands it to `user`, so that no permission bit is what refuses.
fn give(path: &str, user: User, make: impl FnOnce(&str) -> io::Result<()>) -> io::Result<()> {
    make(path)?;
    chown(path, Some(user.id()), Some(user.id()))
}
