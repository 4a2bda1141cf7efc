//! Overlays, as containers have them: a rule for their names is enough, whatever they do in their layers for it.

use std::fs;
use std::process::{Command, Output};

const MERGED: &str = "/overlays/merged";

/// Two lower layers and an upper one, with a directory that is in all of them.
fn prepare() -> Result<(), String> {
    let text = |error: std::io::Error| format!("preparing: {error}");
    // What an earlier scenario has left.
    let _none = Command::new("umount").args(["-l", MERGED]).stderr(std::process::Stdio::null()).status();
    if fs::exists("/overlays").map_err(text)? {
        fs::remove_dir_all("/overlays").map_err(text)?;
    }
    for folder in ["lower/shared", "under/shared", "upper", "work", "merged"] {
        fs::create_dir_all(format!("/overlays/{folder}")).map_err(text)?;
    }
    for file in ["lower/file", "lower/secret", "lower/shared/one", "under/shared/two"] {
        fs::write(format!("/overlays/{file}"), "content\n").map_err(text)?;
    }
    let options = "lowerdir=/overlays/lower:/overlays/under,upperdir=/overlays/upper,workdir=/overlays/work";
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "-o", options, "none", MERGED]);
    if !mount.status().map_err(text)?.success() {
        return Err("an overlay cannot be mounted".into());
    }
    // Through the overlay, which marks the directory that it copies up for that.
    fs::write(format!("{MERGED}/shared/three"), "content\n").map_err(text)
}

fn run(flags: &[&str], script: &str) -> Result<Output, String> {
    let mut run = Command::new("stockade");
    run.args(["run", "--keep-capabilities", "--allow-exec=/bin/**"]).args(flags);
    run.args(["--", "sh", "-c", script]).output().map_err(|error| format!("cannot start stockade: {error}"))
}

fn expect(flags: &[&str], script: &str, wanted: &str) -> Result<(), String> {
    prepare()?;
    let output = run(flags, script)?;
    let said = String::from_utf8_lossy(&output.stdout).trim().replace('\n', " ");
    if said == wanted {
        return Ok(());
    }
    Err(format!(
        "{flags:?} {script}: {said:?} instead of {wanted:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Directories of several layers are listed by whoever may read the overlay's names, and by nobody else.
pub fn listed() -> Result<(), String> {
    let list =
        "cd /; for layer in merged upper; do ls /overlays/$layer/shared 2>/dev/null || echo refused; done";
    expect(&["--allow-read=/overlays/merged/**"], list, "one three two refused")?;
    expect(&["--allow-read=/overlays/merged/file"], list, "refused refused")?;
    expect(&["--allow-read=/overlays/**"], list, "one three two three")
}

/// What is in a lower layer can be changed by whoever may write the overlay's name: it is copied up for it.
pub fn copied_up() -> Result<(), String> {
    let change = "cd /overlays/merged; echo more >> file && echo appended; chmod 600 shared/one && echo mode; touch shared/two && \
                  echo times; mv shared/two moved && echo moved; rm secret && echo removed; mkdir new && echo made";
    let all = "appended mode times moved removed made";
    expect(&["--allow-write=/overlays/merged/**"], change, all)?;
    let refused = "(echo more >> /overlays/merged/file) 2>/dev/null || echo refused; (chmod 600 /overlays/merged/secret) 2>/dev/null || \
                   echo refused";
    expect(&["--allow-read=/overlays/merged/**"], refused, "refused refused")?;
    let copies = ["/overlays/upper/file", "/overlays/upper/secret"];
    match copies.iter().find(|copy| fs::exists(copy).unwrap_or(true)) {
        Some(copy) => Err(format!("there is {copy}, though the change was refused")),
        None => Ok(()),
    }
}

/// The layers have names of their own, and what is denied by the overlay's is not allowed by what it does in them.
pub fn layers() -> Result<(), String> {
    let read = "cd /overlays; echo more >> merged/file; for file in merged/file merged/secret lower/file upper/file upper/shared/three; \
                do if read x < $file; then echo $x; else echo refused; fi; done 2>/dev/null";
    let flags = ["--allow-write=/overlays/merged/**", "--deny-file=/overlays/merged/secret"];
    expect(&flags, read, "content refused refused refused refused")?;
    expect(&["--allow-write=/overlays/**"], read, "content content content content content")
}
