//! Prompts and answers: what the log can show of them, and erasing that.
//!
//! Only texts that the operator chose to keep are here (`audit.content`). Erasing takes the salt of a commitment and the text that
//! was kept; the entry and its proofs stay.

use std::time::Duration;

use axum::response::Response;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::admin::State;
use crate::admin::audit::{blocking, open};
use crate::admin::keys::some;
use crate::admin::respond::{self, Body, ErrorAnswer, Refusal, Segment};
use crate::admin::time::Time;
use crate::admin::trail::Outcome;
use crate::audit::erase::{self, Erased};
use crate::audit::index::Filter;
use crate::audit::log::LogError;
use crate::audit::texts::{Text, Texts};
use crate::error::{Error, Kind};
use crate::unit::id::ExchangeId;

/// Whose link to their texts is erased: everything that is given must match, and something must be given.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(min_properties = 1)]
pub struct EraseOrder {
    /// One exchange.
    #[serde(deserialize_with = "some")]
    #[schema(value_type = String, format = "uuid", required = false)]
    exchange: Option<Uuid>,
    /// All of a key, by its id.
    #[serde(deserialize_with = "some")]
    #[schema(value_type = String, min_length = 1, max_length = 256, required = false)]
    key: Option<String>,
    /// All of an organisation.
    #[serde(deserialize_with = "some")]
    #[schema(value_type = String, min_length = 1, max_length = 256, required = false)]
    org: Option<String>,
    /// All of a team.
    #[serde(deserialize_with = "some")]
    #[schema(value_type = String, min_length = 1, max_length = 256, required = false)]
    team: Option<String>,
    /// All of a user.
    #[serde(deserialize_with = "some")]
    #[schema(value_type = String, min_length = 1, max_length = 256, required = false)]
    user: Option<String>,
    /// All that began at that time or later.
    #[serde(deserialize_with = "some")]
    #[schema(value_type = Time, required = false)]
    since: Option<Time>,
    /// All that began before that time.
    #[serde(deserialize_with = "some")]
    #[schema(value_type = Time, required = false)]
    until: Option<Time>,
}

/// How long an erasure waits for what was answered before it.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(10);

/// What was erased.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasedView {
    /// The exchanges that match, whether there was anything to erase or not.
    pub exchanges: u64,
    /// Their salts.
    pub salts: u64,
    /// Those of which texts were kept.
    pub texts: u64,
}

/// The kept texts of an exchange.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextView {
    /// The request's body, as far as it is kept; null if it is not.
    pub prompt: Option<String>,
    /// The answer's body.
    pub answer: Option<String>,
    /// How the two are written: `utf-8`, or `base64` where one of them is no text.
    pub encoding: &'static str,
}

/// Which exchange.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only describes the parameter; `Segment` reads it")]
struct TextPath {
    /// The id of the exchange.
    #[param(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
    id: String,
}

impl EraseOrder {
    fn filter(self) -> Result<Filter, Refusal> {
        let Self { exchange, key, org, team, user, since, until } = self;
        let texts = [&key, &org, &team, &user];
        if texts.into_iter().flatten().any(|text| text.is_empty() || text.chars().count() > 256) {
            return Err(Refusal::invalid("body", "A name has 1 to 256 characters."));
        }
        let (since, until) = (since.map(|time| time.0), until.map(|time| time.0));
        let filter = Filter { id: exchange, key, org, team, user, since, until, ..Filter::default() };
        if filter == Filter::default() {
            return Err(Refusal::invalid(
                "body",
                "Say what is to be erased: an exchange, a key, a user, a span of time.",
            ));
        }
        Ok(filter)
    }
}

/// Erases the salts and kept texts of exchanges.
///
/// Nobody can show any more which prompt or answer their entries are of; the entries and every proof stay. The change is an entry
/// itself. What was answered before the call is waited for, so nothing of it is missed. Copies on their way through the journal
/// are gone as soon as everybody has taken them, within a second as a rule.
#[utoipa::path(post, path = "/admin/audit/erase", operation_id = "erase_audit_content", tag = "audit",
    request_body = EraseOrder, responses(
    (status = 200, description = "What was erased.", body = ErasedView),
    (status = 404, description = "There is no audit log, or no such exchange in it.", body = ErrorAnswer),
    (status = 503, description = "The log has not taken everything that was answered; nothing was erased.", body = ErrorAnswer),
))]
pub async fn erase(state: State, Body(order): Body<EraseOrder>) -> Result<Response, Refusal> {
    let filter = order.filter()?;
    let (log, single) = (open(&state)?, filter.id.is_some());
    let caught_up = tokio::time::timeout(CAUGHT_UP_WITHIN, state.control.audit_is_caught_up()).await;
    caught_up.map_err(|_| {
        let text = "The audit log has not taken everything that was answered, so some of it would be missed. Nothing was \
                    erased; GET /admin/audit says how the log stands.";
        Error::new(Kind::Unavailable, text).retry_after(5)
    })??;
    let Erased { exchanges, salts, texts } = blocking(move || erase::erase(&log, &filter)).await?;
    if let Some(journal) = state.journal.clone() {
        // The segment that is being written holds the salts of the last exchanges.
        blocking(move || {
            journal.turn();
            Ok(())
        })
        .await?;
    }
    if single && exchanges == 0 && texts == 0 {
        return Err(Refusal::missing("exchange in the audit log"));
    }
    let mut answer = respond::ok(&ErasedView { exchanges, salts, texts });
    answer.extensions_mut().insert(Outcome(json!({"exchanges": exchanges, "salts": salts, "texts": texts})));
    Ok(answer)
}

/// The texts of an exchange, where the operator chose to keep them.
#[utoipa::path(get, path = "/admin/audit/texts/{id}", operation_id = "get_audit_text", tag = "audit", params(TextPath),
    responses(
    (status = 200, description = "Its texts, as far as they are kept.", body = TextView),
    (status = 404, description = "Nothing is kept of it, or there is no audit log.", body = ErrorAnswer),
))]
pub async fn text(state: State, id: Segment) -> Result<Response, Refusal> {
    let log = open(&state)?;
    let parsed = id.0.parse::<Uuid>().ok().filter(|parsed| parsed.to_string() == id.0);
    let Some(parsed) = parsed else {
        return Err(Refusal::invalid("id", "Name an exchange by its UUID in lower case."));
    };
    let read = move || Texts::of(log.folder()).read(ExchangeId(parsed)).map_err(LogError::Disk);
    let Text { prompt, answer } = blocking(read).await?;
    if prompt.is_none() && answer.is_none() {
        return Err(Refusal::missing("kept text"));
    }
    let text = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(|bytes| std::str::from_utf8(bytes).map(str::to_owned));
    let view = match (text(&prompt).transpose(), text(&answer).transpose()) {
        (Ok(prompt), Ok(answer)) => TextView { prompt, answer, encoding: "utf-8" },
        _ => {
            let encode = |bytes: Vec<u8>| BASE64.encode(&bytes);
            TextView { prompt: prompt.map(encode), answer: answer.map(encode), encoding: "base64" }
        }
    };
    Ok(respond::ok(&view))
}
