//! Runs that clients have started. A run lasts as long as its client: until that says so, its connection ends, or it dies,
//! whichever comes first. When the daemon ends, its runs go on, held by the pins.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot, watch},
};

use super::error::{ApiError, ErrorKind};
use crate::daemon::{
    command::{Command, RunEnded, RunRequest, RunStarted},
    hub::Subscription,
};

/// Where an end's outcome goes.
type EndReply = oneshot::Sender<Result<RunEnded, ApiError>>;

/// The runs.
#[derive(Debug, Clone, Default)]
pub struct Runs(Arc<Mutex<HashMap<String, Entry>>>);

#[derive(Debug)]
struct Entry {
    uid: u32,
    end: oneshot::Sender<EndReply>,
}

/// What a run needs to be watched.
#[derive(Debug)]
pub struct Watch {
    /// To the core.
    pub commands: mpsc::Sender<Command>,
    /// The run's events: no more of them when it has ended.
    pub subscription: Arc<Subscription>,
    /// The client, by descriptor.
    pub client: OwnedFd,
    /// Ends when the client's connection does.
    pub connected: oneshot::Receiver<()>,
    /// Turns true when the daemon is about to end.
    pub ending: watch::Receiver<bool>,
}

fn gone() -> ApiError {
    ApiError::new(ErrorKind::Unavailable, "the daemon is about to end")
}

impl Runs {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the core for a run, says what came of it, and ends it when it is time. A task of its own, so that a client that
    /// goes away at any moment leaves no run behind.
    pub async fn watch(
        self,
        request: RunRequest,
        watch: Watch,
        started: oneshot::Sender<Result<RunStarted, ApiError>>,
    ) {
        let Watch { commands, subscription, client, connected, mut ending } = watch;
        let uid = request.uid;
        let (reply, answered) = oneshot::channel();
        if commands.send(Command::Run { request, reply }).await.is_err() {
            let _ = started.send(Err(gone()));
            return;
        }
        let run = match answered.await {
            Ok(Ok(run)) => run,
            Ok(Err(refusal)) => return drop(started.send(Err(refusal.into()))),
            Err(_) => return drop(started.send(Err(gone()))),
        };
        let scope = run.scope.clone();
        subscription.narrow(&scope);
        let (end, asked) = oneshot::channel();
        self.entries().insert(scope.clone(), Entry { uid, end });
        // If nobody takes it, the connection has ended, which is seen below.
        let _ = started.send(Ok(run));
        let died = async {
            // SAFETY: the descriptor is owned by what is made here, and stays the same.
            match unsafe { AsyncFd::register_with_interest(client, Interest::READABLE) } {
                Ok(client) => drop(client.readable().await),
                Err(error) => {
                    tracing::warn!("the client of run {scope} is watched by its connection alone: {error}");
                    std::future::pending::<()>().await;
                }
            }
        };
        let reply = tokio::select! {
            biased;
            () = until(&mut ending) => {
                self.entries().remove(&scope);
                return;
            }
            Ok(reply) = asked => Some(reply),
            _ = connected => None,
            () = died => None,
        };
        self.entries().remove(&scope);
        let ended = end_run(&commands, scope.clone()).await;
        subscription.close();
        match (ended, reply) {
            (ended, Some(reply)) => drop(reply.send(ended)),
            (Err(error), None) => tracing::error!("ending run {scope}, whose client is gone: {error}"),
            (Ok(_), None) => tracing::debug!("run {scope} was ended: its client is gone"),
        }
    }

    /// Ends a run whose client is connected. `None`: there is none of that name, or it is not this user's.
    pub async fn end(&self, scope: &str, uid: Option<u32>) -> Option<Result<RunEnded, ApiError>> {
        let entry = {
            let mut entries = self.entries();
            if uid.is_some_and(|uid| entries.get(scope).is_none_or(|entry| entry.uid != uid)) {
                return None;
            }
            entries.remove(scope)?
        };
        let (reply, ended) = oneshot::channel();
        if entry.end.send(reply).is_err() {
            return Some(Err(ApiError::new(ErrorKind::NotFound, format!("run {scope} has ended"))));
        }
        Some(ended.await.unwrap_or_else(|_| Err(gone())))
    }
}

/// Until the daemon is about to end.
pub async fn until(ending: &mut watch::Receiver<bool>) {
    // The sender is dropped when it has ended.
    let _ = ending.wait_for(|ending| *ending).await;
}

/// Has the core end a run.
pub async fn end_run(commands: &mpsc::Sender<Command>, scope: String) -> Result<RunEnded, ApiError> {
    let (reply, answered) = oneshot::channel();
    commands.send(Command::RunEnded { scope, reply }).await.map_err(|_| gone())?;
    Ok(answered.await.map_err(|_| gone())??)
}
