//! A workload that tries what its policy allows and what it forbids, over and over, and says each time it went otherwise; and the
//! other side, which reads what it said.
//!
//! It says it on its standard output, so that it needs no file to write: a line `ready PID`, then `rounds N`
//! a few times a second, and `wrong ROUND: …`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::exec::{Checked, ensure, until};
use super::server::{ALLOWED, FORBIDDEN};

/// Where everything of the workload is.
pub const FOLDER: &str = "/srv/probe";
/// The workload's program.
pub const PROGRAM: &str = "/srv/probe/host";
/// A file that policies allow to read.
pub const OPEN: &str = "/srv/probe/open";
/// A file that no policy allows to read.
pub const SECRET: &str = "/srv/probe/secret";
/// What [`Report`]s are read from.
pub const REPORTS: &str = "/srv/reports";

const PATIENCE: Duration = Duration::from_secs(5);
/// Every so many rounds a new process tries as well.
const NEW_PROCESS: u64 = 20;

/// Puts the workload and its files where policies name them.
pub fn place() -> Checked {
    let place = || -> io::Result<()> {
        fs::create_dir_all(FOLDER)?;
        fs::create_dir_all(REPORTS)?;
        fs::copy("/proc/self/exe", PROGRAM)?;
        fs::write(OPEN, "for everybody\n")?;
        fs::write(SECRET, "for nobody\n")
    };
    place().map_err(|e| format!("putting the workload into {FOLDER}: {e}"))
}

/// The command line of a workload that goes on for `rounds`, or for ever.
pub fn words(rounds: Option<u64>) -> Vec<String> {
    let mut words: Vec<String> =
        [PROGRAM, "probe", ALLOWED, FORBIDDEN, OPEN, SECRET].map(str::to_owned).to_vec();
    words.extend(rounds.map(|rounds| rounds.to_string()));
    words
}

/// `host probe ALLOWED FORBIDDEN OPEN SECRET [ROUNDS]`; true if no verdict was wrong.
pub fn main(words: &[String]) -> Result<bool, String> {
    let (Some([allowed, forbidden, open, secret]), rounds) = (words.first_chunk(), words.get(4)) else {
        return Err("usage: host probe ALLOWED FORBIDDEN OPEN SECRET [ROUNDS]".into());
    };
    let address = |word: &String| word.parse().map_err(|_| format!("not an address: {word}"));
    let (allowed, forbidden): (SocketAddr, SocketAddr) = (address(allowed)?, address(forbidden)?);
    let rounds =
        rounds.map_or(Ok(u64::MAX), |word| word.parse().map_err(|_| format!("not a number: {word}")))?;
    say(&format!("ready {}", std::process::id()));
    let (mut wrong, mut said) = (0u64, Instant::now());
    for round in 1..=rounds {
        let mut verdicts = vec![
            ("connect to what is allowed", right(connect(&allowed), false)),
            ("connect to what is forbidden", right(connect(&forbidden), true)),
            ("open of what is allowed", right(File::open(open).map(drop), false)),
            ("open of what is forbidden", right(File::open(secret).map(drop), true)),
        ];
        if round % NEW_PROCESS == 1 && rounds > 1 {
            verdicts.push(("a new process", again(words)));
        }
        for (what, verdict) in verdicts {
            if let Err(why) = verdict {
                wrong += 1;
                say(&format!("wrong {round}: {what}: {why}"));
            }
        }
        if round == 1 || said.elapsed() > Duration::from_millis(200) {
            said = Instant::now();
            say(&format!("rounds {round}"));
        }
        sleep(Duration::from_millis(2));
    }
    say(&format!("rounds {rounds}"));
    Ok(wrong == 0)
}

fn connect(address: &SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(address, PATIENCE).map(drop)
}

/// A refusal is EPERM or EACCES; any other failure is no verdict of a policy.
fn right(result: io::Result<()>, forbidden: bool) -> Result<(), String> {
    match result {
        Ok(()) if forbidden => Err("went through".into()),
        Err(error) if !(forbidden && error.kind() == io::ErrorKind::PermissionDenied) => {
            Err(error.to_string())
        }
        _ => Ok(()),
    }
}

/// One round in a process of its own.
fn again(words: &[String]) -> Result<(), String> {
    let mut command = Command::new("/proc/self/exe");
    let output = command.arg("probe").args(&words[..4]).arg("1").output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", output.status, super::exec::text(&output.stdout)))
}

fn say(line: &str) {
    // Whoever read it may be gone: that is no verdict.
    let _ = writeln!(io::stdout(), "{line}");
}

/// What a workload has said so far.
#[derive(Debug, Clone)]
pub struct Report {
    file: String,
}

impl Report {
    /// Of that name, and empty.
    pub fn new(name: &str) -> Checked<Self> {
        let file = format!("{REPORTS}/{name}");
        fs::write(&file, "").map_err(|e| format!("{file}: {e}"))?;
        Ok(Self { file })
    }

    /// Where the workload's standard output is to go.
    pub fn file(&self) -> &str {
        &self.file
    }

    fn text(&self) -> Checked<String> {
        fs::read_to_string(&self.file).map_err(|e| format!("{}: {e}", self.file))
    }

    /// Its process id, once it runs.
    pub fn pid(&self) -> Checked<String> {
        until(60, "the workload starts", || {
            Ok(self.text()?.lines().find_map(|line| line.strip_prefix("ready ")).map(str::to_owned))
        })
    }

    /// Rounds it has finished.
    pub fn rounds(&self) -> Checked<u64> {
        let text = self.text()?;
        let rounds = text.lines().rev().find_map(|line| line.strip_prefix("rounds ")?.parse().ok());
        Ok(rounds.unwrap_or(0))
    }

    /// Waits until it has gone on for a while from now.
    pub fn goes_on(&self) -> Checked {
        let goal = self.rounds()? + 2 * NEW_PROCESS;
        until(60, "the workload goes on", || Ok((self.rounds()? >= goal).then_some(())))
            .map_err(|e| format!("{e}: {}", self.last()))
    }

    /// How many verdicts were wrong.
    pub fn wrong(&self) -> Checked<usize> {
        Ok(self.text()?.lines().filter(|line| line.starts_with("wrong ")).count())
    }

    /// An error with the first wrong verdicts, if there were any.
    pub fn nothing_wrong(&self) -> Checked {
        let text = self.text()?;
        let wrong: Vec<&str> = text.lines().filter(|line| line.starts_with("wrong ")).collect();
        ensure(self.rounds()? > 0, || format!("the workload did nothing: {text}"))?;
        ensure(wrong.is_empty(), || {
            format!("{} wrong verdicts: {}", wrong.len(), wrong[..wrong.len().min(4)].join("; "))
        })
    }

    /// Every forbidden attempt went through, and nothing else was wrong: what the workload sees where nothing holds it.
    pub fn free(&self) -> Checked {
        let text = self.text()?;
        let connected = text.contains("connect to what is forbidden: went through");
        let opened = text.contains("open of what is forbidden: went through");
        let refused = text.lines().any(|line| line.contains("what is allowed:"));
        ensure(connected && opened && !refused, || format!("not free: {}", self.last()))
    }

    /// The last lines, for an error.
    pub fn last(&self) -> String {
        let text = self.text().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(6)..].join("; ")
    }
}
