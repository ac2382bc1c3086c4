//! What a scripted provider does with a request.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::support::upstream::Seen;

/// When, and with what, a request is answered.
#[derive(Clone)]
pub struct Reply {
    /// How much of the request's body is read first.
    pub when: When,
    /// What comes then.
    pub what: What,
}

/// How much of the request's body is read before the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing.
    AtOnce,
    /// About half.
    Midway,
    /// All.
    Afterwards,
}

/// What comes.
#[derive(Clone)]
pub enum What {
    /// A whole answer.
    Answer(Answer),
    /// An answer that depends on the request; only after its body.
    Computed(Arc<dyn Fn(&Seen) -> Answer + Send + Sync>),
    /// These bytes, HTTP or not, then the end of the connection. HTTP/1 only.
    Raw(Bytes),
    /// Nothing, for as long as the other side stays.
    Hang,
    /// The end of the connection (of the stream on HTTP/2) without a byte.
    Close,
}

/// An answer.
#[derive(Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, except those that frame the body.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body,
}

/// An answer's body.
#[derive(Clone)]
pub enum Body {
    /// Sent whole with its length.
    Whole(Bytes),
    /// Sent piece by piece without a length, then ended or cut.
    Pieces(Vec<Bytes>, End),
    /// The same piece again and again, so many times.
    Repeated(Bytes, u64),
    /// What a [`Feed`] gives.
    Fed(Arc<Mutex<Option<mpsc::Receiver<Fed>>>>),
}

/// How a body without a length ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Clean,
    /// The connection (or stream) breaks.
    Cut,
}

/// One step of a fed body.
pub enum Fed {
    /// These bytes, at once.
    Piece(Bytes),
    /// A break.
    Cut,
}

/// Feeds an answer's body from a test, one piece at a time. Dropping it ends the body.
pub struct Feed(mpsc::Sender<Fed>);

impl Feed {
    /// Sends a piece.
    pub async fn send(&self, piece: impl Into<Bytes>) {
        assert!(self.0.send(Fed::Piece(piece.into())).await.is_ok(), "the gateway has closed the connection");
    }

    /// Sends a piece, unless the gateway has closed the connection.
    pub async fn try_send(&self, piece: impl Into<Bytes>) -> Result<(), ()> {
        self.0.send(Fed::Piece(piece.into())).await.map_err(drop)
    }

    /// Breaks the connection.
    pub async fn cut(self) {
        assert!(self.0.send(Fed::Cut).await.is_ok(), "the gateway has closed the connection");
    }

    /// Ends when the gateway has closed the connection or given the stream up.
    pub async fn abandoned(&self) {
        self.0.closed().await;
    }
}

impl Reply {
    /// After the request's body.
    pub fn afterwards(what: What) -> Self {
        Self { when: When::Afterwards, what }
    }

    /// A JSON answer.
    pub fn json(status: u16, body: &Value) -> Self {
        Answer::json(status, body).into()
    }

    /// A status with a small error body in OpenAI's shape.
    pub fn error(status: u16) -> Self {
        let body = serde_json::json!({"error": {
            "message": format!("scripted {status}"), "type": "scripted", "param": null, "code": format!("s{status}"),
        }});
        Self::json(status, &body)
    }

    /// A body that a test feeds; an event stream.
    pub fn fed() -> (Self, Feed) {
        let (sender, receiver) = mpsc::channel(1);
        let body = Body::Fed(Arc::new(Mutex::new(Some(receiver))));
        (Answer::event_stream(body).into(), Feed(sender))
    }

    /// The same, given before or in the middle of the request's body.
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// One more header, on an answer.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match &mut self.what {
            What::Answer(answer) => answer.headers.push((name.to_owned(), value.to_owned())),
            _ => panic!("only an answer has headers"),
        }
        self
    }
}

impl Answer {
    /// A JSON answer.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", Body::Whole(body.to_string().into()))
    }

    /// An event stream.
    pub fn event_stream(body: Body) -> Self {
        Self::new(200, "text/event-stream", body)
    }

    /// Any answer.
    pub fn new(status: u16, content_type: &str, body: Body) -> Self {
        Self { status, headers: vec![("content-type".to_owned(), content_type.to_owned())], body }
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::afterwards(What::Answer(answer))
    }
}
