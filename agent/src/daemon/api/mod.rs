//! The API: HTTP/1.1 and JSON on a unix socket. One request a connection: a local connection costs nothing, and an idle one
//! would take up a place.
//!
//! ```text
//! socket -> peer (who, untagged?) -> limit -> route -> authorise -> handle -> Command -> core
//!                                                                     hub -> body (lines)
//! ```

pub mod authorise;
mod body;
pub mod error;
pub mod handle;
pub mod limit;
pub mod peer;
pub mod route;
mod runs;
#[cfg(test)]
pub(crate) mod sample;
pub mod socket;
mod tcp;

use std::{convert::Infallible, fmt, io, path::PathBuf, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    authorise::{Accounts, Caller, HostAccounts},
    body::Answer,
    error::{ApiError, ErrorKind},
    handle::{Exchange, Progress},
    limit::{Connections, Limits},
    peer::{Peer, PeerError, Tags},
    runs::Runs,
    socket::Socket,
};
use super::{
    command::{Command, Reply},
    hub::Hub,
};

pub use self::tcp::listen as listen_metrics;

/// Bytes of a request's header.
const MAX_HEADER: usize = 16 << 10;
/// Fields of a request's header.
const MAX_HEADERS: usize = 64;
/// For one who is refused to take the answer.
const REFUSAL_TIME: Duration = Duration::from_secs(2);
/// For answers under way when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Until accepting is tried again when there were no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Somebody was refused because of where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedPeer {
    /// Process; 0 if it cannot be seen from here.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// From the root of the v2 hierarchy, if it is known.
    pub cgroup: Option<PathBuf>,
    /// Why, for a person.
    pub why: String,
}

/// What the core gives to the API.
pub struct Parts {
    /// To the core.
    pub commands: mpsc::Sender<Command>,
    /// Events from the core.
    pub hub: Hub,
    /// Which cgroups are tagged.
    pub tags: Arc<dyn Tags>,
    /// Told of those who are refused for being tagged, or for nobody knowing whether they are; must not block.
    pub refused: Arc<dyn Fn(RefusedPeer) + Send + Sync>,
}

/// What all connections share.
pub struct Shared {
    commands: mpsc::Sender<Command>,
    hub: Hub,
    tags: Arc<dyn Tags>,
    refused: Arc<dyn Fn(RefusedPeer) + Send + Sync>,
    accounts: Arc<dyn Accounts>,
    limits: Limits,
    connections: Connections,
    refusals: Arc<Semaphore>,
    /// Members' bodies that are read at once.
    bodies: Semaphore,
    /// Members' commands that wait at once.
    turns: Semaphore,
    runs: Runs,
    ending: watch::Sender<bool>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Shared {
    fn new(parts: Parts, accounts: Arc<dyn Accounts>, limits: Limits) -> Self {
        let Parts { commands, hub, tags, refused } = parts;
        Self {
            commands,
            hub,
            tags,
            refused,
            accounts,
            limits,
            connections: Connections::default(),
            refusals: Arc::new(Semaphore::new(limits.refusals)),
            bodies: Semaphore::new(limits.bodies),
            turns: Semaphore::new(limits.commands),
            runs: Runs::default(),
            ending: watch::Sender::new(false),
        }
    }

    /// Has the core do something.
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ApiError> {
        let gone = || ApiError::new(ErrorKind::Unavailable, "the daemon is about to end");
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        Ok(answer.await.map_err(|_| gone())??)
    }

    /// Refuses whoever is held to a policy, root too, and whoever may be.
    fn admit(&self, peer: &Peer) -> Result<(), ApiError> {
        let (cgroup, why) = match peer.process.cgroup() {
            Ok(cgroup) if !self.tags.is_tagged(&cgroup) => return Ok(()),
            Ok(cgroup) => {
                let why = format!(
                    "processes held to a policy may not ask the daemon: {} is tagged",
                    cgroup.display()
                );
                (Some(cgroup), why)
            }
            Err(error) => (None, format!("whether you are held to a policy cannot be found out: {error}")),
        };
        let Peer { process, uid, gid } = peer;
        (self.refused)(RefusedPeer { pid: process.pid(), uid: *uid, gid: *gid, cgroup, why: why.clone() });
        Err(ApiError::new(ErrorKind::Forbidden, why))
    }
}

/// The API, not served yet: connections wait.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    socket: Socket,
    metrics: Option<std::net::TcpListener>,
}

impl Server {
    /// With a socket that is [bound](Socket::bind), and one for [metrics](listen_metrics) if they are wanted by TCP.
    #[must_use]
    pub fn new(socket: Socket, metrics: Option<std::net::TcpListener>, parts: Parts) -> Self {
        let accounts = Arc::new(HostAccounts { group: socket.group() });
        Self::with(socket, metrics, parts, accounts, Limits::default())
    }

    /// The same with other accounts and limits than the host's.
    #[must_use]
    pub fn with(
        socket: Socket,
        metrics: Option<std::net::TcpListener>,
        parts: Parts,
        accounts: Arc<dyn Accounts>,
        limits: Limits,
    ) -> Self {
        Self { shared: Arc::new(Shared::new(parts, accounts, limits)), socket, metrics }
    }

    /// Serves until `end` is ready. Streams end with the hub, or here; runs go on. In a tokio runtime with I/O and time, of
    /// one thread or many.
    ///
    /// # Errors
    /// If the sockets cannot be watched.
    pub async fn serve(self, end: impl Future<Output = ()>) -> io::Result<()> {
        let Self { shared, socket, metrics } = self;
        let listener = UnixListener::from_std(socket.listener().try_clone()?)?;
        let mut connections = JoinSet::new();
        if let Some(metrics) = metrics {
            connections.spawn(tcp::serve(shared.clone(), tokio::net::TcpListener::from_std(metrics)?));
        }
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => accept(&shared, stream, &mut connections),
                    Err(error) => {
                        tracing::warn!("accepting a connection: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        // First: a run whose stream ends now goes on.
        shared.ending.send_replace(true);
        drop((listener, socket));
        shared.hub.close();
        let _ = timeout(LAST_ANSWERS, async { while connections.join_next().await.is_some() {} }).await;
        Ok(())
    }
}

/// Decides on a connection without waiting for anything.
fn accept(shared: &Arc<Shared>, stream: UnixStream, connections: &mut JoinSet<()>) {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            unknown(shared, &stream, &error);
            let why = format!("who you are cannot be found out: {error}");
            return refuse(shared, stream, ApiError::new(ErrorKind::Forbidden, why), connections);
        }
    };
    let Some(place) = shared.connections.take(peer.uid, &shared.limits) else {
        let error = ApiError::new(ErrorKind::Busy, "too many connections: end some, or try again later");
        return refuse(shared, stream, error, connections);
    };
    if let Err(error) = shared.admit(&peer) {
        return refuse(shared, stream, error, connections);
    }
    let shared = shared.clone();
    connections.spawn(async move {
        let _place = place;
        let (accounts, uid, gid) = (shared.accounts.clone(), peer.uid, peer.gid);
        let caller = if uid == 0 {
            accounts.caller(uid, gid)
        } else {
            // The user database may be slow, and elsewhere.
            tokio::task::spawn_blocking(move || accounts.caller(uid, gid)).await.unwrap_or(Caller::Nobody)
        };
        converse(stream, Exchange { shared, peer: Arc::new(peer), caller }).await;
    });
}

fn unknown(shared: &Shared, stream: &UnixStream, error: &PeerError) {
    let credentials = stream.peer_cred().ok();
    let (uid, gid) = credentials.map_or((u32::MAX, u32::MAX), |peer| (peer.uid(), peer.gid()));
    let pid = credentials.and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    (shared.refused)(RefusedPeer { pid, uid, gid, cgroup: None, why: error.to_string() });
}

/// Tells why, to a few at once; others see their connection end.
fn refuse(shared: &Arc<Shared>, stream: UnixStream, error: ApiError, connections: &mut JoinSet<()>) {
    let Ok(turn) = shared.refusals.clone().try_acquire_owned() else { return };
    connections.spawn(async move {
        let _turn = turn;
        let service = service_fn(move |_: Request<Incoming>| {
            let response = body::refusal(&error);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = builder(REFUSAL_TIME).serve_connection(TokioIo::new(stream), service);
        // Neither an answer that was not taken in time nor one that could not be given matters.
        let _ = timeout(REFUSAL_TIME, connection).await;
    });
}

fn builder(header: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(header)
        .max_header_size(MAX_HEADER)
        .max_headers(MAX_HEADERS);
    builder
}

async fn converse(stream: UnixStream, exchange: Exchange) {
    let limits = exchange.shared.limits;
    let (progress, mut reached) = mpsc::channel::<Progress>(1);
    let exchange = Arc::new(exchange);
    let service = service_fn(move |request: Request<Incoming>| {
        let (exchange, progress) = (exchange.clone(), progress.clone());
        async move {
            let (response, now) = exchange
                .handle(request)
                .await
                .unwrap_or_else(|error| (body::refusal(&error), Progress::Answered));
            let _ = progress.try_send(now);
            Ok::<hyper::Response<Answer>, Infallible>(response)
        }
    });
    let connection = builder(limits.header).serve_connection(TokioIo::new(stream), service);
    let overdue = async {
        match reached.recv().await {
            Some(Progress::Answered) => sleep(limits.write).await,
            Some(Progress::Events(events)) => {
                while events.stalled() < limits.stall {
                    sleep(limits.stall / 4).await;
                }
            }
            Some(Progress::Run) | None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!("a connection ended: {error}");
        },
        () = overdue => tracing::debug!("a connection was ended: what it was sent was not taken"),
    }
}
