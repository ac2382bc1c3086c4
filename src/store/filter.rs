//! Filters of the request log as SQL, as far as databases agree on it. Every value is bound; only names of columns are written
//! into the text.

use sqlx::{Database, Encode, QueryBuilder, Type};

use crate::key::KeyState;
use crate::ledger::query::{Cursor, Filter, Group, Order, StatusFilter};
use crate::store::record;
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;

/// What a database says in its own way.
pub(super) struct Speech {
    /// A text as it was stored.
    pub text: fn(&str) -> String,
    /// The operator and the operand that a pattern with wildcards becomes.
    pub pattern: fn(&Glob) -> (&'static str, String),
}

/// Adds what records must be like, each condition after an `AND`.
pub(super) fn push_conditions<DB>(query: &mut QueryBuilder<DB>, filter: &Filter, speech: &Speech)
where
    DB: Database,
    i64: for<'q> Encode<'q, DB> + Type<DB>,
    String: for<'q> Encode<'q, DB> + Type<DB>,
{
    if let Some(since) = filter.since {
        query.push(" AND started_at >= ").push_bind(since.micros());
    }
    if let Some(until) = filter.until {
        query.push(" AND started_at < ").push_bind(until.micros());
    }
    let texts = [
        (" AND key_id = ", &filter.key_id),
        (" AND org = ", &filter.org),
        (" AND team = ", &filter.team),
        (" AND \"user\" = ", &filter.user),
        (" AND provider = ", &filter.provider),
        (" AND operation = ", &filter.operation),
    ];
    for (condition, value) in texts {
        if let Some(value) = value {
            query.push(condition).push_bind((speech.text)(value));
        }
    }
    if let Some(model) = &filter.model {
        let (operator, operand) = match model.is_literal() {
            true => ("=", (speech.text)(model.as_str())),
            false => (speech.pattern)(model),
        };
        query.push(format_args!(" AND (model_requested {operator} ")).push_bind(operand.clone());
        query.push(format_args!(" OR model_served {operator} ")).push_bind(operand).push(")");
    }
    match filter.status {
        None => {}
        Some(StatusFilter::Exact(status)) => {
            query.push(" AND status = ").push_bind(i64::from(status));
        }
        Some(StatusFilter::Class(class)) => {
            let first = i64::from(class) * 100;
            query.push(" AND status BETWEEN ").push_bind(first).push(" AND ").push_bind(first + 99);
        }
    }
    if let Some(outcome) = filter.outcome {
        query.push(" AND outcome = ").push_bind(record::outcome_text(outcome).to_owned());
    }
    if filter.errors_only {
        // Word for word the condition of the index.
        query.push(" AND outcome <> 'answered'");
    }
}

/// Adds that records come after the place where the page before ended.
pub(super) fn push_cursor<DB>(query: &mut QueryBuilder<DB>, filter: &Filter)
where
    DB: Database,
    i64: for<'q> Encode<'q, DB> + Type<DB>,
{
    let Some(Cursor { started_at, number }) = filter.after else { return };
    match filter.order {
        Order::Arrival => {
            query.push(" AND number > ").push_bind(number);
        }
        Order::OldestFirst | Order::NewestFirst => {
            let beyond = if filter.order == Order::OldestFirst { ">" } else { "<" };
            query.push(format_args!(" AND (started_at, number) {beyond} (")).push_bind(started_at.micros());
            query.push(", ").push_bind(number).push(")");
        }
    }
}

/// Adds that keys be in a state at a moment; the order is the one of [`Key::state`](crate::key::Key::state).
pub(super) fn push_key_state<DB>(query: &mut QueryBuilder<DB>, state: Option<(KeyState, Timestamp)>)
where
    DB: Database,
    i64: for<'q> Encode<'q, DB> + Type<DB>,
{
    let Some((state, now)) = state else { return };
    query.push(match state {
        KeyState::Revoked => " AND revoked_at IS NOT NULL",
        KeyState::Disabled => " AND revoked_at IS NULL AND NOT enabled",
        KeyState::Expired | KeyState::Active | KeyState::Suspended => " AND revoked_at IS NULL AND enabled AND ",
    });
    match state {
        KeyState::Revoked | KeyState::Disabled => return,
        KeyState::Expired => query.push("expires_at <= ").push_bind(now.micros()),
        KeyState::Active | KeyState::Suspended => {
            query.push("(expires_at IS NULL OR expires_at > ").push_bind(now.micros()).push(")")
        }
    };
    match state {
        KeyState::Active => {
            query.push(" AND (suspended_reason IS NULL OR suspended_until <= ").push_bind(now.micros()).push(")")
        }
        KeyState::Suspended => query
            .push(" AND suspended_reason IS NOT NULL AND (suspended_until IS NULL OR suspended_until > ")
            .push_bind(now.micros())
            .push(")"),
        _ => query,
    };
}

/// What records are grouped by; in [`Group::Tag`] the source is named `tag` and its column `value`.
pub(super) fn grouped_by(group: Group) -> &'static str {
    match group {
        Group::Key => "key_id",
        Group::Org => "org",
        Group::Team => "team",
        Group::User => "\"user\"",
        Group::Model => "coalesce(model_served, model_requested)",
        Group::Provider => "provider",
        Group::Tag => "tag.value",
    }
}
