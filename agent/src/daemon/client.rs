//! Asking the daemon, from outside.

pub mod run;

use std::{
    io,
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::api::error::{ApiError, ErrorKind};

/// Longest answer that is not a stream.
const MAX_ANSWER: usize = 64 << 20;
/// Longest line of a stream.
const MAX_LINE: usize = 1 << 20;
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why there is no answer to work with.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no daemon.
    #[error("no daemon answers at {}: {source}; start it with `systemctl start stockade`, or name its socket with --socket", .path.display())]
    NoDaemon {
        /// Where it was looked for.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket is not for us.
    #[error("{} is not for you: {source}; run with sudo, or have root add you to the group `stockade`", .path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(ApiError),
    /// It broke off, or is not understood.
    #[error("the daemon: {step}: {message}")]
    Broken {
        /// What was being done.
        step: &'static str,
        /// What went wrong.
        message: String,
    },
}

fn broken(step: &'static str) -> impl FnOnce(hyper::Error) -> ClientError {
    move |error| ClientError::Broken { step, message: error.to_string() }
}

/// The daemon, by its socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf() }
    }

    /// Whether something listens there.
    ///
    /// # Errors
    /// If nothing does, or it is not for us.
    pub fn reachable(&self) -> Result<(), ClientError> {
        StdUnixStream::connect(&self.socket).map(drop).map_err(|source| self.unreachable(source))
    }

    /// Asks for a document.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.document(Method::GET, path, Bytes::new()).await
    }

    /// Has something done.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body)
            .map_err(|error| ClientError::Broken { step: "asking it", message: error.to_string() })?;
        self.document(Method::POST, path, body.into()).await
    }

    /// Has something ended.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.document(Method::DELETE, path, Bytes::new()).await
    }

    /// Asks for lines. They end when the daemon ends, when this is dropped, or when there are no more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lines(&self, method: Method, path: &str, body: Bytes) -> Result<Lines, ClientError> {
        let (sender, body) = self.request(method, path, body).await?;
        Ok(Lines { body, rest: BytesMut::new(), _sender: sender })
    }

    async fn document<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (_sender, body) = self.request(method, path, body).await?;
        let text = whole(body).await?;
        serde_json::from_slice(&text).map_err(|error| ClientError::Broken {
            step: "understanding its answer (is it of another version?)",
            message: error.to_string(),
        })
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(SendRequest<Full<Bytes>>, Incoming), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.unreachable(source))?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken("asking it"))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("the connection to the daemon ended: {error}");
            }
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "stockade")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Broken { step: "asking it", message: error.to_string() })?;
        let response = sender.send_request(request).await.map_err(broken("waiting for its answer"))?;
        if response.status().is_success() {
            return Ok((sender, response.into_body()));
        }
        let status = response.status();
        let text = whole(response.into_body()).await?;
        let error = serde_json::from_slice(&text).unwrap_or_else(|_| {
            ApiError::new(ErrorKind::Failed, format!("{status}: {}", String::from_utf8_lossy(&text).trim()))
        });
        Err(ClientError::Refused(error))
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path, source },
            _ => ClientError::NoDaemon { path, source },
        }
    }
}

async fn whole(mut body: Incoming) -> Result<BytesMut, ClientError> {
    let mut text = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(broken("reading its answer"))?.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() > MAX_ANSWER {
            return Err(ClientError::Broken { step: "reading its answer", message: "it has no end".into() });
        }
    }
    Ok(text)
}

/// Lines that come as they are written.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    rest: BytesMut,
    /// The connection ends when it is dropped.
    _sender: SendRequest<Full<Bytes>>,
}

impl Lines {
    /// The next line, without its line feed; `None` at the end. May be dropped before it is ready, and nothing is lost.
    ///
    /// # Errors
    /// If the daemon breaks off.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.rest[seen..].iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(seen + end);
                self.rest.advance(1);
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            seen = self.rest.len();
            if seen > MAX_LINE {
                return Err(ClientError::Broken {
                    step: "reading its lines",
                    message: "one has no end".into(),
                });
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(broken("reading its lines"))?.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                None if seen == 0 => return Ok(None),
                None => {
                    let message = "the last line is cut".into();
                    return Err(ClientError::Broken { step: "reading its lines", message });
                }
            }
        }
    }
}

/// A name as part of a path.
#[must_use]
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, UNRESERVED).to_string()
}
