//! The host that `from:` rules are read from: files as the user sees them, and the tools, run as the user.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::{
    policy::{
        check::Overlay,
        checked::CheckedPolicy,
        from::{self, Answers, Found, MAX_BYTES, PREFIX},
        parse::Document,
    },
    scope::user::User,
};

/// How long a tool may take to say what it is set up to use.
const PATIENCE: Duration = Duration::from_secs(20);

struct Here<'a> {
    folder: PathBuf,
    home: Option<PathBuf>,
    user: Option<&'a User>,
}

impl from::Host for Here<'_> {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let file = fs::File::open(path)?;
        if !file.metadata()?.is_file() {
            // A directory is no file of that name; of a pipe there is no end.
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
        }
        Ok(text)
    }

    fn list(&self, path: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }

    fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(program);
        // Not in the project, whose files might say what the tool does first.
        command
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(home) = &self.home {
            command.env("HOME", home);
        }
        if let Some(user) = self.user.filter(|_| nix::unistd::geteuid().is_root()) {
            // Supplementary groups are dropped by this.
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = command.spawn().ok()?;
        let mut stdout = child.stdout.take()?;
        let reader = thread::spawn(move || {
            let mut text = String::new();
            stdout.by_ref().take(1 << 20).read_to_string(&mut text).map(|_| text)
        });
        let begin = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if begin.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(20)),
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
            }
        };
        // A child of the tool's may hold the pipe open.
        if !status?.success() || (!reader.is_finished() && wait(&reader)) {
            return None;
        }
        reader.join().ok()?.ok()
    }
}

/// Whether it is still not at its end after a moment.
fn wait<T>(reader: &thread::JoinHandle<T>) -> bool {
    let begin = Instant::now();
    while !reader.is_finished() && begin.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(5));
    }
    !reader.is_finished()
}

/// What the `from:` rules of documents and flags come to, for a command that `user` runs in `folder`. What is read is read
/// with that user's rights.
pub fn answers(documents: &[Document], overlay: &Overlay, user: Option<&User>) -> Answers {
    let wanted = from::wanted(documents, &overlay.allow_net);
    if wanted.is_empty() {
        return Answers::new();
    }
    let folder = overlay
        .workspaces
        .first()
        .cloned()
        .or_else(|| std::env::current_dir().ok())
        .unwrap_or_else(|| "/".into());
    let here = Here { folder, home: overlay.home.clone(), user };
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            if let Some(user) = here.user.filter(|_| nix::unistd::geteuid().is_root()) {
                // Of this thread alone, which ends; with it go the capabilities to pass over the modes of files.
                setfsgid(Gid::from_raw(user.gid));
                setfsuid(Uid::from_raw(user.uid));
            }
            from::answers(wanted, &here)
        });
        reader.join().unwrap_or_default()
    })
}

/// Says what was found, and where.
pub fn show(policy: &CheckedPolicy, answers: &Answers) {
    for rule in policy.rules.iter().filter(|rule| rule.source.starts_with(PREFIX)) {
        eprintln!("stockade: {} is allowed {}", rule.text, rule.source);
    }
    for (text, found) in answers {
        for Found { rule, place, left_out: _ } in found.iter().flatten().filter(|found| found.left_out) {
            eprintln!(
                "stockade: {rule} is not allowed {text} ({place}): an address in a file of the project, or of a cloud's metadata; \
                 --allow-net {rule} would"
            );
        }
    }
}
