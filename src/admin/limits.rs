//! Limits: rows that say what may be spent, and how their counters stand.
//!
//! Rows are stored ones and those of the configuration file; the latter are shown and reset here but changed only in the file.
//! A write is checked as a whole before it is stored (`check`), and is in force in this process before its answer leaves. Money
//! is decimal text or whole nano-dollars, never a float.

mod check;
mod schema;
mod state;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::keys::some;
use crate::admin::respond::{self, Body, ErrorAnswer, Params, Refusal, Segment};
use crate::admin::shape;
use crate::admin::time::Time;
use crate::budget::draft::{DEEDS, DraftFault, LimitDraft, Quantity, SCOPES, SPANS, UNITS, value_of, word_of};
use crate::budget::limit::{Limit, Unit};
use crate::error::Error;
use crate::unit::clock::Timestamp;
use crate::unit::id;
use crate::unit::money::NanoUsd;

pub(super) use check::acting_for;
pub use schema::{create_schema, patch_schema};
pub(super) use state::counters;
pub use state::{__path_reset, __path_state, __path_states, CounterView, Figure, reset, state, states};

/// A limit as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LimitView {
    /// `lim_` and 26 characters, or `config-` and 16 hexadecimal digits.
    pub id: String,
    /// A name for people.
    pub name: String,
    /// Where it is written down.
    pub origin: LimitOrigin,
    /// Whose consumption: `gateway`, `org`, `team`, `user`, `key`, `model`, `tag` or `session`.
    pub scope: String,
    /// Whose exactly; null is each one by itself.
    pub subject: Option<String>,
    /// Only for models of these patterns; empty is all.
    pub models: Vec<String>,
    /// What it counts: `usd`, `input_tokens`, `output_tokens`, `tokens`, `requests` or `concurrent`.
    pub unit: String,
    /// The span of time: `minute`, `hour`, `day`, `month`, `total`, or `now` for what runs at present.
    pub window: String,
    /// The time zone of a day or a month.
    pub timezone: Option<String>,
    /// The most at once, if the amount of a minute flows in evenly; nano-dollars for the unit `usd`.
    pub burst: Option<i64>,
    /// The amount, for other units than `usd`.
    pub amount: Option<i64>,
    /// The amount in dollars, as decimal text.
    pub amount_usd: Option<String>,
    /// The amount in nano-dollars.
    pub amount_nano_usd: Option<i64>,
    /// What happens when a call does not fit: `refuse`, `downgrade` or `warn`.
    pub action: String,
    /// The model that is asked for instead.
    pub downgrade_to: Option<String>,
    /// The share of the amount that must be left for the model that was asked for.
    pub downgrade_below_percent: Option<u8>,
    /// The shares of the amount at which operators are told, ascending.
    pub warn_at_percent: Vec<u8>,
    /// Whether it is in force.
    pub enabled: bool,
    /// When it was made; null for one of the configuration file.
    pub created_at: Option<Time>,
    /// When it was last changed; null for one of the configuration file.
    pub updated_at: Option<Time>,
}

/// Where a limit is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitOrigin {
    /// In the configuration file; it cannot be changed here.
    Config,
    /// In the store.
    Stored,
}

impl From<&Limit> for LimitView {
    fn from(limit: &Limit) -> Self {
        let draft = LimitDraft::of(limit);
        let figure = Figure::of(limit.unit, limit.amount);
        let is_stored = is_stored(&limit.id);
        Self {
            id: limit.id.to_string(),
            name: limit.name.clone(),
            origin: if is_stored { LimitOrigin::Stored } else { LimitOrigin::Config },
            scope: word_of(SCOPES, limit.scope).to_owned(),
            subject: draft.subject,
            models: draft.models,
            unit: word_of(UNITS, limit.unit).to_owned(),
            window: word_of(SPANS, draft.span).to_owned(),
            timezone: draft.timezone,
            burst: draft.burst.map(|burst| match burst {
                Quantity::Usd(usd) => usd.nanos(),
                Quantity::Count(count) => count,
            }),
            amount: figure.amount,
            amount_usd: figure.amount_usd,
            amount_nano_usd: figure.amount_nano_usd,
            action: word_of(DEEDS, draft.deed).to_owned(),
            downgrade_to: draft.downgrade_to,
            downgrade_below_percent: draft.downgrade_below_percent,
            warn_at_percent: draft.warn_at_percent,
            enabled: limit.enabled,
            created_at: is_stored.then(|| limit.created_at.into()),
            updated_at: is_stored.then(|| limit.updated_at.into()),
        }
    }
}

/// All limits in force and not in force.
#[derive(Debug, Serialize, ToSchema)]
pub struct LimitListView {
    /// Those of the configuration file first, then the stored ones, oldest first.
    pub limits: Vec<LimitView>,
}

/// Which limits to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LimitQuery {
    /// Only those of this scope.
    #[param(pattern = "^(gateway|org|team|user|key|model|tag|session)$")]
    scope: Option<String>,
    /// Only those for this subject.
    #[param(min_length = 1, max_length = 321)]
    subject: Option<String>,
}

/// A new limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitCreate {
    #[serde(default)]
    name: Option<String>,
    scope: String,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    models: Vec<String>,
    unit: String,
    window: String,
    #[serde(default)]
    timezone: Option<String>,
    #[serde(default)]
    burst: Option<i64>,
    #[serde(default)]
    burst_usd: Option<String>,
    #[serde(default)]
    amount: Option<i64>,
    #[serde(default)]
    amount_usd: Option<String>,
    #[serde(default)]
    amount_nano_usd: Option<i64>,
    #[serde(default)]
    action: Option<String>,
    #[serde(default)]
    downgrade_to: Option<String>,
    #[serde(default)]
    downgrade_below_percent: Option<u8>,
    #[serde(default)]
    warn_at_percent: Vec<u8>,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

/// What to change about a limit. What is left out stays; null removes. What it counts – scope, subject, unit and window – stays:
/// that is another limit.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitPatch {
    #[serde(default, deserialize_with = "some")]
    name: Option<String>,
    #[serde(default, deserialize_with = "some")]
    models: Option<Vec<String>>,
    #[serde(default, deserialize_with = "some")]
    amount: Option<i64>,
    #[serde(default, deserialize_with = "some")]
    amount_usd: Option<String>,
    #[serde(default, deserialize_with = "some")]
    amount_nano_usd: Option<i64>,
    #[serde(default, deserialize_with = "some")]
    action: Option<String>,
    #[serde(default, deserialize_with = "some")]
    downgrade_to: Option<Option<String>>,
    #[serde(default, deserialize_with = "some")]
    downgrade_below_percent: Option<Option<u8>>,
    #[serde(default, deserialize_with = "some")]
    warn_at_percent: Option<Vec<u8>>,
    #[serde(default, deserialize_with = "some")]
    enabled: Option<bool>,
}

/// Which limit.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only describes the parameter; `Segment` reads it")]
struct LimitPath {
    /// The limit.
    #[param(pattern = "^(lim_[0-9a-v]{26}|config-[0-9a-f]{16}(-[1-9][0-9]{0,3})?)$")]
    id: String,
}

/// Lists limits.
#[utoipa::path(get, path = "/admin/limits", operation_id = "list_limits", tag = "limits", params(LimitQuery), responses(
    (status = 200, description = "The limits.", body = LimitListView),
))]
pub async fn list(state: State, Params(query): Params<LimitQuery>) -> Result<Response, Refusal> {
    let scope = match query.scope.as_deref() {
        Some(word) => Some(parse("scope", SCOPES, word)?),
        None => None,
    };
    if query.subject.as_deref().is_some_and(|subject| !(1..=321).contains(&subject.chars().count())) {
        return Err(Refusal::invalid("subject", "A subject has 1 to 321 characters."));
    }
    let limits = all(&state).await?;
    let meant = |limit: &&Limit| {
        scope.is_none_or(|scope| limit.scope == scope)
            && query.subject.as_deref().is_none_or(|subject| limit.subject.as_deref() == Some(subject))
    };
    Ok(respond::ok(&LimitListView { limits: limits.iter().filter(meant).map(LimitView::from).collect() }))
}

/// Makes a limit.
///
/// It is in force in this process when the answer arrives, and everywhere within a second.
#[utoipa::path(post, path = "/admin/limits", operation_id = "create_limit", tag = "limits", request_body = LimitCreate,
    responses(
    (status = 201, description = "The limit.", body = LimitView),
    (status = 409, description = "It contradicts another one, or can match nothing.", body = ErrorAnswer),
))]
pub async fn create(state: State, Body(body): Body<LimitCreate>) -> Result<Response, Refusal> {
    let now = Timestamp::now();
    let limit = body.draft()?.limit(id::mint("lim").into(), now, now).map_err(refusal)?;
    let _turn = state.turn.lock().await;
    check::check(&state, &limit).await?;
    state.limits.insert(&limit).await.map_err(Error::from)?;
    state.control.limits_changed().await?;
    Ok(respond::created(&LimitView::from(&limit)))
}

/// Shows a limit.
#[utoipa::path(get, path = "/admin/limits/{id}", operation_id = "get_limit", tag = "limits", params(LimitPath), responses(
    (status = 200, description = "The limit.", body = LimitView),
    (status = 404, description = "There is no such limit.", body = ErrorAnswer),
))]
pub async fn show(state: State, id: Segment) -> Result<Response, Refusal> {
    Ok(respond::ok(&LimitView::from(&find(&state, &id).await?)))
}

/// Changes fields of a stored limit.
///
/// What is left out stays; null removes. What is spent stays too, so a corrected amount counts at once.
#[utoipa::path(patch, path = "/admin/limits/{id}", operation_id = "update_limit", tag = "limits", params(LimitPath),
    request_body = LimitPatch, responses(
    (status = 200, description = "The limit as it is now.", body = LimitView),
    (status = 404, description = "There is no such limit.", body = ErrorAnswer),
    (status = 409, description = "It is one of the configuration file, contradicts another one, or can match nothing.",
        body = ErrorAnswer),
))]
pub async fn patch(state: State, id: Segment, Body(patch): Body<LimitPatch>) -> Result<Response, Refusal> {
    let _turn = state.turn.lock().await;
    let before = stored(find(&state, &id).await?)?;
    let draft = patch.apply(LimitDraft::of(&before))?;
    let after = draft.limit(before.id.clone(), before.created_at, Timestamp::now()).map_err(refusal)?;
    check::check(&state, &after).await?;
    state.limits.update(&after).await.map_err(|error| shape::missing_or(error, "limit"))?;
    state.control.limits_changed().await?;
    Ok(respond::ok(&LimitView::from(&after)))
}

/// Deletes a stored limit.
///
/// What was spent on it is forgotten; the request log keeps what it cost.
#[utoipa::path(delete, path = "/admin/limits/{id}", operation_id = "delete_limit", tag = "limits", params(LimitPath),
    responses(
    (status = 204, description = "It is gone."),
    (status = 404, description = "There is no such limit.", body = ErrorAnswer),
    (status = 409, description = "It is one of the configuration file.", body = ErrorAnswer),
))]
pub async fn delete(state: State, id: Segment) -> Result<Response, Refusal> {
    let _turn = state.turn.lock().await;
    let limit = stored(find(&state, &id).await?)?;
    state.limits.delete(&limit.id).await.map_err(|error| shape::missing_or(error, "limit"))?;
    state.control.limits_changed().await?;
    Ok(respond::nothing())
}

/// The limits of the configuration file, then the stored ones.
pub(super) async fn all(state: &State) -> Result<Vec<Limit>, Refusal> {
    let mut limits = state.control.config_limits();
    limits.extend(state.limits.list().await.map_err(Error::from)?);
    Ok(limits)
}

async fn find(state: &State, id: &Segment) -> Result<Limit, Refusal> {
    let Segment(id) = id;
    if is_config_id(id) {
        let found = state.control.config_limits().into_iter().find(|limit| *limit.id == **id);
        return found.ok_or_else(|| Refusal::missing("limit"));
    }
    if !is_stored(id) {
        let text = "A limit's id is lim_ and 26 characters of 0-9 and a-v, or config- and 16 hexadecimal digits.";
        return Err(Refusal::invalid("id", text));
    }
    state.limits.get(id).await.map_err(Error::from)?.ok_or_else(|| Refusal::missing("limit"))
}

fn is_stored(id: &str) -> bool {
    respond::is_id("lim", id)
}

fn is_config_id(id: &str) -> bool {
    let Some(rest) = id.strip_prefix("config-") else { return false };
    let (hash, number) = rest.split_once('-').unwrap_or((rest, "2"));
    hash.len() == 16
        && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && (1..=4).contains(&number.len())
        && !number.starts_with('0')
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn stored(limit: Limit) -> Result<Limit, Refusal> {
    if is_stored(&limit.id) {
        return Ok(limit);
    }
    Err(Refusal::conflict("This limit is one of the configuration file; change it there and reload."))
}

/// The refusal that a fault of a draft is.
fn refusal(fault: DraftFault) -> Refusal {
    Refusal::invalid(fault.field, sentence(&fault.text))
}

/// A clause as a sentence.
pub(super) fn sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase()).into_iter();
    first.chain(letters).chain(std::iter::once('.')).collect()
}

fn parse<T: Copy>(field: &'static str, words: &[(&'static str, T)], word: &str) -> Result<T, Refusal> {
    value_of(words, word).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Refusal::invalid(field, format!("`{field}` is one of {}.", known.join(", ")))
    })
}

fn dollars(field: &'static str, text: Option<String>) -> Result<Option<NanoUsd>, Refusal> {
    text.map(|text| NanoUsd::parse(&text)).transpose().map_err(|text| Refusal::invalid(field, sentence(&text)))
}

/// The amount that is given as dollars, as nano-dollars or as a count; `None` if none is.
fn amount(usd: Option<String>, nano: Option<i64>, count: Option<i64>) -> Result<Option<Quantity>, Refusal> {
    let usd = dollars("amount_usd", usd)?;
    match (usd, nano, count) {
        (None, None, None) => Ok(None),
        (Some(usd), None, None) => Ok(Some(Quantity::Usd(usd))),
        (None, Some(nano), None) => Ok(Some(Quantity::Usd(NanoUsd(nano)))),
        (None, None, Some(count)) => Ok(Some(Quantity::Count(count))),
        _ => Err(Refusal::invalid("amount", "Give one of `amount_usd`, `amount_nano_usd` and `amount`.")),
    }
}

impl LimitCreate {
    fn draft(self) -> Result<LimitDraft, Refusal> {
        shape::check_patterns("models", &self.models)?;
        let missing = || Refusal::invalid("amount", "A limit needs `amount_usd` (for the unit usd) or `amount`.");
        let burst = match (dollars("burst_usd", self.burst_usd)?, self.burst) {
            (None, None) => None,
            (Some(usd), None) => Some(Quantity::Usd(usd)),
            (None, Some(count)) => Some(Quantity::Count(count)),
            (Some(_), Some(_)) => return Err(Refusal::invalid("burst", "Give `burst_usd` or `burst`, not both.")),
        };
        Ok(LimitDraft {
            name: self.name,
            scope: parse("scope", SCOPES, &self.scope)?,
            subject: self.subject,
            models: self.models,
            unit: parse("unit", UNITS, &self.unit)?,
            span: parse("window", SPANS, &self.window)?,
            timezone: self.timezone,
            burst,
            amount: amount(self.amount_usd, self.amount_nano_usd, self.amount)?.ok_or_else(missing)?,
            deed: match self.action.as_deref() {
                Some(word) => parse("action", DEEDS, word)?,
                None => Default::default(),
            },
            downgrade_to: self.downgrade_to,
            downgrade_below_percent: self.downgrade_below_percent,
            warn_at_percent: self.warn_at_percent,
            enabled: self.enabled,
        })
    }
}

impl LimitPatch {
    fn apply(self, mut draft: LimitDraft) -> Result<LimitDraft, Refusal> {
        shape::check_patterns("models", self.models.as_deref().unwrap_or_default())?;
        if let Some(word) = self.action.as_deref() {
            let deed = parse("action", DEEDS, word)?;
            if deed != draft.deed {
                // The particulars of the action before belong to it alone.
                (draft.downgrade_to, draft.downgrade_below_percent) = (None, None);
            }
            draft.deed = deed;
        }
        draft.name = self.name.or(draft.name);
        draft.models = self.models.unwrap_or(draft.models);
        draft.amount = amount(self.amount_usd, self.amount_nano_usd, self.amount)?.unwrap_or(draft.amount);
        draft.downgrade_to = self.downgrade_to.unwrap_or(draft.downgrade_to);
        draft.downgrade_below_percent = self.downgrade_below_percent.unwrap_or(draft.downgrade_below_percent);
        draft.warn_at_percent = self.warn_at_percent.unwrap_or(draft.warn_at_percent);
        draft.enabled = self.enabled.unwrap_or(draft.enabled);
        Ok(draft)
    }
}

/// Whether amounts of that unit are money.
fn is_money(unit: Unit) -> bool {
    unit == Unit::Usd
}
