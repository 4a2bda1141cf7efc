//! Metrics by TCP, for a Prometheus that cannot read a unix socket. Nothing else is given there, and nobody is asked who
//! they are: the address is the administrator's choice.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    ACCEPT_PAUSE, Shared,
    body::{self, Answer},
    builder,
    error::{ApiError, ErrorKind},
    runs::until,
};
use crate::daemon::{command::Command, metrics};

/// Listens for Prometheus.
///
/// # Errors
/// If the address is not ours, or taken.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let named = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("[metrics] listen = \"{address}\": {error}; choose another port or address"),
        )
    };
    let listener = std::net::TcpListener::bind(address).map_err(named)?;
    listener.set_nonblocking(true).map_err(named)?;
    Ok(listener)
}

/// Serves until dropped.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(shared.limits.tcp));
    let mut ending = shared.ending.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = until(&mut ending) => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match (accepted, places.clone().try_acquire_owned()) {
                (Ok((stream, _)), Ok(place)) => {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        converse(shared, stream).await;
                        drop(place);
                    });
                }
                // Full: whoever is there is given time, and no more are taken.
                (Ok(_), Err(_)) => {}
                (Err(error), _) => {
                    tracing::warn!("accepting a connection for metrics: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn converse(shared: Arc<Shared>, stream: TcpStream) {
    let limits = shared.limits;
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move {
            let response = scrape(&shared, &request).await.unwrap_or_else(|error| body::refusal(&error));
            Ok::<_, Infallible>(response)
        }
    });
    let connection = builder(limits.header).serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(limits.header + limits.write, connection).await {
        tracing::debug!("a connection for metrics ended: {error}");
    }
}

async fn scrape(shared: &Shared, request: &Request<Incoming>) -> Result<Response<Answer>, ApiError> {
    if request.uri().path() != "/metrics" {
        return Err(ApiError::new(ErrorKind::NotFound, "there is only /metrics"));
    }
    if request.method() != Method::GET {
        let error = ApiError::new(ErrorKind::MethodNotAllowed, "this path knows GET only");
        return Err(ApiError { allow: Some("GET"), ..error });
    }
    let status = shared.ask(|reply| Command::Status { reply }).await?;
    let text = metrics::render(&status, &shared.hub)
        .map_err(|error| ApiError::new(ErrorKind::Failed, format!("writing metrics: {error}")))?;
    Ok(body::answer(StatusCode::OK, metrics::CONTENT_TYPE, Answer::Document(Full::from(text))))
}
