//! The request's body: read whole before an upstream is chosen, bounded in size and time.
//!
//! Pingora keeps at most 64 KiB of a body for a second attempt, and forwards nothing at all if it kept nothing. So for a body
//! of known length the keeping begins when at most 64 KiB are left: Pingora then replays that tail once for each attempt,
//! and `request_body_filter` puts the whole body in its place. For other long bodies `replay` answers for the kept part.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::error::{Error, Kind, Result};
use crate::pipeline::Held;
use crate::pipeline::exchange::Exchange;
use crate::proxy::replay::LARGEST_WHOLE;
use crate::unit::clock::Tick;

/// What Pingora keeps of a body (`v1/common.rs` and `v2/server.rs` of pingora-core 0.9).
const KEPT_BY_PINGORA: usize = 64 * 1024;

/// How long a caller may go on to send behind an answer that did not wait for its body, and how long it may pause.
const LINGERING: Duration = Duration::from_secs(30);
const LINGERING_IDLE: Duration = Duration::from_secs(5);

/// A body that was read.
pub struct Read {
    /// All of it.
    pub bytes: Bytes,
    /// The room that it takes.
    pub held: Held,
    /// Whether Pingora has nothing that it could replay, or would hand too much over at once, so that `replay` must.
    pub needs_replay: bool,
}

/// Sets the limits of this request's connection.
pub fn tune(session: &mut Session, exchange: &Exchange) {
    let settings = &exchange.live.settings;
    // A caller that asked to close the connection (RFC 9112 section 9.6) is not overruled.
    let stays = session.get_keepalive().is_some() && !exchange.gateway.is_draining();
    session.set_keepalive(stays.then(|| settings.keepalive.as_secs().max(1)));
    session.set_write_timeout(Some(settings.write_timeout));
    session.set_read_timeout(Some(settings.body_idle_timeout));
    session.set_total_drain_timeout(Some(Duration::from_secs(1)));
    session.set_pipelining_enabled(true);
    // Interim answers are between Marg and the provider; `go_on` says the one that callers may need.
    session.set_ignore_info_resp(true);
}

/// Refuses requests whose length two readers could see differently (RFC 9112 section 6.3), and those without a host (RFC 9112
/// section 3.2).
///
/// # Errors
/// `InvalidRequest`.
pub fn refuse_smuggling(session: &Session) -> Result<()> {
    let request = session.req_header();
    let headers = &request.headers;
    if request.version == http::Version::HTTP_11 && !headers.contains_key(header::HOST) {
        return Err(Error::new(Kind::InvalidRequest, "The request does not name its host."));
    }
    if !headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(());
    }
    // Pingora has removed content-length by now; what was sent is still in the raw head.
    let raw = session.to_h1_raw().to_ascii_lowercase();
    let both = memchr::memmem::find(&raw, b"\ncontent-length").is_some();
    let coding = headers.get_all(header::TRANSFER_ENCODING).iter().map(|value| value.as_bytes().to_ascii_lowercase());
    if both || !coding.eq([b"chunked".to_vec()]) {
        return Err(Error::new(
            Kind::InvalidRequest,
            "Send content-length or `transfer-encoding: chunked`, once, not both.",
        ));
    }
    Ok(())
}

/// Reads the body.
///
/// # Errors
/// `TooLarge`, `RequestTimeout`, `Overloaded` when all exchanges together hold too much, `InvalidRequest` for broken framing.
pub async fn read(session: &mut Session, exchange: &Exchange) -> Result<Read> {
    let settings = &exchange.live.settings;
    let (limit, deadline) = (settings.max_body_bytes, settings.body_timeout);
    let announced = announced(session);
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    if waits(session.req_header()) {
        go_on(session).await?;
    }
    let mut held = exchange.gateway.hold();
    let started = Tick::now();
    let mut gathered = Gathered::default();
    let mut keeping = false;
    loop {
        let read = gathered.len();
        let left = announced.map(|length| length.saturating_sub(read as u64));
        if !keeping && left.is_none_or(|left| left <= KEPT_BY_PINGORA as u64) {
            session.enable_retry_buffering();
            keeping = true;
        }
        let patience = deadline.saturating_sub(started.elapsed()).min(settings.body_idle_timeout);
        let Some(chunk) = next_chunk(session, patience).await? else { break };
        if read + chunk.len() > limit {
            return Err(too_large(limit));
        }
        if !held.grow(chunk.len(), settings.max_buffered_bytes) {
            return Err(crowded(settings.max_buffered_bytes));
        }
        gathered.push(chunk, announced.map(|length| usize::try_from(length).unwrap_or(limit)));
    }
    let bytes = gathered.whole();
    let kept = session.get_retry_buffer().is_some() && !session.retry_buffer_truncated();
    // What is handed over in pieces is replayed there, too.
    let needs_replay = !bytes.is_empty() && (!kept || bytes.len() > LARGEST_WHOLE);
    Ok(Read { needs_replay, bytes, held })
}

/// What has come of a body. One that comes in one piece – nearly every one – is not copied.
#[derive(Default)]
struct Gathered {
    only: Option<Bytes>,
    joined: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.joined.len() + self.only.as_ref().map_or(0, Bytes::len)
    }

    /// `most` is how long the whole will be, if that is known.
    fn push(&mut self, chunk: Bytes, most: Option<usize>) {
        match self.only.take() {
            None if self.joined.is_empty() => self.only = Some(chunk),
            first => {
                if let Some(first) = first {
                    self.joined.reserve(most.unwrap_or(first.len() * 2));
                    self.joined.extend_from_slice(&first);
                }
                self.joined.extend_from_slice(&chunk);
            }
        }
    }

    fn whole(self) -> Bytes {
        self.only.unwrap_or_else(|| self.joined.freeze())
    }
}

/// Takes in and drops what a caller still sends behind an answer that did not wait for its body (RFC 9112 section 9.6): a
/// connection that is closed with bytes unread is reset, and the reset may overtake the answer. Many clients read no answer
/// before all is sent.
pub async fn linger(session: &mut Session) {
    if waits(session.req_header()) {
        // It was not told to send anything.
        return;
    }
    let next = async |session: &mut Session| {
        let read = session.as_mut().read_request_body();
        matches!(tokio::time::timeout(LINGERING_IDLE, read).await, Ok(Ok(Some(_))))
    };
    let drop_all = async { while next(session).await {} };
    // A caller that sends for longer is cut off.
    drop(tokio::time::timeout(LINGERING, drop_all).await);
}

/// The next piece, or `None` at the end; `patience` is how long it may take. Pingora's own time-outs hold for HTTP/1 only.
async fn next_chunk(session: &mut Session, patience: Duration) -> Result<Option<Bytes>> {
    let late = || {
        Error::new(
            Kind::RequestTimeout,
            "The request's body took too long to arrive (server.body_timeout_ms, server.body_idle_timeout_ms).",
        )
    };
    match tokio::time::timeout(patience, session.as_mut().read_request_body()).await {
        Err(_) => Err(late()),
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) if matches!(error.etype(), pingora_error::ErrorType::ReadTimedout) => Err(late().because(error)),
        Ok(Err(error)) => {
            // Where the next request begins is not known any more.
            session.set_keepalive(None);
            Err(Error::new(Kind::InvalidRequest, "The request's body is broken or incomplete.").because(error))
        }
    }
}

/// Whether the caller sends its body only when it is told to. HTTP/1.0 does not know that (RFC 9110 section 10.1.1).
fn waits(request: &RequestHeader) -> bool {
    request.version >= http::Version::HTTP_11 && request.headers.contains_key(header::EXPECT)
}

/// Tells a caller that waits with its body to send it (RFC 9110 section 10.1.1).
async fn go_on(session: &mut Session) -> Result<()> {
    // Without this Pingora would count the interim answer as the final one and close the connection after it.
    session.set_close_on_response_before_downstream_finish(false);
    let sent = session.as_mut().write_continue_response().await;
    session.set_close_on_response_before_downstream_finish(true);
    // It is met; with it, Pingora would let a provider's own interim answer through.
    session.req_header_mut().remove_header(&header::EXPECT);
    sent.map_err(|error| Error::new(Kind::InvalidRequest, "The caller went away before it sent a body.").because(error))
}

fn announced(session: &Session) -> Option<u64> {
    session.req_header().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

fn too_large(limit: usize) -> Error {
    Error::new(Kind::TooLarge, format!("The request's body is larger than {limit} bytes (server.max_body_bytes)."))
}

fn crowded(limit: usize) -> Error {
    let text =
        format!("All requests together hold more than {limit} bytes (server.max_buffered_bytes); try again shortly.");
    Error::new(Kind::Overloaded, text).retry_after(1)
}
