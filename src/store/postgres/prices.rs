//! Stored prices in PostgreSQL.

use async_trait::async_trait;

use super::super::noun;
use super::super::value::Row;
use super::{Store, found};
use crate::catalog::stored::{MAX_STORED_PRICES, PriceStore, StoredPrice};
use crate::error::StoreError;

const PUT: &str = "INSERT INTO stored_price (id, provider, model, effective, config, changed_by, created_at, updated_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (provider, model, effective) DO UPDATE SET \
                   config = excluded.config, changed_by = excluded.changed_by, updated_at = excluded.updated_at RETURNING *";

#[async_trait]
impl PriceStore for Store {
    async fn prices(&self) -> Result<Vec<StoredPrice>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let rows = work.all(work.sql("SELECT * FROM stored_price ORDER BY id")).await?;
            rows.iter().map(noun::price).collect()
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
                let row = work.one(work.filled(PUT, noun::price_values(price)?)).await?;
                stored.push(noun::price(&row)?);
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
