//! The configurations, each a state of the kernel in which `bench ops` is run.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use stockade::{
    kernel::{Enforcer, Entry, LoadOptions, Scope},
    policy::{
        check::{Overlay, check},
        compile::compile,
        mounts::MountTable,
        parse::{Document, Source},
    },
    scope::cgroup::OwnCgroup,
};

use super::{operation, policy};

/// Names a development build's eBPF object (see `agent/src/kernel/object.rs`).
const OBJECT: &str = "STOCKADE_BPF_OBJECT";
/// Name of AppArmor's profile, whatever its rules.
const PROFILE: &str = "stockade-bench";
/// Kernel start-up work ends, and detached programs leave their trampolines; under `-icount` sleeping costs nothing.
const SETTLE: Duration = Duration::from_secs(20);

/// All of them, in the order they are measured.
const ALL: [&str; 12] = [
    "none",
    "null",
    "untagged",
    "apparmor:10",
    "apparmor:1000",
    "landlock:10",
    "landlock:1000",
    "tagged:10",
    "tagged:1000",
    "tagged:10000",
    "net:10",
    "net:100000",
];

/// Measures the configurations named, or all.
pub fn suite(names: &[&str]) -> io::Result<()> {
    operation::prepare()?;
    let names = if names.is_empty() { &ALL[..] } else { names };
    for name in names {
        sleep(SETTLE);
        run(name).map_err(|error| io::Error::other(format!("{name}: {error}")))?;
    }
    Ok(())
}

fn run(name: &str) -> io::Result<()> {
    let own = std::env::current_exe()?;
    let (kind, rules) = name.split_once(':').unwrap_or((name, "0"));
    match kind {
        "none" => finish(Command::new(own).args(["ops", name])),
        "null" => beside_programs(&own, name, "/payload/null.o"),
        "untagged" => beside_programs(&own, name, "/payload/stockade.o"),
        "landlock" => finish(Command::new(own).args(["landlock", rules, name])),
        "apparmor" => apparmor(&own, name, rules),
        "tagged" | "net" => {
            let file = PathBuf::from(format!("/tmp/{kind}-{rules}.toml"));
            let number = rules.parse().map_err(io::Error::other)?;
            fs::write(&file, if kind == "net" { policy::network(number) } else { policy::text(number) })?;
            let mut stockade = Command::new("stockade");
            stockade.args(["run", "--events", "/dev/null", "--policy"]).arg(file);
            finish(stockade.arg("--").arg(own).args(["ops", name]))
        }
        _ => Err(io::Error::other("no such configuration")),
    }
}

fn finish(command: &mut Command) -> io::Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ended with {status}"))) }
}

/// Under AppArmor's profile of as many path rules, if it was compiled.
fn apparmor(own: &Path, name: &str, rules: &str) -> io::Result<()> {
    const KERNEL: &str = "/sys/kernel/security/apparmor";
    let Ok(profile) = fs::read(format!("/payload/apparmor-{rules}")) else {
        println!("{name}: not measured: there is no profile");
        return Ok(());
    };
    fs::write(format!("{KERNEL}/.replace"), profile)?;
    let script = format!("echo 'exec {PROFILE}' > /proc/self/attr/exec && exec \"$0\" ops {name}");
    let measured = finish(Command::new("/bin/sh").args(["-c", &script]).arg(own));
    fs::write(format!("{KERNEL}/.remove"), PROFILE)?;
    measured
}

/// In an untagged cgroup, with an object's programs attached to all hooks, and to the cgroup above. A cgroup beside it
/// is tagged, so that nothing is skipped for want of tags.
fn beside_programs(own: &Path, name: &str, object: &str) -> io::Result<()> {
    let failed = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var(OBJECT, object) };
    let above = OwnCgroup::create("bench").map_err(|error| failed(&error))?;
    let (tagged, untagged) = match (above.child("tagged"), above.child("untagged")) {
        (Ok(tagged), Ok(untagged)) => (tagged, untagged),
        (Err(error), _) | (_, Err(error)) => return Err(failed(&error)),
    };
    // As the daemon does.
    let options = LoadOptions { metadata: true, ..LoadOptions::default() };
    let mut enforcer = Enforcer::load(&options).map_err(|error| failed(&error))?;
    enforcer.attach_tracking().map_err(|error| failed(&error))?;
    enforcer.attach_lsm().map_err(|error| failed(&error))?;
    let directory = above.directory().map_err(|error| failed(&error))?;
    enforcer.attach_cgroup(&directory).map_err(|error| failed(&error))?;
    if name != "null" {
        let id = tagged.id().map_err(|error| failed(&error))?;
        enforcer.tag(id, Scope(1), Entry::AtOnce).map_err(|error| failed(&error))?;
    }
    let script = format!("echo $$ > {}/cgroup.procs; exec \"$0\" ops {name}", untagged.path().display());
    finish(Command::new("/bin/sh").args(["-c", &script]).arg(own))
}

/// Prints `V PROGRAM INSTRUCTIONS` for each program: how many the verifier looked at, which is what a start costs.
pub fn verified() -> io::Result<()> {
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var(OBJECT, "/payload/stockade.o") };
    let options = LoadOptions { metadata: true, ..LoadOptions::default() };
    let enforcer = Enforcer::load(&options).map_err(io::Error::other)?;
    for (name, instructions) in enforcer.verified_instructions() {
        println!("V {name} {instructions}");
    }
    Ok(())
}

/// Prints for each policy how long it takes to come into force, and what it holds of memory:
/// `L NAME PARSE-MS COMPILE-MS INSTALL-MS KERNEL-KB RULES-KB`.
pub fn load() -> io::Result<()> {
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var(OBJECT, "/payload/stockade.o") };
    let mut enforcer = Enforcer::load(&LoadOptions::default()).map_err(io::Error::other)?;
    let mounts = fs::read("/proc/self/mountinfo")?;
    let mounts = MountTable::parse(&mounts).map_err(io::Error::other)?;
    for prefixes in [10, 100_000] {
        let text = policy::network(prefixes);
        let own = resident_kb()?;
        let start = Instant::now();
        let source = Source { name: "bench".into(), text };
        let document = Document::new(source).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let checked = check(&[document], &Overlay::default())
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        let parsed = start.elapsed();
        let start = Instant::now();
        let (image, _) = compile(&checked, &mounts).map_err(io::Error::other)?;
        let compiled = start.elapsed();
        let held = resident_kb()?.saturating_sub(own);
        let free = available_kb()?;
        let start = Instant::now();
        enforcer.install(&image).map_err(io::Error::other)?;
        let installed = start.elapsed();
        let kernel = free.saturating_sub(available_kb()?);
        let ms = |time: Duration| time.as_millis();
        println!("L net:{prefixes} {} {} {} {kernel} {held}", ms(parsed), ms(compiled), ms(installed));
    }
    Ok(())
}

fn number_in(file: &str, word: &str) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("{file}: no {word}")))
}

fn available_kb() -> io::Result<u64> {
    number_in("/proc/meminfo", "MemFree:")
}

fn resident_kb() -> io::Result<u64> {
    number_in("/proc/self/status", "VmRSS:")
}
