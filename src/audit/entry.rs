//! What the log records: one entry for every exchange, whatever its end, and for every event that changes what is allowed.
//!
//! An entry is canonical JSON (RFC 8785) with a version, a kind and a time; `docs/schemas/audit/` holds the JSON Schema of each
//! kind, made from these types (`the_published_schemas_are_those_of_the_types`). Prompts and answers are in no entry, only
//! salted commitments to them (`unit::commit`). Texts are clipped so that no entry exceeds what a bundle can hold.

pub mod canonical;
mod sorted;

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::audit::tiles::ENTRY_LIMIT_BYTES;
use crate::unit::clock::Timestamp;
use crate::unit::commit::Commitment;
use crate::unit::id::ExchangeId;
use crate::unit::usage::{Usage, UsageSource};

/// The version of the entries that this program writes.
pub const VERSION: u32 = 1;

/// The most attempts that an entry lists.
const ATTEMPTS_LIMIT: usize = 16;

/// The longest text of an exchange's field, in bytes.
const TEXT_LIMIT_BYTES: usize = 512;

/// The kinds of entries that are events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Noun {
    /// An application key was made, changed, revoked.
    Key,
    /// A limit.
    Limit,
    /// A route.
    Route,
    /// A provider.
    Provider,
    /// A price.
    Price,
    /// A set of policies.
    Policy,
    /// The configuration was loaded or reloaded.
    Config,
    /// A token of an administrator.
    AdminToken,
    /// A session was invalidated.
    Session,
    /// The process started.
    Start,
    /// The process stopped.
    Stop,
    /// The process took over from another version.
    Upgrade,
    /// Other keys sign permits, or others get them.
    Permit,
    /// Observe or enforce was chosen.
    Mode,
    /// An organisation.
    Org,
    /// A team.
    Team,
    /// A user.
    User,
    /// Something that has no kind of its own; the detail's `noun` says what.
    Other,
    /// Old entry bundles were deleted; the detail's `below` says up to which index. Their hashes stay.
    Prune,
    /// Salts and kept texts were erased, so that nobody can show any more which prompt or answer some entries are of.
    Erasure,
}

/// Whether entries of that kind are written.
pub fn is_kind(word: &str) -> bool {
    ["exchange", "refusal", "amendment", "rotation", "gap"].contains(&word)
        || serde_json::from_value::<Noun>(Value::from(word)).is_ok()
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Actor {
    /// Its kind: `admin_token`, `command_line`, `configuration`, `system`.
    pub kind: String,
    /// The id of the token, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Something happened to a noun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// When, microseconds since 1970.
    #[serde(skip)]
    pub at: Timestamp,
    /// Who did it.
    pub actor: Actor,
    /// To what kind of thing.
    #[serde(rename = "kind")]
    pub noun: Noun,
    /// What: `created`, `changed`, `revoked`, …
    pub verb: String,
    /// The id or name of the thing, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What changed, without secrets. Left out, and its size said, when the entry would be too large.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub detail: Map<String, Value>,
}

/// What the gate said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// What the policies that enforce said: `allow` or `deny`.
    #[schema(value_type = String)]
    pub real: Cow<'static, str>,
    /// What was done: `allow`, `deny`, or `would-deny` where it passed only because something observes.
    #[schema(value_type = String)]
    pub effective: Cow<'static, str>,
    /// The ids of the policies that decided, and of those that would have refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub policies: Vec<Arc<str>>,
    /// The hash of the set of policies, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub policy_set: Option<Arc<str>>,
}

/// One attempt at one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// The provider.
    #[schema(value_type = String)]
    pub provider: Arc<str>,
    /// The model asked of it.
    pub model: String,
    /// The id of the permit that it had on paper (its `jti`), where permits are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<String>,
    /// How it ended, in the ledger's words.
    pub end: String,
    /// The provider's status, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Microseconds that it took.
    pub duration_us: u64,
}

/// Token counts by class, those of 0 left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[allow(missing_docs, reason = "the classes are those of unit::usage::Usage, where each is described")]
pub struct Tokens {
    #[serde(skip_serializing_if = "is_zero")]
    pub input: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_5m: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_1h: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub input_audio: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub input_image: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub output: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub reasoning: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub output_audio: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub output_image: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        let Usage { input, cache_read, cache_write_5m, cache_write_1h, input_audio, .. } = usage;
        let Usage { input_image, output, reasoning, output_audio, output_image, .. } = usage;
        Self {
            input,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            input_audio,
            input_image,
            output,
            reasoning,
            output_audio,
            output_image,
        }
    }
}

/// One exchange. Its kind is `refusal` when Marg refused it, else `exchange`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Exchange {
    /// When it arrived.
    #[serde(skip)]
    pub at: Timestamp,
    /// Whether Marg refused it before any provider was asked: by key, limit, guard, policy or because it was malformed.
    #[serde(skip)]
    pub refused: bool,
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: ExchangeId,
    /// The caller's own `x-request-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What was asked.
    pub operation: String,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The address of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The id of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub key: Option<Arc<str>>,
    /// The key's organisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub org: Option<Arc<str>>,
    /// The key's team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub team: Option<Arc<str>>,
    /// The key's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub user: Option<Arc<str>>,
    /// The session that the caller named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub session: Option<Arc<str>>,
    /// The caller's tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub tags: Vec<Arc<str>>,
    /// The model that the caller named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_requested: Option<String>,
    /// The model that served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_served: Option<String>,
    /// The provider that served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub provider: Option<Arc<str>>,
    /// The route that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub route: Option<Arc<str>>,
    /// The status that the caller got; 0 for none.
    pub status: u16,
    /// How it ended, in the ledger's words.
    pub outcome: String,
    /// The code of the error, if it ended in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the gate said, if it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The attempts, in order; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// What it consumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Tokens>,
    /// Who counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_source: Option<UsageSource>,
    /// What it cost, in nano-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_nano_usd: Option<i64>,
    /// The price used: source and row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// Microseconds from the head to the last byte.
    pub duration_us: u64,
    /// Microseconds to the first byte of the answer's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_us: Option<u64>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// The commitment to the request's body, as it came: base64 of BLAKE3 in keyed mode, with the salt as the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub prompt: Option<Commitment>,
    /// The commitment to the answer's body, as it went to the caller, `bytes_out` bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub answer: Option<Commitment>,
}

/// What became known of an exchange after its entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Amendment {
    /// When it became known.
    #[serde(skip)]
    pub at: Timestamp,
    /// The exchange.
    #[schema(value_type = String, format = "uuid")]
    pub id: ExchangeId,
    /// What it consumed.
    pub usage: Tokens,
    /// Who counted.
    pub usage_source: UsageSource,
    /// What it cost, in nano-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_nano_usd: Option<i64>,
}

/// New keys sign the log from here on. The note is signed by the old and by the new ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rotation {
    /// When.
    #[serde(skip)]
    pub at: Timestamp,
    /// The signed note (`key::rotation`).
    pub note: String,
}

/// Something may be missing here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// When it was noticed.
    #[serde(skip)]
    pub at: Timestamp,
    /// Why, in a word: `state_lost` (the writer's memory was made again), `journal_damaged` (a line on its way into the log cannot
    /// be read back), `journal_refused` (exchanges that the disk did not take were too many to be kept in memory).
    pub reason: String,
    /// What is known about it.
    pub detail: String,
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the types say what they are")]
pub enum Entry {
    Exchange(Box<Exchange>),
    Amendment(Amendment),
    Event(Event),
    Rotation(Rotation),
    Gap(Gap),
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    v: u32,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(flatten)]
    body: &'a T,
}

impl Entry {
    /// The bytes that are logged: canonical JSON, at most 65,535 bytes. About 1 µs for an exchange, 15 µs for the others.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.written().1
    }

    /// The entry as it is logged – clipped, if it would be too large – and its bytes.
    pub(super) fn written(&self) -> (Cow<'_, Self>, Vec<u8>) {
        let bytes = self.encode();
        if bytes.len() <= ENTRY_LIMIT_BYTES {
            return (Cow::Borrowed(self), bytes);
        }
        let short = match self {
            Self::Event(event) => {
                let detail = Map::from_iter([("omitted_bytes".to_owned(), Value::from(bytes.len()))]);
                let subject = event.subject.as_deref().map(clip);
                Self::Event(Event { detail, subject, verb: clip(&event.verb), ..event.clone() })
            }
            Self::Exchange(exchange) => Self::Exchange(Box::new(exchange.clipped())),
            Self::Gap(gap) => Self::Gap(Gap { detail: clip(&gap.detail), ..gap.clone() }),
            // These have no text of unbounded size.
            Self::Amendment(_) | Self::Rotation(_) => return (Cow::Borrowed(self), bytes),
        };
        let bytes = short.encode();
        (Cow::Owned(short), bytes)
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Exchange(one) => sorted::bytes(one).unwrap_or_else(|| canonical(one.at, Some(one.kind()), one)),
            Self::Amendment(one) => canonical(one.at, Some("amendment"), one),
            Self::Event(one) => canonical(one.at, None, one),
            Self::Rotation(one) => canonical(one.at, Some("rotation"), one),
            Self::Gap(one) => canonical(one.at, Some("gap"), one),
        }
    }
}

fn canonical<T: Serialize>(at: Timestamp, kind: Option<&'static str>, body: &T) -> Vec<u8> {
    let envelope = Envelope { v: VERSION, at: at.rfc3339(), kind, body };
    // These types have neither floats nor keys that are not texts, so nothing can fail; an entry that says so is better than none.
    serde_json_canonicalizer::to_vec(&envelope).unwrap_or_else(|error| {
        tracing::error!(%error, "an audit entry cannot be written as canonical JSON");
        format!(
            "{{\"at\":\"{}\",\"detail\":\"unwritable\",\"kind\":\"gap\",\"reason\":\"defect\",\"v\":1}}",
            at.rfc3339()
        )
        .into_bytes()
    })
}

/// The beginning of a text, cut between characters.
fn clip(text: &str) -> String {
    text.get(..text.floor_char_boundary(TEXT_LIMIT_BYTES)).unwrap_or_default().to_owned()
}

impl Exchange {
    /// Its kind of entry.
    pub(super) fn kind(&self) -> &'static str {
        if self.refused { "refusal" } else { "exchange" }
    }

    fn clipped(&self) -> Self {
        let text = |text: &Option<String>| text.as_deref().map(clip);
        let shared = |text: &Option<Arc<str>>| text.as_deref().map(|text| Arc::from(clip(text)));
        Self {
            request_id: text(&self.request_id),
            operation: clip(&self.operation),
            method: clip(&self.method),
            path: clip(&self.path),
            address: text(&self.address),
            key: shared(&self.key),
            org: shared(&self.org),
            team: shared(&self.team),
            user: shared(&self.user),
            session: shared(&self.session),
            tags: self.tags.iter().take(16).map(|tag| Arc::from(clip(tag))).collect(),
            model_requested: text(&self.model_requested),
            model_served: text(&self.model_served),
            provider: shared(&self.provider),
            route: shared(&self.route),
            reason: text(&self.reason),
            verdict: self.verdict.as_ref().map(Verdict::clipped),
            attempts: self.attempts.iter().take(ATTEMPTS_LIMIT).map(Attempt::clipped).collect(),
            price: text(&self.price),
            ..self.clone()
        }
    }
}

impl Verdict {
    fn clipped(&self) -> Self {
        Self {
            real: clip(&self.real).into(),
            effective: clip(&self.effective).into(),
            policies: self.policies.iter().take(16).map(|policy| clip(policy).into()).collect(),
            policy_set: self.policy_set.as_deref().map(|set| clip(set).into()),
        }
    }
}

impl Attempt {
    fn clipped(&self) -> Self {
        Self { provider: Arc::from(clip(&self.provider)), model: clip(&self.model), ..self.clone() }
    }
}

/// The JSON Schema of every kind of entry, by the name of its file. Source: JSON Schema draft 2020-12.
pub fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("exchange", schema::<Exchange>(&["exchange", "refusal"])),
        ("amendment", schema::<Amendment>(&["amendment"])),
        ("event", schema::<Event>(&[])),
        ("rotation", schema::<Rotation>(&["rotation"])),
        ("gap", schema::<Gap>(&["gap"])),
    ]
}

fn schema<T: ToSchema + utoipa::PartialSchema>(kinds: &[&str]) -> Value {
    let value = |schema: &_| serde_json::to_value(schema).unwrap_or_default();
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    let mut body = value(&T::schema());
    let defs: Map<String, Value> = parts.iter().map(|(name, part)| (name.clone(), value(part))).collect();
    if let Some(properties) = body.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("v".to_owned(), serde_json::json!({ "const": VERSION }));
        properties.insert("at".to_owned(), serde_json::json!({ "type": "string", "format": "date-time" }));
        if !kinds.is_empty() {
            properties.insert("kind".to_owned(), serde_json::json!({ "enum": kinds }));
        }
    }
    if let Some(required) = body.get_mut("required").and_then(Value::as_array_mut) {
        required.extend(
            ["v", "at", "kind"].into_iter().filter(|name| *name != "kind" || !kinds.is_empty()).map(Value::from),
        );
    }
    let mut whole = Map::new();
    whole.insert("$schema".to_owned(), Value::from("https://json-schema.org/draft/2020-12/schema"));
    whole.insert("additionalProperties".to_owned(), Value::from(false));
    whole.extend(body.as_object().cloned().unwrap_or_default());
    whole.insert("$defs".to_owned(), Value::from(defs));
    let text = Value::from(whole).to_string().replace("#/components/schemas/", "#/$defs/");
    serde_json::from_str(&text).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests;
