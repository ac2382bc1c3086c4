//! A record as a row, both ways.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::super::failed;
use super::super::keys::json;
use super::Statement;
use crate::error::StoreError;
use crate::ledger::{Outcome, Record};
use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;
use crate::unit::money::{NanoUsd, PriceRef};
use crate::unit::usage::{ServiceTier, Usage, UsageSource};

/// What is known when an exchange ends, in the order of [`bind`].
const FACTS: [&str; 28] = [
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
];

/// What an amendment replaces, in the order of [`bind_usage`] and [`bind_cost`].
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

/// The statement that inserts so many rows and leaves those alone whose id is there.
pub(super) fn insert_statement(rows: usize) -> String {
    let columns = [FACTS.as_slice(), MEASURES.as_slice()].concat();
    let values = format!("({})", vec!["?"; columns.len()].join(", "));
    let all = vec![values; rows].join(", ");
    format!("INSERT INTO exchange ({}) VALUES {all} ON CONFLICT (id) DO NOTHING", columns.join(", "))
}

/// The statement that amends one row; the id comes last.
pub(super) fn amend_statement() -> String {
    format!("UPDATE exchange SET {} = ? WHERE id = ?", MEASURES.join(" = ?, "))
}

/// The statement that prices one row again, unless its cost is another than the one that the new one was worked out from.
/// Cost, price, charges, the id, and the cost before, in this order.
pub(super) const REPRICE: &str = "UPDATE exchange SET cost_nano_usd = ?, price_source = ?, price_name = ?, \
     price_effective = ?, charges = ? WHERE id = ? AND cost_nano_usd IS ?";

/// Binds one record to the next places of an insert.
pub(super) fn bind<'q>(query: Statement<'q>, record: &Record) -> Result<Statement<'q>, StoreError> {
    let query = query
        .bind(record.id.0.as_bytes().as_slice())
        .bind(record.started_at.micros())
        .bind(record.request_id.as_deref())
        .bind(record.operation.as_str())
        .bind(record.method.as_str())
        .bind(record.path.as_str())
        .bind(record.address.as_deref())
        .bind(record.key_id.as_deref())
        .bind(record.org.as_deref())
        .bind(record.team.as_deref())
        .bind(record.user.as_deref())
        .bind(record.model_requested.as_deref())
        .bind(record.model_served.as_deref())
        .bind(record.provider.as_deref())
        .bind(record.route.as_deref())
        .bind(record.stream)
        .bind(i64::from(record.status))
        .bind(outcome_text(record.outcome))
        .bind(record.reason.as_deref())
        .bind(record.error.as_deref())
        .bind(signed(record.duration_us))
        .bind(record.ttft_us.map(signed))
        .bind(signed(record.bytes_in))
        .bind(signed(record.bytes_out))
        .bind(list(&record.attempts)?)
        .bind(list(&record.tags)?)
        .bind(record.session.as_deref())
        .bind(record.service_tier.map(ServiceTier::as_str));
    let query = bind_usage(query, record.usage.as_ref(), record.usage_source);
    Ok(bind_cost(query, record.cost, record.price.as_ref()).bind(list(&record.charges)?))
}

/// A list as JSON; nothing for an empty one.
pub(super) fn list<T: Serialize>(items: &[T]) -> Result<Option<String>, StoreError> {
    if items.is_empty() { Ok(None) } else { json(&items).map(Some) }
}

/// Binds token counts and who counted.
pub(super) fn bind_usage<'q>(
    query: Statement<'q>,
    usage: Option<&Usage>,
    source: Option<UsageSource>,
) -> Statement<'q> {
    let counts: [Option<i64>; 10] = match usage {
        None => [None; 10],
        Some(usage) => {
            // Taken apart without `..`, so that a class that is added is missed by the compiler, not in the bills.
            let Usage {
                input,
                cache_read,
                cache_write_5m,
                cache_write_1h,
                input_audio,
                input_image,
                output,
                reasoning,
                output_audio,
                output_image,
            } = *usage;
            [
                input,
                cache_read,
                cache_write_5m,
                cache_write_1h,
                input_audio,
                input_image,
                output,
                reasoning,
                output_audio,
                output_image,
            ]
            .map(|count| Some(signed(count)))
        }
    };
    counts.into_iter().fold(query, Statement::bind).bind(source.map(source_text))
}

/// Binds the cost and the price behind it.
pub(super) fn bind_cost<'q>(query: Statement<'q>, cost: Option<NanoUsd>, price: Option<&PriceRef>) -> Statement<'q> {
    query
        .bind(cost.map(NanoUsd::nanos))
        .bind(price.map(|price| price.source.as_ref()))
        .bind(price.map(|price| price.name.as_str()))
        .bind(price.and_then(|price| price.effective.as_deref()))
}

/// Reads a whole row, whatever the order of its columns.
pub(super) fn read(row: &SqliteRow) -> Result<Record, StoreError> {
    let row = Columns(row);
    Ok(Record {
        id: ExchangeId(row.id()?),
        started_at: Timestamp(row.get("started_at")?),
        request_id: row.get("request_id")?,
        operation: row.get("operation")?,
        method: row.get("method")?,
        path: row.get("path")?,
        address: row.get("address")?,
        key_id: row.shared("key_id")?,
        org: row.shared("org")?,
        team: row.shared("team")?,
        user: row.shared("user")?,
        model_requested: row.get("model_requested")?,
        model_served: row.get("model_served")?,
        provider: row.shared("provider")?,
        route: row.shared("route")?,
        stream: row.get("stream")?,
        status: row.get("status")?,
        outcome: word(OUTCOMES, &row.get::<String>("outcome")?)?,
        reason: row.get("reason")?,
        error: row.get("error")?,
        usage: row.usage()?,
        usage_source: row.get::<Option<String>>("usage_source")?.map(|text| word(SOURCES, &text)).transpose()?,
        service_tier: row
            .get::<Option<String>>("service_tier")?
            .map(|text| word(ServiceTier::ALL, &text))
            .transpose()?,
        cost: row.get::<Option<i64>>("cost_nano_usd")?.map(NanoUsd),
        price: row.price()?,
        duration_us: row.count("duration_us")?.unwrap_or(0),
        ttft_us: row.count("ttft_us")?,
        bytes_in: row.count("bytes_in")?.unwrap_or(0),
        bytes_out: row.count("bytes_out")?.unwrap_or(0),
        attempts: row.list("attempts")?,
        tags: row.list("tags")?,
        session: row.shared("session")?,
        charges: row.list("charges")?,
    })
}

/// A row, by the names of its columns.
struct Columns<'r>(&'r SqliteRow);

impl<'r> Columns<'r> {
    fn get<T>(&self, column: &str) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.0.try_get(column).map_err(failed)
    }

    fn shared(&self, column: &str) -> Result<Option<Arc<str>>, StoreError> {
        Ok(self.get::<Option<String>>(column)?.map(Into::into))
    }

    fn count(&self, column: &str) -> Result<Option<u64>, StoreError> {
        let count = self.get::<Option<i64>>(column)?.map(u64::try_from).transpose();
        count.map_err(|_| StoreError::Corrupt(format!("column {column} is negative").into()))
    }

    fn list<T: DeserializeOwned>(&self, column: &str) -> Result<Vec<T>, StoreError> {
        let Some(text) = self.get::<Option<String>>(column)? else { return Ok(Vec::new()) };
        serde_json::from_str(&text).map_err(|cause| StoreError::Corrupt(format!("column {column}: {cause}").into()))
    }

    fn id(&self) -> Result<Uuid, StoreError> {
        let bytes: &[u8] = self.get("id")?;
        Uuid::from_slice(bytes).map_err(|_| StoreError::Corrupt("an exchange id has not 16 bytes".into()))
    }

    fn usage(&self) -> Result<Option<Usage>, StoreError> {
        let Some(input) = self.count("tokens_input")? else { return Ok(None) };
        let count = |column| self.count(column).map(Option::unwrap_or_default);
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

    fn price(&self) -> Result<Option<PriceRef>, StoreError> {
        let (source, name) = (self.shared("price_source")?, self.get::<Option<String>>("price_name")?);
        let effective = self.get("price_effective")?;
        Ok(source.zip(name).map(|(source, name)| PriceRef { source, name, effective }))
    }
}

/// A number as SQLite can hold it: at most 2^63-1.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

const OUTCOMES: [Outcome; 6] = [
    Outcome::Answered,
    Outcome::Refused,
    Outcome::UpstreamFailed,
    Outcome::UpstreamCut,
    Outcome::ClientGone,
    Outcome::Interrupted,
];

const SOURCES: [UsageSource; 2] = [UsageSource::Reported, UsageSource::Estimated];

/// The word for an outcome, the same as in JSON.
pub(super) fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "answered",
        Outcome::Refused => "refused",
        Outcome::UpstreamFailed => "upstream_failed",
        Outcome::UpstreamCut => "upstream_cut",
        Outcome::ClientGone => "client_gone",
        Outcome::Interrupted => "interrupted",
    }
}

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
        outcome_text(self)
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
