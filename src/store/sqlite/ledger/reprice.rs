//! Pricing rows again, in SQLite.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::Row;

use super::super::super::record;
use super::super::{Store, bind, failed};
use crate::error::StoreError;
use crate::ledger::reprice::{Adjustment, RepriceStore, Repriced, Repricing};
use crate::unit::id::ExchangeId;

#[async_trait]
impl RepriceStore for Store {
    async fn begin_repricing(&self, repricing: &Repricing) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        sqlx::query(
            "INSERT INTO repricing (id, done_by, started_at, since, until, records, difference_nano_usd) \
             VALUES (?, ?, ?, ?, ?, 0, 0)",
        )
        .bind(repricing.id.as_str())
        .bind(repricing.by.as_str())
        .bind(repricing.started_at.micros())
        .bind(repricing.since.map(|since| since.micros()))
        .bind(repricing.until.map(|until| until.micros()))
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    async fn reprice(&self, repricing: &str, rows: &[Repriced]) -> Result<Vec<ExchangeId>, StoreError> {
        let mut transaction = self.write().await?;
        let (mut written, mut difference) = (Vec::new(), 0_i64);
        let mut moves: BTreeMap<String, i64> = BTreeMap::new();
        for repriced in rows {
            let query = record::repriced(repriced)?.into_iter().fold(sqlx::query(record::REPRICE), bind);
            let done = query.execute(&mut *transaction).await.map_err(failed)?;
            if done.rows_affected() == 0 {
                continue;
            }
            written.push(repriced.id);
            let by = repriced.cost.nanos().saturating_sub(repriced.before.unwrap_or_default().nanos());
            difference = difference.saturating_add(by);
            for (counter, by) in &repriced.moves {
                let sum = moves.entry(counter.to_string()).or_default();
                *sum = sum.saturating_add(*by);
            }
        }
        for (counter, amount) in moves.into_iter().filter(|(_, amount)| *amount != 0) {
            sqlx::query("INSERT INTO price_adjustment (repricing, counter, amount) VALUES (?, ?, ?)")
                .bind(repricing)
                .bind(counter)
                .bind(amount)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        sqlx::query(
            "UPDATE repricing SET records = records + ?, difference_nano_usd = difference_nano_usd + ? WHERE id = ?",
        )
        .bind(i64::try_from(written.len()).unwrap_or(i64::MAX))
        .bind(difference)
        .bind(repricing)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(written)
    }

    async fn adjustments(&self) -> Result<Vec<Adjustment>, StoreError> {
        // Through the writer, which alone knows what was just written.
        let rows = sqlx::query("SELECT number, counter, amount, sent FROM price_adjustment ORDER BY number LIMIT 1000")
            .fetch_all(&self.writer)
            .await
            .map_err(failed)?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            let counter: String = row.try_get("counter").map_err(failed)?;
            Ok(Adjustment {
                number: row.try_get("number").map_err(failed)?,
                counter: counter.parse().map_err(|text: String| StoreError::Corrupt(text.into()))?,
                amount: row.try_get("amount").map_err(failed)?,
                sent: row.try_get("sent").map_err(failed)?,
            })
        };
        rows.iter().map(read).collect()
    }

    async fn send_adjustment(&self, number: i64) -> Result<bool, StoreError> {
        let mut transaction = self.write().await?;
        let done = sqlx::query("UPDATE price_adjustment SET sent = 1 WHERE number = ? AND sent = 0")
            .bind(number)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(done.rows_affected() == 1)
    }

    async fn close_adjustment(&self, number: i64) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        sqlx::query("DELETE FROM price_adjustment WHERE number = ?")
            .bind(number)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }
}
