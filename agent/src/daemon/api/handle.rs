//! Requests to commands, and the core's answers to responses.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body as _, Incoming},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use super::{
    Shared,
    authorise::{Access, Caller, access},
    body::{self, Answer, Lines},
    error::{ApiError, ErrorKind},
    peer::{Peer, Process},
    route::Route,
    runs::{Watch, end_run},
};
use crate::{
    daemon::{
        command::{Command, Reply, RunRequest, ScopeKind, ScopeStatus, ShadowReport, Status, Target},
        hub::{Filter, Subscription},
        metrics,
    },
    policy::checked::Mode,
};

/// What `POST /v1/detach` wants to hear.
pub const CONFIRMATION: &str = "detach all";

/// Body of `POST /v1/scopes/{name}/mode`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetMode {
    /// The new mode.
    pub mode: Mode,
}

/// Body of `POST /v1/scopes/{name}/shadow`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartShadow {
    /// Policy text.
    pub policy: String,
}

/// Body of `POST /v1/tag`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// What.
    pub target: Target,
    /// The scope's name.
    pub scope: String,
}

/// Body of `POST /v1/untag`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Untag {
    /// What.
    pub target: Target,
}

/// Body of `POST /v1/detach`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// [`CONFIRMATION`].
    pub confirm: String,
}

/// What a connection has turned into, for those who watch over its time.
#[derive(Debug)]
pub enum Progress {
    /// A document is to be taken.
    Answered,
    /// Events are to be taken.
    Events(Arc<Subscription>),
    /// A run, which lasts as long as it lasts.
    Run,
}

/// One request of one peer.
#[derive(Debug)]
pub struct Exchange {
    /// What all share.
    pub shared: Arc<Shared>,
    /// Who asks.
    pub peer: Arc<Peer>,
    /// What it is to us.
    pub caller: Caller,
}

type Answered = Result<(Response<Answer>, Progress), ApiError>;

fn document(value: &impl Serialize) -> Answered {
    Ok((body::json(value)?, Progress::Answered))
}

impl Exchange {
    /// Answers a request.
    ///
    /// # Errors
    /// With what is to be answered instead.
    pub async fn handle(&self, request: Request<Incoming>) -> Answered {
        let route = Route::of(request.method(), request.uri())?;
        let access = access(self.caller, &route);
        let (Access::All | Access::Own(_)) = access else {
            let message = match self.caller {
                Caller::Member { .. } => "only root may do that: run with sudo",
                Caller::Root | Caller::Nobody => "only root and members of the daemon's group may ask it",
            };
            return Err(ApiError::new(ErrorKind::Forbidden, message));
        };
        let body = self.body(request.into_body()).await?;
        // It may have been tagged, or have ended, since it connected.
        self.shared.admit(&self.peer)?;
        self.act(route, access, &body).await
    }

    async fn act(&self, route: Route, access: Access, body: &[u8]) -> Answered {
        if !matches!(
            route,
            Route::Mode(_) | Route::StartShadow(_) | Route::Tag | Route::Untag | Route::Run | Route::Detach
        ) {
            empty(body)?;
        }
        match route {
            Route::Status => document(&access.see(self.status().await?)),
            Route::Scope(name) => document(&self.scope(&name, access).await?),
            Route::Events { follow, filter } => Ok(self.events(follow, filter, access)),
            Route::Metrics => {
                let text = metrics::render(&self.status().await?, &self.shared.hub)
                    .map_err(|error| ApiError::new(ErrorKind::Failed, format!("writing metrics: {error}")))?;
                let answer = Answer::Document(Full::from(text));
                Ok((body::answer(StatusCode::OK, metrics::CONTENT_TYPE, answer), Progress::Answered))
            }
            Route::Reload => document(&self.ask(|reply| Command::Reload { reply }).await?),
            Route::Mode(scope) => {
                let SetMode { mode } = parse(body)?;
                document(&self.ask(|reply| Command::SetMode { scope, mode, reply }).await?)
            }
            Route::StartShadow(scope) => {
                let StartShadow { policy } = parse(body)?;
                document(&self.shadow(scope, Some(policy)).await?)
            }
            Route::EndShadow(scope) => document(&self.shadow(scope, None).await?),
            Route::Shadow(name) => {
                let none = || {
                    ApiError::new(ErrorKind::NotFound, format!("{name}: nothing is compared with its policy"))
                };
                document(&self.scope(&name, access).await?.shadow.ok_or_else(none)?)
            }
            Route::Tag => {
                let Tag { target, scope } = parse(body)?;
                document(&self.ask(|reply| Command::Tag { target, scope, reply }).await?)
            }
            Route::Untag => {
                let Untag { target } = parse(body)?;
                document(&self.ask(|reply| Command::Untag { target, reply }).await?)
            }
            Route::Run => self.run(parse(body)?).await,
            Route::EndRun(scope) => self.end_run(scope, access).await,
            Route::Detach => {
                let Detach { confirm } = parse(body)?;
                if confirm != CONFIRMATION {
                    let message =
                        format!("to let go of everything, confirm with {{\"confirm\": \"{CONFIRMATION}\"}}");
                    return Err(ApiError::new(ErrorKind::BadRequest, message));
                }
                self.ask(|reply| Command::Detach { reply }).await?;
                document(&serde_json::json!({ "detached": true }))
            }
        }
    }

    /// Reads the body, as much as there may be of it, in the time there is.
    async fn body(&self, body: Incoming) -> Result<Bytes, ApiError> {
        let limits = &self.shared.limits;
        let too_large =
            || ApiError::new(ErrorKind::TooLarge, format!("a body has at most {} bytes", limits.body));
        if body.size_hint().lower() > limits.body as u64 {
            return Err(too_large());
        }
        let _turn = self.turn(&self.shared.bodies).await;
        let read = timeout(limits.read, Limited::new(body, limits.body).collect()).await;
        let slow = |_| ApiError::new(ErrorKind::Timeout, "the body took too long to come");
        match read.map_err(slow)? {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
            Err(error) => {
                Err(ApiError::new(ErrorKind::BadRequest, format!("the body did not come whole: {error}")))
            }
        }
    }

    /// Members wait for each other; root doesn't wait for them.
    async fn turn<'a>(&self, semaphore: &'a Semaphore) -> Option<tokio::sync::SemaphorePermit<'a>> {
        match self.caller {
            Caller::Root => None,
            Caller::Member { .. } | Caller::Nobody => semaphore.acquire().await.ok(),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ApiError> {
        let _turn = self.turn(&self.shared.turns).await;
        self.shared.ask(command).await
    }

    async fn status(&self) -> Result<Status, ApiError> {
        self.ask(|reply| Command::Status { reply }).await
    }

    async fn scope(&self, name: &str, access: Access) -> Result<ScopeStatus, ApiError> {
        let scopes = self.status().await?.scopes;
        let found =
            scopes.into_iter().find(|scope| scope.name == name).and_then(|scope| access.see_scope(scope));
        found.ok_or_else(|| no_scope(name))
    }

    async fn shadow(&self, scope: String, policy: Option<String>) -> Result<ShadowReport, ApiError> {
        self.ask(|reply| Command::Shadow { scope, policy, reply }).await
    }

    fn events(&self, follow: bool, filter: Filter, access: Access) -> (Response<Answer>, Progress) {
        let run_uid = if let Access::Own(uid) = access { Some(uid) } else { None };
        let filter = Filter { run_uid, ..filter };
        if !follow {
            let mut text = String::new();
            for line in self.shared.hub.recent(&filter) {
                text.push_str(&line);
                text.push('\n');
            }
            let document = Answer::Document(Full::from(text));
            return (body::answer(StatusCode::OK, body::NDJSON, document), Progress::Answered);
        }
        let subscription = Arc::new(self.shared.hub.subscribe(filter));
        let lines = Lines::new(None, subscription.clone(), None);
        (body::lines(lines), Progress::Events(subscription))
    }

    async fn run(&self, request: RunRequest) -> Answered {
        let (uid, client) = (self.peer.uid, self.peer.process.pid());
        // Held until the core has moved it.
        let waiting = self.waiting(request.pid)?;
        let request = RunRequest { uid, client, ..request };
        // Before the run is there, so that its first event is not missed.
        let filter = Filter { run_uid: Some(uid), ..Filter::default() };
        let subscription = Arc::new(self.shared.hub.subscribe(filter));
        let pidfd = self.peer.process.pidfd().try_clone_to_owned();
        let pidfd = pidfd.map_err(|error| {
            ApiError::new(ErrorKind::Failed, format!("taking hold of the client: {error}"))
        })?;
        let (connected, connection) = oneshot::channel();
        let (started, answer) = oneshot::channel();
        let watch = Watch {
            commands: self.shared.commands.clone(),
            subscription: subscription.clone(),
            client: pidfd,
            connected: connection,
            ending: self.shared.ending.subscribe(),
        };
        let turn = self.turn(&self.shared.turns).await;
        tokio::spawn(self.shared.runs.clone().watch(request, watch, started));
        let gone = |_| ApiError::new(ErrorKind::Unavailable, "the daemon is about to end");
        let run = answer.await.map_err(gone)??;
        drop(turn);
        if !waiting.lives() {
            // Dropping `connected` ends the run.
            return Err(ApiError::new(ErrorKind::Conflict, "the process that waits to be run has ended"));
        }
        let mut first = serde_json::to_vec(&run)
            .map_err(|error| ApiError::new(ErrorKind::Failed, format!("writing the answer: {error}")))?;
        first.push(b'\n');
        let lines = Lines::new(Some(first.into()), subscription, Some(connected));
        Ok((body::lines(lines), Progress::Run))
    }

    /// The process that a run is for: the client or its child, of the same user in every respect, and not tagged.
    fn waiting(&self, pid: u32) -> Result<Process, ApiError> {
        let unknown = |error| ApiError::new(ErrorKind::BadRequest, format!("pid {pid}: {error}"));
        let process = Process::hold(pid).map_err(unknown)?;
        let uids = process.uids().map_err(unknown)?;
        let client = self.peer.process.pid();
        let related = pid == client || process.parent().map_err(unknown)? == client;
        if !related || uids.iter().any(|uid| *uid != self.peer.uid) {
            let message = format!("pid {pid} is neither you nor a child of yours, with your user id");
            return Err(ApiError::new(ErrorKind::Forbidden, message));
        }
        let cgroup = process.cgroup().map_err(unknown)?;
        if self.shared.tags.is_tagged(&cgroup) {
            let message = format!("pid {pid} is held to a policy already, in cgroup {}", cgroup.display());
            return Err(ApiError::new(ErrorKind::Forbidden, message));
        }
        Ok(process)
    }

    async fn end_run(&self, scope: String, access: Access) -> Answered {
        let uid = if let Access::Own(uid) = access { Some(uid) } else { None };
        if let Some(ended) = self.shared.runs.end(&scope, uid).await {
            return document(&ended?);
        }
        // Of an earlier daemon, whose client's connection ended with it.
        let status = self.scope(&scope, access).await?;
        if status.kind != ScopeKind::Run {
            return Err(no_run(&scope));
        }
        document(&end_run(&self.shared.commands, scope).await?)
    }
}

fn no_scope(name: &str) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("there is no scope {name}: `stockade status` lists them"))
}

fn no_run(name: &str) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("scope {name} is no run"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(
            ErrorKind::BadRequest,
            format!("the body is not what this path takes (docs/api.md): {error}"),
        )
    })
}

/// A body where none belongs is a misunderstanding.
fn empty(body: &[u8]) -> Result<(), ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) || body == b"{}" {
        return Ok(());
    }
    Err(ApiError::new(ErrorKind::BadRequest, "this path takes no body"))
}
