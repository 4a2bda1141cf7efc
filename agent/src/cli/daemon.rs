//! What verbs that ask the daemon share: where it is, and what its answers mean for the exit code.

use std::{io, path::PathBuf};

use super::exit;
use crate::daemon::{
    api::error::ErrorKind,
    client::{Client, ClientError},
    config::SOCKET,
};

/// Where the daemon is.
#[derive(Debug, Clone, clap::Args)]
pub struct Socket {
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
}

impl Socket {
    /// The daemon there.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

/// Why a verb did not do what it was to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The daemon is not there, or refused.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// Usage, or a policy with errors.
    #[error("{0}")]
    Usage(String),
    /// A step of ours failed.
    #[error("{0}")]
    Own(String),
    /// Nobody reads what is printed: no reason to complain.
    #[error("standard output is closed")]
    NoReader,
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Daemon(ClientError::NoDaemon { .. }) => exit::NO_DAEMON,
            Self::Daemon(ClientError::NotAllowed { .. }) => exit::NOT_ALLOWED,
            Self::Daemon(ClientError::Broken { .. }) | Self::Own(_) => exit::OWN_FAILURE,
            Self::Daemon(ClientError::Refused(error)) => match error.kind {
                ErrorKind::Forbidden => exit::NOT_ALLOWED,
                ErrorKind::Invalid | ErrorKind::BadRequest | ErrorKind::TooLarge => exit::USAGE,
                ErrorKind::Unavailable => exit::NO_DAEMON,
                ErrorKind::NotFound
                | ErrorKind::MethodNotAllowed
                | ErrorKind::Conflict
                | ErrorKind::Timeout
                | ErrorKind::Busy
                | ErrorKind::Failed => exit::REFUSED,
            },
            Self::Usage(_) => exit::USAGE,
            Self::NoReader => 0,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::NoReader,
            _ => Self::Own(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Own(format!("writing JSON: {error}"))
    }
}

/// Does something, prints why not, and says what to exit with.
#[must_use]
pub fn done(work: impl Future<Output = Result<(), Failure>>) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(Failure::Own(format!("starting a runtime: {error}"))),
    };
    match result {
        Ok(()) => 0,
        Err(failure) => {
            if !matches!(failure, Failure::NoReader) {
                eprintln!("stockade: {failure}");
            }
            failure.code()
        }
    }
}
