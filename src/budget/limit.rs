//! The one table of limits.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;

/// Whose consumption a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The whole gateway: one counter for everybody.
    Gateway,
    /// An organisation.
    Org,
    /// A team.
    Team,
    /// A person or service.
    User,
    /// A key, by its id.
    Key,
    /// A model, as the caller names it. The subject may be a pattern; all models that it matches share one counter.
    Model,
    /// A label of the key (`name:value`), or a tag that the caller sends in `x-marg-tags`.
    Tag,
    /// A session of a key.
    Session,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nano-dollars.
    Usd,
    /// Input tokens of every class.
    InputTokens,
    /// Output tokens of every class.
    OutputTokens,
    /// Input and output tokens.
    Tokens,
    /// Exchanges for which a provider was asked.
    Requests,
    /// Exchanges that run at one time.
    Concurrent,
}

impl Unit {
    /// Whether it counts what models are paid by: dollars, or tokens of any kind.
    pub fn is_metered(self) -> bool {
        matches!(self, Self::Usd | Self::InputTokens | Self::OutputTokens | Self::Tokens)
    }
}

/// The span of time that a limit counts in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Window {
    /// Any 60 seconds on end: never more than the amount within them.
    Minute,
    /// The amount flows in evenly over 60 seconds (GCRA, a leaky bucket); at most `burst` of it at once. A burst of 1 is strict
    /// spacing.
    Paced {
        /// The most at once, in the unit of the limit; at least 1.
        burst: i64,
    },
    /// An hour of the clock.
    Hour,
    /// A day in a time zone.
    Day {
        /// An IANA name such as `Europe/Berlin`.
        #[serde(default = "utc")]
        timezone: String,
    },
    /// A month in a time zone.
    Month {
        /// An IANA name such as `Europe/Berlin`.
        #[serde(default = "utc")]
        timezone: String,
    },
    /// For ever, until an operator resets it.
    Total,
    /// At present; of the unit `concurrent` only, and its only window.
    Now,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// What happens when a call does not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// It is refused with 429.
    #[default]
    Refuse,
    /// Below a share of the amount left, calls ask for another model instead; a call that does not fit at all is refused.
    Downgrade {
        /// The model that is asked for instead, as a caller would name it.
        to: String,
        /// The share of the amount that must be left for the model that was asked for, in percent, 1 to 99.
        below_percent: u8,
    },
    /// It passes; thresholds are told, nothing is refused.
    Warn,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// `lim_` and 26 characters for a stored one; `config-` and 16 hexadecimal digits, made of what it counts, for one of the
    /// configuration file, so that neither its place nor its amount moves its counters. Never changes.
    pub id: Arc<str>,
    /// A name for people; at most 128 characters.
    pub name: String,
    /// Whose consumption.
    pub scope: Scope,
    /// Whose exactly; `None` is each one by itself (a default, which a limit for a named subject with the same scope, unit,
    /// window and models replaces). Always `None` for the gateway.
    #[serde(default)]
    pub subject: Option<Arc<str>>,
    /// Only for those models, as callers name them; empty means all.
    #[serde(default)]
    pub models: Vec<Glob>,
    /// What it counts.
    pub unit: Unit,
    /// The span of time.
    pub window: Window,
    /// The most: nano-dollars, tokens, requests or exchanges; at least 0.
    pub amount: i64,
    /// What happens when a call does not fit.
    #[serde(default)]
    pub action: Action,
    /// The shares of the amount at which operators are told, in percent, 1 to 100, ascending.
    #[serde(default)]
    pub warn_at_percent: Vec<u8>,
    /// Off: it counts nothing and refuses nothing.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}
