//! What the gate remembers, in SQLite.

use async_trait::async_trait;

use super::super::memory;
use super::super::value::Value;
use super::{Store, failed, filled};
use crate::error::StoreError;
use crate::kavach::memory::{Change, Kind, MemoryStore, Place, Remembered};
use crate::unit::clock::Timestamp;

#[async_trait]
impl MemoryStore for Store {
    async fn remembered(
        &self,
        kind: Kind,
        key: Option<&str>,
        times: (Timestamp, Timestamp),
        limit: usize,
    ) -> Result<Vec<Remembered>, StoreError> {
        let statement = filled(memory::FIND, memory::find(kind, key, times, limit));
        let rows = statement.fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(memory::read).collect()
    }

    async fn marked(&self, after: u64) -> Result<Vec<Remembered>, StoreError> {
        let after = Value::Integer(Some(i64::try_from(after).unwrap_or(i64::MAX)));
        let rows = filled(memory::MARKED, [after]).fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(memory::read).collect()
    }

    async fn change(&self, places: &[Place], marks: bool, change: Change<'_>) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let mut rows = Vec::new();
        for place in places {
            let statement = filled(memory::GET, memory::place(place));
            let row = statement.fetch_optional(&mut *transaction).await.map_err(failed)?;
            rows.extend(row.as_ref().map(memory::read).transpose()?);
        }
        let written = change(rows);
        let mut mark = None;
        if marks && !written.is_empty() {
            let next: i64 = sqlx::query_scalar(memory::NEXT).fetch_one(&mut *transaction).await.map_err(failed)?;
            mark = Some(next);
        }
        for row in &written {
            filled(memory::PUT, memory::values(row, mark)).execute(&mut *transaction).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    async fn forget_over(
        &self,
        kind: Kind,
        (since, until): (Timestamp, Timestamp),
        most: usize,
    ) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let kind = || Value::text(kind.name());
        let old = filled(memory::FORGET_OLD, [kind(), memory::time(since), memory::time(until)]);
        old.execute(&mut *transaction).await.map_err(failed)?;
        let many = filled(memory::FORGET_MANY, [kind(), memory::time(until), memory::number(most)]);
        many.execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }
}
