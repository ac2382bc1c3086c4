//! Sessions that the running gateway remembers: list, reset, end.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::control::Guard;
use crate::admin::respond::{self, Body, ErrorAnswer, Params, Refusal};
use crate::admin::time::Time;
use crate::error::{Error, Kind};
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
            requests: session.requests,
            input_tokens: session.input_tokens,
            output_tokens: session.output_tokens,
            cost_nano_usd: session.cost.nanos(),
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

/// Lists the sessions that this process remembers, the latest first.
#[utoipa::path(get, path = "/admin/sessions", operation_id = "list_sessions", tag = "sessions", params(SessionQuery),
    responses(
    (status = 200, description = "Sessions.", body = SessionList),
    (status = 503, description = "No gateway runs here.", body = ErrorAnswer),
))]
pub async fn list(state: State, Params(query): Params<SessionQuery>) -> Result<Response, Refusal> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Refusal::invalid("limit", format!("The limit is 1 to {MAX_LIMIT}.")));
    }
    if query.key_id.as_deref().is_some_and(|id| !(1..=64).contains(&id.chars().count())) {
        return Err(Refusal::invalid("key_id", "The id of a key has 1 to 64 characters."));
    }
    let found = guard(&state)?.sessions.list(query.key_id.as_deref(), limit);
    Ok(respond::ok(&SessionList { sessions: found.into_iter().map(SessionView::from).collect() }))
}

/// Sets the figures of a session to nothing, and takes back that it was ended.
#[utoipa::path(post, path = "/admin/sessions/reset", operation_id = "reset_session", tag = "sessions",
    request_body = SessionOrder, responses(
    (status = 204, description = "It is as if it began now."),
    (status = 404, description = "There is no such session.", body = ErrorAnswer),
    (status = 503, description = "No gateway runs here.", body = ErrorAnswer),
))]
pub async fn reset(state: State, Body(order): Body<SessionOrder>) -> Result<Response, Refusal> {
    let is_there = guard(&state)?.sessions.reset(&order.key_id, &order.id, Timestamp::now());
    if is_there { Ok(respond::nothing()) } else { Err(Refusal::missing("session")) }
}

/// Ends a session: its calls are refused for `kavach.session.ended_ms`.
#[utoipa::path(post, path = "/admin/sessions/end", operation_id = "end_session", tag = "sessions",
    request_body = SessionOrder, responses(
    (status = 204, description = "Its calls are refused."),
    (status = 404, description = "There is no such session.", body = ErrorAnswer),
    (status = 503, description = "No gateway runs here.", body = ErrorAnswer),
))]
pub async fn end(state: State, Body(order): Body<SessionOrder>) -> Result<Response, Refusal> {
    let is_there = guard(&state)?.sessions.end(&order.key_id, &order.id, Timestamp::now());
    if is_there { Ok(respond::nothing()) } else { Err(Refusal::missing("session")) }
}

fn guard(state: &State) -> Result<Guard, Error> {
    let text = "Sessions are in the memory of a running gateway: ask it (--server on the command line).";
    state.control.guard().ok_or_else(|| Error::new(Kind::Unavailable, text))
}
