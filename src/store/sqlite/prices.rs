//! Stored prices in SQLite.

use async_trait::async_trait;

use super::super::noun;
use super::{Store, failed, filled, found};
use crate::catalog::stored::{MAX_STORED_PRICES, PriceStore, StoredPrice};
use crate::error::StoreError;

const PUT: &str = "INSERT INTO stored_price (id, provider, model, effective, config, changed_by, created_at, updated_at) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (provider, model, effective) DO UPDATE SET \
                   config = excluded.config, changed_by = excluded.changed_by, updated_at = excluded.updated_at \
                   RETURNING id, config, changed_by, created_at, updated_at";

#[async_trait]
impl PriceStore for Store {
    async fn prices(&self) -> Result<Vec<StoredPrice>, StoreError> {
        let rows = sqlx::query("SELECT id, config, changed_by, created_at, updated_at FROM stored_price ORDER BY id")
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
        rows.iter().map(noun::price).collect()
    }

    async fn put_prices(&self, prices: &[StoredPrice]) -> Result<Vec<StoredPrice>, StoreError> {
        let mut transaction = self.write().await?;
        let mut stored = Vec::with_capacity(prices.len());
        for price in prices {
            let row = filled(PUT, noun::price_values(price)?).fetch_one(&mut *transaction).await.map_err(failed)?;
            stored.push(noun::price(&row)?);
        }
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM stored_price")
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        if usize::try_from(count).unwrap_or(usize::MAX) > MAX_STORED_PRICES {
            let text = format!("There would be more than {MAX_STORED_PRICES} stored prices; delete some.");
            return Err(StoreError::Conflict(text.into()));
        }
        transaction.commit().await.map_err(failed)?;
        Ok(stored)
    }

    async fn delete_price(&self, id: &str) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = sqlx::query("DELETE FROM stored_price WHERE id = ?").bind(id).execute(&mut *transaction).await;
        found(done.map_err(failed)?.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }
}
