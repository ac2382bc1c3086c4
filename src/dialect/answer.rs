//! Relays an answer and reads usage, model and end off it.

use bytes::Bytes;

use crate::dialect::operation::Operation;
use crate::error::Error;
use crate::unit::usage::Usage;

/// What `push` gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// The bytes for the caller; may be empty.
    pub bytes: Bytes,
    /// Once the caller has these bytes, it regards the answer as finished.
    pub complete: bool,
}

/// An error that the provider sent as an event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// The provider's sentence, at most 512 bytes.
    pub message: String,
    /// The provider's `code` or `type`, if it gave one.
    pub code: Option<String>,
}

/// Relays one answer and reads facts off it.
#[derive(Debug)]
pub struct AnswerReader {}

impl AnswerReader {
    /// A reader of one answer.
    pub fn new(_operation: Operation, _event_stream: bool, _hide_usage: bool) -> Self {
        Self {}
    }
    /// Takes the next chunk of the provider's body.
    pub fn push(&mut self, chunk: Bytes, end: bool) -> Relayed {
        Relayed { bytes: chunk, complete: end }
    }
    /// Reads what is kept, for an answer whose end never came. Idempotent.
    pub fn finish(&mut self) {}
    /// The tokens that the provider reported.
    pub fn usage(&self) -> Option<Usage> {
        None
    }
    /// The model that the provider said it used.
    pub fn model(&self) -> Option<&str> {
        None
    }
    /// Why choice 0 ended.
    pub fn finish_reason(&self) -> Option<&str> {
        None
    }
    /// The provider's id of the answer.
    pub fn response_id(&self) -> Option<&str> {
        None
    }
    /// Whether content has been seen.
    pub fn first_token_seen(&self) -> bool {
        false
    }
    /// An error that the provider sent inside the stream.
    pub fn stream_error(&self) -> Option<&StreamError> {
        None
    }
    /// The beginning of what was delivered (at most 256 KiB), and how many bytes were delivered in all.
    pub fn delivered(&self) -> (Bytes, u64) {
        (Bytes::new(), 0)
    }
}

/// The event that tells a streaming caller that the answer broke off.
pub fn cut_event(_error: &Error) -> Bytes {
    Bytes::new()
}
