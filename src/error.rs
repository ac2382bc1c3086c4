//! The one error that leaves Marg through a door.
//!
//! It answers four questions: what happened (`kind`), whose fault it is, whether trying again may help, and what the caller
//! may read. The cause stays inside and goes to the log. Inside a noun small enums live beside the code that fails; they
//! become an `Error` where the noun meets the pipeline or the admin side. Each dialect turns it into its own wire shape.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

mod store;

pub use store::StoreError;

/// What happened: a closed list, equal to the `code` that callers see and to the header `x-marg-reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request cannot be understood.
    InvalidRequest,
    /// No key, an unknown key, or one that may not be used now.
    InvalidApiKey,
    /// The key is good but may not do this.
    PermissionDenied,
    /// No route leads to that model for this key.
    ModelNotFound,
    /// There is nothing at that path.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The request takes too long to arrive.
    RequestTimeout,
    /// The request contradicts what is there.
    Conflict,
    /// A body or a head is larger than its limit.
    TooLarge,
    /// A limit is reached; the text names which, and when it resets.
    LimitExceeded,
    /// A bound of this gateway is reached for the moment.
    Overloaded,
    /// The gateway is stopping and takes nothing new.
    ShuttingDown,
    /// A part that the gateway needs for this (disk, database) is away.
    Unavailable,
    /// No provider could be reached.
    UpstreamUnreachable,
    /// No provider answered in time.
    UpstreamTimeout,
    /// The provider answered with an error of its own or with something that is not an answer.
    UpstreamError,
    /// A defect of this gateway.
    Internal,
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The caller's: the same request fails again.
    Client,
    /// A provider's.
    Provider,
    /// This gateway's, or a bound of it.
    Marg,
}

impl Kind {
    /// The public code, in snake case.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidApiKey => "invalid_api_key",
            Self::PermissionDenied => "permission_denied",
            Self::ModelNotFound => "model_not_found",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::Conflict => "conflict",
            Self::TooLarge => "request_too_large",
            Self::LimitExceeded => "limit_exceeded",
            Self::Overloaded => "overloaded",
            Self::ShuttingDown => "shutting_down",
            Self::Unavailable => "unavailable",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamError => "upstream_error",
            Self::Internal => "internal_error",
        }
    }

    /// The HTTP status (RFC 9110 section 15) that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::InvalidApiKey => 401,
            Self::PermissionDenied => 403,
            Self::ModelNotFound | Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::LimitExceeded => 429,
            Self::Internal => 500,
            Self::UpstreamUnreachable | Self::UpstreamError => 502,
            Self::Overloaded | Self::ShuttingDown | Self::Unavailable => 503,
            Self::UpstreamTimeout => 504,
        }
    }

    /// Whose fault it is.
    pub fn fault(self) -> Fault {
        match self {
            Self::UpstreamUnreachable | Self::UpstreamTimeout | Self::UpstreamError => Fault::Provider,
            Self::Overloaded | Self::ShuttingDown | Self::Unavailable | Self::Internal => Fault::Marg,
            _ => Fault::Client,
        }
    }
}

/// An error with its public text. Cheap to move: one pointer.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    text: Cow<'static, str>,
    param: Option<Cow<'static, str>>,
    retry_after_seconds: Option<u64>,
    lasts: bool,
    limit: Option<String>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// `Result` with this room's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a kind, with the sentence that the caller reads. The sentence says what happened, which setting or limit,
    /// and what to do; it never holds a credential or the address of an upstream.
    pub fn new(kind: Kind, text: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            text: text.into(),
            param: None,
            retry_after_seconds: None,
            lasts: false,
            limit: None,
            cause: None,
        }))
    }

    /// Names the request field that is at fault.
    #[must_use]
    pub fn param(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.0.param = Some(name.into());
        self
    }

    /// Says when trying again may help, in seconds from now (RFC 9110 section 10.2.3).
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after_seconds = Some(seconds);
        self
    }

    /// Says that trying again helps nobody until an operator does something.
    #[must_use]
    pub fn lasting(mut self) -> Self {
        self.0.lasts = true;
        self
    }

    /// Adds how the limit that refused stands, for programs: a JSON object, which stands beside the sentence as `limit`.
    #[must_use]
    pub fn limit(mut self, object: String) -> Self {
        self.0.limit = Some(object);
        self
    }

    /// Keeps what caused it, for the log only.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// What happened.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The sentence that the caller reads.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The request field at fault, if one is.
    pub fn field(&self) -> Option<&str> {
        self.0.param.as_deref()
    }

    /// Whether it stays until an operator does something.
    pub fn lasts(&self) -> bool {
        self.0.lasts
    }

    /// How the limit that refused stands, as a JSON object.
    pub fn limit_object(&self) -> Option<&str> {
        self.0.limit.as_deref()
    }

    /// Seconds until trying again may help, if known.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.0.retry_after_seconds
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.0.kind.code(), self.0.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)?;
        match &self.0.cause {
            Some(cause) => write!(out, " (because: {cause})"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Kind] = &[
        Kind::InvalidRequest,
        Kind::InvalidApiKey,
        Kind::PermissionDenied,
        Kind::ModelNotFound,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::RequestTimeout,
        Kind::Conflict,
        Kind::TooLarge,
        Kind::LimitExceeded,
        Kind::Overloaded,
        Kind::ShuttingDown,
        Kind::Unavailable,
        Kind::UpstreamUnreachable,
        Kind::UpstreamTimeout,
        Kind::UpstreamError,
        Kind::Internal,
    ];

    #[test]
    fn every_code_is_documented_with_its_status_and_nothing_else_is() {
        // Each arm of `code` is one line, so that a kind that is missing above is seen.
        let arms = include_str!("error.rs").lines().filter(|line| line.contains("=> \"")).count();
        assert_eq!(arms, ALL.len(), "a kind is missing in this test");
        let page = include_str!("../docs/api.md");
        let table = page.split_once("| code | status |").unwrap().1;
        for kind in ALL {
            let row = format!("| `{}` | {} |", kind.code(), kind.status());
            assert!(table.contains(&row), "{row} is not in docs/api.md");
        }
        assert_eq!(table.lines().filter(|line| line.starts_with("| `")).count(), ALL.len());
    }
}
