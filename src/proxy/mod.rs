//! The data plane: the only `impl ProxyHttp`, and Pingora's quirks.
//!
//! Each phase is a few lines that call one verb of `pipeline`:
//!
//! ```text
//! connection   guard     bounds connections, heads that drip, idle time
//! request      arrive → identify → locate → read → understand → plan → judge → reserve  (or an answer without a provider)
//! upstream     next target → address, encode → weigh ──next target──┐
//!                                  ▲─────────────────────────────────┘
//! response     relay, settle
//! ```
//!
//! A request body of any size is read before the upstream is chosen and replayed for each attempt (`body`, `replay`).

pub mod answer;
pub mod body;
pub mod guard;
pub mod headers;
mod replay;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::{Error as PingoraError, ErrorSource, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::error::{Error, Kind};
use crate::ledger::{AttemptEnd, Outcome};
use crate::pipeline::Gateway;
use crate::pipeline::answer::Answer;
use crate::pipeline::arrive::Head;
use crate::pipeline::attempt::{Current, Weighing, retry_after};
use crate::pipeline::exchange::{Exchange, Relaying};
use crate::pipeline::relay::{AnswerHead, Framing};
use crate::provider::config::HttpVersion;
use crate::proxy::replay::{Deadline, Ends, LARGEST_WHOLE, PIECE_PATIENCE, Pieces, SMALL_PIECE, Slot};
use crate::unit::clock::{Tick, Timestamp};

/// The data plane of one gateway.
pub struct Front {
    gateway: Arc<Gateway>,
    /// What `/ready` and `/version` say.
    state: Arc<dyn StatePages>,
}

/// What the pages about the gateway itself can be asked with.
const METHODS_OF_PAGES: &str = "GET, HEAD";

/// How soon after sending a pooled connection shows that it had died in the pool: the first packet is answered with a reset, so
/// after one way around the world and back. One that breaks later may have carried the request, and the provider may have worked on
/// it.
const DEAD_SHOWS_WITHIN: Duration = Duration::from_millis(500);

/// The pages about the gateway itself that anyone may read.
pub trait StatePages: Send + Sync {
    /// The answer to `/health`, `/ready` or `/version`; `None` for other paths.
    fn page(&self, path: &str) -> Option<Answer>;
}

/// What Pingora carries through the phases of one exchange.
pub struct Context {
    /// Boxed, because it is large and Pingora moves its context about.
    exchange: Box<Exchange>,
    stand_in: Option<Slot>,
    deadline: Option<Arc<Deadline>>,
    /// There where the stand-in replays the body.
    pieces: Option<Arc<Pieces>>,
    /// Whether the provider is being asked over HTTP/2.
    over_http2: bool,
    /// When its request began to be sent.
    sent: Option<Tick>,
    /// Set by `upstream_response_filter` when it gives an answer up for the next target.
    next_target: bool,
    /// Set by `upstream_response_filter` when a provider's error has no body that could be rewritten.
    own_words: Option<Answer>,
}

impl Context {
    /// Puts an error in the caller's dialect in the place of a provider's that ends with its head: Pingora calls no body
    /// filter for such an answer, so it is given up and answered from `fail_to_proxy`.
    fn speak_for_provider(&mut self, framing: Framing, delay: Option<Duration>) -> Box<PingoraError> {
        let body = self.exchange.relay(None, true).unwrap_or_default();
        let mut answer = Answer::json(framing.status, body).header("x-marg-reason", Kind::UpstreamError.code());
        if let Some(provider) = &self.exchange.record.provider {
            answer = answer.header("x-marg-provider", &**provider);
        }
        if let Some(delay) = delay {
            answer = answer.header("retry-after", delay.as_millis().div_ceil(1000).to_string());
        }
        self.own_words = Some(answer);
        PingoraError::new_up(ErrorType::HTTPStatus(framing.status))
    }
}

impl Context {
    /// Puts a stand-in in the session's place where something must be done that Pingora does not do.
    fn stand_in_if_needed(&mut self, session: &mut Session, needs_replay: bool) {
        let exchange = &self.exchange;
        let mut providers = exchange.plan.iter().map(|step| &step.provider);
        let watched = providers.clone().any(|provider| provider.transport.watched().is_some());
        let in_pieces =
            exchange.body.len() > SMALL_PIECE && providers.any(|provider| provider.settings.http == HttpVersion::Http2);
        let needs_replay = needs_replay || in_pieces;
        // A body without a length is unchunked for callers of HTTP/1.0, behind everything that Pingora does.
        let old = session.req_header().version < http::Version::HTTP_11;
        if needs_replay || watched || old || exchange.leave.is_some() {
            let deadline = Arc::new(Deadline::new(exchange.started));
            self.pieces = needs_replay.then(Arc::default);
            self.stand_in = Some(replay::wrap(session, self.pieces.clone(), self.ends(deadline.clone())));
            self.deadline = Some(deadline);
        }
    }

    fn ends(&self, deadline: Arc<Deadline>) -> Ends {
        Ends { deadline, leave: self.exchange.leave.clone(), owed: self.exchange.owed.clone() }
    }

    /// From here on the caller may leave without ending the exchange, so somebody must stand in for it.
    fn prepare_for_leaving(&mut self, session: &mut Session) {
        if self.stand_in.is_none() && self.exchange.owed.is_due() {
            let ends = self.ends(Arc::new(Deadline::new(self.exchange.started)));
            self.stand_in = Some(replay::wrap(session, None, ends));
        }
    }

    /// Whether a head is an interim answer that another follows. None is passed on (`body::tune`), nor do they buy a provider time.
    fn is_interim(&self, status: u16) -> pingora_error::Result<bool> {
        if status == 101 {
            // Nobody asked for another protocol; what follows is no HTTP.
            let error = PingoraError::explain(ErrorType::InvalidHTTPHeader, "the provider switched protocols");
            return Err(error.into_up());
        }
        if !(100..200).contains(&status) {
            return Ok(false);
        }
        let patience = |current: &Current| current.step.provider.settings.first_byte_timeout;
        let current = self.exchange.current.as_ref();
        if current.is_some_and(|current| current.started.elapsed() > patience(current)) {
            return Err(PingoraError::explain(ErrorType::ReadTimedout, "only interim answers came").into_up());
        }
        Ok(true)
    }

    /// Whether all that ended the exchange is that its answer came whole before its request was sent.
    fn was_answered_early(&self) -> bool {
        self.pieces.as_ref().is_some_and(|pieces| pieces.were_cut_short())
    }

    /// Ends an answer that is not what its encoding says: it has broken off, or, where nothing has reached the caller, was none.
    fn give_up_corrupt(&mut self, session: &Session) -> Box<PingoraError> {
        if answer::has_begun(session) {
            return PingoraError::new_up(ErrorType::InvalidHTTPHeader);
        }
        self.exchange.relaying = Relaying::Nothing;
        self.refuse(&Error::new(Kind::UpstreamError, "The provider's answer is not encoded as it says."))
    }

    /// Whether nobody can have worked on what was sent on a pooled connection before this error. Pingora does not count a failed
    /// write, though it is the surest sign, like a body that was not handed over to its end: the request never was there as a whole.
    fn was_lost(&self, error: &PingoraError) -> bool {
        let at_once = self.sent.is_some_and(|sent| sent.elapsed() < DEAD_SHOWS_WITHIN);
        let in_part = !self.exchange.outgoing.is_empty();
        *error.etype() == ErrorType::WriteError || (error.retry() && (at_once || in_part))
    }

    /// Whether a connection that could not be made is made anew for the same attempt, since nothing was sent: to another address of
    /// the provider, where one took the connection but did not speak with Marg; one that takes none was passed over before. Or beside
    /// a connection over HTTP/2 that takes no further stream, because its provider is about to end it (GOAWAY, RFC 9113 section 6.8).
    fn connects_elsewhere(&mut self, peer: &HttpPeer, reason: &ErrorType) -> bool {
        let Some(current) = &self.exchange.current else { return false };
        let provider = &current.step.provider;
        if *reason == ErrorType::H2Error {
            provider.transport.give_up(peer);
            return self.exchange.renew(None);
        }
        let others = peer.address().as_inet().is_some_and(|address| provider.endpoint.pass_over(*address));
        let in_time = current.started.elapsed() < provider.settings.connect_timeout;
        others && in_time && is_handshake(reason) && self.exchange.renew(None)
    }

    /// Refuses what was about to be asked of a provider; `fail_to_proxy` tells the caller.
    fn refuse(&mut self, error: &Error) -> Box<PingoraError> {
        self.exchange.refuse(error);
        self.own_words = Some(Answer::error(error));
        PingoraError::new_in(ErrorType::HTTPStatus(error.kind().status()))
    }
}

impl Front {
    /// The data plane of a gateway.
    pub fn new(gateway: Arc<Gateway>, state: Arc<dyn StatePages>) -> Self {
        Self { gateway, state }
    }

    /// Everything before a provider is asked; `None` means that one is to be asked now.
    async fn admit(&self, session: &mut Session, context: &mut Context) -> Result<Option<Answer>, Error> {
        let exchange = &mut context.exchange;
        let request = session.req_header();
        let (method, path) = (request.method.as_str(), request.uri.path());
        if let Some(page) = self.state.page(path) {
            exchange.forget();
            exchange.greet(&request.headers);
            if method == "GET" || method == "HEAD" {
                return Ok(Some(page));
            }
            let text = format!("{path} does not take this method; it takes {METHODS_OF_PAGES}");
            return Err(Error::new(Kind::MethodNotAllowed, text));
        }
        let peer = session.client_addr().and_then(|address| address.as_inet()).map(std::net::SocketAddr::ip);
        exchange.arrive(&Head { method, path, headers: &request.headers, peer })?;
        body::refuse_smuggling(session)?;
        headers::refuse_upgrade(&request.headers)?;
        headers::refuse_coding(&request.headers)?;
        exchange.identify(&request.headers, request.uri.query())?;
        exchange.label(&request.headers)?;
        exchange.locate(method, path)?;
        if let Some(answer) = exchange.local_answer()? {
            return Ok(Some(answer));
        }
        let read = body::read(session, exchange).await?;
        exchange.keep_body(read.bytes, read.held);
        let request = session.req_header();
        let content_type = headers::content_type(&request.headers)?;
        exchange.understand(content_type, request.uri.query()).await?;
        exchange.give_way();
        exchange.plan(&request.headers)?;
        exchange.bound().await?;
        exchange.judge(&request.headers).await?;
        exchange.reserve().await?;
        context.stand_in_if_needed(session, read.needs_replay);
        Ok(None)
    }
}

#[async_trait]
impl ProxyHttp for Front {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            exchange: Box::new(Exchange::begin(&self.gateway)),
            stand_in: None,
            deadline: None,
            pieces: None,
            over_http2: false,
            sent: None,
            next_target: false,
            own_words: None,
        }
    }

    fn init_downstream_modules(&self, _modules: &mut pingora_core::modules::http::HttpModules) {
        // No compression and no other module of Pingora's: bodies go through unchanged.
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> pingora_error::Result<bool> {
        guard::head_has_arrived(session);
        body::tune(session, &context.exchange);
        let answer = match self.admit(session, context).await {
            Ok(None) => return Ok(false),
            Ok(Some(answer)) => {
                context.exchange.record.status = answer.status;
                answer
            }
            Err(error) => {
                tracing::debug!(?error, id = %context.exchange.record.id, "refused");
                context.exchange.refuse(&error);
                let answer = Answer::error(&error);
                match error.kind() {
                    Kind::MethodNotAllowed => {
                        let page = self.state.page(session.req_header().uri.path()).is_some();
                        let methods = if page { METHODS_OF_PAGES.to_owned() } else { headers::allowed(session) };
                        answer.header("allow", methods)
                    }
                    _ => answer,
                }
            }
        };
        answer::send(session, &mut context.exchange, answer).await;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> pingora_error::Result<Box<HttpPeer>> {
        context.next_target = false;
        session.set_close_on_response_before_downstream_finish(true);
        if context.exchange.is_withdrawn() {
            // It may have waited for money, or for the target before.
            return Err(PingoraError::explain(ErrorType::InternalError, "the key was withdrawn"));
        }
        loop {
            let Some(current) = &context.exchange.current else {
                return Err(PingoraError::explain(ErrorType::ConnectError, "no target is left"));
            };
            let provider = current.step.provider.clone();
            match provider.endpoint.addresses().await {
                Ok(addresses) => {
                    let mut peer = provider.transport.peer(&addresses);
                    if context.pieces.is_some() && context.exchange.body.len() > LARGEST_WHOLE {
                        let patience = peer.options.write_timeout.map_or(PIECE_PATIENCE, |it| it.min(PIECE_PATIENCE));
                        peer.options.write_timeout = Some(patience);
                    }
                    if current.renewed {
                        // Connections that died together lie in the pool together; under a key of its own this attempt
                        // meets none of them.
                        (_, peer.group_key) = context.exchange.record.id.0.as_u64_pair();
                        let left = provider.settings.connect_timeout.saturating_sub(current.started.elapsed());
                        peer.options.total_connection_timeout = Some(left.max(Duration::from_millis(1)));
                    }
                    return Ok(Box::new(peer));
                }
                Err(reason) => {
                    context.exchange.fail(AttemptEnd::ConnectFailed, reason);
                }
            }
        }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        context: &mut Context,
        mut error: Box<PingoraError>,
    ) -> Box<PingoraError> {
        if context.connects_elsewhere(peer, error.etype()) {
            error.set_retry(true);
            return error;
        }
        let text = format!("could not connect: {}", error.etype().as_str());
        error.set_retry(context.exchange.fail(AttemptEnd::ConnectFailed, &text));
        error
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _descriptor: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        context: &mut Context,
    ) -> pingora_error::Result<()> {
        if let (Some(deadline), Some(current)) = (&context.deadline, &context.exchange.current) {
            let limits = current.step.provider.transport.watched();
            deadline.expect_first_byte(limits);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> pingora_error::Result<()> {
        let body = context.exchange.encode();
        context.exchange.put_on_paper(&body).map_err(|error| context.refuse(&error))?;
        headers::address(session.req_header(), request, &context.exchange, body.len())?;
        context.over_http2 = request.version == http::Version::HTTP_2;
        context.pieces.iter().for_each(|pieces| pieces.begin(body.len(), context.over_http2));
        context.exchange.begin_sending(body);
        context.sent = Some(Tick::now());
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Context,
    ) -> pingora_error::Result<()> {
        // Pingora replays what it kept of the body, or sentinels; either is replaced by the body for this target.
        let outgoing = &mut context.exchange.outgoing;
        *body = match &context.pieces {
            Some(pieces) => pieces.next(outgoing, end),
            // At the first call, which may not be the last: behind trailers (RFC 9113 section 8.1) the end comes by itself.
            None => Some(std::mem::take(outgoing)).filter(|whole| !whole.is_empty()),
        };
        context.exchange.note_sent();
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> pingora_error::Result<()> {
        let status = response.status.as_u16();
        if context.is_interim(status)? {
            return Ok(());
        }
        if let Some(deadline) = &context.deadline {
            deadline.expect_next_byte();
        }
        let delay = retry_after(&response.headers, Timestamp::now());
        let unchanged = status == 304 && headers::is_conditional(session.req_header());
        if context.exchange.weigh(if unchanged { 200 } else { status }, delay) == Weighing::NextTarget {
            context.next_target = true;
            let mut error = PingoraError::new_up(ErrorType::HTTPStatus(status));
            error.set_retry(true);
            return Err(error);
        }
        let text = |name: &str| response.headers.get(name).and_then(|value| value.to_str().ok());
        let is_head = session.req_header().method == http::Method::HEAD;
        let bodyless = is_head || matches!(status, 204 | 304);
        let length = text("content-length").and_then(|length| length.parse().ok());
        let head = AnswerHead {
            status,
            content_type: text("content-type"),
            encoding: text("content-encoding").filter(|_| !bodyless && status != 206),
            length: if bodyless { Some(0) } else { length },
            unchanged,
        };
        let framing = context.exchange.begin_relay(&head);
        // An error needs words of its own where the provider's has none.
        if status >= 300 && !unchanged && !is_head && (length == Some(0) || bodyless) {
            return Err(context.speak_for_provider(framing, delay));
        }
        headers::sign(response, &context.exchange, framing, bodyless)
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut http::HeaderMap,
        context: &mut Context,
    ) -> pingora_error::Result<()> {
        headers::sign_trailers(trailers, &context.exchange);
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Context,
    ) -> pingora_error::Result<Option<Duration>> {
        if let Some(deadline) = &context.deadline {
            deadline.expect_next_byte();
        }
        if context.exchange.is_withdrawn() {
            return Err(PingoraError::explain(ErrorType::InternalError, "the key was withdrawn"));
        }
        *body = context.exchange.relay(body.take(), end);
        if context.exchange.has_heard_enough() && answer::has_begun(session) {
            // `fail_to_proxy` tells the caller, and what the provider still sends is not waited for.
            return Err(PingoraError::new_up(ErrorType::InvalidHTTPHeader));
        }
        if context.exchange.corrupt {
            return Err(context.give_up_corrupt(session));
        }
        context.prepare_for_leaving(session);
        Ok(None)
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<PingoraError>,
        context: &mut Context,
        reused: bool,
    ) -> Box<PingoraError> {
        let is_over = context.own_words.is_some() || context.exchange.is_withdrawn() || context.was_answered_early();
        if context.next_target || is_over {
            error.as_up();
            error.set_retry(context.next_target);
            return error;
        }
        let late = context.deadline.as_ref().is_some_and(|deadline| deadline.has_passed());
        if late {
            error.as_up();
        }
        let timed_out = *error.esource() == ErrorSource::Upstream && (late || is_timeout(error.etype()));
        if let (true, true, Some(current)) = (timed_out, context.over_http2, &context.exchange.current) {
            current.step.provider.transport.give_up(peer);
        }
        if *error.esource() == ErrorSource::Downstream || answer::has_begun(session) {
            error.set_retry(false);
            return error;
        }
        error.retry.decide_reuse(reused);
        if reused && !late && context.was_lost(&error) {
            let text = format!("a kept connection was dead: {}", error.etype().as_str());
            if context.exchange.renew(Some(&text)) {
                error.as_up();
                error.set_retry(true);
                return error;
            }
        }
        let end = if late || is_timeout(error.etype()) { AttemptEnd::TimedOut } else { AttemptEnd::Broken };
        let text = format!("broke before it answered: {}", error.etype().as_str());
        error.as_up();
        error.set_retry(context.exchange.fail(end, &text));
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &PingoraError, context: &mut Context) -> FailToProxy {
        if context.was_answered_early() {
            return FailToProxy { error_code: context.exchange.record.status, can_reuse_downstream: false };
        }
        let exchange = &mut context.exchange;
        let client_gone = *error.esource() == ErrorSource::Downstream;
        if answer::has_begun(session) || client_gone {
            if let Some(event) = exchange.cut(client_gone) {
                // The caller may be gone by now as well; then there is nobody to tell.
                let _told = session.write_response_body(Some(event), true).await;
            }
            return FailToProxy { error_code: exchange.record.status, can_reuse_downstream: false };
        }
        // Only the real session can say that the connection ends.
        if let Some(slot) = context.stand_in.take() {
            replay::unwrap(session, &slot);
        }
        session.set_keepalive(None);
        let withdrawn = exchange.withdraw().map(|error| Answer::error(&error));
        let answer = withdrawn.or_else(|| context.own_words.take()).unwrap_or_else(|| {
            let failure = exchange.give_up();
            exchange.refuse(&failure);
            Answer::error(&failure)
        });
        let status = answer.status;
        answer::send(session, &mut context.exchange, answer).await;
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&PingoraError>, context: &mut Context) {
        let outcome = match error.filter(|_| !context.was_answered_early()) {
            Some(error) if *error.esource() == ErrorSource::Downstream => Outcome::ClientGone,
            Some(_) if matches!(context.exchange.relaying, Relaying::Passing { .. }) => Outcome::UpstreamCut,
            Some(_) => Outcome::UpstreamFailed,
            None => context.exchange.record.outcome,
        };
        let outcome = match &context.exchange.relaying {
            _ if outcome != Outcome::Interrupted => outcome,
            // The provider's error had no body that could have been mended.
            Relaying::Mending { .. } => Outcome::UpstreamFailed,
            _ => Outcome::Answered,
        };
        context.exchange.settle(outcome);
        if let Some(slot) = context.stand_in.take() {
            replay::unwrap(session, &slot);
        }
        guard::head_may_come(session);
        if self.gateway.is_draining() {
            session.set_keepalive(None);
        }
    }

    fn suppress_error_log(&self, _session: &Session, _context: &Context, _error: &PingoraError) -> bool {
        // The exchange's own line says it, without addresses.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _context: &Context,
        _error: &PingoraError,
        _when: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

fn is_timeout(kind: &ErrorType) -> bool {
    matches!(
        kind,
        ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::ConnectTimedout
            | ErrorType::TLSHandshakeTimedout
    )
}

fn is_handshake(kind: &ErrorType) -> bool {
    matches!(
        kind,
        ErrorType::TLSHandshakeFailure
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::InvalidCert
            | ErrorType::HandshakeError
    )
}
