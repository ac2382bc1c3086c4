//! Sessions, as the store remembers them for all processes: list, reset, end.

use std::time::Duration;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::respond::{self, Body, ErrorAnswer, Params, Refusal};
use crate::admin::time::Time;
use crate::error::Error;
use crate::kavach::memory::{self, Act};
use crate::kavach::session::Session;
use crate::unit::clock::Timestamp;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1_000;

/// A session.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionView {
    /// The key that it belongs to.
    pub key_id: String,
    /// What identifies it for that key.
    pub id: String,
    /// When its first call came.
    pub begun_at: Time,
    /// When its latest call came.
    pub seen_at: Time,
    /// Until when it refuses, if an operator ended it.
    pub ended_until: Option<Time>,
    /// Its calls so far, refused ones included.
    pub requests: u64,
    /// Their input tokens.
    pub input_tokens: u64,
    /// Their output tokens.
    pub output_tokens: u64,
    /// What they cost, in nano-dollars.
    pub cost_nano_usd: i64,
}

impl From<Session> for SessionView {
    fn from(session: Session) -> Self {
        Self {
            key_id: session.key.to_string(),
            id: session.id.to_string(),
            begun_at: session.begun_at.into(),
            seen_at: session.seen_at.into(),
            ended_until: session.ended_until.map(Time),
            requests: session.figures.requests,
            input_tokens: session.figures.input_tokens,
            output_tokens: session.figures.output_tokens,
            cost_nano_usd: session.figures.cost.nanos(),
        }
    }
}

/// Sessions.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionList {
    /// The latest first.
    pub sessions: Vec<SessionView>,
}

/// Which sessions to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct SessionQuery {
    /// Only those of this key.
    #[param(min_length = 1, max_length = 64)]
    key_id: Option<String>,
    /// The most sessions in the answer.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
}

/// Which session is meant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionOrder {
    /// The key that it belongs to.
    key_id: String,
    /// What identifies it for that key, as the list has it.
    id: String,
}

/// Lists sessions, the latest first: those in use, and those that an operator ended.
///
/// Figures are those of all processes together; what others counted in their last second may be missing.
#[utoipa::path(get, path = "/admin/sessions", operation_id = "list_sessions", tag = "sessions", params(SessionQuery),
    responses(
    (status = 200, description = "Sessions.", body = SessionList),
))]
pub async fn list(state: State, Params(query): Params<SessionQuery>) -> Result<Response, Refusal> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Refusal::invalid("limit", format!("The limit is 1 to {MAX_LIMIT}.")));
    }
    if query.key_id.as_deref().is_some_and(|id| !(1..=64).contains(&id.chars().count())) {
        return Err(Refusal::invalid("key_id", "The id of a key has 1 to 64 characters."));
    }
    let now = write_what_is_here(&state).await?;
    let idle = Duration::from_millis(state.control.session_config().idle_ms);
    let found = memory::sessions(&*state.memory, query.key_id.as_deref(), (now, idle), limit).await;
    let sessions = found.map_err(Error::from)?.into_iter().map(SessionView::from).collect();
    Ok(respond::ok(&SessionList { sessions }))
}

/// Sets the figures of a session to nothing, and takes back that it was ended; for every process, within a second.
#[utoipa::path(post, path = "/admin/sessions/reset", operation_id = "reset_session", tag = "sessions",
    request_body = SessionOrder, responses(
    (status = 204, description = "It is as if it began now."),
    (status = 404, description = "There is no such session.", body = ErrorAnswer),
))]
pub async fn reset(state: State, Body(order): Body<SessionOrder>) -> Result<Response, Refusal> {
    change(&state, &order, Act::ResetAt(Timestamp::now())).await
}

/// Ends a session: its calls are refused for `kavach.session.ended_ms`, by every process within a second.
#[utoipa::path(post, path = "/admin/sessions/end", operation_id = "end_session", tag = "sessions",
    request_body = SessionOrder, responses(
    (status = 204, description = "Its calls are refused."),
    (status = 404, description = "There is no such session.", body = ErrorAnswer),
))]
pub async fn end(state: State, Body(order): Body<SessionOrder>) -> Result<Response, Refusal> {
    let span = Duration::from_millis(state.control.session_config().ended_ms);
    change(&state, &order, Act::EndUntil(Timestamp::now().plus(span))).await
}

async fn change(state: &State, order: &SessionOrder, act: Act) -> Result<Response, Refusal> {
    let now = write_what_is_here(state).await?;
    let done = memory::act(&*state.memory, (&order.key_id, &order.id), act).await;
    if !done.map_err(Error::from)? {
        return Err(Refusal::missing("session"));
    }
    if let Some(guard) = state.control.guard() {
        guard.memory.take_marks(now).await.map_err(Error::from)?;
    }
    Ok(respond::nothing())
}

/// Lets the store know what this process counted, so that it speaks for all.
async fn write_what_is_here(state: &State) -> Result<Timestamp, Refusal> {
    let now = Timestamp::now();
    if let Some(guard) = state.control.guard() {
        guard.memory.flush(now).await.map_err(Error::from)?;
    }
    Ok(now)
}
