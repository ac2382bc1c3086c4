//! Callers: HTTP/1.1 and HTTP/2 connections to the gateway, with one check on every answer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::{CREDENTIAL, soon};

/// The size of the pieces in which a body of unknown length is sent.
const PIECE: usize = 16 * 1024;

/// One connection to the gateway.
pub struct Client {
    connection: Connection,
    address: SocketAddr,
    key: String,
}

enum Connection {
    Http1(http1::SendRequest<Payload>),
    Http2(http2::SendRequest<Payload>),
}

type Payload = BoxBody<Bytes, Infallible>;

/// A request.
#[derive(Clone)]
pub struct Call {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    announces_length: bool,
    sends_key: bool,
    end: End,
}

/// What comes behind the bytes of a body.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Nothing,
    Trailers,
    Silence,
}

impl Call {
    /// Any request without a body.
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            announces_length: true,
            sends_key: true,
            end: End::Nothing,
        }
    }

    /// A chat completion, named by a case.
    pub fn chat(case: &str, body: &Value) -> Self {
        Self::post("/v1/chat/completions", case, body.to_string())
    }

    /// A JSON body, named by a case.
    pub fn post(path: &str, case: &str, body: impl Into<Bytes>) -> Self {
        Self::new("POST", path).header("x-case", case).header("content-type", "application/json").body(body)
    }

    /// One more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the body without saying how long it is.
    pub fn without_length(mut self) -> Self {
        self.announces_length = false;
        self
    }

    /// Sends a trailer behind the body.
    pub fn with_trailers(mut self) -> Self {
        self.end = End::Trailers;
        self
    }

    /// Sends the body and never ends it.
    pub fn without_end(mut self) -> Self {
        self.end = End::Silence;
        self
    }

    /// Sends no key of its own.
    pub fn without_key(mut self) -> Self {
        self.sends_key = false;
        self
    }

    fn build(self, address: SocketAddr, key: &str, absolute: bool) -> Request<Payload> {
        let target = if absolute { format!("http://{address}{}", self.path) } else { self.path.clone() };
        let mut request = Request::builder().method(self.method.as_str()).uri(target);
        if !absolute {
            request = request.header("host", address.to_string());
        }
        if self.sends_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let trailers =
            || HeaderMap::from_iter([(HeaderName::from_static("x-checksum"), HeaderValue::from_static("7"))]);
        let body = match (self.announces_length, self.end) {
            (true, End::Nothing) => Full::new(self.body).boxed(),
            (true, End::Trailers) => Full::new(self.body).with_trailers(async move { Some(Ok(trailers())) }).boxed(),
            (_, end) => {
                let pieces = self.body.chunks(PIECE).map(|piece| Frame::data(self.body.slice_ref(piece)));
                let last = (end == End::Trailers).then(|| Frame::trailers(trailers()));
                Unannounced { pieces: pieces.chain(last).collect(), ends: end != End::Silence }.boxed()
            }
        };
        request.body(body).unwrap()
    }
}

impl Client {
    /// An HTTP/1.1 connection.
    pub async fn http1(address: SocketAddr, key: &str) -> Self {
        Self::on(connect(address).await, address, key).await
    }

    /// HTTP/1.1 on a connection that is there, or was a moment ago.
    pub async fn on(stream: TcpStream, address: SocketAddr, key: &str) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { connection: Connection::Http1(sender), address, key: key.to_owned() }
    }

    /// An HTTP/2 connection by prior knowledge.
    pub async fn http2(address: SocketAddr, key: &str) -> Self {
        let stream = connect(address).await;
        let builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { connection: Connection::Http2(sender), address, key: key.to_owned() }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&mut self, call: Call) -> Answer {
        self.open(call).await.finish().await
    }

    /// Sends a request and reads the whole answer, if there is one.
    pub async fn try_send(&mut self, call: Call) -> Result<Answer, hyper::Error> {
        self.try_open(call).await?.try_finish().await
    }

    /// Sends a request and reads the head of the answer.
    pub async fn open(&mut self, call: Call) -> Opened {
        let what = format!("{} {}", call.method, call.path);
        self.try_open(call).await.unwrap_or_else(|error| panic!("{what}: {error:?}"))
    }

    /// Sends a request and reads the head of the answer, if there is one.
    pub async fn try_open(&mut self, call: Call) -> Result<Opened, hyper::Error> {
        let response = match &mut self.connection {
            Connection::Http1(sender) => {
                soon("the connection is free", sender.ready()).await?;
                let request = call.build(self.address, &self.key, false);
                soon("the head of an answer", sender.send_request(request)).await?
            }
            Connection::Http2(sender) => {
                soon("the connection is free", sender.ready()).await?;
                let request = call.build(self.address, &self.key, true);
                soon("the head of an answer", sender.send_request(request)).await?
            }
        };
        let (head, body) = response.into_parts();
        Ok(Opened { status: head.status.as_u16(), headers: head.headers, body, read: BytesMut::new() })
    }

    /// Whether the gateway keeps the connection for another request.
    pub async fn stays_open(&mut self) -> bool {
        match &mut self.connection {
            Connection::Http1(sender) => soon("the connection is free", sender.ready()).await.is_ok(),
            Connection::Http2(sender) => soon("the connection is free", sender.ready()).await.is_ok(),
        }
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// An answer whose body is still to be read.
pub struct Opened {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    read: BytesMut,
}

impl Opened {
    /// The next piece of the body; nothing at its end.
    pub async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match soon("the next piece of an answer", self.body.frame()).await? {
                Ok(frame) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.read.extend_from_slice(&data);
                    return Some(Ok(data));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Reads until the body so far ends with these bytes.
    pub async fn read_until(&mut self, end: &[u8]) {
        while !self.read.ends_with(end) {
            match self.next().await {
                Some(Ok(_)) => {}
                other => panic!("the answer ended ({other:?}) after {:?}", String::from_utf8_lossy(&self.read)),
            }
        }
    }

    /// The exchange's id.
    pub fn id(&self) -> String {
        self.headers["x-marg-exchange"].to_str().unwrap().to_owned()
    }

    /// Reads the rest.
    pub async fn finish(self) -> Answer {
        self.try_finish().await.unwrap_or_else(|error| panic!("an answer broke off: {error:?}"))
    }

    /// Reads the rest, if it comes.
    pub async fn try_finish(self) -> Result<Answer, hyper::Error> {
        let answer = self.rest().await?;
        answer.assert_clean();
        Ok(answer)
    }

    /// Reads the rest of an answer that may name addresses: the admin side's.
    pub async fn finish_unchecked(self) -> Answer {
        self.rest().await.unwrap_or_else(|error| panic!("an answer broke off: {error:?}"))
    }

    async fn rest(mut self) -> Result<Answer, hyper::Error> {
        while let Some(piece) = self.next().await {
            piece?;
        }
        Ok(Answer { status: self.status, headers: self.headers, body: self.read.freeze() })
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The exchange's id.
    pub fn id(&self) -> String {
        assert!(!self.header("x-marg-exchange").is_empty(), "no x-marg-exchange: {self:?}");
        self.header("x-marg-exchange").to_owned()
    }

    /// Holds that it is an error of this status and code in OpenAI's shape; gives the sentence.
    pub fn assert_error(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        let sentence = assert_openai_error(&self.json());
        assert_eq!(self.json()["error"]["code"], code, "{}", self.text());
        assert_eq!(self.header("x-marg-reason"), code);
        sentence
    }

    /// Holds that neither a provider's credential nor its address is in it.
    pub fn assert_clean(&self) {
        let all = format!("{:?} {}", self.headers, self.text());
        assert!(!all.contains(CREDENTIAL), "a provider's credential is in an answer: {all}");
        assert!(!all.contains("127.0.0.1"), "a provider's address is in an answer: {all}");
    }
}

/// Holds that a body is an error in OpenAI's shape; gives the sentence.
pub fn assert_openai_error(body: &Value) -> String {
    let error = body["error"].as_object().unwrap_or_else(|| panic!("not an error of OpenAI's shape: {body}"));
    let message = error["message"].as_str().unwrap_or_else(|| panic!("no message: {body}"));
    assert!(!message.is_empty(), "an empty message: {body}");
    assert!(error["type"].is_string(), "no type: {body}");
    assert!(error.contains_key("param") && (error["param"].is_null() || error["param"].is_string()), "param: {body}");
    assert!(error.contains_key("code") && (error["code"].is_null() || error["code"].is_string()), "code: {body}");
    message.to_owned()
}

/// A body that does not say how long it is.
struct Unannounced {
    pieces: VecDeque<Frame<Bytes>>,
    ends: bool,
}

impl hyper::body::Body for Unannounced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.pieces.pop_front() {
            None if !self.ends => Poll::Pending,
            piece => Poll::Ready(piece.map(Ok)),
        }
    }
}
