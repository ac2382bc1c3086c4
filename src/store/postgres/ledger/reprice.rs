//! Pricing rows again, in PostgreSQL.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::super::super::record;
use super::super::super::value::Row;
use super::super::{Store, bind};
use crate::error::StoreError;
use crate::ledger::reprice::{Adjustment, RepriceStore, Repriced, Repricing};
use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;

#[async_trait]
impl RepriceStore for Store {
    async fn begin_repricing(&self, repricing: &Repricing) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work
                .sql(
                    "INSERT INTO repricing (id, done_by, started_at, since, until, records, difference_nano_usd) \
                     VALUES ($1, $2, $3, $4, $5, 0, 0)",
                )
                .bind(repricing.id.clone())
                .bind(repricing.by.clone())
                .bind(repricing.started_at.micros())
                .bind(repricing.since.map(Timestamp::micros))
                .bind(repricing.until.map(Timestamp::micros));
            work.execute(statement).await?;
            work.commit().await
        })
        .await
    }

    async fn reprice(&self, repricing: &str, rows: &[Repriced]) -> Result<Vec<ExchangeId>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let (mut written, mut difference) = (Vec::new(), 0_i64);
            let mut moves: BTreeMap<String, i64> = BTreeMap::new();
            for repriced in rows {
                let statement = record::repriced(repriced)?.into_iter().fold(work.sql(record::REPRICE), bind);
                if work.execute(statement).await?.rows_affected() == 0 {
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
                let statement = "INSERT INTO price_adjustment (repricing, counter, amount) VALUES ($1, $2, $3)";
                work.execute(work.sql(statement).bind(repricing.to_owned()).bind(counter).bind(amount)).await?;
            }
            let statement = work.sql(
                "UPDATE repricing SET records = records + $1, difference_nano_usd = difference_nano_usd + $2 \
                 WHERE id = $3",
            );
            let count = i64::try_from(written.len()).unwrap_or(i64::MAX);
            work.execute(statement.bind(count).bind(difference).bind(repricing.to_owned())).await?;
            work.commit().await?;
            Ok(written)
        })
        .await
    }

    async fn adjustments(&self) -> Result<Vec<Adjustment>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let rows = work.all(work.sql("SELECT * FROM price_adjustment ORDER BY number LIMIT 1000")).await?;
            let read = |row: &PgRow| {
                Ok(Adjustment {
                    number: row.number("number")?,
                    counter: row.word("counter")?.parse().map_err(|text: String| StoreError::Corrupt(text.into()))?,
                    amount: row.number("amount")?,
                    sent: row.flag("sent")?,
                })
            };
            rows.iter().map(read).collect()
        })
        .await
    }

    async fn send_adjustment(&self, number: i64) -> Result<bool, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = "UPDATE price_adjustment SET sent = TRUE WHERE number = $1 AND NOT sent";
            let done = work.execute(work.sql(statement).bind(number)).await?;
            work.commit().await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    async fn close_adjustment(&self, number: i64) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            work.execute(work.sql("DELETE FROM price_adjustment WHERE number = $1").bind(number)).await?;
            work.commit().await
        })
        .await
    }
}
