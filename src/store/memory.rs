//! What the gate remembers as rows, both ways, and the statements that both databases know.

use super::value::{Row, Value};
use crate::error::StoreError;
use crate::kavach::memory::{Kind, Place, Remembered};
use crate::unit::clock::Timestamp;

/// The rows of a kind ($1), of a key ($2, or all for NULL), seen since ($3) or with a word beyond ($4); at most $5.
pub(super) const FIND: &str = "SELECT * FROM gate_memory WHERE kind = $1 AND (CAST($2 AS TEXT) IS NULL OR key_id = $2) \
                               AND (seen_at >= $3 OR until > $4) ORDER BY seen_at DESC, key_id, name LIMIT $5";
/// The rows that operators changed after a generation.
pub(super) const MARKED: &str = "SELECT * FROM gate_memory WHERE mark > $1 ORDER BY mark";
/// One row.
pub(super) const GET: &str = "SELECT * FROM gate_memory WHERE kind = $1 AND key_id = $2 AND name = $3";
/// Writes one row over what is there.
pub(super) const PUT: &str = "INSERT INTO gate_memory (kind, key_id, name, seen_at, until, mark, body) \
                              VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (kind, key_id, name) DO UPDATE SET \
                              seen_at = excluded.seen_at, until = excluded.until, mark = excluded.mark, body = excluded.body";
/// Moves the generation on.
pub(super) const NEXT: &str = "UPDATE generation SET value = value + 1 RETURNING value";
/// Deletes what was not seen since ($2) and has no word beyond ($3).
pub(super) const FORGET_OLD: &str =
    "DELETE FROM gate_memory WHERE kind = $1 AND seen_at < $2 AND (until IS NULL OR until <= $3)";
/// Deletes the oldest without a word beyond ($2), if there are more than $3.
pub(super) const FORGET_MANY: &str = "DELETE FROM gate_memory WHERE kind = $1 AND (until IS NULL OR until <= $2) AND seen_at <= \
     (SELECT seen_at FROM gate_memory WHERE kind = $1 ORDER BY seen_at DESC LIMIT 1 OFFSET $3)";

/// The values of [`FIND`].
pub(super) fn find<'v>(
    kind: Kind,
    key: Option<&'v str>,
    (since, until): (Timestamp, Timestamp),
    limit: usize,
) -> [Value<'v>; 5] {
    [Value::text(kind.name()), Value::maybe(key), time(since), time(until), number(limit)]
}

/// The values of [`GET`].
pub(super) fn place(place: &Place) -> [Value<'_>; 3] {
    [Value::text(place.kind.name()), Value::text(&place.key), Value::text(&place.name)]
}

/// The values of [`PUT`]; with the mark, if an operator changes it.
pub(super) fn values(row: &Remembered, mark: Option<i64>) -> [Value<'_>; 7] {
    let [kind, key, name] = place(&row.place);
    let mark = mark.unwrap_or_else(|| i64::try_from(row.mark).unwrap_or(i64::MAX));
    let until = Value::Integer(row.until.map(Timestamp::micros));
    [kind, key, name, time(row.seen_at), until, Value::Integer(Some(mark)), Value::text(&row.body)]
}

/// A row as it was written.
pub(super) fn read(row: &impl Row) -> Result<Remembered, StoreError> {
    let kind = match row.word("kind")?.as_str() {
        "session" => Kind::Session,
        "habit" => Kind::Habit,
        "writer" => Kind::Writer,
        _ => return Err(StoreError::Corrupt("column kind is none of the program's words".into())),
    };
    Ok(Remembered {
        place: Place { kind, key: row.word("key_id")?.into(), name: row.word("name")?.into() },
        seen_at: Timestamp(row.number("seen_at")?),
        until: row.integer("until")?.map(Timestamp),
        mark: row.count("mark")?.unwrap_or(0),
        body: row.word("body")?,
    })
}

/// A time as a value.
pub(super) fn time(at: Timestamp) -> Value<'static> {
    Value::Integer(Some(at.micros()))
}

/// A number as a value.
pub(super) fn number(number: usize) -> Value<'static> {
    Value::Integer(Some(i64::try_from(number).unwrap_or(i64::MAX)))
}
