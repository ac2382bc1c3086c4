//! **Relay**: an upstream's answer on its way to the caller, frame by frame, never a whole stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::dialect::unpack::Coding;
use crate::dialect::{self, AnswerReader, Changes, Operation};
use crate::error::{Error, Kind};
use crate::ledger::Outcome;
use crate::pipeline::attempt::micros;
use crate::pipeline::exchange::{Exchange, Relaying};
use crate::pipeline::leave::Leave;
use crate::provider::Provider;
use crate::unit::clock::Tick;

/// The most of an upstream's error body that is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// How long it may come; then the caller gets what there is of it.
const ERROR_PATIENCE: Duration = Duration::from_secs(5);

/// What is known of an answer from its head.
pub struct AnswerHead<'a> {
    /// The status.
    pub status: u16,
    /// `content-type`, if sent.
    pub content_type: Option<&'a str>,
    /// `content-encoding`, if sent and if there is a body, the whole of it.
    pub encoding: Option<&'a str>,
    /// `content-length`, if sent.
    pub length: Option<u64>,
    /// It is a 304 to a caller who asked on a condition, and that is as good an answer as any.
    pub unchanged: bool,
}

/// How the answer's head must be changed before it goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// The body's length may change, so the head may not announce one.
    pub length_changes: bool,
    /// The body is not the provider's, but Marg's JSON.
    pub rewritten: bool,
    /// It was compressed and goes on as it was before.
    pub unpacked: bool,
    /// It is an event stream.
    pub event_stream: bool,
    /// The status to send on.
    pub status: u16,
}

impl Exchange {
    /// Begins to relay an answer that is the caller's.
    pub fn begin_relay(&mut self, head: &AnswerHead<'_>) -> Framing {
        let coding = Coding::of(head.encoding);
        let plain = Framing { status: head.status, ..Framing::default() };
        let Some(provider) = self.name_provider() else { return plain };
        if head.status >= 300 && !head.unchanged {
            // A redirect is not followed and its target is not told: to the caller it is a broken answer.
            let status = if head.status < 400 { Kind::UpstreamError.status() } else { head.status };
            self.record.status = status;
            self.record.reason = Some(Kind::UpstreamError.code().to_owned());
            self.relaying =
                Relaying::Mending { status: head.status, coding, collected: Vec::new(), since: Tick::now() };
            return Framing { length_changes: true, rewritten: true, status, ..plain };
        }
        self.record.status = head.status;
        let kind = head.content_type.unwrap_or_default();
        let readable = !matches!(coding, Coding::Opaque);
        let event_stream = is_kind(kind, "text/event-stream");
        // A usage chunk that only Marg asked for is not shown. What a provider sends unasked is its own way to speak.
        let operation = self.operation();
        let wants = self.facts.as_ref().is_none_or(|facts| facts.wants_usage);
        let hide = !wants && self.asks_for_usage() && matches!(operation, Operation::Chat | Operation::Completions);
        let unpacked = matches!(coding, Coding::Packed(_));
        // A stored response reads like a new one.
        let stored = self.place.as_ref().is_some_and(|place| place.stored_response().is_some());
        let read_as = if stored { Operation::Responses } else { operation };
        let mut reader = AnswerReader::new(read_as, event_stream && readable, hide);
        if self.facts.as_ref().is_some_and(|facts| facts.choices > 1) {
            reader = reader.expect_several();
        }
        let guess = !event_stream && readable && self.wants_stream();
        if guess {
            reader = reader.guess_stream(hide);
        }
        if readable && (event_stream || guess || is_kind(kind, "application/json")) {
            reader = reader.keep_confidential(provider);
        }
        self.relaying = Relaying::Passing { reader: Box::new(reader), coding, expected: head.length, seen: 0 };
        // A stream may grow by an event that says that it broke off.
        Framing { length_changes: event_stream || guess || unpacked, unpacked, event_stream, ..plain }
    }

    /// Notes who is asked for what, as who serves it; and gives them.
    pub(super) fn name_provider(&mut self) -> Option<Arc<Provider>> {
        let step = &self.current.as_ref()?.step;
        self.record.provider = Some(step.provider.name.clone());
        self.record.model_served = (!step.model.is_empty()).then(|| step.model.clone());
        Some(step.provider.clone())
    }

    /// Whether the current target is asked to report usage in a stream.
    pub fn asks_for_usage(&self) -> bool {
        self.wants_stream() && self.current.as_ref().is_some_and(|current| current.step.provider.settings.stream_usage)
    }

    /// The request's body for the current target: the caller's own bytes, with the model's name replaced where the route
    /// says so, and usage asked for on streams.
    pub fn encode(&self) -> Bytes {
        match (&self.facts, &self.current) {
            (Some(facts), Some(current)) => {
                let model = Some(current.step.model.as_str()).filter(|model| !model.is_empty());
                let ceiling = self.ceiling.map(|tokens| (current.step.ceiling_field(facts.operation), tokens));
                facts.body_for(&self.body, &Changes { model, ask_usage: self.asks_for_usage(), ceiling })
            }
            _ => self.body.clone(),
        }
    }

    /// Passes one piece of the answer on. When the caller will regard the answer as whole once it has this piece, the
    /// exchange is settled first: nothing that was answered goes unrecorded.
    pub fn relay(&mut self, chunk: Option<Bytes>, end: bool) -> Option<Bytes> {
        let out = match &mut self.relaying {
            Relaying::Nothing => chunk,
            Relaying::Mending { collected, coding, .. } => {
                let room = MAX_ERROR_BYTES.saturating_sub(collected.len());
                // What cannot be read says nothing.
                let readable = !matches!(coding, Coding::Opaque);
                let piece = chunk.filter(|_| readable && room > 0).unwrap_or_default();
                let piece = coding.decode(piece).unwrap_or_else(|_| {
                    *coding = Coding::Opaque;
                    Bytes::new()
                });
                collected.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
                if end { Some(self.mend()) } else { None }
            }
            Relaying::Passing { reader, coding, expected, seen } => {
                let chunk = chunk.unwrap_or_default();
                *seen += chunk.len() as u64;
                let whole = end || expected.is_some_and(|length| *seen >= length);
                let Some(chunk) = coding.decode(chunk).ok().filter(|_| !whole || *seen == 0 || coding.is_whole())
                else {
                    self.corrupt = true;
                    return None;
                };
                let relayed = reader.push(chunk, whole);
                if self.record.ttft_us.is_none() && reader.first_token_seen() {
                    self.record.ttft_us = Some(micros(self.started.elapsed()));
                }
                let due = reader.awaits_usage();
                let left = self.owed.has_caller_left();
                if !left {
                    self.deliver(&relayed.bytes);
                }
                if relayed.complete || whole || (left && !due) {
                    self.settle(if left { Outcome::ClientGone } else { Outcome::Answered });
                }
                self.owed.set_due(due && !self.settled);
                Some(relayed.bytes)
            }
        };
        out.filter(|bytes| !bytes.is_empty())
    }

    /// Whether enough has come of an error's body to tell the caller: what follows would only be thrown away.
    pub fn has_heard_enough(&self) -> bool {
        let Relaying::Mending { coding, collected, since, .. } = &self.relaying else { return false };
        matches!(coding, Coding::Opaque) || collected.len() >= MAX_ERROR_BYTES || since.elapsed() > ERROR_PATIENCE
    }

    /// The upstream's error in the caller's dialect, without credentials and addresses; settles.
    fn mend(&mut self) -> Bytes {
        let Relaying::Mending { status, collected, .. } = std::mem::replace(&mut self.relaying, Relaying::Nothing)
        else {
            return Bytes::new();
        };
        let body = match &self.current {
            Some(current) if status >= 400 => dialect::upstream_error_body(status, &collected, &*current.step.provider),
            _ => dialect::error_body(&Error::new(
                Kind::UpstreamError,
                format!("The provider answered with the redirect {status}, which is not followed."),
            )),
        };
        self.deliver(&body);
        self.settle(Outcome::UpstreamFailed);
        body
    }

    /// The answer broke off. Gives what the caller can still be told in its dialect: an error event if it is in the middle
    /// of a stream, the provider's error if it broke off in the middle of that.
    pub fn cut(&mut self, client_gone: bool) -> Option<Bytes> {
        let streaming = matches!(&self.relaying, Relaying::Passing { reader, .. } if reader.is_event_stream());
        if let Some(error) = self.leave.as_ref().and_then(Leave::refusal).filter(|_| !self.settled) {
            self.record.reason = Some(error.kind().code().to_owned());
            self.record.error = Some(error.text().to_owned());
            self.settle(Outcome::Withdrawn);
            let torn = self.leave.as_ref().is_some_and(Leave::is_torn);
            return (streaming && !torn).then(|| dialect::cut_event(&error));
        }
        let error = Error::new(Kind::UpstreamError, "The provider broke off in the middle of the answer.");
        if client_gone {
            self.settle(Outcome::ClientGone);
            return None;
        }
        if matches!(self.relaying, Relaying::Mending { .. }) {
            // Its status is the caller's already; what came of its body is enough to say why.
            return Some(self.mend());
        }
        // The target stays: settlement ends its attempt, and needs it to count and price what was delivered.
        if let Some(current) = &self.current {
            let health = &current.step.provider.health;
            health.failed(crate::unit::clock::Timestamp::now(), "broke off in the middle of an answer");
        }
        self.record.reason = Some(error.kind().code().to_owned());
        self.record.error = Some(error.text().to_owned());
        let event = streaming.then(|| dialect::cut_event(&error));
        self.deliver(event.as_deref().unwrap_or_default());
        self.settle(Outcome::UpstreamCut);
        event
    }
}

/// Whether a content type is of a kind, whatever its parameters. Kinds are the same in any case (RFC 9110 section 8.3.1).
fn is_kind(content_type: &str, kind: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind)
}
