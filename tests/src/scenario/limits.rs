//! Tables and times that are at their end.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::daemon::{Daemon, OPEN, PATIENCE, SECRET, TREE, entering, expect, holds, reads, said_in, text};

/// The word that makes this program enter a cgroup and fork.
pub const CROWD: &str = "__crowd";
/// The word that makes this program make cgroups.
pub const MAKER: &str = "__maker";

/// As many as can be starting at once.
const STARTERS: usize = 4096;
const CROWD_SIZE: usize = STARTERS + 100;
/// Tags after which none are inherited.
const INHERITED: usize = 65_536 - 8192;

fn program() -> Result<String, String> {
    let program = std::env::current_exe().map_err(text)?;
    program.to_str().map(str::to_owned).ok_or_else(|| "a path that is not UTF-8".into())
}

/// A starter that executes nothing, and says what it can read at first and after 125 seconds.
struct Idle(Child);

impl Idle {
    fn start(cgroup: &str) -> Result<Self, String> {
        let folder = format!("{TREE}/{cgroup}");
        fs::create_dir_all(&folder).map_err(|e| format!("{folder}: {e}"))?;
        let (secret, open) = (reads(SECRET), reads(OPEN));
        let script =
            format!("echo $$ > {folder}/cgroup.procs || exit 9\n{secret}; read -t 125 x; {secret}; {open}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        shell.spawn().map(Self).map_err(text)
    }

    fn said(mut self) -> Result<String, String> {
        let mut said = String::new();
        // Its input stays open meanwhile.
        if let Some(out) = self.0.stdout.as_mut() {
            out.read_to_string(&mut said).map_err(text)?;
        }
        self.0.wait().map_err(text)?;
        Ok(said.trim().replace('\n', " "))
    }
}

/// Who has started nothing for two minutes is policed, and so are those for whom there is no room in the table of starters.
pub fn starters() -> Result<(), String> {
    let _daemon = Daemon::start("")?;
    let idle = Idle::start("ci/idle")?;
    let folder = format!("{TREE}/ci/crowd");
    fs::create_dir_all(&folder).map_err(text)?;
    let size = CROWD_SIZE.to_string();
    let crowd = Command::new(program()?).args([CROWD, &folder, &size]).output().map_err(text)?;
    let said = String::from_utf8_lossy(&crowd.stdout).into_owned();
    let free: usize = said
        .trim()
        .parse()
        .map_err(|_| format!("the crowd says {said:?}: {}", String::from_utf8_lossy(&crowd.stderr)))?;
    if free == 0 || free >= STARTERS {
        return Err(format!("of {CROWD_SIZE} that were forked at once {free} were not policed"));
    }
    holds("ci/after-the-crowd")?;
    expect("a starter that waits", idle.said(), "went refused went")
}

/// A policed process makes more cgroups than are tagged: those without a tag are held as the ones they are in, nobody starts
/// anything meanwhile, and all is as before when they are gone.
pub fn tags() -> Result<(), String> {
    let _daemon = Daemon::start(&format!("write = [\"{TREE}/**\"]"))?;
    holds("ci/before")?;
    let folder = format!("{TREE}/ci/full");
    fs::create_dir_all(&folder).map_err(text)?;
    let count = INHERITED + 8;
    let begin = Instant::now();
    expect("the maker", said_in("ci/maker", &format!("exec {} {MAKER} {folder} {count}", program()?)), "")?;
    let made = begin.elapsed();
    let last = format!("ci/full/{}", count - 1);
    let checked = expect("who enters one that was not tagged", entering(&last, &reads(SECRET)), "refused")
        .and_then(|()| expect("what is executed in it", said_in(&last, &reads(SECRET)), "refused"))
        .and_then(|()| expect("what is allowed in it", said_in(&last, &reads(OPEN)), "went"));
    for number in 0..count {
        // What cannot be removed is seen below.
        let _ = fs::remove_dir(format!("{folder}/{number}"));
    }
    println!(
        "   {count} cgroups: made in {:.0} s, gone after {:.0} s",
        made.as_secs_f32(),
        begin.elapsed().as_secs_f32()
    );
    checked?;
    let end = Instant::now() + PATIENCE;
    while entering("ci/after", &reads(SECRET))? != "went" {
        if Instant::now() > end {
            return Err("nobody starts anything after they are gone".into());
        }
        sleep(Duration::from_secs(1));
    }
    holds("ci/after")
}

/// A path that is too long for the kernel's own table: what is executed there waits until the daemon has found whose it is.
pub fn long_path() -> Result<(), String> {
    let daemon = Daemon::start("")?;
    let long = ["n"; 5].map(|name| name.repeat(220)).join("/");
    let (inside, elsewhere) = (format!("ci/{long}"), format!("elsewhere/{long}"));
    holds(&inside)?;
    expect("whose no rule holds for", said_in(&elsewhere, &reads(SECRET)), "went")?;
    daemon.kill()?;
    let late = format!("{inside}/late");
    let folder = format!("{TREE}/{late}");
    fs::create_dir_all(&folder).map_err(text)?;
    let script = format!("echo $$ > {folder}/cgroup.procs; exec /bin/sh -c '{}'", reads(SECRET));
    let mut waiting =
        Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().map_err(text)?;
    sleep(Duration::from_secs(3));
    let ended = waiting.try_wait().map_err(text)?;
    let _daemon = Daemon::again()?;
    let said = Idle(waiting).said()?;
    match ended {
        Some(status) => Err(format!("it ran without a daemon, and ended with {status}: {said:?}")),
        None => expect("when a daemon is back", Ok(said), "refused"),
    }
}

/// Enters a cgroup, forks so many that all live at once, and returns how many of them could read the secret.
pub fn crowd(folder: &str, size: &str) -> Result<usize, String> {
    let size: usize = size.parse().map_err(text)?;
    fs::write(format!("{folder}/cgroup.procs"), std::process::id().to_string()).map_err(text)?;
    let (gate, opener) = std::io::pipe().map_err(text)?;
    let mut children = Vec::with_capacity(size);
    for _ in 0..size {
        // SAFETY: there is one thread.
        match unsafe { nix::unistd::fork() }.map_err(text)? {
            nix::unistd::ForkResult::Parent { child } => children.push(child),
            nix::unistd::ForkResult::Child => {
                drop(opener);
                let _ = (&gate).read(&mut [0]);
                let free = fs::File::open(SECRET).is_ok();
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(i32::from(free)) }
            }
        }
    }
    drop(opener);
    let mut free = 0;
    for child in children {
        let status = nix::sys::wait::waitpid(child, None).map_err(text)?;
        free += usize::from(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 1)));
    }
    Ok(free)
}

/// Makes cgroups until so many are there.
pub fn make(folder: &str, count: &str) -> Result<(), String> {
    let count: usize = count.parse().map_err(text)?;
    for number in 0..count {
        let path = format!("{folder}/{number}");
        fs::create_dir(&path).map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(())
}
