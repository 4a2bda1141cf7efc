//! What is remembered of a directory must not outlive a rename, by whomever.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A filesystem of a type that is remembered; the guest's own root is none.
const ROOT: &str = "/remembered";

/// A policed shell that tries to read each file it is told, and says whether it could.
struct Reader {
    run: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Reader {
    fn start() -> io::Result<Self> {
        let script = "while read -r file; do if cat $file >/dev/null 2>&1; then echo read; else echo refused; fi; done";
        let mut run = Command::new("stockade")
            .args(["run", "--workspace", "/lifecycle/work", "--allow-read=/remembered/open/**"])
            .args(["--", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (run.stdin.take(), run.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { run, input, output: BufReader::new(output) }),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Twice, so that the second answer comes from what the first has left.
    fn expect(&mut self, file: &str, wanted: &str) -> io::Result<()> {
        for turn in 1..=2 {
            writeln!(self.input, "{ROOT}/{file}")?;
            let mut answer = String::new();
            self.output.read_line(&mut answer)?;
            if answer.trim() != wanted {
                return Err(io::Error::other(format!("{file}, turn {turn}: {answer:?} instead of {wanted}")));
            }
        }
        Ok(())
    }
}

/// Moves a directory out of, and back into, what is allowed, and puts another in its place.
pub fn renamed() -> Result<(), String> {
    scenario().map_err(|error| error.to_string())
}

fn scenario() -> io::Result<()> {
    fs::create_dir_all(ROOT)?;
    if !Command::new("mount").args(["-t", "tmpfs", "remembered", ROOT]).status()?.success() {
        return Err(io::Error::other("no tmpfs"));
    }
    let at = |path: &str| format!("{ROOT}/{path}");
    for folder in ["open/d/e", "shut/d"] {
        fs::create_dir_all(at(folder))?;
    }
    for file in ["open/d/f", "open/d/e/f", "shut/d/f"] {
        fs::write(at(file), "content\n")?;
    }
    let mut reader = Reader::start()?;
    reader.expect("open/d/f", "read")?;
    reader.expect("open/d/e/f", "read")?;
    reader.expect("shut/d/f", "refused")?;
    fs::rename(at("open/d"), at("shut/moved"))?;
    reader.expect("shut/moved/f", "refused")?;
    reader.expect("shut/moved/e/f", "refused")?;
    fs::rename(at("shut/d"), at("open/d"))?;
    reader.expect("open/d/f", "read")?;
    fs::rename(at("shut/moved/e"), at("open/e"))?;
    reader.expect("open/e/f", "read")?;
    fs::rename(at("open"), at("closed"))?;
    reader.expect("closed/e/f", "refused")?;
    fs::remove_dir_all(at("closed/e"))?;
    fs::create_dir_all(at("open/e"))?;
    fs::write(at("open/e/f"), "content\n")?;
    reader.expect("open/e/f", "read")?;
    drop(reader.input);
    reader.run.wait()?;
    Ok(())
}
