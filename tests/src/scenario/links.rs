//! Rules written through symbolic links.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

const WORK: &str = "/links/work";

fn prepare() -> std::io::Result<()> {
    if fs::exists("/links")? {
        fs::remove_dir_all("/links")?;
    }
    for folder in ["/links/real", "/links/outside", WORK] {
        fs::create_dir_all(folder)?;
    }
    for file in ["/links/real/file", "/links/real/other", "/links/outside/file"] {
        fs::write(file, "content\n")?;
    }
    symlink("real", "/links/led")?;
    symlink("/links/outside", format!("{WORK}/planted"))?;
    symlink("/links/real/file", format!("{WORK}/key"))
}

fn run(flags: &[&str], script: &str) -> Result<Output, String> {
    prepare().map_err(|error| format!("preparing: {error}"))?;
    let mut run = Command::new("stockade");
    run.args(["run", "--workspace", WORK]).args(flags).args(["--", "sh", "-c", script]);
    run.output().map_err(|error| format!("cannot start stockade: {error}"))
}

fn expect(flags: &[&str], script: &str, works: bool) -> Result<Output, String> {
    let output = run(flags, script)?;
    if output.status.success() == works {
        return Ok(output);
    }
    Err(format!("{flags:?} {script}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// What is allowed through a link is allowed, and nothing beside it.
pub fn allowed() -> Result<(), String> {
    expect(&["--allow-read=/links/led/file"], "cat /links/led/file", true)?;
    expect(&["--allow-read=/links/led/file"], "cat /links/real/file", true)?;
    expect(&["--allow-read=/links/led/file"], "cat /links/led/other", false)?;
    expect(&[], "cat /links/led/file", false).map(|_| ())
}

/// A denial through a link holds for the file under each name; its neighbour stays allowed.
pub fn denied() -> Result<(), String> {
    let flags = ["--allow-read=/links/real/**", "--deny-file=/links/led/file"];
    expect(&flags, "cat /links/real/file", false)?;
    expect(&flags, "cat /links/led/file", false)?;
    expect(&flags, "cat /links/real/other", true)?;
    expect(&flags[..1], "cat /links/real/file", true).map(|_| ())
}

/// The link a denial is written through stays; without the denial it can be changed.
pub fn kept() -> Result<(), String> {
    let denial = ["--deny-file=/links/work/key"];
    for script in [
        "rm /links/work/key",
        "mv /links/work/key /links/work/moved",
        "ln -s x /links/work/l; mv /links/work/l /links/work/key",
    ] {
        expect(&denial, script, false)?;
        expect(&[], script, true)?;
    }
    Ok(())
}

/// A link in the workspace opens nothing, and the refusal to follow it is said.
pub fn planted() -> Result<(), String> {
    let flags = ["--allow-read=/links/work/planted/**"];
    let output = expect(&flags, "cat /links/work/planted/file", false)?;
    let message = String::from_utf8_lossy(&output.stderr);
    if !message.contains("stockade: warning") {
        return Err(format!("no warning: {message}"));
    }
    expect(&["--allow-read=/links/outside/**"], "cat /links/work/planted/file", true).map(|_| ())
}
