//! Filters as SQL. Every value is bound; only names of columns are written into the text.

use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder};

use super::super::super::filter::{Speech, grouped_by, push_conditions, push_cursor};
use super::super::super::record;
use super::super::super::value::Row;
use super::super::{Work, storable};
use crate::error::StoreError;
use crate::ledger::query::{Cursor, Filter, Group, MAX_LIMIT, Order, Page, Spender, Summary};
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;

/// A page of records, of those with a number up to `until`. One more than the limit tells whether there is a rest.
pub(super) async fn page(work: &mut Work, filter: &Filter, until: Option<i64>) -> Result<Page, StoreError> {
    let limit = filter.limit.clamp(1, MAX_LIMIT);
    let order = match filter.order {
        Order::Arrival => "number",
        Order::OldestFirst => "started_at, number",
        Order::NewestFirst => "started_at DESC, number DESC",
    };
    let mut query = QueryBuilder::<Postgres>::new("SELECT * FROM exchange WHERE TRUE");
    push_conditions(&mut query, filter, &SPEECH);
    push_cursor(&mut query, filter);
    if let Some(until) = until {
        query.push(" AND number <= ").push_bind(until);
    }
    // The bound keeps the number far inside an i64.
    query.push(format_args!(" ORDER BY {order} LIMIT ")).push_bind(limit as i64 + 1);
    let rows = work.built(&mut query).await?;
    let shown = rows.get(..limit).unwrap_or(&rows);
    let last = shown.last().map(cursor).transpose()?;
    let next = match filter.order {
        Order::Arrival => last.or(filter.after),
        Order::NewestFirst | Order::OldestFirst => last.filter(|_| rows.len() > limit),
    };
    Ok(Page { records: shown.iter().map(record::read).collect::<Result<_, _>>()?, next })
}

/// Sums over all that match.
pub(super) async fn summary(work: &mut Work, filter: &Filter) -> Result<Summary, StoreError> {
    let mut query = QueryBuilder::<Postgres>::new("SELECT ");
    query.push(SUMS).push(" FROM exchange WHERE TRUE");
    push_conditions(&mut query, filter, &SPEECH);
    let rows = work.built(&mut query).await?;
    rows.first().map_or_else(|| Ok(Summary::default()), sums)
}

/// Sums by group; see [`LedgerStore::top`](crate::ledger::LedgerStore::top).
pub(super) async fn top(
    work: &mut Work,
    filter: &Filter,
    group: Group,
    limit: usize,
) -> Result<Vec<Spender>, StoreError> {
    let name = grouped_by(group);
    // A record without tags has none to be counted for; every other record is one of its group.
    let from = match group {
        Group::Tag => "exchange, json_array_elements_text(exchange.tags::json) AS tag(value)",
        _ => "exchange",
    };
    let mut query = QueryBuilder::<Postgres>::new("SELECT ");
    query.push(format_args!("{name} AS name, {SUMS} FROM {from} WHERE TRUE"));
    push_conditions(&mut query, filter, &SPEECH);
    query.push(format_args!(
        " GROUP BY {name} ORDER BY cost DESC, records DESC, {name} COLLATE \"C\" NULLS FIRST LIMIT "
    ));
    // The bound keeps the number far inside an i64.
    query.push_bind(limit.clamp(1, MAX_LIMIT) as i64);
    let rows = work.built(&mut query).await?;
    rows.iter().map(|row| Ok(Spender { name: row.text("name")?, sums: sums(row)? })).collect()
}

/// One row cannot spoil a sum: tokens count up to 10^12 and cost up to a million dollars in each. In numeric, because a row may
/// hold the largest number several times; LEAST looks past NULL, so that is made 0 first.
const SUMS: &str = "count(*) AS records, count(*) FILTER (WHERE outcome <> 'answered') AS errors, \
    least(coalesce(sum(least(coalesce(tokens_input::numeric + tokens_cache_read + tokens_cache_write_5m \
    + tokens_cache_write_1h + tokens_input_audio + tokens_input_image, 0), 1000000000000)), 0), \
    9223372036854775807)::bigint AS input_tokens, \
    least(coalesce(sum(least(coalesce(tokens_output::numeric + tokens_reasoning + tokens_output_audio \
    + tokens_output_image, 0), 1000000000000)), 0), 9223372036854775807)::bigint AS output_tokens, \
    count(cost_nano_usd) AS priced, \
    count(*) FILTER (WHERE cost_nano_usd IS NULL AND provider IS NOT NULL \
    AND (tokens_input IS NOT NULL OR status < 400)) AS unpriced, \
    coalesce(sum(greatest(least(coalesce(cost_nano_usd, 0), 1000000000000000), -1000000000000000)), 0)::bigint AS cost";

fn sums(row: &PgRow) -> Result<Summary, StoreError> {
    Ok(Summary {
        records: row.number("records")?.unsigned_abs(),
        errors: row.number("errors")?.unsigned_abs(),
        input_tokens: row.number("input_tokens")?.unsigned_abs(),
        output_tokens: row.number("output_tokens")?.unsigned_abs(),
        cost: NanoUsd(row.number("cost")?),
        priced: row.number("priced")?.unsigned_abs(),
        unpriced: row.number("unpriced")?.unsigned_abs(),
    })
}

const SPEECH: Speech =
    Speech { text: |text| storable(text).into_owned(), pattern: |pattern| ("LIKE", like(&storable(pattern.as_str()))) };

/// A pattern as LIKE understands it: `%` for `*` and `_` for `?`, everything else by itself.
fn like(pattern: &str) -> String {
    let mut like = String::with_capacity(pattern.len());
    for character in pattern.chars() {
        match character {
            '*' => like.push('%'),
            '?' => like.push('_'),
            '%' | '_' | '\\' => like.extend(['\\', character]),
            other => like.push(other),
        }
    }
    like
}

/// The place behind a row.
pub(super) fn cursor(row: &PgRow) -> Result<Cursor, StoreError> {
    Ok(Cursor { started_at: Timestamp(row.number("started_at")?), number: row.number("number")? })
}
