//! A record as a row, both ways, whatever the backend.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::value::{Row, Value, json};
use crate::error::StoreError;
use crate::ledger::reprice::Repriced;
use crate::ledger::{Amendment, Outcome, Record};
use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;
use crate::unit::money::{NanoUsd, PriceRef};
use crate::unit::usage::{ServiceTier, Usage, UsageSource};

/// What is known when an exchange ends, in the order of [`values`].
const FACTS: [&str; 30] = [
    "id",
    "started_at",
    "request_id",
    "operation",
    "method",
    "path",
    "address",
    "key_id",
    "org",
    "team",
    "user",
    "model_requested",
    "model_served",
    "provider",
    "route",
    "stream",
    "status",
    "outcome",
    "reason",
    "error",
    "duration_us",
    "ttft_us",
    "bytes_in",
    "bytes_out",
    "attempts",
    "tags",
    "session",
    "service_tier",
    "verdict",
    "images",
];

/// What an amendment replaces, in the order of [`measures`].
const MEASURES: [&str; 16] = [
    "tokens_input",
    "tokens_cache_read",
    "tokens_cache_write_5m",
    "tokens_cache_write_1h",
    "tokens_input_audio",
    "tokens_input_image",
    "tokens_output",
    "tokens_reasoning",
    "tokens_output_audio",
    "tokens_output_image",
    "usage_source",
    "cost_nano_usd",
    "price_source",
    "price_name",
    "price_effective",
    "charges",
];

/// The statement that inserts so many rows and leaves those alone whose `unique` columns are there.
pub(super) fn insert_statement(rows: usize, unique: &str) -> String {
    let columns = [FACTS.as_slice(), MEASURES.as_slice()].concat();
    let mut place = 0;
    let all: Vec<String> = (0..rows)
        .map(|_| {
            let places: Vec<String> = columns
                .iter()
                .map(|_| {
                    place += 1;
                    format!("${place}")
                })
                .collect();
            format!("({})", places.join(", "))
        })
        .collect();
    let (columns, all) = (columns.join("\", \""), all.join(", "));
    format!("INSERT INTO exchange (\"{columns}\") VALUES {all} ON CONFLICT ({unique}) DO NOTHING")
}

/// The statement that amends one row; the id comes last.
pub(super) fn amend_statement() -> String {
    let set: Vec<String> = MEASURES.iter().zip(1..).map(|(column, place)| format!("{column} = ${place}")).collect();
    format!("UPDATE exchange SET {} WHERE id = ${}", set.join(", "), MEASURES.len() + 1)
}

/// The statement that prices one row again, unless its cost is another than the one that the new one was worked out from.
pub(super) const REPRICE: &str = "UPDATE exchange SET cost_nano_usd = $1, price_source = $2, price_name = $3, \
     price_effective = $4, charges = $5 WHERE id = $6 AND cost_nano_usd IS NOT DISTINCT FROM $7";

/// The values of that statement.
pub(super) fn repriced(repriced: &Repriced) -> Result<Vec<Value<'_>>, StoreError> {
    let mut values = Vec::from(cost(Some(repriced.cost), Some(&repriced.price)));
    values.push(list(&repriced.charges)?);
    values.push(id(&repriced.id));
    values.push(Value::Integer(repriced.before.map(NanoUsd::nanos)));
    Ok(values)
}

/// The values of one row of an insert.
pub(super) fn values(record: &Record) -> Result<Vec<Value<'_>>, StoreError> {
    let mut values = vec![
        id(&record.id),
        Value::Integer(Some(record.started_at.micros())),
        Value::maybe(record.request_id.as_deref()),
        Value::text(&record.operation),
        Value::text(&record.method),
        Value::text(&record.path),
        Value::maybe(record.address.as_deref()),
        Value::maybe(record.key_id.as_deref()),
        Value::maybe(record.org.as_deref()),
        Value::maybe(record.team.as_deref()),
        Value::maybe(record.user.as_deref()),
        Value::maybe(record.model_requested.as_deref()),
        Value::maybe(record.model_served.as_deref()),
        Value::maybe(record.provider.as_deref()),
        Value::maybe(record.route.as_deref()),
        Value::Flag(record.stream),
        Value::Integer(Some(i64::from(record.status))),
        Value::text(record.outcome.as_str()),
        Value::maybe(record.reason.as_deref()),
        Value::maybe(record.error.as_deref()),
        Value::Integer(Some(signed(record.duration_us))),
        Value::Integer(record.ttft_us.map(signed)),
        Value::Integer(Some(signed(record.bytes_in))),
        Value::Integer(Some(signed(record.bytes_out))),
        list(&record.attempts)?,
        list(&record.tags)?,
        Value::maybe(record.session.as_deref()),
        Value::maybe(record.service_tier.map(ServiceTier::as_str)),
        Value::owned(record.verdict.as_ref().map(json).transpose()?),
        Value::owned(record.images.as_ref().map(json).transpose()?),
    ];
    values.extend(usage(record.usage.as_ref(), record.usage_source));
    values.extend(cost(record.cost, record.price.as_ref()));
    values.push(list(&record.charges)?);
    Ok(values)
}

/// The values of an amendment: what it sets, then the id.
pub(super) fn measures(amendment: &Amendment) -> Result<Vec<Value<'_>>, StoreError> {
    let mut values = usage(Some(&amendment.usage), Some(amendment.usage_source));
    values.extend(cost(amendment.cost, amendment.price.as_ref()));
    let corrected = amendment.correction.as_ref().map(|correction| &correction.charges);
    values.push(list(corrected.unwrap_or(&amendment.charges))?);
    values.push(id(&amendment.id));
    Ok(values)
}

/// An exchange's id as a value.
pub(super) fn id(id: &ExchangeId) -> Value<'_> {
    Value::Bytes(Some(Cow::Borrowed(id.0.as_bytes())))
}

/// A list as JSON; nothing for an empty one.
fn list<T: Serialize>(items: &[T]) -> Result<Value<'static>, StoreError> {
    Ok(Value::owned(if items.is_empty() { None } else { Some(json(items)?) }))
}

fn usage(usage: Option<&Usage>, source: Option<UsageSource>) -> Vec<Value<'static>> {
    let counts = match usage {
        None => [None; 10],
        Some(usage) => usage.counts().map(|count| Some(signed(count))),
    };
    let source = Value::maybe(source.map(source_text));
    counts.into_iter().map(Value::Integer).chain([source]).collect()
}

fn cost(cost: Option<NanoUsd>, price: Option<&PriceRef>) -> [Value<'_>; 4] {
    [
        Value::Integer(cost.map(NanoUsd::nanos)),
        Value::maybe(price.map(|price| price.source.as_ref())),
        Value::maybe(price.map(|price| price.name.as_str())),
        Value::maybe(price.and_then(|price| price.effective.as_deref())),
    ]
}

/// Reads a whole row, whatever the order of its columns.
pub(super) fn read(row: &impl Row) -> Result<Record, StoreError> {
    let shared = |column| Ok::<_, StoreError>(row.text(column)?.map(Arc::from));
    Ok(Record {
        id: exchange_id(row)?,
        started_at: Timestamp(row.number("started_at")?),
        request_id: row.text("request_id")?,
        operation: row.word("operation")?,
        method: row.word("method")?,
        path: row.word("path")?,
        address: row.text("address")?,
        key_id: shared("key_id")?,
        org: shared("org")?,
        team: shared("team")?,
        user: shared("user")?,
        model_requested: row.text("model_requested")?,
        model_served: row.text("model_served")?,
        provider: shared("provider")?,
        route: shared("route")?,
        stream: row.flag("stream")?,
        status: u16::try_from(row.number("status")?).unwrap_or_default(),
        outcome: word(OUTCOMES, &row.word("outcome")?)?,
        reason: row.text("reason")?,
        error: row.text("error")?,
        usage: read_usage(row)?,
        usage_source: row.text("usage_source")?.map(|text| word(SOURCES, &text)).transpose()?,
        service_tier: row.text("service_tier")?.map(|text| word(ServiceTier::ALL, &text)).transpose()?,
        cost: row.integer("cost_nano_usd")?.map(NanoUsd),
        price: read_price(row)?,
        duration_us: row.count("duration_us")?.unwrap_or(0),
        ttft_us: row.count("ttft_us")?,
        bytes_in: row.count("bytes_in")?.unwrap_or(0),
        bytes_out: row.count("bytes_out")?.unwrap_or(0),
        attempts: row.json("attempts")?,
        tags: row.json("tags")?,
        session: shared("session")?,
        verdict: row.json("verdict")?,
        images: row.json("images")?,
        charges: row.json("charges")?,
        commitments: None,
    })
}

fn exchange_id(row: &impl Row) -> Result<ExchangeId, StoreError> {
    let id = row.bytes("id")?.and_then(|bytes| Uuid::from_slice(&bytes).ok());
    id.map(ExchangeId).ok_or_else(|| StoreError::Corrupt("an exchange id has not 16 bytes".into()))
}

fn read_usage(row: &impl Row) -> Result<Option<Usage>, StoreError> {
    let Some(input) = row.count("tokens_input")? else { return Ok(None) };
    let count = |column| row.count(column).map(Option::unwrap_or_default);
    Ok(Some(Usage {
        input,
        cache_read: count("tokens_cache_read")?,
        cache_write_5m: count("tokens_cache_write_5m")?,
        cache_write_1h: count("tokens_cache_write_1h")?,
        input_audio: count("tokens_input_audio")?,
        input_image: count("tokens_input_image")?,
        output: count("tokens_output")?,
        reasoning: count("tokens_reasoning")?,
        output_audio: count("tokens_output_audio")?,
        output_image: count("tokens_output_image")?,
    }))
}

fn read_price(row: &impl Row) -> Result<Option<PriceRef>, StoreError> {
    let (source, name) = (row.text("price_source")?.map(Arc::from), row.text("price_name")?);
    let effective = row.text("price_effective")?;
    Ok(source.zip(name).map(|(source, name)| PriceRef { source, name, effective }))
}

/// A number as databases hold it: at most 2^63-1.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

const OUTCOMES: [Outcome; 7] = [
    Outcome::Answered,
    Outcome::Refused,
    Outcome::UpstreamFailed,
    Outcome::UpstreamCut,
    Outcome::ClientGone,
    Outcome::Withdrawn,
    Outcome::Interrupted,
];

const SOURCES: [UsageSource; 2] = [UsageSource::Reported, UsageSource::Estimated];

fn source_text(source: UsageSource) -> &'static str {
    match source {
        UsageSource::Reported => "reported",
        UsageSource::Estimated => "estimated",
    }
}

/// A value that is stored by its word.
trait Word: Copy {
    fn text(self) -> &'static str;
}

impl Word for Outcome {
    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Word for UsageSource {
    fn text(self) -> &'static str {
        source_text(self)
    }
}

impl Word for ServiceTier {
    fn text(self) -> &'static str {
        self.as_str()
    }
}

fn word<T: Word, const N: usize>(all: [T; N], text: &str) -> Result<T, StoreError> {
    let unknown = || StoreError::Corrupt(format!("{text:?} is a word that this program does not know").into());
    all.into_iter().find(|value| value.text() == text).ok_or_else(unknown)
}
