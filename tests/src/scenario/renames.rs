//! Verdicts while directories move: no stale answer, none from another run, and no wrong one in a race.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const WORK: &str = "/renames/work";

/// A policed shell that opens what it is asked to.
struct Reader {
    run: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Reader {
    fn start(rule: &str) -> io::Result<Self> {
        let script = "while read p; do if read x < \"$p\"; then echo yes; elif [ -e \"$p\" ]; then echo no; \
                      else echo gone; fi; done";
        let mut run = Command::new("stockade")
            .args(["run", "--workspace", WORK, rule, "--", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (input, Some(output)) = (run.stdin.take(), run.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Self { run, input, output: BufReader::new(output) })
    }

    fn ask(&mut self, path: &str) -> io::Result<String> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(input, "{path}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn expect(&mut self, path: &str, answer: &str) -> Result<(), String> {
        let got = self.ask(path).map_err(|e| e.to_string())?;
        if got == answer { Ok(()) } else { Err(format!("{path}: {got:?} instead of {answer:?}")) }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.run.wait();
    }
}

fn prepare() -> io::Result<()> {
    if fs::exists("/renames")? {
        fs::remove_dir_all("/renames")?;
    }
    for folder in [WORK, "/renames/work/a", "/renames/x/d", "/renames/y"] {
        fs::create_dir_all(folder)?;
    }
    for file in ["/renames/work/a/f", "/renames/x/d/f", "/renames/y/f"] {
        fs::write(file, "content\n")?;
    }
    Ok(())
}

fn text(error: io::Error) -> String {
    error.to_string()
}

/// What is remembered of a directory does not go with it to another place, nor stay behind for its successor.
pub fn stale() -> Result<(), String> {
    prepare().map_err(text)?;
    let mut reader = Reader::start("--allow-read=/renames/x/**").map_err(text)?;
    for _ in 0..2 {
        for _ in 0..2 {
            reader.expect("/renames/x/d/f", "yes")?;
        }
        fs::rename("/renames/x/d", "/renames/y/d").map_err(text)?;
        reader.expect("/renames/y/d/f", "no")?;
        fs::rename("/renames/y/d", "/renames/x/d").map_err(text)?;
        reader.expect("/renames/x/d/f", "yes")?;
        fs::remove_dir_all("/renames/x/d").map_err(text)?;
        for (folder, answer) in [("/renames/y/d", "no"), ("/renames/x/d", "yes")] {
            fs::create_dir(folder).map_err(text)?;
            let file = format!("{folder}/f");
            fs::write(&file, "content\n").map_err(text)?;
            reader.expect(&file, answer)?;
        }
        fs::remove_dir_all("/renames/y/d").map_err(text)?;
    }
    Ok(())
}

/// Two runs that read the same directories each keep to their own policy.
pub fn side_by_side() -> Result<(), String> {
    prepare().map_err(text)?;
    let mut one = Reader::start("--allow-read=/renames/x/**").map_err(text)?;
    let mut other = Reader::start("--allow-read=/renames/y/**").map_err(text)?;
    for _ in 0..20 {
        one.expect("/renames/x/d/f", "yes")?;
        other.expect("/renames/x/d/f", "no")?;
        one.expect("/renames/y/f", "no")?;
        other.expect("/renames/y/f", "yes")?;
    }
    Ok(())
}

/// While a directory of the workspace is renamed back and forth, what is allowed is never refused, and what is
/// denied never opened, by the way through that directory either.
pub fn race() -> Result<(), String> {
    prepare().map_err(text)?;
    let attempt = super::batch::attempt().map_err(text)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let renamer = scope.spawn(|| {
            let mut count = 0u32;
            while !stop.load(Ordering::Relaxed) {
                fs::rename("/renames/work/a", "/renames/work/b")?;
                fs::rename("/renames/work/b", "/renames/work/a")?;
                count += 1;
            }
            io::Result::Ok(count)
        });
        let mut run = Command::new("stockade");
        run.args(["run", "--workspace", WORK, "--", &attempt, "open-while-renamed"]);
        let output =
            run.args(["/renames/work/a/f", "/renames/work/b/f", "/renames/work/a/../../y/f"]).output();
        stop.store(true, Ordering::Relaxed);
        let renames = renamer.join().map_err(|_| "the renamer died".to_owned())?.map_err(text)?;
        let output = output.map_err(text)?;
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim() == "allowed" && renames > 0 {
            return Ok(());
        }
        Err(format!("{renames} renames: {said}{}", String::from_utf8_lossy(&output.stderr)))
    })
}
