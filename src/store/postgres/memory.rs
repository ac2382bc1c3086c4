//! What the gate remembers, in PostgreSQL.

use async_trait::async_trait;

use super::super::memory;
use super::super::value::{Row, Value};
use super::{Store, storable};
use crate::error::StoreError;
use crate::kavach::memory::{Change, Kind, MemoryStore, Place, Remembered};
use crate::unit::clock::Timestamp;

/// One change at a time, or two that begin the same session at once would cross. The second number is that of this lock.
const LOCK: &str = "SELECT pg_advisory_xact_lock(1835102823, 2)";
const GET_ALL: &str = "SELECT memory.* FROM gate_memory AS memory \
                       JOIN unnest($1::text[], $2::text[], $3::text[]) AS wanted (kind, key_id, name) \
                       ON memory.kind = wanted.kind AND memory.key_id = wanted.key_id AND memory.name = wanted.name";
const PUT_ALL: &str = "INSERT INTO gate_memory (kind, key_id, name, seen_at, until, mark, body) \
                       SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], \
                       $7::text[]) ON CONFLICT (kind, key_id, name) DO UPDATE SET \
                       seen_at = excluded.seen_at, until = excluded.until, mark = excluded.mark, body = excluded.body";

#[async_trait]
impl MemoryStore for Store {
    async fn remembered(
        &self,
        kind: Kind,
        key: Option<&str>,
        times: (Timestamp, Timestamp),
        limit: usize,
    ) -> Result<Vec<Remembered>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let rows = work.all(work.filled(memory::FIND, memory::find(kind, key, times, limit))).await?;
            rows.iter().map(memory::read).collect()
        })
        .await
    }

    async fn marked(&self, after: u64) -> Result<Vec<Remembered>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let after = Value::Integer(Some(i64::try_from(after).unwrap_or(i64::MAX)));
            let rows = work.all(work.filled(memory::MARKED, [after])).await?;
            rows.iter().map(memory::read).collect()
        })
        .await
    }

    async fn change(&self, places: &[Place], marks: bool, change: Change<'_>) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            work.one(work.sql(LOCK)).await?;
            let text = |pick: fn(&Place) -> &str| -> Vec<String> {
                places.iter().map(|place| storable(pick(place)).into_owned()).collect()
            };
            let wanted = work.sql(GET_ALL).bind(text(|place| place.kind.name()));
            let wanted = wanted.bind(text(|place| &place.key)).bind(text(|place| &place.name));
            let rows = work.all(wanted).await?;
            let written = change(rows.iter().map(memory::read).collect::<Result<_, _>>()?);
            if written.is_empty() {
                return Ok(());
            }
            let mut mark = None;
            if marks {
                mark = Some(work.one(work.sql(memory::NEXT)).await?.number("value")?);
                work.one(work.sql("SELECT pg_notify('marg_changed', '')")).await?;
            }
            let text = |pick: fn(&Remembered) -> &str| -> Vec<String> {
                written.iter().map(|row| storable(pick(row)).into_owned()).collect()
            };
            let signed = |mark: u64| i64::try_from(mark).unwrap_or(i64::MAX);
            let statement = work
                .sql(PUT_ALL)
                .bind(text(|row| row.place.kind.name()))
                .bind(text(|row| &row.place.key))
                .bind(text(|row| &row.place.name))
                .bind(written.iter().map(|row| row.seen_at.micros()).collect::<Vec<i64>>())
                .bind(written.iter().map(|row| row.until.map(Timestamp::micros)).collect::<Vec<Option<i64>>>())
                .bind(written.iter().map(|row| mark.unwrap_or_else(|| signed(row.mark))).collect::<Vec<i64>>())
                .bind(text(|row| &row.body));
            work.execute(statement).await?;
            work.commit().await
        })
        .await
    }

    async fn forget_over(
        &self,
        kind: Kind,
        (since, until): (Timestamp, Timestamp),
        most: usize,
    ) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let kind = || Value::text(kind.name());
            let old = [kind(), memory::time(since), memory::time(until)];
            work.execute(work.filled(memory::FORGET_OLD, old)).await?;
            let many = [kind(), memory::time(until), memory::number(most)];
            work.execute(work.filled(memory::FORGET_MANY, many)).await?;
            work.commit().await
        })
        .await
    }
}
