//! A run through the daemon: a child waits, the daemon makes a cgroup, tags it and moves the child in, the child goes on.
//!
//! The thread that forks must live as long as the command, which is killed with it; so the daemon is talked to in another one.

use std::{
    collections::BTreeMap,
    io,
    process::Child,
    sync::mpsc::{Receiver as Answer, channel},
    thread::JoinHandle,
};

use hyper::Method;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::{Client, ClientError, Lines, segment};
use crate::{
    daemon::command::{RunEnded, RunRequest, RunStarted},
    scope::launch::{Join, Keeper, LaunchError, gate},
};

/// Events that wait to be taken. More wait in the daemon.
const WAITING: usize = 1024;

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no daemon, or it refused.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// The daemon polices the network only, and that was not allowed.
    #[error(
        "the daemon cannot police files, only connects, sends and sockets; `stockade doctor` says why, --allow-degraded network-only accepts it"
    )]
    Degraded,
    /// The command could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A step of ours failed.
    #[error("{step}: {source}")]
    Own {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A command that runs. What is left of it is ended when this is dropped.
#[derive(Debug)]
pub struct Run {
    client: Client,
    started: RunStarted,
    child: Child,
    events: Receiver<String>,
    /// Talks to the daemon until `events` is dropped or there are no more.
    talk: Option<JoinHandle<()>>,
}

/// What is to be run, and how the daemon is told.
#[derive(Debug)]
pub struct Wanted {
    /// Policy text with everything put in.
    pub policy: String,
    /// Report allowed reads and sends too.
    pub audit_all: bool,
    /// Where rules come from that `from:` has come to, by their text in the policy.
    pub sources: BTreeMap<String, String>,
    /// Start although the daemon cannot police files.
    pub allow_degraded: bool,
}

impl Run {
    /// Starts a command: `launch` is given what its `join` is to be.
    ///
    /// # Errors
    /// See [`RunError`]. Nothing runs then.
    pub fn start(
        client: &Client,
        wanted: Wanted,
        launch: impl FnOnce(Join) -> Result<Child, LaunchError>,
    ) -> Result<Self, RunError> {
        let own = |step| move |source| RunError::Own { step, source };
        let (gate, keeper) = gate().map_err(own("making a gate for the command"))?;
        let (answer, answered) = channel();
        let (sender, events) = mpsc::channel(WAITING);
        let asking = client.clone();
        let talk = std::thread::Builder::new()
            .name("daemon".into())
            .spawn(move || talk(&asking, wanted, keeper, &answer, sender))
            .map_err(own("starting a thread"))?;
        let launched = launch(Join::Gate(gate));
        let started = answer_of(&answered);
        match (started, launched) {
            (Ok(Some(started)), Ok(child)) => {
                Ok(Self { client: client.clone(), started, child, events, talk: Some(talk) })
            }
            // Sent away from the gate.
            (Err(error), Err(_)) => Err(error),
            // Dropping `events` ends the run, if there is one.
            (Ok(_), Err(error)) => Err(error.into()),
            (Ok(None), Ok(mut child)) | (Err(_), Ok(mut child)) => {
                // Without an answer nobody lets it through; should it be there all the same, it may not stay.
                let _ = child.kill();
                let _ = child.wait();
                Err(RunError::Own { step: "asking the daemon", source: io::ErrorKind::UnexpectedEof.into() })
            }
        }
    }

    /// What the daemon made of it.
    #[must_use]
    pub fn started(&self) -> &RunStarted {
        &self.started
    }

    /// The command.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The next event, one line of JSON; `None` when there will be no more: the run was [ended](Self::end), or the daemon was.
    /// May be dropped before it is ready, and nothing is lost.
    pub async fn next(&mut self) -> Option<String> {
        self.events.recv().await
    }

    /// Ends the run: what is left in its cgroup is killed, and it is let go. Its last events come after that.
    ///
    /// # Errors
    /// If the daemon is gone, or refuses.
    pub async fn end(&mut self) -> Result<RunEnded, ClientError> {
        let path = format!("/v1/run/{}/end", segment(&self.started.scope));
        self.client.post(&path, &serde_json::json!({})).await
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.events.close();
        while self.events.try_recv().is_ok() {}
        if let Some(talk) = self.talk.take() {
            let _ = talk.join();
        }
    }
}

type Started = std::sync::mpsc::Sender<Result<RunStarted, RunError>>;

/// `None`: there was no child to ask for.
fn answer_of(answered: &Answer<Result<RunStarted, RunError>>) -> Result<Option<RunStarted>, RunError> {
    answered.recv().map_or(Ok(None), |answer| answer.map(Some))
}

fn talk(client: &Client, wanted: Wanted, mut keeper: Keeper, answer: &Started, events: Sender<String>) {
    // It could not be started, which whoever wanted it hears from elsewhere.
    let Ok(pid) = keeper.arrival() else { return };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let _ = keeper.decide(false);
            let _ = answer.send(Err(RunError::Own { step: "starting a runtime", source }));
            return;
        }
    };
    let allow_degraded = wanted.allow_degraded;
    runtime.block_on(async {
        match ask(client, wanted, pid).await {
            // The connection ends here, and with it the run.
            Ok((started, _)) if started.degraded && !allow_degraded => {
                let _ = keeper.decide(false);
                let _ = answer.send(Err(RunError::Degraded));
            }
            Ok((started, lines)) => {
                if keeper.decide(true).is_ok() && answer.send(Ok(started)).is_ok() {
                    forward(lines, events).await;
                }
            }
            Err(error) => {
                let _ = keeper.decide(false);
                let _ = answer.send(Err(error.into()));
            }
        }
    });
}

async fn ask(client: &Client, wanted: Wanted, pid: u32) -> Result<(RunStarted, Lines), ClientError> {
    let step = "asking for a run";
    let Wanted { policy, audit_all, sources, allow_degraded: _ } = wanted;
    let request = RunRequest { policy, pid, uid: 0, client: 0, audit_all, sources };
    let not_json = |error: serde_json::Error| ClientError::Broken { step, message: error.to_string() };
    let body = serde_json::to_vec(&request).map_err(not_json)?;
    let mut lines = client.lines(Method::POST, "/v1/run", body.into()).await?;
    let silent = || ClientError::Broken { step, message: "it said nothing".into() };
    let started = lines.next().await?.ok_or_else(silent)?;
    Ok((serde_json::from_str(&started).map_err(not_json)?, lines))
}

async fn forward(mut lines: Lines, events: Sender<String>) {
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            () = events.closed() => return,
        };
        match line {
            Ok(Some(line)) => {
                if events.send(line).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => return tracing::warn!("the run's events end here: {error}"),
        }
    }
}
