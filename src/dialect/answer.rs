//! Relays an answer unchanged and reads usage, model and end off it while it passes.
//!
//! A chunk that needs no change goes out as the bytes that came in. Events that must not be seen as they are – the one that
//! carries usage and no choice, with `hide_usage`, and errors that name a credential or an address, with
//! [`AnswerReader::keep_confidential`] – are left out or cleaned; then events are held until they are whole (at most 1 MiB, then
//! they pass unread), and so is a JSON answer from where it speaks of an error. What is kept is bounded: 1 MiB of a JSON answer
//! plus 64 KiB of its end, 64 KiB of a stream, 1 MiB of an event that is not whole. Nothing here fails: what cannot be read is
//! relayed all the same.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::dialect::clean::{self, Confidential};
use crate::dialect::error::error_body;
use crate::dialect::findings::{Findings, Meaning, mentions_error};
use crate::dialect::hide;
use crate::dialect::operation::Operation;
use crate::dialect::sse::{self, Splitter};
use crate::dialect::usage::Missing;
use crate::dialect::value::Value;
use crate::error::Error;
use crate::unit::usage::{ServiceTier, Usage};

pub use crate::dialect::findings::StreamError;

/// The most that is kept of a JSON answer's beginning.
const DOCUMENT_LIMIT_BYTES: usize = 1024 * 1024;
/// The most that is kept of the end of a larger answer, or of a larger event.
const TAIL_LIMIT_BYTES: usize = 64 * 1024;
/// The most that is kept of what was delivered, for counting.
const DELIVERED_LIMIT_BYTES: usize = 64 * 1024;
/// The largest event that is held or read whole.
const EVENT_LIMIT_BYTES: usize = 1024 * 1024;

/// What goes on to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// The bytes for the caller; may be empty.
    pub bytes: Bytes,
    /// Once the caller has these bytes, it regards the answer as finished, whatever comes after.
    pub complete: bool,
}

/// Relays one answer and reads facts off it.
#[derive(Debug)]
pub struct AnswerReader {
    findings: Findings,
    stream: Option<Stream>,
    /// The stream that it becomes if it begins like one.
    guess: Option<Stream>,
    keeper: Option<Arc<dyn Confidential>>,
    /// The end of a JSON answer, from where it speaks of an error.
    held: Vec<u8>,
    delivered: Kept,
    drawn: Tally,
    read: bool,
}

impl AnswerReader {
    /// A reader of one answer. `event_stream` says that its content type is `text/event-stream`; `hide_usage` that usage
    /// was asked for on behalf of Marg and not of the caller.
    pub fn new(operation: Operation, event_stream: bool, hide_usage: bool) -> Self {
        let limit = if event_stream { DELIVERED_LIMIT_BYTES } else { DOCUMENT_LIMIT_BYTES };
        Self {
            findings: Findings::new(operation),
            stream: event_stream.then(|| Stream { hide: hide_usage, ..Stream::default() }),
            guess: None,
            keeper: None,
            held: Vec::new(),
            delivered: Kept::new(limit),
            drawn: Tally::default(),
            read: false,
        }
    }

    /// Takes an answer that is not called an event stream for one if it begins like one: for callers who asked for a stream.
    pub fn guess_stream(mut self, hide_usage: bool) -> Self {
        self.guess = self.stream.is_none().then(|| Stream { hide: hide_usage, ..Stream::default() });
        self
    }

    /// Tells the choices of a stream apart: for callers who asked for more than one.
    pub fn expect_several(mut self) -> Self {
        self.findings.endings.several = true;
        self
    }

    /// Takes what must not be seen out of errors.
    pub fn keep_confidential(mut self, keeper: Arc<dyn Confidential>) -> Self {
        self.keeper = Some(keeper);
        self
    }

    /// Whether the answer is an event stream, as far as is known.
    pub fn is_event_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Takes the next chunk of the provider's body; `end` says that none follows. Gives what goes to the caller now.
    ///
    /// *Cost*: for a chunk of whole events, a few searches over it and one copy for `delivered`.
    pub fn push(&mut self, chunk: Bytes, end: bool) -> Relayed {
        if self.guess.is_some() && !chunk.trim_ascii().is_empty() {
            self.stream = self.guess.take().filter(|_| sse::begins(&chunk));
            self.delivered.limit = if self.stream.is_some() { DELIVERED_LIMIT_BYTES } else { DOCUMENT_LIMIT_BYTES };
        }
        let relayed = match &mut self.stream {
            Some(stream) => stream.push(chunk, end, &mut self.findings, self.keeper.as_deref()),
            None => {
                self.findings.first_token |= !chunk.is_empty();
                Relayed { bytes: self.document(chunk, end), complete: end }
            }
        };
        self.delivered.push(&relayed.bytes, self.stream.is_none());
        if self.stream.is_none() && self.findings.operation == Operation::Responses {
            self.drawn.push(&relayed.bytes);
        }
        if end {
            self.finish();
        }
        relayed
    }

    /// What goes on of a JSON answer: all of it, unless it speaks of an error; then the rest is held to its end and cleaned.
    ///
    /// *Cost*: one search over the first MiB.
    fn document(&mut self, chunk: Bytes, end: bool) -> Bytes {
        let Some(keeper) = &self.keeper else { return chunk };
        let so_far = self.delivered.total.saturating_add((self.held.len() + chunk.len()) as u64);
        if so_far > DOCUMENT_LIMIT_BYTES as u64 {
            if self.held.is_empty() {
                return chunk;
            }
            self.held.extend_from_slice(&chunk);
            return Bytes::from(std::mem::take(&mut self.held));
        }
        if self.held.is_empty() && !mentions_error(&chunk) && !self.mentions_error_across(&chunk) {
            return chunk;
        }
        if end && self.held.is_empty() && self.delivered.total == 0 {
            return clean::document(&chunk, &**keeper).map_or(chunk.clone(), |cleaned| padded(cleaned, chunk.len()));
        }
        self.held.extend_from_slice(&chunk);
        if !end {
            return Bytes::new();
        }
        let held = std::mem::take(&mut self.held);
        let passed = self.delivered.head();
        let whole = [passed, &held].concat();
        let cleaned = match clean::document(&whole, &**keeper) {
            None => return Bytes::from(held),
            Some(cleaned) if cleaned.starts_with(passed) => cleaned.get(passed.len()..).unwrap_or_default().to_vec(),
            // What has passed cannot be taken back; the rest is no document of its own and is cleaned as a text.
            Some(_) => match clean::document(&held, &**keeper) {
                None => return Bytes::from(held),
                Some(cleaned) => cleaned,
            },
        };
        padded(cleaned, held.len())
    }

    /// Whether the word lies across the border between what has passed and a chunk.
    fn mentions_error_across(&self, chunk: &[u8]) -> bool {
        let reach = b"\"error\"".len() - 1;
        let passed = self.delivered.head();
        let before = passed.get(passed.len().saturating_sub(reach)..).unwrap_or_default();
        !before.is_empty()
            && mentions_error(&[before, chunk.get(..chunk.len().min(reach)).unwrap_or_default()].concat())
    }

    /// Reads what is kept of a JSON answer. `push` does it at the end; call it for an answer whose end never came.
    /// Calling it again does nothing.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.read, true) || self.stream.is_some() {
            return;
        }
        self.findings.read(Value::whole(self.delivered.head()));
        if self.delivered.total > DOCUMENT_LIMIT_BYTES as u64 {
            self.findings.tail(&self.delivered.tail);
            // What was read of the beginning is not all of them.
            self.findings.images = Some(self.drawn.count).filter(|count| *count > 0);
        }
    }

    /// The tokens that the provider reported, so far; the last report wins. `None` if it reported nothing.
    pub fn usage(&self) -> Option<Usage> {
        self.findings.report.map(|report| report.usage)
    }

    /// Of what the reports say nothing, if there is any: a side that none names, or what was written after the last one.
    pub fn missing(&self) -> Missing {
        self.findings.missing()
    }

    /// Whether a stream has said the end of every choice, but not yet what all of it used.
    pub fn awaits_usage(&self) -> bool {
        self.stream.is_some() && self.findings.awaits_usage()
    }

    /// The model that the provider said it used; at most 256 bytes.
    pub fn model(&self) -> Option<&str> {
        self.findings.model.as_deref()
    }

    /// Why choice 0 ended (`stop`, `length`, `tool_calls`, …), or the status of a response; at most 256 bytes.
    pub fn finish_reason(&self) -> Option<&str> {
        self.findings.finish_reason.as_deref()
    }

    /// Whether a response said last that it is still being made (`queued`, `in_progress`).
    pub fn is_running(&self) -> bool {
        self.findings.running
    }

    /// Whether all that is said here was read off whole documents or events, rather than off the end of one that is too large.
    pub fn is_read_whole(&self) -> bool {
        !self.findings.cut
    }

    /// The provider's id of the answer; at most 256 bytes.
    pub fn response_id(&self) -> Option<&str> {
        self.findings.id.as_deref()
    }

    /// The tier that the provider said it served the exchange in; the last word wins. `None` if it said nothing.
    pub fn service_tier(&self) -> Option<ServiceTier> {
        self.findings.service_tier
    }

    /// How many images the answer holds; `None` if it holds none, or is too large to say.
    pub fn images(&self) -> Option<u64> {
        self.findings.images
    }

    /// The size and quality of the images, as far as the provider named them; at most 32 bytes each.
    pub fn image_kind(&self) -> (Option<&str>, Option<&str>) {
        (self.findings.image_size.as_deref(), self.findings.image_quality.as_deref())
    }

    /// Whether something that the model wrote has passed: text, reasoning, a tool call, audio. Of an answer that is not a
    /// stream, whether any byte has.
    pub fn first_token_seen(&self) -> bool {
        self.findings.first_token
    }

    /// The first error that the provider sent inside the stream.
    pub fn stream_error(&self) -> Option<&StreamError> {
        self.findings.error.as_ref()
    }

    /// The beginning of what was delivered (at most 64 KiB), and how many bytes were delivered in all.
    ///
    /// *Cost*: copies the beginning if it came in several chunks.
    pub fn delivered(&self) -> (Bytes, u64) {
        (self.delivered.beginning(DELIVERED_LIMIT_BYTES), self.delivered.total)
    }

    /// How many bytes the whole answer had.
    pub fn delivered_bytes(&self) -> u64 {
        self.delivered.total
    }
}

/// The event that tells a streaming caller that the answer broke off: the official SDKs raise `APIError` for it. It begins
/// with a blank line, which ends an event that was cut and means nothing otherwise. No `[DONE]` follows.
///
/// *Source*: the SDKs' stream readers raise for `data` with a member `error`, as in
/// <https://github.com/openai/openai-python/blob/main/src/openai/_streaming.py>.
pub fn cut_event(error: &Error) -> Bytes {
    let body = error_body(error);
    let mut event = BytesMut::with_capacity(body.len() + 10);
    event.extend_from_slice(b"\n\ndata: ");
    event.extend_from_slice(&body);
    event.extend_from_slice(b"\n\n");
    event.freeze()
}

/// A document with space behind it, so that it has the length that was announced.
fn padded(mut document: Vec<u8>, length: usize) -> Bytes {
    document.resize(length.max(document.len()), b' ');
    Bytes::from(document)
}

/// The state of an event stream.
#[derive(Debug, Default)]
struct Stream {
    hide: bool,
    splitter: Splitter,
    /// The beginning of the event that is not whole; its last bytes only, if `oversized`.
    partial: Vec<u8>,
    /// The event that is going on is larger than is held; its bytes pass as they come.
    oversized: bool,
}

impl Stream {
    fn push(&mut self, chunk: Bytes, end: bool, findings: &mut Findings, keeper: Option<&dyn Confidential>) -> Relayed {
        let active = self.hide || keeper.is_some();
        let mut out = Outgoing { keeper, active, chunk: &chunk, copied: BytesMut::new(), from: 0, to: chunk.len() };
        let mut complete = end;
        let mut at = 0;
        while let Some(length) = self.splitter.next_end(chunk.get(at..).unwrap_or_default()) {
            let meaning = self.whole_event(at..at + length, &mut out, findings);
            at += length;
            complete |= meaning.last;
        }
        if at < chunk.len() {
            self.hold(at, &mut out);
        }
        if end && !self.partial.is_empty() {
            // A stream may end without the last blank line.
            complete |= self.whole_event(chunk.len()..chunk.len(), &mut out, findings).last;
        }
        let bytes = if active { out.finish() } else { chunk };
        Relayed { bytes, complete }
    }

    /// An event ends: `range` of the chunk, behind what was held.
    fn whole_event(
        &mut self,
        range: std::ops::Range<usize>,
        out: &mut Outgoing<'_>,
        findings: &mut Findings,
    ) -> Meaning {
        let piece = out.chunk.get(range.clone()).unwrap_or_default();
        if self.partial.is_empty() {
            let meaning = findings.event(piece);
            if let Some(other) = self.instead(meaning, findings.operation, piece, out) {
                out.put(range, &other);
            }
            return meaning;
        }
        let mut event = std::mem::take(&mut self.partial);
        event.extend_from_slice(piece);
        let mut meaning = Meaning::default();
        if std::mem::take(&mut self.oversized) {
            findings.event_tail(&event);
        } else {
            meaning = findings.event(&event);
            if let Some(other) = self.instead(meaning, findings.operation, &event, out) {
                out.put(range, &other);
            } else {
                out.insert(range.start, event.get(..event.len() - piece.len()).unwrap_or_default());
            }
        }
        event.clear();
        if event.capacity() <= TAIL_LIMIT_BYTES {
            self.partial = event;
        }
        meaning
    }

    /// What the caller sees of an event instead of it, empty for nothing; `None` if it goes on as it is.
    fn instead(&self, meaning: Meaning, operation: Operation, event: &[u8], out: &Outgoing<'_>) -> Option<Vec<u8>> {
        if self.hide && meaning.only_usage {
            return Some(hide::usage(operation, event).unwrap_or_default());
        }
        let shown = if self.hide { hide::no_usage(event) } else { None };
        out.cleaned(meaning, shown.as_deref().unwrap_or(event)).or(shown)
    }

    /// The chunk ends inside an event, which began at `at` or before.
    fn hold(&mut self, at: usize, out: &mut Outgoing<'_>) {
        let piece = out.chunk.get(at..).unwrap_or_default();
        self.partial.extend_from_slice(piece);
        if !self.oversized && self.partial.len() <= EVENT_LIMIT_BYTES {
            out.skip(at..out.chunk.len());
            return;
        }
        if !std::mem::replace(&mut self.oversized, true) {
            let held = self.partial.len() - piece.len();
            out.insert(at, self.partial.get(..held).unwrap_or_default());
        }
        keep_end(&mut self.partial);
    }
}

/// The bytes that go on when events may be held or left out: what was copied, then `chunk[from..to]`.
struct Outgoing<'a> {
    keeper: Option<&'a dyn Confidential>,
    /// Whether anything may be held or left out.
    active: bool,
    chunk: &'a Bytes,
    copied: BytesMut,
    from: usize,
    to: usize,
}

impl Outgoing<'_> {
    /// An event in the words in which it may be seen, if they are not its own.
    fn cleaned(&self, meaning: Meaning, event: &[u8]) -> Option<Vec<u8>> {
        let keeper = self.keeper.filter(|_| meaning.error)?;
        clean::event(event, keeper)
    }

    /// Puts bytes in the place of a range of the chunk.
    fn put(&mut self, range: std::ops::Range<usize>, bytes: &[u8]) {
        let end = range.end;
        self.skip(range);
        if !bytes.is_empty() {
            self.insert(end, bytes);
        }
    }

    /// Leaves a range of the chunk out. At its beginning or end that needs no copy.
    fn skip(&mut self, range: std::ops::Range<usize>) {
        if range.end == self.chunk.len() {
            self.to = self.to.min(range.start);
            return;
        }
        if range.start > self.from {
            self.insert(range.start, &[]);
        }
        self.from = range.end;
    }

    /// Puts bytes before the byte of the chunk at `at`.
    fn insert(&mut self, at: usize, bytes: &[u8]) {
        if !self.active {
            return;
        }
        self.copied.extend_from_slice(self.chunk.get(self.from..at.min(self.to)).unwrap_or_default());
        self.copied.extend_from_slice(bytes);
        self.from = at;
        self.to = self.chunk.len();
    }

    fn finish(mut self) -> Bytes {
        let from = self.from.min(self.to);
        if self.copied.is_empty() {
            return self.chunk.slice(from..self.to);
        }
        self.copied.extend_from_slice(self.chunk.get(from..self.to).unwrap_or_default());
        self.copied.freeze()
    }
}

/// Counts the images of an answer that is too large to be kept. In a string the quotes would be escaped, so a hit is a type.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    carry: Vec<u8>,
}

impl Tally {
    const WORD: &[u8] = b"\"image_generation_call\"";

    fn push(&mut self, chunk: &[u8]) {
        let reach = Self::WORD.len() - 1;
        self.carry.extend_from_slice(chunk.get(..chunk.len().min(reach)).unwrap_or_default());
        // What lies across the border of two chunks, then what lies inside this one.
        let found = memchr::memmem::find_iter(&self.carry, Self::WORD).count()
            + memchr::memmem::find_iter(chunk, Self::WORD).count();
        self.count = self.count.saturating_add(found as u64);
        if chunk.len() >= reach {
            self.carry.clear();
            self.carry.extend_from_slice(chunk.get(chunk.len() - reach..).unwrap_or_default());
        } else {
            self.carry.drain(..self.carry.len().saturating_sub(reach));
        }
    }
}

/// Drops the front of a buffer that holds more than twice the tail.
fn keep_end(buffer: &mut Vec<u8>) {
    if buffer.len() > 2 * TAIL_LIMIT_BYTES {
        buffer.drain(..buffer.len() - TAIL_LIMIT_BYTES);
        buffer.shrink_to(2 * TAIL_LIMIT_BYTES);
    }
}

/// What is kept of the bytes that were delivered.
#[derive(Debug)]
struct Kept {
    limit: usize,
    /// The first chunk, as long as it is the only one: shared, not copied.
    first: Bytes,
    /// The beginning, if it came in several chunks.
    joined: Vec<u8>,
    /// The end, once there is more than the beginning.
    tail: Vec<u8>,
    total: u64,
}

impl Kept {
    fn new(limit: usize) -> Self {
        Self { limit, first: Bytes::new(), joined: Vec::new(), tail: Vec::new(), total: 0 }
    }

    fn push(&mut self, chunk: &Bytes, with_tail: bool) {
        if chunk.is_empty() {
            return;
        }
        let had = self.head().len();
        self.total = self.total.saturating_add(chunk.len() as u64);
        if had == 0 {
            self.first = chunk.slice(..chunk.len().min(self.limit));
        } else if had < self.limit {
            if self.joined.is_empty() {
                self.joined.extend_from_slice(&self.first);
                self.first = Bytes::new();
            }
            let room = self.limit - had;
            self.joined.extend_from_slice(chunk.get(..chunk.len().min(room)).unwrap_or_default());
        }
        if with_tail && self.total > self.limit as u64 {
            if self.tail.is_empty() {
                let head = self.head();
                let end = head.get(head.len().saturating_sub(TAIL_LIMIT_BYTES)..).unwrap_or_default().to_vec();
                self.tail = end;
            }
            let behind_head = self.limit.saturating_sub(had).min(chunk.len());
            self.tail.extend_from_slice(chunk.get(behind_head..).unwrap_or_default());
            keep_end(&mut self.tail);
        }
    }

    fn head(&self) -> &[u8] {
        if self.joined.is_empty() { &self.first } else { &self.joined }
    }

    fn beginning(&self, limit: usize) -> Bytes {
        if self.joined.is_empty() {
            return self.first.slice(..self.first.len().min(limit));
        }
        Bytes::copy_from_slice(self.joined.get(..limit).unwrap_or(&self.joined))
    }
}

#[cfg(test)]
mod tests;
