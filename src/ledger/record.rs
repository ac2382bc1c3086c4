//! The ledger row of one exchange.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::unit::charge::Charge;
use crate::unit::clock::Timestamp;
use crate::unit::commit::{Commitment, Salt};
use crate::unit::id::ExchangeId;
use crate::unit::money::{NanoUsd, PriceRef};
use crate::unit::raw::{Raw, value_or_text};
use crate::unit::usage::{Images, ServiceTier, Usage, UsageSource};

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The caller got a whole answer with a status below 400.
    Answered,
    /// Marg refused it before any provider was asked.
    Refused,
    /// The caller got an error that a provider gave, or that stands for the failure of all targets.
    UpstreamFailed,
    /// A provider broke off in the middle of the answer.
    UpstreamCut,
    /// The caller went away before the end.
    ClientGone,
    /// The key was revoked, deleted, disabled or suspended while it ran, and `keys.running_calls` is `cut`.
    Withdrawn,
    /// The gateway stopped, or a defect ended it.
    Interrupted,
}

impl Outcome {
    /// The word for it, the same as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamCut => "upstream_cut",
            Self::ClientGone => "client_gone",
            Self::Withdrawn => "withdrawn",
            Self::Interrupted => "interrupted",
        }
    }
}

/// How one attempt at one target ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// Its answer went to the caller, whatever its `status`: also the 429 or 503 of the last one that could be asked.
    Served,
    /// A connection could not be made.
    ConnectFailed,
    /// No first byte, or no next byte, in time.
    TimedOut,
    /// The provider answered 429.
    RateLimited,
    /// The provider answered with a status that another target may mend.
    BadStatus,
    /// The connection broke before an answer.
    Broken,
    /// The connection broke in the middle of the answer.
    Cut,
    /// The caller went away during the attempt, or its key was withdrawn, or the gateway stopped.
    Abandoned,
    /// Every credential of the provider was resting after a 429 or 401, so nothing was sent.
    NoCredential,
}

impl AttemptEnd {
    /// The word for it, the same as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::ConnectFailed => "connect_failed",
            Self::TimedOut => "timed_out",
            Self::RateLimited => "rate_limited",
            Self::BadStatus => "bad_status",
            Self::Broken => "broken",
            Self::Cut => "cut",
            Self::Abandoned => "abandoned",
            Self::NoCredential => "no_credential",
        }
    }
}

/// One attempt at one target, in the order made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Attempt {
    /// The provider's name in the configuration.
    #[schema(value_type = String)]
    pub provider: Arc<str>,
    /// The model asked of it.
    pub model: String,
    /// The position of the credential in the provider's list, from 0; `None` if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<u32>,
    /// The id of the permit that it had on paper, where permits are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<String>,
    /// How it ended.
    pub end: AttemptEnd,
    /// The status that the provider answered with, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong, in words without credentials or addresses; at most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Microseconds from the start of the exchange to the start of this attempt.
    pub started_us: u64,
    /// Microseconds that it took.
    pub duration_us: u64,
}

/// A policy that had a part in a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerdictGround {
    /// Its id.
    #[schema(value_type = String)]
    pub policy: Arc<str>,
    /// Its reason, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Arc<str>>,
}

/// What the gate said of an exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The gate's mode: `observe` or `enforce`.
    pub mode: Cow<'static, str>,
    /// What happened: `allow`, `deny`, or `would-deny` if it passed only because something observes.
    pub verdict: Cow<'static, str>,
    /// What the policies that enforce say, whatever the mode is: `allow` or `deny`.
    pub real: Cow<'static, str>,
    /// The policies that decided, at most 8; none if the call is refused because nothing permits it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deciding: Vec<VerdictGround>,
    /// The policies in observe mode that would refuse it, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_refuse: Vec<VerdictGround>,
    /// The beginning of the hash of the set of policies: 16 hexadecimal digits.
    pub set: Arc<str>,
    /// How many targets were left out because the policies refuse them.
    #[serde(default)]
    pub dropped: u32,
    /// What the record itself does not say of the call as it was judged, as a JSON object without prompts, so that it can be
    /// judged again by other policies; `None` if it was too large to be kept. Older records hold the whole call, as a text.
    #[serde(default, deserialize_with = "value_or_text", skip_serializing_if = "Option::is_none")]
    pub call: Option<Raw>,
}

/// What an exchange commits to; the journal carries it to the audit log, the database never sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitments {
    /// The salt of both.
    pub salt: Salt,
    /// The request's body as it came; `None` if there was none, or it was never read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Commitment>,
    /// The answer's body as it went to the caller, `bytes_out` bytes; `None` if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Commitment>,
}

/// One exchange. Serialises to one JSON object; absent values are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The id of the exchange.
    pub id: ExchangeId,
    /// When its head had arrived.
    pub started_at: Timestamp,
    /// The caller's own `x-request-id`, when it was sane; at most 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What was asked: an operation name such as `chat`, `models`, `passthrough`.
    pub operation: String,
    /// The method and path, without the query; at most 512 bytes.
    pub method: String,
    /// The path, without the query; at most 512 bytes.
    pub path: String,
    /// The address of the caller, as resolved through trusted proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The key's id, if the caller was identified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<Arc<str>>,
    /// The key's organisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<Arc<str>>,
    /// The key's team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Arc<str>>,
    /// The key's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// The model that the caller named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_requested: Option<String>,
    /// The model that the provider said it used, else the one asked of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_served: Option<String>,
    /// The provider whose answer went to the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Arc<str>>,
    /// The name of the route that matched; `default` for the default provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// Whether the caller asked for a stream.
    #[serde(default)]
    pub stream: bool,
    /// The status that the caller got; 0 if it went away before one was sent.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// The code of the error (`error::Kind::code`), if it ended in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went wrong, in words without credentials, addresses or prompts; at most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it consumed; `None` if nothing is known, which is not zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Who counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_source: Option<UsageSource>,
    /// The images that it drew; `None` if it drew none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
    /// In which tier the provider served it, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<ServiceTier>,
    /// What it cost; `None` if the model has no price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<NanoUsd>,
    /// The price used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<PriceRef>,
    /// Microseconds from the arrival of the head to the last byte handed out.
    pub duration_us: u64,
    /// Microseconds to the first byte of the answer's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_us: Option<u64>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// The attempts, in order; empty if no provider was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The tags that the caller sent, sorted; at most 16 of at most 64 characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Arc<str>>,
    /// The session that the caller named, scoped to its key; at most 128 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Arc<str>>,
    /// What the gate said; `None` if it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What it added to the counters of limits; empty while its tokens are still being counted, and then its amendment says all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charges: Vec<Charge>,
    /// What it commits to; `None` if nothing is, by the operator's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commitments: Option<Commitments>,
}

impl Record {
    /// A record of which nothing is known but its id and its beginning: interrupted before anything happened.
    pub fn blank(id: ExchangeId, started_at: Timestamp) -> Self {
        Self {
            id,
            started_at,
            request_id: None,
            operation: String::new(),
            method: String::new(),
            path: String::new(),
            address: None,
            key_id: None,
            org: None,
            team: None,
            user: None,
            model_requested: None,
            model_served: None,
            provider: None,
            route: None,
            stream: false,
            status: 0,
            outcome: Outcome::Interrupted,
            reason: None,
            error: None,
            usage: None,
            usage_source: None,
            images: None,
            service_tier: None,
            cost: None,
            price: None,
            duration_us: 0,
            ttft_us: None,
            bytes_in: 0,
            bytes_out: 0,
            attempts: Vec::new(),
            tags: Vec::new(),
            session: None,
            verdict: None,
            charges: Vec::new(),
            commitments: None,
        }
    }
}

/// What became known after the record was written: the tokens of an answer whose provider reported none, counted off the
/// request path, or of one that was made after it was given out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Amendment {
    /// The exchange.
    pub id: ExchangeId,
    /// The count.
    pub usage: Usage,
    /// Who counted.
    pub usage_source: UsageSource,
    /// The cost by that count, if the model has a price.
    pub cost: Option<NanoUsd>,
    /// The price used.
    pub price: Option<PriceRef>,
    /// What it added to the counters of limits, now that it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charges: Vec<Charge>,
    /// Where it corrects an amount that was charged before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<Correction>,
}

/// Another amount than the one that a record was charged with. The counters are moved apart from the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// When it became known.
    pub at: Timestamp,
    /// What the exchange has added to the counters of limits, all in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charges: Vec<Charge>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_json() {
        use AttemptEnd::{
            Abandoned, BadStatus, Broken, ConnectFailed, Cut, NoCredential, RateLimited, Served, TimedOut,
        };
        use Outcome::{Answered, ClientGone, Interrupted, Refused, UpstreamCut, UpstreamFailed, Withdrawn};
        for end in [Served, ConnectFailed, TimedOut, RateLimited, BadStatus, Broken, Cut, Abandoned, NoCredential] {
            assert_eq!(serde_json::to_value(end).unwrap(), end.as_str());
        }
        for outcome in [Answered, Refused, UpstreamFailed, UpstreamCut, ClientGone, Withdrawn, Interrupted] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
    }
}
