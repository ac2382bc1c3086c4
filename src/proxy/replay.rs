//! A downstream session that answers for a body which Pingora did not keep, and that watches an upstream's silence.
//!
//! It stands in for the real session while upstreams are asked, and hands everything through. Two answers are its own:
//! `get_retry_buffer` gives a one-byte sentinel, so that Pingora calls `request_body_filter` once for each attempt whatever
//! the body's size; and waiting for the caller ends with an error when the upstream's deadline passes, because that wait is
//! the one place where Pingora listens while an upstream is silent – on HTTP/1 and HTTP/2 alike. It ends, too, when the
//! caller's key is withdrawn and the operator wants running calls cut. For callers of HTTP/1.0 it
//! also takes the chunks off an answer. The real session is put back before the exchange ends, so that keep-alive survives.
//!
//! When the caller leaves behind the end of the text, its provider still owes the usage (`pipeline::owed`). Pingora would drop the
//! upstream at the first error of a caller, so the stand-in keeps it to itself: it lets the wait for the caller go on for a while
//! and takes what is written to nobody. It is put in the session's place at that point of a stream, if it is not there yet.
//!
//! A large body is handed over in [`Pieces`], one sentinel for each: Pingora does not listen while it writes, and a provider may
//! answer without reading on.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use http::HeaderMap;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session as CustomSession;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::pipeline::leave::Leave;
use crate::pipeline::owed::{Owed, PATIENCE};
use crate::unit::clock::Tick;

/// Until when an upstream may be silent. Times are milliseconds since the exchange began; 0 means for ever.
#[derive(Debug)]
pub struct Deadline {
    origin: Tick,
    until_ms: AtomicU64,
    idle_ms: AtomicU64,
    begun: AtomicU64,
    passed: AtomicU64,
}

impl Deadline {
    /// No deadline yet.
    pub fn new(origin: Tick) -> Self {
        Self {
            origin,
            until_ms: AtomicU64::new(0),
            idle_ms: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            passed: AtomicU64::new(0),
        }
    }

    /// An attempt begins: its first byte is awaited, then each next one, in milliseconds.
    pub fn expect_first_byte(&self, limits: Option<(u64, u64)>) {
        let (first, idle) = limits.unwrap_or((0, 0));
        self.passed.store(0, Ordering::Relaxed);
        self.begun.store(0, Ordering::Relaxed);
        self.idle_ms.store(idle, Ordering::Relaxed);
        self.set(first);
    }

    /// A byte has come or was passed on: the next is awaited from now.
    pub fn expect_next_byte(&self) {
        self.begun.store(1, Ordering::Relaxed);
        self.set(self.idle_ms.load(Ordering::Relaxed));
    }

    /// The caller has taken what was passed on; the time that it took is not the upstream's.
    fn expect_next_byte_if_begun(&self) {
        if self.begun.load(Ordering::Relaxed) != 0 {
            self.expect_next_byte();
        }
    }

    /// Whether the upstream was silent for too long.
    pub fn has_passed(&self) -> bool {
        self.passed.load(Ordering::Relaxed) != 0
    }

    fn set(&self, span_ms: u64) {
        let until = if span_ms == 0 { 0 } else { self.now_ms().saturating_add(span_ms) };
        self.until_ms.store(until, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends when the deadline passes; a deadline that moves while this waits is followed.
    async fn passes(&self) {
        loop {
            let until = self.until_ms.load(Ordering::Relaxed);
            if until == 0 {
                std::future::pending::<()>().await;
            }
            let left = until.saturating_sub(self.now_ms());
            if left == 0 {
                self.passed.store(1, Ordering::Relaxed);
                return;
            }
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
    }
}

/// Bodies up to this size are handed over at once: they fit into the buffers of a connection, and pieces cost time.
pub const LARGEST_WHOLE: usize = 1024 * 1024;
/// The size of a piece of a larger one.
const PIECE: usize = 64 * 1024;

/// How long a provider may take to make room for a piece. Then Pingora gives the rest of the request up and reads what the provider
/// has answered.
pub const PIECE_PATIENCE: Duration = Duration::from_secs(5);

/// How a body is handed to one attempt after the other.
#[derive(Debug, Default)]
pub struct Pieces {
    /// The pieces that the current attempt has not been offered yet, behind the next one.
    left: AtomicUsize,
    /// The answer was whole while pieces were left.
    cut_short: AtomicBool,
}

impl Pieces {
    /// A new attempt begins, with a body of so many bytes.
    pub fn begin(&self, bytes: usize) {
        let pieces = if bytes > LARGEST_WHOLE { bytes.div_ceil(PIECE) } else { 1 };
        self.left.store(pieces - 1, Ordering::Relaxed);
    }

    /// What is to be sent for one sentinel; `end` is the last one's.
    pub fn next(body: &mut Bytes, end: bool) -> Option<Bytes> {
        let piece = if end { std::mem::take(body) } else { body.split_to(body.len().min(PIECE)) };
        Some(piece).filter(|piece| !piece.is_empty())
    }

    /// Whether the exchange was ended because its answer had come whole before its request was sent.
    pub fn were_cut_short(&self) -> bool {
        self.cut_short.load(Ordering::Relaxed)
    }

    fn are_left(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0
    }
}

/// Where the real session is handed back when its stand-in is dropped.
pub type Slot = Arc<Mutex<Option<ServerSession>>>;

/// Until when the provider of an exchange is listened to.
pub struct Ends {
    /// Its silence.
    pub deadline: Arc<Deadline>,
    /// Whether the exchange may go on; `None` where it always may.
    pub leave: Option<Leave>,
    /// What it owes when the caller has left.
    pub owed: Owed,
}

/// Puts a stand-in in the session's place; [`unwrap`] puts the real one back.
pub fn wrap(session: &mut Session, replays: Option<Arc<Pieces>>, ends: Ends) -> Slot {
    let slot = Slot::default();
    let real = std::mem::replace(&mut *session.downstream_session, nobody());
    let old = real.req_header().version < http::Version::HTTP_11;
    let Ends { deadline, leave, owed } = ends;
    let stand_in = StandIn { real, replays, old, deadline, leave, owed, left: None, slot: slot.clone() };
    *session.downstream_session = ServerSession::new_custom(Box::new(stand_in));
    slot
}

/// Puts the real session back.
pub fn unwrap(session: &mut Session, slot: &Slot) {
    drop(std::mem::replace(&mut *session.downstream_session, nobody()));
    if let Some(real) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
        *session.downstream_session = real;
    }
}

/// Pingora's own empty session; it is there only for a moment and is never asked anything.
fn nobody() -> ServerSession {
    ServerSession::new_custom(Box::new(()))
}

/// Stands for a piece of the body.
const SENTINEL: Bytes = Bytes::from_static(b" ");

struct StandIn {
    real: ServerSession,
    /// There where the body is replayed from here.
    replays: Option<Arc<Pieces>>,
    /// The caller speaks HTTP/1.0, so nothing may be chunked (RFC 9112 section 6.1): such a body ends with the connection.
    old: bool,
    deadline: Arc<Deadline>,
    /// Whether the exchange may go on; `None` where it always may.
    leave: Option<Leave>,
    owed: Owed,
    /// When the caller left, if its provider is heard out.
    left: Option<Tick>,
    slot: Slot,
}

impl StandIn {
    /// The caller has left, and its provider owes what it used.
    fn lose_caller(&mut self) {
        tracing::debug!("the caller has left; its provider is heard out");
        self.left = Some(Tick::now());
        self.owed.caller_leaves();
        self.real.set_keepalive(None);
    }

    /// Waits in the place of a caller that left at that time.
    async fn outwait(&mut self, left: Tick) -> Result<Option<Bytes>> {
        tokio::select! {
            biased;
            () = ends(&mut self.leave) => withdrawn(),
            () = tokio::time::sleep(PATIENCE.saturating_sub(left.elapsed())) => gone(),
        }
    }

    /// Takes what is for a caller that left. Gives whether the answer has ended; an error ends it.
    fn swallow(&self, tasks: &[HttpTask]) -> Result<bool> {
        let ended = tasks.iter().any(HttpTask::is_end);
        let failed = tasks.iter().any(|task| matches!(task, HttpTask::Failed(_)));
        if failed || (!ended && !self.owed.is_due()) {
            return gone();
        }
        Ok(ended)
    }
}

/// What Pingora is told of a caller that left.
fn gone<T>() -> Result<T> {
    Error::e_explain(ErrorType::ConnectionClosed, "the caller has left").map_err(Error::into_down)
}

fn withdrawn<T>() -> Result<T> {
    Error::e_explain(ErrorType::InternalError, "the key was withdrawn")
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let real = std::mem::replace(&mut self.real, nobody());
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(real);
    }
}

/// Returns when the exchange may not go on; never, where it always may.
async fn ends(leave: &mut Option<Leave>) {
    match leave {
        Some(leave) => leave.ends().await,
        None => std::future::pending().await,
    }
}

#[async_trait]
impl CustomSession for StandIn {
    fn get_retry_buffer(&self) -> Option<Bytes> {
        if self.replays.is_some() { Some(SENTINEL) } else { self.real.get_retry_buffer() }
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.replays.is_none() && self.real.retry_buffer_truncated()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if let Some(left) = self.left {
            return self.outwait(left).await;
        }
        if let Some(pieces) = self.replays.as_ref().filter(|pieces| pieces.are_left()) {
            // So that an answer which has arrived is noticed before the next piece is written.
            tokio::task::yield_now().await;
            pieces.left.fetch_sub(1, Ordering::Relaxed);
            return Ok(Some(SENTINEL));
        }
        let read = tokio::select! {
            biased;
            read = self.real.read_body_or_idle(no_body_expected) => read,
            () = self.deadline.passes() => return Error::e_explain(ErrorType::ReadTimedout, "the upstream is silent"),
            () = ends(&mut self.leave) => return withdrawn(),
        };
        if read.is_ok() || !self.owed.is_due() {
            return read;
        }
        self.lose_caller();
        self.outwait(Tick::now()).await
    }

    async fn response_duplex_vec(&mut self, mut tasks: Vec<HttpTask>) -> Result<bool> {
        if self.left.is_some() {
            return self.swallow(&tasks);
        }
        let failed = tasks.iter().any(|task| matches!(task, HttpTask::Failed(_)));
        for task in tasks.iter_mut().filter(|_| self.old) {
            if let HttpTask::Header(response, _) = task
                && response.remove_header(&http::header::TRANSFER_ENCODING).is_some()
            {
                self.real.set_keepalive(None);
            }
        }
        let early = self.replays.clone().filter(|pieces| pieces.are_left());
        if early.is_some() {
            self.real.set_keepalive(None);
        }
        let written = tokio::select! {
            biased;
            written = self.real.response_duplex_vec(tasks) => written,
            // A caller that does not read must not keep the provider busy; half a piece may be on its way to it.
            () = ends(&mut self.leave) => {
                self.leave.iter().for_each(Leave::tear);
                return withdrawn();
            }
        };
        if written.is_err() && !failed && self.owed.is_due() {
            self.lose_caller();
            return Ok(false);
        }
        // The time that a slow caller took is not the upstream's.
        self.deadline.expect_next_byte_if_begun();
        if let (Ok(true), Some(pieces)) = (&written, early) {
            // Pingora would wait until the provider takes the rest of the request, which it may never do.
            pieces.cut_short.store(true, Ordering::Relaxed);
            return Error::e_explain(ErrorType::InternalError, "the provider answered before it had the whole request");
        }
        written
    }

    // Everything below is handed through.

    fn req_header(&self) -> &RequestHeader {
        self.real.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.real.req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.real.read_request_body().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.real.drain_request_body().await
    }

    async fn write_response_header(&mut self, response: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.real.write_response_header(response).await
    }

    async fn write_response_header_ref(&mut self, response: &ResponseHeader, _end: bool) -> Result<()> {
        self.real.write_response_header_ref(response).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.real.write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.real.write_response_trailers(trailers).await
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.real.set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.real.get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.real.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.real.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.real.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.real.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.real.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.real.response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.real.shutdown().await;
    }

    fn is_body_done(&mut self) -> bool {
        self.real.is_body_done() && !self.replays.as_ref().is_some_and(|pieces| pieces.are_left())
    }

    async fn finish(&mut self) -> Result<()> {
        if self.left.is_some() { Ok(()) } else { self.real.finish_body().await }
    }

    fn is_body_empty(&mut self) -> bool {
        self.real.is_body_empty()
    }

    fn body_bytes_sent(&self) -> usize {
        self.real.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.real.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.real.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.real.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.real.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.real.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.real.to_h1_raw()
    }

    fn enable_retry_buffering(&mut self) {
        self.real.enable_retry_buffering();
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }

    fn is_upgrade_req(&self) -> bool {
        self.real.is_upgrade_req()
    }

    fn was_upgraded(&self) -> bool {
        self.real.was_upgraded()
    }
}
