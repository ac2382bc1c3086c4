//! How the counters of limits stand, and putting them back.

use std::collections::HashMap;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{LimitPath, find, is_money};
use crate::admin::State;
use crate::admin::control::LimitState;
use crate::admin::respond::{self, Body, ErrorAnswer, Params, Refusal, Segment};
use crate::admin::shape;
use crate::admin::time::Time;
use crate::budget::draft::{MAX_SUBJECT_CHARS, UNITS, word_of};
use crate::budget::limit::{Limit, Unit, Window};
use crate::unit::charge::WindowId;
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;

/// The most counters that are looked through for those of limits that are there.
const MOST_ASKED: usize = 65_536;

/// An amount in the unit of its limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Figure {
    /// Tokens, requests or exchanges; null for money.
    pub amount: Option<i64>,
    /// Dollars as decimal text; null for other units.
    pub amount_usd: Option<String>,
    /// Nano-dollars; null for other units.
    pub amount_nano_usd: Option<i64>,
}

impl Figure {
    /// An amount of that unit.
    pub fn of(unit: Unit, amount: i64) -> Self {
        if is_money(unit) {
            return Self { amount: None, amount_usd: Some(NanoUsd(amount).to_string()), amount_nano_usd: Some(amount) };
        }
        Self { amount: Some(amount), ..Self::default() }
    }
}

/// How one counter stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CounterView {
    /// The limit that it belongs to.
    pub limit_id: String,
    /// That limit's name.
    pub limit_name: String,
    /// What it counts.
    pub unit: String,
    /// Whose it is; null where all share one counter.
    pub subject: Option<String>,
    /// When its window began; null for windows without a beginning.
    pub from: Option<Time>,
    /// When it starts anew; null for windows without an end.
    pub resets_at: Option<Time>,
    /// The amount of the limit.
    pub cap: Figure,
    /// What is spent; of a paced limit what has not flowed off again, with what other processes hold ahead.
    pub spent: Figure,
    /// What processes hold to spend from memory.
    pub leased: Figure,
    /// What calls that run in this process have reserved of its lease.
    pub reserved_here: Figure,
    /// What neither is spent nor leased; of a paced limit, what a caller of this process could take at once.
    pub remaining: Figure,
    /// Who holds which lease.
    pub leases: Vec<LeaseView>,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LeaseView {
    /// The process: its start and a nonce.
    pub owner: String,
    /// How much of the amount it holds.
    pub held: Figure,
}

/// How counters stand.
#[derive(Debug, Serialize, ToSchema)]
pub struct CounterList {
    /// The counters, the most spent first.
    pub counters: Vec<CounterView>,
}

/// How many counters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StateQuery {
    /// The most counters in the answer.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<u32>,
}

/// What to put back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// Whose counter; null or left out, all of the limit.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 321)]
    subject: Option<String>,
}

/// What was put back.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResetAnswer {
    /// How many counters now stand at nothing spent.
    pub counters: u64,
}

/// How the counters of all limits stand.
///
/// The most spent come first.
#[utoipa::path(get, path = "/admin/limits/state", operation_id = "list_limit_states", tag = "limits", params(StateQuery),
    responses((status = 200, description = "The counters.", body = CounterList)))]
pub async fn states(state: State, Params(query): Params<StateQuery>) -> Result<Response, Refusal> {
    let most = shape::check_limit(query.limit)?;
    let limits = super::all(&state).await?;
    Ok(respond::ok(&CounterList { counters: counters(&state, None, most, &limits).await? }))
}

/// How the counters of a limit stand.
///
/// The most spent come first.
#[utoipa::path(get, path = "/admin/limits/{id}/state", operation_id = "get_limit_state", tag = "limits",
    params(LimitPath, StateQuery), responses(
    (status = 200, description = "The counters.", body = CounterList),
    (status = 404, description = "There is no such limit.", body = ErrorAnswer),
))]
pub async fn state(state: State, id: Segment, Params(query): Params<StateQuery>) -> Result<Response, Refusal> {
    let most = shape::check_limit(query.limit)?;
    let limit = find(&state, &id).await?;
    let counters = counters(&state, Some(&limit.id), most, std::slice::from_ref(&limit)).await?;
    Ok(respond::ok(&CounterList { counters }))
}

/// Takes back what is spent on a limit.
///
/// Of one subject, or of all. Calls that run stay reserved; the request log keeps what it cost.
#[utoipa::path(post, path = "/admin/limits/{id}/reset", operation_id = "reset_limit", tag = "limits", params(LimitPath),
    request_body = ResetRequest, responses(
    (status = 200, description = "How many counters were put back.", body = ResetAnswer),
    (status = 404, description = "There is no such limit.", body = ErrorAnswer),
))]
pub async fn reset(state: State, id: Segment, Body(body): Body<ResetRequest>) -> Result<Response, Refusal> {
    let fits = |subject: &str| (1..=MAX_SUBJECT_CHARS).contains(&subject.chars().count());
    if body.subject.as_deref().is_some_and(|subject| !fits(subject)) {
        return Err(Refusal::invalid("subject", format!("A subject has 1 to {MAX_SUBJECT_CHARS} characters.")));
    }
    let limit = find(&state, &id).await?;
    let counters = state.control.reset_limit(&limit.id, body.subject.as_deref()).await?;
    tracing::info!(limit = %limit.id, subject = body.subject, counters, "an operator took back what is spent on a limit");
    Ok(respond::ok(&ResetAnswer { counters }))
}

/// The counters of a limit, or of all, as operators see them.
pub(in crate::admin) async fn counters(
    state: &State,
    limit: Option<&str>,
    most: usize,
    limits: &[Limit],
) -> Result<Vec<CounterView>, Refusal> {
    let by_id: HashMap<&str, &Limit> = limits.iter().map(|limit| (&*limit.id, limit)).collect();
    let mut asked = most;
    loop {
        let mut states = state.control.limit_states(limit, asked).await?;
        let is_all = states.len() < asked;
        // Counters of limits that are gone may stand among the rest until their window is over.
        states.retain(|one| by_id.contains_key(&*one.standing.counter.limit));
        if states.len() >= most || is_all || asked >= MOST_ASKED {
            states.truncate(most);
            return Ok(states.into_iter().filter_map(|one| view(one, &by_id)).collect());
        }
        asked = asked.saturating_mul(8).min(MOST_ASKED);
    }
}

fn view(state: LimitState, limits: &HashMap<&str, &Limit>) -> Option<CounterView> {
    let LimitState { standing, reserved_here, held_ahead } = state;
    let limit = limits.get(&*standing.counter.limit)?;
    let figure = |amount: i64| Figure::of(limit.unit, amount);
    let leased = standing.leases.iter().fold(0_i64, |sum, (_, amount)| sum.saturating_add(*amount));
    // The counter knows the amount that was last asked with; the limit may have changed since.
    let most = match limit.window {
        Window::Paced { burst } => burst,
        _ => limit.amount,
    };
    let spent = standing.spent.saturating_sub(held_ahead).max(0);
    let remaining = most.saturating_sub(spent).saturating_sub(leased).max(0);
    let second = |second: i64| Time(Timestamp(second.saturating_mul(1_000_000)));
    let (from, resets_at) = match standing.counter.window {
        WindowId::Calendar { from, until } => (Some(second(from)), Some(second(until))),
        WindowId::Sliding { .. } | WindowId::Total | WindowId::Now => (None, None),
    };
    Some(CounterView {
        limit_id: standing.counter.limit.to_string(),
        limit_name: limit.name.clone(),
        unit: word_of(UNITS, limit.unit).to_owned(),
        subject: Some(standing.counter.subject.to_string()).filter(|subject| !subject.is_empty()),
        from,
        resets_at,
        cap: figure(limit.amount),
        spent: figure(spent),
        leased: figure(leased),
        reserved_here: figure(reserved_here),
        remaining: figure(remaining),
        leases: standing.leases.into_iter().map(|(owner, held)| LeaseView { owner, held: figure(held) }).collect(),
    })
}
