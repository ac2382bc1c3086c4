//! Stored prices in PostgreSQL.

use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::super::value::{Row, json};
use super::{Store, found};
use crate::catalog::stored::{MAX_STORED_PRICES, PriceStore, StoredPrice};
use crate::error::StoreError;
use crate::unit::clock::Timestamp;

#[async_trait]
impl PriceStore for Store {
    async fn prices(&self) -> Result<Vec<StoredPrice>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let rows = work.all(work.sql("SELECT * FROM stored_price ORDER BY id")).await?;
            rows.iter().map(read).collect()
        })
        .await
    }

    async fn put_prices(&self, prices: &[StoredPrice]) -> Result<Vec<StoredPrice>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            // Two that count at once would both find room.
            work.execute(work.sql("LOCK TABLE stored_price IN SHARE ROW EXCLUSIVE MODE")).await?;
            let mut stored = Vec::with_capacity(prices.len());
            for price in prices {
                let statement = work
                    .sql(
                        "INSERT INTO stored_price \
                         (id, provider, model, effective, config, changed_by, created_at, updated_at) \
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (provider, model, effective) DO UPDATE SET \
                         config = excluded.config, changed_by = excluded.changed_by, updated_at = excluded.updated_at \
                         RETURNING *",
                    )
                    .bind(price.id.to_string())
                    .bind(price.row.provider.clone().unwrap_or_default())
                    .bind(price.row.model.clone())
                    .bind(price.row.effective.clone().unwrap_or_default())
                    .bind(json(&price.row)?)
                    .bind(price.changed_by.clone())
                    .bind(price.created_at.micros())
                    .bind(price.updated_at.micros());
                stored.push(read(&work.one(statement).await?)?);
            }
            let count = work.one(work.sql("SELECT count(*) AS prices FROM stored_price")).await?.number("prices")?;
            if usize::try_from(count).unwrap_or(usize::MAX) > MAX_STORED_PRICES {
                let text = format!("There would be more than {MAX_STORED_PRICES} stored prices; delete some.");
                return Err(StoreError::Conflict(text.into()));
            }
            work.commit().await?;
            Ok(stored)
        })
        .await
    }

    async fn delete_price(&self, id: &str) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let done = work.execute(work.sql("DELETE FROM stored_price WHERE id = $1").bind(id.to_owned())).await?;
            found(done.rows_affected())?;
            work.commit().await
        })
        .await
    }
}

fn read(row: &PgRow) -> Result<StoredPrice, StoreError> {
    Ok(StoredPrice {
        id: row.word("id")?.into(),
        row: row.json("config")?,
        changed_by: row.word("changed_by")?,
        created_at: Timestamp(row.number("created_at")?),
        updated_at: Timestamp(row.number("updated_at")?),
    })
}
