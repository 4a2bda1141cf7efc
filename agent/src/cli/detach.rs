//! `stockade detach --all`: the only way to let go of everything.

use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use super::{
    daemon::{Failure, Socket, done},
    host::PINS,
};
use crate::daemon::{
    api::handle::{CONFIRMATION, Detach},
    client::ClientError,
    command::Status,
};

/// Removes all that is pinned below a directory, where no daemon does: the message says why not.
pub type Release = fn(&Path) -> Result<(), String>;

/// `stockade detach`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Everything: there is nothing less.
    #[arg(long, required = true)]
    all: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Runs the verb. Without a daemon `release` does it.
#[must_use]
pub fn run(args: &Args, release: Option<Release>) -> u8 {
    done(detach(args, Path::new(PINS), release))
}

async fn detach(args: &Args, pins: &Path, release: Option<Release>) -> Result<(), Failure> {
    let client = args.socket.client();
    match client.get::<Status>("/v1/status").await {
        Ok(status) => {
            let cgroups: usize = status.scopes.iter().map(|scope| scope.cgroups.len()).sum();
            confirm(args.yes, &format!("{cgroups} cgroups of {} scopes", status.scopes.len()))?;
            let body = Detach { confirm: CONFIRMATION.into() };
            client.post::<serde_json::Value>("/v1/detach", &body).await?;
            Ok(writeln!(io::stdout(), "everything is let go; the daemon has ended")?)
        }
        Err(error @ ClientError::NoDaemon { .. }) => {
            let pinned = pinned(pins)?;
            if pinned.is_empty() {
                return Ok(writeln!(io::stdout(), "no daemon is there, and nothing is pinned")?);
            }
            let listed: Vec<String> = pinned.iter().map(|path| path.display().to_string()).collect();
            let listed = listed.join(", ");
            let Some(release) = release else {
                let message = format!(
                    "{error}\nstill pinned and enforced: {listed}; start the daemon, which adopts it, and say this again"
                );
                return Err(Failure::Own(message));
            };
            confirm(args.yes, &format!("no daemon, and pinned {listed}"))?;
            release(pins).map_err(Failure::Own)?;
            Ok(writeln!(io::stdout(), "everything is let go")?)
        }
        Err(error) => Err(error.into()),
    }
}

/// What the kernel goes on enforcing without a daemon.
fn pinned(pins: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: io::Error| Failure::Own(format!("looking for pins in {}: {error}", pins.display()));
    let entries = match fs::read_dir(pins) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        found.push(entry.map_err(failed)?.path());
    }
    found.sort();
    Ok(found)
}

fn confirm(yes: bool, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let message =
            format!("this lets go of everything ({what}); nobody can be asked here: say it with --yes");
        return Err(Failure::Usage(message));
    }
    let mut out = io::stderr();
    write!(
        out,
        "This lets go of everything: {what}.\nNothing is enforced after it. Type `{CONFIRMATION}`: "
    )?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == CONFIRMATION {
        return Ok(());
    }
    Err(Failure::Usage("nothing was changed".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit;

    fn detached(pins: &Path, yes: bool, release: Option<Release>) -> Result<(), Failure> {
        let socket = Socket { socket: pins.join("no.sock") };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(detach(&Args { all: true, yes, socket }, pins, release))
    }

    #[test]
    fn without_a_daemon_what_is_pinned_is_told_or_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let release: Release = |pins| fs::remove_dir(pins.join("daemon")).map_err(|error| error.to_string());
        assert!(detached(&folder.path().join("none"), false, None).is_ok(), "nothing to let go");
        fs::create_dir(folder.path().join("daemon")).unwrap();
        let refused = detached(folder.path(), true, None).unwrap_err();
        assert!(refused.to_string().contains("/daemon; start the daemon"), "{refused}");
        assert!(detached(folder.path(), true, Some(release)).is_ok());
        assert!(pinned(folder.path()).unwrap().is_empty());
        assert!(detached(folder.path(), true, Some(|_| Err("no".into()))).is_ok());
        fs::create_dir(folder.path().join("other")).unwrap();
        assert_eq!(
            detached(folder.path(), true, Some(|_| Err("no".into()))).unwrap_err().code(),
            exit::OWN_FAILURE
        );
    }
}
