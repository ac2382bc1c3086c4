//! Orgs, teams and users: what the three nouns share. Their doors are in `orgs`, `teams` and `users`.
//!
//! Keys name them without a row; a row adds a description, an off switch, models and caps. Whatever a write changes is in force in
//! this process before its answer leaves.

use std::collections::BTreeMap;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::keys::{some, some_or_none};
use crate::admin::limits::{self, CounterView, LimitView, acting_for};
use crate::admin::respond::{self, Refusal, Segment};
use crate::admin::shape::{self, Labels};
use crate::admin::spend::Sums;
use crate::admin::time::Time;
use crate::budget::limit::{Limit, Scope};
use crate::error::Error;
use crate::key::party::{Party, PartyKind, RequestCaps};
use crate::key::party_draft::PartyDraft;
use crate::ledger::query::Filter;
use crate::unit::clock::Timestamp;

/// The most counters shown with an org, a team or a user.
const MAX_COUNTERS: usize = 50;

/// An org, a team or a user as operators see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartyView {
    /// Its name, as keys give it.
    pub name: String,
    /// The org that a team or user belongs to.
    pub org: Option<String>,
    /// The team that a user belongs to.
    pub team: Option<String>,
    /// What it is for.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Patterns of the models that its keys may ask for, besides what a key itself allows; empty allows all.
    pub models: Vec<String>,
    /// The most input tokens of one request.
    pub max_input_tokens: Option<u64>,
    /// The most output tokens of one request.
    pub max_output_tokens: Option<u64>,
    /// Whether its keys are admitted.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
}

impl From<&Party> for PartyView {
    fn from(party: &Party) -> Self {
        let fields = PartyDraft::of(party);
        Self {
            name: party.name.to_string(),
            org: fields.org,
            team: fields.team,
            description: fields.description,
            labels: fields.labels,
            models: fields.models,
            max_input_tokens: party.caps.max_input_tokens,
            max_output_tokens: party.caps.max_output_tokens,
            enabled: party.enabled,
            created_at: party.created_at.into(),
            updated_at: party.updated_at.into(),
        }
    }
}

/// An org, a team or a user with what hangs on it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartyDetail {
    /// Its row.
    #[serde(flatten)]
    pub party: PartyView,
    /// How many keys act for it.
    pub keys: u64,
    /// The limits for it by name, and those for each of its kind.
    pub limits: Vec<LimitView>,
    /// How its counters stand, the most spent first; null while their owner cannot be reached.
    pub counters: Option<Vec<CounterView>>,
    /// What its keys used in the last 30 days.
    pub last_30_days: Sums,
}

/// All of one kind.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartyList {
    /// By name.
    pub items: Vec<PartyView>,
}

/// A new org, team or user.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PartyCreate {
    /// Its name, as keys give it; unique among its kind.
    #[schema(schema_with = shape::name)]
    name: String,
    /// The org that a team or user belongs to; an org has none.
    #[serde(default)]
    #[schema(schema_with = shape::name_or_null)]
    org: Option<String>,
    /// The team that a user belongs to; orgs and teams have none.
    #[serde(default)]
    #[schema(schema_with = shape::name_or_null)]
    team: Option<String>,
    /// What it is for.
    #[serde(default)]
    #[schema(schema_with = shape::description)]
    description: String,
    /// Free labels.
    #[serde(default)]
    labels: Labels,
    /// Patterns of the models that its keys may ask for; empty allows all.
    #[serde(default)]
    #[schema(schema_with = shape::patterns)]
    models: Vec<String>,
    /// The most input tokens of one request.
    #[serde(default, deserialize_with = "shape::count")]
    #[schema(schema_with = shape::cap)]
    max_input_tokens: Option<u64>,
    /// The most output tokens of one request.
    #[serde(default, deserialize_with = "shape::count")]
    #[schema(schema_with = shape::cap)]
    max_output_tokens: Option<u64>,
}

/// What to change. What is left out stays; null removes, and stands for an empty text or list and no labels.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PartyPatch {
    /// The org that a team or user belongs to.
    #[serde(default, deserialize_with = "some")]
    #[schema(schema_with = shape::name_or_null)]
    org: Option<Option<String>>,
    /// The team that a user belongs to.
    #[serde(default, deserialize_with = "some")]
    #[schema(schema_with = shape::name_or_null)]
    team: Option<Option<String>>,
    /// What it is for.
    #[serde(default, deserialize_with = "some_or_none")]
    #[schema(schema_with = shape::description_or_null)]
    description: Option<String>,
    /// Free labels; they replace all that there are.
    #[serde(default, deserialize_with = "some_or_none")]
    #[schema(value_type = Option<Labels>)]
    labels: Option<Labels>,
    /// Patterns of the models that its keys may ask for; they replace all that there are.
    #[serde(default, deserialize_with = "some_or_none")]
    #[schema(schema_with = shape::patterns_or_null)]
    models: Option<Vec<String>>,
    /// The most input tokens of one request.
    #[serde(default, deserialize_with = "shape::some_count")]
    #[schema(schema_with = shape::cap)]
    max_input_tokens: Option<Option<u64>>,
    /// The most output tokens of one request.
    #[serde(default, deserialize_with = "shape::some_count")]
    #[schema(schema_with = shape::cap)]
    max_output_tokens: Option<Option<u64>>,
    /// Whether its keys are admitted.
    #[serde(default, deserialize_with = "some")]
    #[schema(nullable = false)]
    enabled: Option<bool>,
}

/// Which one.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only describes the parameter; `Segment` reads it")]
pub struct PartyPath {
    /// Its name.
    #[param(min_length = 1, max_length = 128, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    name: String,
}

/// All of a kind.
pub(super) async fn list(state: &State, kind: PartyKind) -> Result<Response, Refusal> {
    let parties = state.parties.list(Some(kind)).await.map_err(Error::from)?;
    Ok(respond::ok(&PartyList { items: parties.iter().map(PartyView::from).collect() }))
}

/// Makes one.
pub(super) async fn create(state: &State, kind: PartyKind, body: PartyCreate) -> Result<Response, Refusal> {
    shape::check_patterns("models", &body.models)?;
    let draft = PartyDraft {
        org: body.org,
        team: body.team,
        description: body.description,
        labels: body.labels.0,
        models: body.models,
        caps: RequestCaps { max_input_tokens: body.max_input_tokens, max_output_tokens: body.max_output_tokens },
        enabled: true,
    };
    let now = Timestamp::now();
    let party = draft.party(kind, &body.name, now, now)?;
    let _turn = state.turn.lock().await;
    state.parties.insert(&party).await.map_err(Error::from)?;
    state.ring.parties().put(party.clone());
    Ok(respond::created(&PartyView::from(&party)))
}

/// Shows one with what hangs on it.
pub(super) async fn show(state: &State, kind: PartyKind, name: &Segment) -> Result<Response, Refusal> {
    let party = find(state, kind, name).await?;
    let keys = state.keys.count(&acting_for(kind, &party.name)).await.map_err(Error::from)?;
    let limits: Vec<Limit> =
        limits::all(state).await?.into_iter().filter(|limit| concerns(limit, kind, &party.name)).collect();
    let since = Timestamp::now().minus(std::time::Duration::from_secs(30 * 86_400));
    let sums = state.ledger.summarize(&records_of(kind, &party.name, since)).await.map_err(Error::from)?;
    Ok(respond::ok(&PartyDetail {
        keys,
        counters: counters(state, &party.name, &limits).await,
        limits: limits.iter().map(LimitView::from).collect(),
        last_30_days: Sums::from(&sums),
        party: PartyView::from(&party),
    }))
}

/// Changes one.
pub(super) async fn patch(
    state: &State,
    kind: PartyKind,
    name: &Segment,
    patch: PartyPatch,
) -> Result<Response, Refusal> {
    shape::check_patterns("models", patch.models.as_deref().unwrap_or_default())?;
    change(state, kind, name, |draft| patch.apply(draft)).await
}

/// Switches one on or off.
pub(super) async fn switch(state: &State, kind: PartyKind, name: &Segment, on: bool) -> Result<Response, Refusal> {
    change(state, kind, name, |draft| draft.enabled = on).await
}

/// Deletes one.
pub(super) async fn delete(state: &State, kind: PartyKind, name: &Segment) -> Result<Response, Refusal> {
    check_name(name)?;
    let _turn = state.turn.lock().await;
    state.parties.delete(kind, &name.0).await.map_err(|error| shape::missing_or(error, kind.as_str()))?;
    state.ring.parties().remove(kind, &name.0);
    Ok(respond::nothing())
}

async fn change(
    state: &State,
    kind: PartyKind,
    name: &Segment,
    edit: impl FnOnce(&mut PartyDraft),
) -> Result<Response, Refusal> {
    let _turn = state.turn.lock().await;
    let before = find(state, kind, name).await?;
    let mut draft = PartyDraft::of(&before);
    edit(&mut draft);
    let after = draft.party(kind, &before.name, before.created_at, Timestamp::now())?;
    state.parties.update(&after).await.map_err(|error| shape::missing_or(error, kind.as_str()))?;
    state.ring.parties().put(after.clone());
    Ok(respond::ok(&PartyView::from(&after)))
}

async fn find(state: &State, kind: PartyKind, name: &Segment) -> Result<Party, Refusal> {
    check_name(name)?;
    let found = state.parties.get(kind, &name.0).await.map_err(Error::from)?;
    found.ok_or_else(|| Refusal::missing(kind.as_str()))
}

fn check_name(name: &Segment) -> Result<(), Refusal> {
    if name.0.is_empty() || name.0.chars().count() > 128 || name.0.chars().any(char::is_control) {
        return Err(Refusal::invalid("name", "A name has 1 to 128 characters, none of them a control character."));
    }
    Ok(())
}

/// Whether a limit counts what that party's keys use, by its name or as one of its kind.
fn concerns(limit: &Limit, kind: PartyKind, name: &str) -> bool {
    let scope = match kind {
        PartyKind::Org => Scope::Org,
        PartyKind::Team => Scope::Team,
        PartyKind::User => Scope::User,
    };
    limit.scope == scope && limit.subject.as_deref().is_none_or(|subject| subject == name)
}

/// How the counters of a party stand. While their owner is away the rest is worth showing.
async fn counters(state: &State, name: &str, limits: &[Limit]) -> Option<Vec<CounterView>> {
    let mut found = Vec::new();
    for limit in limits {
        let one = std::slice::from_ref(limit);
        let counters = limits::counters(state, Some(&limit.id), shape::MAX_LIMIT as usize, one).await.ok()?;
        found.extend(counters.into_iter().filter(|counter| counter.subject.as_deref() == Some(name)));
    }
    found.truncate(MAX_COUNTERS);
    Some(found)
}

fn records_of(kind: PartyKind, name: &str, since: Timestamp) -> Filter {
    let (name, since) = (Some(name.to_owned()), Some(since));
    match kind {
        PartyKind::Org => Filter { org: name, since, ..Filter::default() },
        PartyKind::Team => Filter { team: name, since, ..Filter::default() },
        PartyKind::User => Filter { user: name, since, ..Filter::default() },
    }
}

impl PartyPatch {
    fn apply(self, draft: &mut PartyDraft) {
        let Self { org, team, description, labels, models, max_input_tokens, max_output_tokens, enabled } = self;
        draft.org = org.unwrap_or(draft.org.take());
        draft.team = team.unwrap_or(draft.team.take());
        draft.description = description.unwrap_or_else(|| std::mem::take(&mut draft.description));
        draft.labels = labels.map_or_else(|| std::mem::take(&mut draft.labels), |labels| labels.0);
        draft.models = models.unwrap_or_else(|| std::mem::take(&mut draft.models));
        draft.caps.max_input_tokens = max_input_tokens.unwrap_or(draft.caps.max_input_tokens);
        draft.caps.max_output_tokens = max_output_tokens.unwrap_or(draft.caps.max_output_tokens);
        draft.enabled = enabled.unwrap_or(draft.enabled);
    }
}
