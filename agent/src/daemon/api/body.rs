//! What is answered: a document, or lines for as long as there are any.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;
use tokio::sync::oneshot;

use super::error::{ApiError, ErrorKind};
use crate::daemon::hub::Subscription;

/// Content type of lines of JSON.
pub const NDJSON: &str = "application/x-ndjson";

type NextLines = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// A body.
pub enum Answer {
    /// All of it.
    Document(Full<Bytes>),
    /// Line by line.
    Lines(Lines),
}

/// Lines of a subscription, after some that are there already.
pub struct Lines {
    first: Option<Bytes>,
    subscription: Arc<Subscription>,
    next: Option<NextLines>,
    /// Dropped with the connection: tells that nobody reads any more.
    _connected: Option<oneshot::Sender<()>>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Document(_) => "Document",
            Self::Lines(_) => "Lines",
        })
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}

impl Lines {
    /// `first`, with its line feed, and then what comes.
    #[must_use]
    pub fn new(
        first: Option<Bytes>,
        subscription: Arc<Subscription>,
        connected: Option<oneshot::Sender<()>>,
    ) -> Self {
        Self { first, subscription, next: None, _connected: connected }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Document(document) => Pin::new(document).poll_frame(context),
            Self::Lines(lines) => {
                if let Some(first) = lines.first.take() {
                    return Poll::Ready(Some(Ok(Frame::data(first))));
                }
                let next = lines.next.get_or_insert_with(|| {
                    let subscription = lines.subscription.clone();
                    Box::pin(async move { subscription.lines().await })
                });
                let text = ready!(next.as_mut().poll(context));
                lines.next = None;
                Poll::Ready(text.map(|text| Ok(Frame::data(text.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Document(document) => document.is_end_stream(),
            Self::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Document(document) => document.size_hint(),
            Self::Lines(_) => SizeHint::default(),
        }
    }
}

/// An answer of any kind.
pub fn answer(status: StatusCode, kind: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A JSON document.
pub fn json(value: &impl Serialize) -> Result<Response<Answer>, ApiError> {
    document(StatusCode::OK, value)
}

fn document(status: StatusCode, value: &impl Serialize) -> Result<Response<Answer>, ApiError> {
    let mut text = serde_json::to_vec(value)
        .map_err(|error| ApiError::new(ErrorKind::Failed, format!("writing the answer: {error}")))?;
    text.push(b'\n');
    Ok(answer(status, "application/json", Answer::Document(Full::from(text))))
}

/// Why not.
pub fn refusal(error: &ApiError) -> Response<Answer> {
    let mut response = document(error.status(), error).unwrap_or_else(|_| {
        answer(error.status(), "text/plain", Answer::Document(Full::from(error.message.clone())))
    });
    if let Some(allow) = error.allow {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    response
}

/// Lines of JSON.
pub fn lines(lines: Lines) -> Response<Answer> {
    answer(StatusCode::OK, NDJSON, Answer::Lines(lines))
}
