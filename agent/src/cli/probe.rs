//! The live proof: a child in a tagged cgroup without any rule attempts what must be refused. That a hook is listed, loaded
//! and attached says nothing: where `bpf` is no active LSM all three succeed and it never runs.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    os::linux::net::SocketAddrExt as _,
    os::unix::net::{SocketAddr, UnixDatagram, UnixListener},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::{attempt::Place, guarantee::GUARANTEES};
use crate::scope::cgroup::OwnCgroup;

/// What [`GUARANTEES`] were answered with: an error number each, 0 for an attempt that went through.
pub type Answers = [i32; GUARANTEES.len()];

/// The hidden verb: one line of error numbers for each line on standard input.
#[must_use]
pub fn child(place: &Place) -> u8 {
    for line in io::stdin().lines() {
        if line.is_err() {
            break;
        }
        let words: Vec<String> =
            GUARANTEES.iter().map(|guarantee| errno((guarantee.attempt)(place)).to_string()).collect();
        println!("{}", words.join(" "));
        if io::stdout().flush().is_err() {
            break;
        }
    }
    0
}

fn errno(result: io::Result<()>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

/// The child that attempts, untagged until it is moved, and what it attempts things on; all is removed when this is
/// dropped.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    place: Place,
    /// Listen, and are never read.
    _sockets: (UnixListener, UnixDatagram),
}

impl Probe {
    /// Starts it.
    ///
    /// # Errors
    /// If it cannot be started, or no directory can be written to.
    pub fn start() -> io::Result<Self> {
        let name = format!("stockade-probe-{}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let inbox = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("{name}-dgram"))?)?;
        let place = Place { file: file(&name)?, socket: name };
        let child = Command::new("/proc/self/exe")
            .arg("__probe")
            .arg(&place.file)
            .arg(&place.socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.inspect_err(|_| drop(fs::remove_file(&place.file)))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => {
                Ok(Self { child, input, output: BufReader::new(output), place, _sockets: (listener, inbox) })
            }
            _ => Err(io::Error::other("the probe has no pipes")),
        }
    }

    /// Has everything attempted once, where it is.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn attempt(&mut self) -> io::Result<Answers> {
        self.input.write_all(b"go\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let answers: Vec<i32> = line
            .split_whitespace()
            .map(|word| word.parse().map_err(io::Error::other))
            .collect::<io::Result<_>>()?;
        answers.try_into().map_err(|_| io::Error::other(format!("the probe answered {line:?}")))
    }

    /// Has everything attempted once, in a cgroup.
    ///
    /// # Errors
    /// If it cannot be moved, or does not answer.
    pub fn attempt_in(&mut self, cgroup: &OwnCgroup) -> io::Result<Answers> {
        cgroup.add(self.child.id()).map_err(io::Error::other)?;
        self.attempt()
    }
}

/// Makes the file that is tried to be changed, in the first directory where that can be done: attempts at changing things
/// on a filesystem that nobody can change would show nothing.
fn file(name: &str) -> io::Result<PathBuf> {
    let named = [env::temp_dir(), "/dev/shm".into(), "/run".into(), "/var/tmp".into(), "/root".into()];
    let mut candidates = named.to_vec();
    candidates.extend(env::current_dir());
    for directory in &candidates {
        let path = directory.join(format!(".{name}"));
        let link = directory.join(format!(".{name}-try"));
        // A run of the same process id that was killed may have left one.
        let _ = fs::remove_file(&path);
        if File::create_new(&path).is_ok() {
            // Not every filesystem has hard links.
            let links = fs::hard_link(&path, &link).is_ok();
            let _ = fs::remove_file(&link);
            if links {
                return Ok(path);
            }
            let _ = fs::remove_file(&path);
        }
    }
    let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    let message =
        format!("none of {} can be written to: set TMPDIR to a directory that can", tried.join(", "));
    Err(io::Error::other(message))
}

impl Drop for Probe {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = fs::remove_file(&self.place.file) {
            eprintln!("stockade: removing {}: {error}", self.place.file.display());
        }
    }
}
