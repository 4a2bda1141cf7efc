//! `stockade policy apply`: policy files into the daemon's directory, all of them or none.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::{
    daemon::{Failure, Socket, done},
    live,
};
use crate::{
    daemon::{
        api::handle::StartShadow,
        client::{Client, ClientError, segment},
        command::{Reloaded, ShadowReport},
    },
    policy::{
        check::{self, Overlay},
        extend,
        parse::{self, Source},
    },
};

/// Where the daemon's policies are.
pub const POLICIES: &str = "/etc/stockade/policies.d";

/// `stockade policy apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Policy files; each takes the place of the one of the same name in /etc/stockade/policies.d.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Change nothing: compare what they would decide with what is decided, from now on.
    #[arg(long)]
    shadow: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Runs the verb.
#[must_use]
pub fn run(args: &Args) -> u8 {
    done(async {
        let policies = args.files.iter().map(|file| Checked::read(file)).collect::<Result<Vec<_>, _>>()?;
        let client = args.socket.client();
        if args.shadow {
            return shadow(&client, &policies).await;
        }
        let reloaded = apply(&client, &policies, Path::new(POLICIES)).await?;
        Ok(live::say(&reloaded)?)
    })
}

/// A policy file without errors of its own.
#[derive(Debug)]
struct Checked {
    file: OsString,
    name: String,
    text: String,
}

impl Checked {
    fn read(path: &Path) -> Result<Self, Failure> {
        let named = |why: &str| Failure::Usage(format!("{}: {why}", path.display()));
        let file = path.file_name().filter(|name| Path::new(name).extension() == Some(OsStr::new("toml")));
        let file = file.ok_or_else(|| named("the daemon reads files whose names end in .toml: rename it"))?;
        let usage = |error: crate::policy::diagnostic::Diagnostics| Failure::Usage(error.to_string());
        // What was checked is what is copied.
        let (identity, source) = parse::read(path).map_err(|refusal| {
            usage(crate::policy::diagnostic::Diagnostics(vec![refusal.at(&unnamed(path), None)]))
        })?;
        let open = |asked: &Path| {
            if asked == path { Ok((identity.clone(), source.clone())) } else { parse::read(asked) }
        };
        let documents = extend::load(path, &open).map_err(usage)?;
        let policy = check::check(&documents, &Overlay::default()).map_err(usage)?;
        Ok(Self { file: file.to_owned(), name: policy.name, text: source.text })
    }
}

fn unnamed(path: &Path) -> Source {
    Source { name: path.display().to_string(), text: String::new() }
}

async fn shadow(client: &Client, policies: &[Checked]) -> Result<(), Failure> {
    for Checked { name, text, .. } in policies {
        let path = format!("/v1/scopes/{}/shadow", segment(name));
        let _: ShadowReport = client.post(&path, &StartShadow { policy: text.clone() }).await?;
        writeln!(
            io::stdout(),
            "{name}: compared from now on; `stockade policy shadow {name}` shows what differs"
        )?;
    }
    Ok(())
}

async fn apply(client: &Client, policies: &[Checked], folder: &Path) -> Result<Reloaded, Failure> {
    for (index, policy) in policies.iter().enumerate() {
        if policies[..index].iter().any(|other| other.file == policy.file) {
            let message = format!("{}: two files of that name: rename one", policy.file.display());
            return Err(Failure::Usage(message));
        }
    }
    client.reachable()?;
    let mut changes = Changes::begin(folder)?;
    for policy in policies {
        changes.put(&policy.file, policy.text.as_bytes())?;
    }
    match client.post::<Reloaded>("/v1/reload", &serde_json::json!({})).await {
        Ok(reloaded) => {
            changes.keep();
            Ok(reloaded)
        }
        Err(error) => {
            let restored = changes.undo();
            let unknown = matches!(error, ClientError::Broken { .. });
            if let Err(more) = restored {
                return Err(Failure::Own(format!("{error}\nand {more}")));
            }
            eprintln!("stockade: {} is as it was before", folder.display());
            if unknown {
                eprintln!(
                    "stockade: whether the daemon took the new policies is not known: `stockade policy reload`"
                );
            }
            Err(error.into())
        }
    }
}

/// Files that were put into a directory, and what was there before. Undone when dropped without being kept.
#[derive(Debug)]
struct Changes {
    folder: PathBuf,
    /// No other `apply` at the same time.
    lock: Flock<File>,
    before: Vec<(PathBuf, Option<Vec<u8>>)>,
}

fn step<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Failure + 'a {
    move |error| {
        let help = match error.kind() {
            io::ErrorKind::PermissionDenied => "; run with sudo",
            io::ErrorKind::ReadOnlyFilesystem => "; mount it writable, or change policies where it is made",
            _ => "",
        };
        Failure::Own(format!("{what} {}: {error}{help}", path.display()))
    }
}

impl Changes {
    fn begin(folder: &Path) -> Result<Self, Failure> {
        let directory = File::open(folder).map_err(step("opening", folder))?;
        let lock = Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, error)| step("locking", folder)(error.into()))?;
        Ok(Self { folder: folder.to_path_buf(), lock, before: Vec::new() })
    }

    fn put(&mut self, name: &OsStr, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.folder.join(name);
        let before = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(step("reading", &path)(error)),
        };
        self.write(&path, bytes)?;
        self.before.push((path, before));
        Ok(())
    }

    /// Whoever reads it at any moment, after a power cut too, sees all of the old or all of the new.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}", std::process::id()));
        let new = self.folder.join(name);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&new)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&new, path))
            .and_then(|()| self.lock.sync_all());
        written.map_err(|error| {
            let _ = fs::remove_file(&new);
            step("writing", path)(error)
        })
    }

    fn keep(mut self) {
        self.before.clear();
    }

    fn undo(&mut self) -> Result<(), Failure> {
        for (path, before) in std::mem::take(&mut self.before).into_iter().rev() {
            match before {
                Some(bytes) => self.write(&path, &bytes)?,
                None => fs::remove_file(&path)
                    .and_then(|()| self.lock.sync_all())
                    .map_err(step("removing", &path))?,
            }
        }
        Ok(())
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            eprintln!("stockade: putting back what was there: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_not_kept_is_undone() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old.toml"), folder.path().join("new.toml"));
        fs::write(&old, "before").unwrap();
        let mut changes = Changes::begin(folder.path()).unwrap();
        changes.put(OsStr::new("old.toml"), b"after").unwrap();
        changes.put(OsStr::new("new.toml"), b"after").unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "after");
        drop(changes);
        assert_eq!(fs::read_to_string(&old).unwrap(), "before");
        assert_eq!(names(folder.path()), ["old.toml"]);
        let mut changes = Changes::begin(folder.path()).unwrap();
        changes.put(OsStr::new("new.toml"), b"after").unwrap();
        changes.keep();
        assert_eq!(fs::read_to_string(new).unwrap(), "after");
    }

    #[test]
    fn one_that_cannot_be_put_takes_the_others_back() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b.toml")).unwrap();
        let mut changes = Changes::begin(folder.path()).unwrap();
        changes.put(OsStr::new("a.toml"), b"after").unwrap();
        assert!(changes.put(OsStr::new("b.toml"), b"after").is_err());
        drop(changes);
        assert_eq!(names(folder.path()), ["b.toml"]);
    }

    #[test]
    fn nothing_is_touched_for_a_policy_with_errors_or_without_a_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.toml");
        fs::write(&file, "version = 1\nnonsense = 1\n").unwrap();
        assert!(matches!(Checked::read(&file), Err(Failure::Usage(_))));
        assert!(matches!(Checked::read(&folder.path().join("p.txt")), Err(Failure::Usage(_))));
        fs::write(&file, "version = 1\nname = \"p\"\n").unwrap();
        let policy = Checked::read(&file).unwrap();
        assert_eq!(policy.name, "p");
        let target = tempfile::tempdir().unwrap();
        let client = Client::new(&folder.path().join("no.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let refused = runtime.block_on(apply(&client, &[policy], target.path())).unwrap_err();
        assert_eq!(refused.code(), crate::cli::exit::NO_DAEMON);
        assert!(names(target.path()).is_empty());
    }

    /// A daemon that answers each request with the same, and has seen what was in the directory then.
    fn answering(
        socket: &Path,
        watched: PathBuf,
        answer: &'static str,
    ) -> std::thread::JoinHandle<Vec<String>> {
        use std::io::Read as _;
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            // The first only looks whether somebody is there.
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            names(&watched)
        })
    }

    #[test]
    fn a_refused_reload_puts_the_old_files_back() {
        const REFUSED: &str =
            "HTTP/1.1 422 x\r\nContent-Length: 33\r\n\r\n{\"kind\":\"invalid\",\"message\":\"no\"}";
        const CUT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{";
        const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 56\r\n\r\n\
                             {\"changed\":[],\"added\":[\"p\"],\"removed\":[],\"unchanged\":[]}";
        for (answer, code) in
            [(REFUSED, crate::cli::exit::USAGE), (CUT, crate::cli::exit::OWN_FAILURE), (TAKEN, 0)]
        {
            let (folder, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            fs::write(target.path().join("old.toml"), "before").unwrap();
            let socket = folder.path().join("api.sock");
            let daemon = answering(&socket, target.path().into(), answer);
            let policy = |file: &str| Checked { file: file.into(), name: "p".into(), text: "after".into() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            let policies = [policy("old.toml"), policy("new.toml")];
            let result = runtime.block_on(apply(&Client::new(&socket), &policies, target.path()));
            assert_eq!(daemon.join().unwrap(), ["new.toml", "old.toml"], "there when the daemon looks");
            assert_eq!(result.as_ref().map_or_else(Failure::code, |_| 0), code, "{result:?}");
            let (left, old) = if code == 0 { (2, "after") } else { (1, "before") };
            assert_eq!(names(target.path()).len(), left);
            assert_eq!(fs::read_to_string(target.path().join("old.toml")).unwrap(), old);
        }
    }
}
