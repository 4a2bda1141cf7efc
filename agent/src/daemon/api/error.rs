//! What is answered when something is not done: `{"kind": …, "message": …}` and a status code.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::daemon::command::{Refusal, RefusalKind};

/// Kinds of errors. Those of the core keep their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is not understood: no such parameter, no JSON, a field that is missing.
    BadRequest,
    /// It is understood and makes no sense: a policy with errors.
    Invalid,
    /// Whoever asks may not.
    Forbidden,
    /// No such path, scope, cgroup, unit or process.
    NotFound,
    /// The path is there, and not with this method.
    MethodNotAllowed,
    /// It stands in the way of something that is there.
    Conflict,
    /// The body is too long.
    TooLarge,
    /// The body took too long to come.
    Timeout,
    /// Too many connections.
    Busy,
    /// The kernel refused, or has no room.
    Failed,
    /// The daemon is about to end.
    Unavailable,
}

/// An answer that says why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of thing it is.
    pub kind: ErrorKind,
    /// For a person.
    pub message: String,
    /// Methods that there are for the path.
    #[serde(skip)]
    pub allow: Option<&'static str>,
}

impl ApiError {
    /// An error.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), allow: None }
    }

    /// Its status code.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::Timeout => StatusCode::REQUEST_TIMEOUT,
            ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(Refusal { kind, message }: Refusal) -> Self {
        let kind = match kind {
            RefusalKind::Invalid => ErrorKind::Invalid,
            RefusalKind::NotFound => ErrorKind::NotFound,
            RefusalKind::Conflict => ErrorKind::Conflict,
            RefusalKind::Failed => ErrorKind::Failed,
        };
        Self::new(kind, message)
    }
}
