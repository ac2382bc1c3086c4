//! Filters as SQL. Every value is bound; only names of columns and indexes are written into the text.

use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};

use super::super::failed;
use crate::error::StoreError;
use crate::ledger::query::{Cursor, Filter, Group, MAX_LIMIT, MAX_SUMS, Order, Page, Spender, Summary, UsageSum};
use crate::store::filter::{Speech, grouped_by, push_conditions, push_cursor};
use crate::store::record;
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;
use crate::unit::usage::Usage;

/// A page of records.
pub(super) async fn page(readers: &SqlitePool, filter: &Filter) -> Result<Page, StoreError> {
    let limit = filter.limit.clamp(1, MAX_LIMIT);
    let rows = page_query(filter, limit).build().persistent(false).fetch_all(readers).await.map_err(failed)?;
    let shown = rows.get(..limit).unwrap_or(&rows);
    let last = shown.last().map(cursor).transpose()?;
    let next = match filter.order {
        Order::Arrival => last.or(filter.after),
        Order::NewestFirst | Order::OldestFirst => last.filter(|_| rows.len() > limit),
    };
    Ok(Page { records: shown.iter().map(record::read).collect::<Result<_, _>>()?, next })
}

/// The place behind the record that arrived last.
pub(super) async fn end(readers: &SqlitePool) -> Result<Cursor, StoreError> {
    let last = sqlx::query("SELECT started_at, number FROM exchange ORDER BY number DESC LIMIT 1")
        .fetch_optional(readers)
        .await
        .map_err(failed)?;
    Ok(last.as_ref().map(cursor).transpose()?.unwrap_or(Cursor { started_at: Timestamp(0), number: 0 }))
}

/// Sums over all that match.
pub(super) async fn summary(readers: &SqlitePool, filter: &Filter) -> Result<Summary, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
    query.push(SUMS).push(" FROM exchange WHERE TRUE");
    push_conditions(&mut query, filter, &SPEECH);
    sums(&query.build().persistent(false).fetch_one(readers).await.map_err(failed)?)
}

/// Sums by group; see [`LedgerStore::top`](crate::ledger::LedgerStore::top).
pub(super) async fn top(
    readers: &SqlitePool,
    filter: &Filter,
    group: Group,
    limit: usize,
) -> Result<Vec<Spender>, StoreError> {
    let name = grouped_by(group);
    // A record without tags has none to be counted for; every other record is one of its group.
    let from = if group == Group::Tag { "exchange, json_each(exchange.tags) AS tag" } else { "exchange" };
    let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
    query.push(format_args!("{name} AS name, {SUMS} FROM {from} WHERE TRUE"));
    push_conditions(&mut query, filter, &SPEECH);
    query.push(format_args!(" GROUP BY {name} ORDER BY cost DESC, records DESC, name LIMIT "));
    // The bound keeps the number far inside an i64.
    query.push_bind(limit.clamp(1, MAX_LIMIT) as i64);
    let rows = query.build().persistent(false).fetch_all(readers).await.map_err(failed)?;
    rows.iter().map(|row| Ok(Spender { name: row.try_get("name").map_err(failed)?, sums: sums(row)? })).collect()
}

/// One row cannot spoil a sum: tokens count up to 10^12 and cost up to a million dollars in each.
const SUMS: &str = "count(*) AS records, coalesce(sum(outcome <> 'answered'), 0) AS errors, \
         coalesce(sum(cast(min(coalesce(tokens_input + tokens_cache_read + tokens_cache_write_5m \
         + tokens_cache_write_1h + tokens_input_audio + tokens_input_image, 0), 1000000000000) AS INTEGER)), 0) \
         AS input_tokens, \
         coalesce(sum(cast(min(coalesce(tokens_output + tokens_reasoning + tokens_output_audio \
         + tokens_output_image, 0), 1000000000000) AS INTEGER)), 0) AS output_tokens, \
         count(cost_nano_usd) AS priced, \
         coalesce(sum(cost_nano_usd IS NULL AND provider IS NOT NULL AND (tokens_input IS NOT NULL OR status < 400)), 0) \
         AS unpriced, \
         coalesce(sum(max(min(cost_nano_usd, 1000000000000000), -1000000000000000)), 0) AS cost";

fn sums(row: &SqliteRow) -> Result<Summary, StoreError> {
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(failed);
    Ok(Summary {
        records: number("records")?.unsigned_abs(),
        errors: number("errors")?.unsigned_abs(),
        input_tokens: number("input_tokens")?.unsigned_abs(),
        output_tokens: number("output_tokens")?.unsigned_abs(),
        cost: NanoUsd(number("cost")?),
        priced: number("priced")?.unsigned_abs(),
        unpriced: number("unpriced")?.unsigned_abs(),
    })
}

/// Sums by span, provider, model and credential. One row cannot spoil them, as above.
pub(super) async fn usage_sums(readers: &SqlitePool, filter: &Filter, width: i64) -> Result<Vec<UsageSum>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT started_at / ");
    query.push_bind(width.max(1));
    query.push(
        " AS span, provider, coalesce(model_served, model_requested, '') AS model, \
         json_extract(attempts, '$[#-1].credential') AS credential, count(*) AS records, \
         sum(outcome IN ('client_gone', 'upstream_cut', 'withdrawn', 'interrupted')) AS cut, \
         coalesce(sum(usage_source = 'estimated'), 0) AS estimated, sum(cost_nano_usd IS NULL) AS unpriced, \
         coalesce(sum(min(json_extract(images, '$.count'), 1000000)), 0) AS images, \
         coalesce(sum(max(min(cost_nano_usd, 1000000000000000), -1000000000000000)), 0) AS cost",
    );
    for class in CLASSES {
        query.push(format_args!(", coalesce(sum(min(tokens_{class}, 1000000000000)), 0) AS tokens_{class}"));
    }
    query.push(" FROM exchange WHERE provider IS NOT NULL AND (tokens_input IS NOT NULL OR status < 400)");
    push_conditions(&mut query, filter, &SPEECH);
    query.push(format_args!(" GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4 LIMIT {}", MAX_SUMS + 1));
    let rows = query.build().persistent(false).fetch_all(readers).await.map_err(failed)?;
    if rows.len() > MAX_SUMS {
        return Err(StoreError::Conflict(format!("There are more than {MAX_SUMS} sums; ask for less time.").into()));
    }
    rows.iter().map(|row| read_sum(row, width.max(1))).collect()
}

/// The classes of tokens, as their columns are called.
const CLASSES: [&str; 10] = [
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "input_audio",
    "input_image",
    "output",
    "reasoning",
    "output_audio",
    "output_image",
];

fn read_sum(row: &SqliteRow, width: i64) -> Result<UsageSum, StoreError> {
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(failed);
    let count = |column: &str| number(column).map(i64::unsigned_abs);
    let text = |column: &str| row.try_get::<String, _>(column).map_err(failed);
    Ok(UsageSum {
        from: Timestamp(number("span")?.saturating_mul(width)),
        provider: text("provider")?,
        model: text("model")?,
        credential: row
            .try_get::<Option<i64>, _>("credential")
            .map_err(failed)?
            .and_then(|position| u32::try_from(position).ok()),
        records: count("records")?,
        cut: count("cut")?,
        estimated: count("estimated")?,
        unpriced: count("unpriced")?,
        usage: Usage {
            input: count("tokens_input")?,
            cache_read: count("tokens_cache_read")?,
            cache_write_5m: count("tokens_cache_write_5m")?,
            cache_write_1h: count("tokens_cache_write_1h")?,
            input_audio: count("tokens_input_audio")?,
            input_image: count("tokens_input_image")?,
            output: count("tokens_output")?,
            reasoning: count("tokens_reasoning")?,
            output_audio: count("tokens_output_audio")?,
            output_image: count("tokens_output_image")?,
        },
        images: count("images")?,
        cost: NanoUsd(number("cost")?),
    })
}

/// Finds the page in an index, then the rows of the page; one more than the limit tells whether there is a rest. `CROSS JOIN` keeps
/// SQLite from turning the two steps round (sqlite.org/optoverview.html, section 8.3).
pub(super) fn page_query(filter: &Filter, limit: usize) -> QueryBuilder<Sqlite> {
    let index = match (filter.order, filter.errors_only) {
        (Order::Arrival, _) => "NOT INDEXED",
        (_, false) => "INDEXED BY exchange_scan",
        (_, true) => "INDEXED BY exchange_errors",
    };
    let order = match filter.order {
        Order::Arrival => "number",
        Order::OldestFirst => "started_at, number",
        Order::NewestFirst => "started_at DESC, number DESC",
    };
    let mut query = QueryBuilder::<Sqlite>::new("WITH page AS MATERIALIZED (SELECT started_at, number FROM exchange ");
    query.push(index).push(" WHERE TRUE");
    push_conditions(&mut query, filter, &SPEECH);
    push_cursor(&mut query, filter);
    query.push(format_args!(" ORDER BY {order} LIMIT "));
    // The bound keeps the number far inside an i64.
    query.push_bind(limit as i64 + 1);
    let order = order.replace("started_at", "page.started_at").replace("number", "page.number");
    query.push(") SELECT exchange.* FROM page CROSS JOIN exchange ON exchange.number = page.number");
    query.push(format_args!(" ORDER BY {order}"));
    query
}

const SPEECH: Speech = Speech {
    text: str::to_owned,
    // SQLite's GLOB knows `*` and `?` as we do, and character classes, which we do not.
    pattern: |pattern| ("GLOB", pattern.as_str().replace('[', "[[]")),
};

fn cursor(row: &SqliteRow) -> Result<Cursor, StoreError> {
    let started_at = Timestamp(row.try_get("started_at").map_err(failed)?);
    Ok(Cursor { started_at, number: row.try_get("number").map_err(failed)? })
}
