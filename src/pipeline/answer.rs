//! An answer that Marg gives itself, without a provider.

use bytes::Bytes;

use crate::dialect;
use crate::error::{Error, Kind};

/// The longest `retry-after` that the official SDKs wait for; they try again at once after a longer one.
/// Source: `_calculate_retry_timeout` in <https://github.com/openai/openai-python/blob/main/src/openai/_base_client.py>.
const LONGEST_WAIT_SECONDS: u64 = 60;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The value of `content-type`.
    pub content_type: &'static str,
    /// Further headers; values hold no control characters.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// An answer of JSON.
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: "application/json", headers: Vec::new(), body: body.into() }
    }

    /// An error in the caller's dialect, with the reason and, where known, when to try again.
    pub fn error(error: &Error) -> Self {
        let mut answer = Self::json(error.kind().status(), dialect::error_body(error));
        answer.headers.push(("x-marg-reason", error.kind().code().to_owned()));
        if let Some(seconds) = error.retry_after_seconds() {
            answer.headers.push(("retry-after", seconds.to_string()));
        }
        let soon = error.retry_after_seconds().is_some_and(|seconds| seconds <= LONGEST_WAIT_SECONDS);
        if error.lasts() || (error.kind() == Kind::LimitExceeded && !soon) {
            // The official SDKs obey it; without it they try again twice within seconds, and are refused twice more.
            answer.headers.push(("x-should-retry", "false".to_owned()));
        }
        if error.kind() == Kind::InvalidApiKey {
            // RFC 9110 section 11.6.1: a 401 names the scheme that is wanted.
            answer.headers.push(("www-authenticate", "Bearer".to_owned()));
        }
        answer
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
