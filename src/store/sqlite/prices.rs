//! Stored prices in SQLite.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::keys::{from_json, json};
use super::{Store, failed, found};
use crate::catalog::stored::{MAX_STORED_PRICES, PriceStore, StoredPrice};
use crate::error::StoreError;
use crate::unit::clock::Timestamp;

#[async_trait]
impl PriceStore for Store {
    async fn prices(&self) -> Result<Vec<StoredPrice>, StoreError> {
        let rows = sqlx::query("SELECT id, config, changed_by, created_at, updated_at FROM stored_price ORDER BY id")
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
        rows.iter().map(read).collect()
    }

    async fn put_prices(&self, prices: &[StoredPrice]) -> Result<Vec<StoredPrice>, StoreError> {
        let mut transaction = self.write().await?;
        let mut stored = Vec::with_capacity(prices.len());
        for price in prices {
            let row = sqlx::query(
                "INSERT INTO stored_price (id, provider, model, effective, config, changed_by, created_at, updated_at) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (provider, model, effective) DO UPDATE SET \
                 config = excluded.config, changed_by = excluded.changed_by, updated_at = excluded.updated_at \
                 RETURNING id, config, changed_by, created_at, updated_at",
            )
            .bind(price.id.as_ref())
            .bind(price.row.provider.as_deref().unwrap_or_default())
            .bind(price.row.model.as_str())
            .bind(price.row.effective.as_deref().unwrap_or_default())
            .bind(json(&price.row)?)
            .bind(price.changed_by.as_str())
            .bind(price.created_at.micros())
            .bind(price.updated_at.micros())
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
            stored.push(read(&row)?);
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

fn read(row: &SqliteRow) -> Result<StoredPrice, StoreError> {
    Ok(StoredPrice {
        id: row.try_get::<String, _>("id").map_err(failed)?.into(),
        row: from_json(row, "config")?,
        changed_by: row.try_get("changed_by").map_err(failed)?,
        created_at: Timestamp(row.try_get("created_at").map_err(failed)?),
        updated_at: Timestamp(row.try_get("updated_at").map_err(failed)?),
    })
}
