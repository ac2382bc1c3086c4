//! The facts of one call, as the gate judges them.
//!
//! Plain values that the pipeline fills and a recording keeps; no prompt is among them. Every number is the one that the
//! provider will get, so that leaving a field out or sending it twice evades nothing. What is not known is `None`, and
//! policies see it as the largest number there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dialect::operation::{MESSAGES, Operation, Place};
use crate::key::Key;
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;

/// What is asked for, as policies name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A chat completion.
    #[default]
    Chat,
    /// A completion of a text.
    TextCompletion,
    /// Embeddings.
    Embeddings,
    /// Images, made or edited.
    Images,
    /// Speech, transcription, translation.
    Audio,
    /// Moderation of a content.
    Moderations,
    /// Documents in order of fitness.
    Rerank,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// One call of a tool that this gateway makes for a model.
    ToolCall,
    /// A path that is passed through without being understood.
    Passthrough,
}

impl Action {
    /// Every action.
    pub const ALL: &'static [Self] = &[
        Self::Chat,
        Self::TextCompletion,
        Self::Embeddings,
        Self::Images,
        Self::Audio,
        Self::Moderations,
        Self::Rerank,
        Self::Responses,
        Self::Messages,
        Self::ToolCall,
        Self::Passthrough,
    ];

    /// Its name in policies; the same as [`Operation::name`] where there is an operation for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::TextCompletion => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Images => "images",
            Self::Audio => "audio",
            Self::Moderations => "moderations",
            Self::Rerank => "rerank",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::ToolCall => "tool_call",
            Self::Passthrough => "passthrough",
        }
    }

    /// The action of a request to a place; `None` where no provider is asked (lists of models). Anthropic's messages have one of
    /// their own although they are passed through.
    pub fn at(place: &Place) -> Option<Self> {
        if place.operation == Operation::Passthrough && place.path == MESSAGES {
            return Some(Self::Messages);
        }
        Self::ALL.iter().copied().find(|action| action.name() == place.operation.name())
    }
}

/// One call, before it goes out. About 500 bytes; cloning it shares its texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// What is asked for.
    pub action: Action,
    /// Where it would go. A plan with several targets is judged once for each.
    pub target: Target,
    /// How.
    #[serde(rename = "context")]
    pub facts: Facts,
}

/// Who calls: a key and whom it acts for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Caller {
    /// The key's id.
    pub key: Arc<str>,
    /// The key's name for people.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: Arc<str>,
    /// The organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<Arc<str>>,
    /// The team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<Arc<str>>,
    /// The person or service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// The key's labels. Roles are the words of the labels `role` and `roles`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Arc<BTreeMap<String, String>>,
}

impl Caller {
    /// The caller behind a key.
    pub fn of(key: &Key) -> Self {
        Self {
            key: Arc::clone(&key.id),
            name: Arc::from(key.name.as_str()),
            org: key.principal.org.clone(),
            team: key.principal.team.clone(),
            user: key.principal.user.clone(),
            labels: Arc::new(key.labels.clone()),
        }
    }

    /// Its roles: the words of the labels `role` and `roles`, split at commas, trimmed, without empty ones.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        let labels = ["role", "roles"].into_iter().filter_map(|name| self.labels.get(name));
        labels.flat_map(|text| text.split(',')).map(str::trim).filter(|role| !role.is_empty())
    }
}

/// Where a call would go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Target {
    /// The provider's name in the configuration.
    pub provider: Arc<str>,
    /// The model that the provider is asked for.
    pub model: Arc<str>,
    /// How dear it is.
    pub price_class: PriceClass,
    /// Where the provider works; empty if the configuration does not say.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub region: Arc<str>,
}

impl Target {
    /// The family of the model: the last part of its name (after slashes and dots that separate vendors) up to the first
    /// digit, lower case, without a hyphen at its end. `gpt-4.1-mini` is of `gpt`, `meta-llama/Llama-3.3-70B` of `llama`,
    /// `anthropic.claude-sonnet-4` of `claude`, `o3` of `o`.
    pub fn family(&self) -> String {
        let name = self.model.rsplit('/').next().unwrap_or_default();
        let name = match name.split_once('.') {
            Some((vendor, rest)) if !vendor.contains(|letter: char| letter.is_ascii_digit() || letter == '-') => rest,
            _ => name,
        };
        let stem = name.split(|letter: char| letter.is_ascii_digit()).next().unwrap_or_default();
        let first = stem.split('-').find(|part| !part.is_empty()).unwrap_or_default();
        first.trim_matches(['-', '_', '.', ':']).to_lowercase()
    }
}

/// How dear a model is, by what a million output tokens cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PriceClass {
    /// Nothing.
    Free,
    /// Less than 1 US dollar.
    Low,
    /// Less than 10 US dollars.
    Standard,
    /// 10 US dollars or more.
    High,
    /// Nobody knows.
    #[default]
    Unpriced,
}

impl PriceClass {
    /// The class of a price for a million output tokens.
    pub fn of(million_output_tokens: Option<NanoUsd>) -> Self {
        match million_output_tokens.map(NanoUsd::nanos) {
            None => Self::Unpriced,
            Some(..=0) => Self::Free,
            Some(..1_000_000_000) => Self::Low,
            Some(..10_000_000_000) => Self::Standard,
            Some(_) => Self::High,
        }
    }

    /// Its name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Low => "low",
            Self::Standard => "standard",
            Self::High => "high",
            Self::Unpriced => "unpriced",
        }
    }
}

/// What a call wants, from where, and when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Facts {
    /// The model as the caller wrote it.
    pub requested_model: Arc<str>,
    /// The cap on output tokens that the caller named, if it did. Where several fields name one, the largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_max_output_tokens: Option<u64>,
    /// The cap on output tokens that the provider gets, times the number of answers; `None` if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// Input tokens, estimated.
    pub estimated_input_tokens: u64,
    /// What it costs at most; `None` if there is no price.
    #[serde(rename = "estimated_cost_nano_usd", skip_serializing_if = "Option::is_none")]
    pub estimated_cost: Option<NanoUsd>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// How many tools are offered.
    pub tool_count: u64,
    /// Their names.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tools: BTreeSet<Arc<str>>,
    /// The tool that is about to be called, for [`Action::ToolCall`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<Arc<str>>,
    /// What goes in and comes out: `text`, `image`, `audio`, `file`.
    #[serde(skip_serializing_if = "is_none")]
    pub modalities: Arc<BTreeSet<Arc<str>>>,
    /// The caller's address, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The caller's country: two upper-case letters of ISO 3166, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<Arc<str>>,
    /// When.
    #[serde(with = "moment")]
    pub time: Timestamp,
    /// Figures of the caller's session.
    pub session: SessionFigures,
    /// What is odd about it.
    pub drift: Scores,
}

/// Figures of a session, before this call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionFigures {
    /// Its id, as the caller named it or made for its key.
    pub id: Arc<str>,
    /// Calls before this one, refused ones included.
    pub requests: u64,
    /// Their input tokens.
    pub input_tokens: u64,
    /// Their output tokens.
    pub output_tokens: u64,
    /// What they cost.
    #[serde(rename = "cost_nano_usd")]
    pub cost: NanoUsd,
    /// Seconds since its first call.
    pub age_seconds: u64,
}

/// How odd a call is, from 0 to 100 for each signal; 0 also where a signal is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scores {
    /// Where it comes from.
    pub geo: u8,
    /// Which device it comes from.
    pub device: u8,
    /// How old its session is.
    pub session_age: u8,
    /// How much is asked for.
    pub behaviour: u8,
}

#[allow(clippy::ptr_arg, reason = "serde calls it so")]
fn is_none(set: &Arc<BTreeSet<Arc<str>>>) -> bool {
    set.is_empty()
}

/// RFC 3339 on paper; whole seconds since 1970 are read too.
pub(super) mod moment {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::unit::clock::Timestamp;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Seconds(i64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(time: &Timestamp, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&time.rfc3339())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = match Written::deserialize(from)? {
            Written::Seconds(seconds) => seconds.to_string(),
            Written::Text(text) => text,
        };
        Timestamp::parse(&text).map_err(serde::de::Error::custom)
    }
}
