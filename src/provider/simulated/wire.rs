//! What leaves the simulated provider: JSON, server-sent events, errors in OpenAI's shape, and the body that plays them.
//!
//! Sources: OpenAI API reference, "Errors" and "Streaming"; WHATWG HTML, "Server-sent events".

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Sleep;

use crate::provider::simulated::behaviour::{Behaviour, Ending};

/// How long a stalled answer keeps its connection.
const STALL: Duration = Duration::from_secs(600);

/// How long a cut answer waits before it breaks: what was sent before must leave, or nothing of it would arrive.
const FLUSH: Duration = Duration::from_millis(20);

/// What an endpoint answers.
#[derive(Debug, PartialEq)]
pub(super) enum Content {
    /// One JSON value.
    Json(Value),
    /// A stream of events, each already in its frame.
    Events(Vec<Bytes>),
}

/// An event with only data, as chat and text completions send it.
pub(super) fn event(data: &Value) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// An event with a name, as the Responses API sends it.
pub(super) fn named_event(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// The event that ends a stream of completions.
pub(super) fn done() -> Bytes {
    Bytes::from_static(b"data: [DONE]\n\n")
}

/// An object with one more field, or another value in a field that it has.
pub(super) fn with(mut object: Value, name: &str, value: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
    object
}

/// A request that is not answered.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    param: Option<&'static str>,
}

impl Refusal {
    /// The request is at fault, in one field or as a whole.
    pub(super) fn invalid(param: impl Into<Option<&'static str>>, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), param: param.into() }
    }

    /// An error of a status.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None }
    }

    /// The answer: OpenAI's error object; with `retry-after: 1` if the status is 429.
    pub(super) fn into_response(self) -> Response<Playback> {
        let (kind, code) = match self.status.as_u16() {
            401 => ("invalid_request_error", Some("invalid_api_key")),
            404 => ("invalid_request_error", Some("not_found")),
            429 => ("requests", Some("rate_limit_exceeded")),
            500.. => ("server_error", None),
            _ => ("invalid_request_error", None),
        };
        let error = json!({"message": self.message, "type": kind, "param": self.param, "code": code});
        let mut response = whole(&json!({ "error": error }));
        *response.status_mut() = self.status;
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The response that plays a content the way a behaviour asks.
pub(super) fn response(content: Content, behaviour: Behaviour) -> Response<Playback> {
    match content {
        Content::Json(value) if behaviour.ending == Ending::Whole => whole(&value),
        Content::Json(value) => {
            // The whole length is promised, so that half of it is a broken answer and not a short one.
            let text = value.to_string();
            let mut response = Response::new(Playback::new(vec![text.clone().into()], behaviour));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
            response
        }
        Content::Events(events) => {
            let mut response = Response::new(Playback::new(events, behaviour));
            let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
    }
}

fn whole(value: &Value) -> Response<Playback> {
    let frames = VecDeque::from([Bytes::from(value.to_string())]);
    let playback = Playback { frames, pace: Duration::ZERO, wait: None, ending: Ending::Whole, silence: None };
    let mut response = Response::new(playback);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body: frames in order with a pause between them, then its ending.
pub(super) struct Playback {
    frames: VecDeque<Bytes>,
    pace: Duration,
    wait: Option<Pin<Box<Sleep>>>,
    ending: Ending,
    /// The time between the last frame and the break.
    silence: Option<Duration>,
}

impl Playback {
    fn new(frames: Vec<Bytes>, behaviour: Behaviour) -> Self {
        let frames = if behaviour.ending == Ending::Whole { frames } else { first_half(frames) };
        let silence = if behaviour.ending == Ending::Stall { STALL } else { FLUSH };
        Self {
            frames: frames.into(),
            pace: behaviour.pace,
            wait: None,
            ending: behaviour.ending,
            silence: Some(silence),
        }
    }
}

fn first_half(mut frames: Vec<Bytes>) -> Vec<Bytes> {
    if let [only] = frames.as_slice() {
        return vec![only.slice(..only.len() / 2)];
    }
    frames.truncate(frames.len() / 2);
    frames
}

impl Body for Playback {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
            self.wait = None;
        }
        if let Some(frame) = self.frames.pop_front() {
            if !self.pace.is_zero() && !self.frames.is_empty() {
                self.wait = Some(Box::pin(tokio::time::sleep(self.pace)));
            }
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if self.ending == Ending::Whole {
            return Poll::Ready(None);
        }
        let Some(silence) = self.silence.take() else {
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionAborted.into())));
        };
        self.wait = Some(Box::pin(tokio::time::sleep(silence)));
        self.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.ending == Ending::Whole
    }

    fn size_hint(&self) -> SizeHint {
        // One unpaced frame is a JSON answer, whose length is known; a stream is sent in chunks.
        match self.frames.front() {
            Some(only) if self.frames.len() == 1 && self.pace.is_zero() && self.ending == Ending::Whole => {
                SizeHint::with_exact(only.len() as u64)
            }
            _ => SizeHint::default(),
        }
    }
}
