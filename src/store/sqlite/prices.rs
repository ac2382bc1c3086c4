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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::stored::PriceRow;
    use crate::unit::clock::Timestamp;

    fn price(model: &str, input: f64, now: i64) -> StoredPrice {
        let rates = [("input".to_owned(), input), ("output".to_owned(), 1.0)].into();
        let row = PriceRow { model: model.to_owned(), usd_per_million_tokens: Some(rates), ..PriceRow::default() };
        StoredPrice::new(row, "tok_1", Timestamp(now))
    }

    #[tokio::test]
    async fn a_price_for_the_same_model_and_day_replaces_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("marg.db")).await.unwrap();
        let generation = crate::key::store::KeyStore::generation(&store).await.unwrap();
        let first = store.put_prices(&[price("m", 1.0, 1), price("n", 1.0, 1)]).await.unwrap();
        let second = store.put_prices(&[price("m", 2.0, 2)]).await.unwrap();
        assert_eq!(
            (&second[0].id, second[0].created_at, second[0].updated_at),
            (&first[0].id, Timestamp(1), Timestamp(2))
        );
        assert_eq!(store.prices().await.unwrap().len(), 2);
        assert!(crate::key::store::KeyStore::generation(&store).await.unwrap() > generation);
        assert!(matches!(store.delete_price("prc_x").await, Err(StoreError::NotFound)));
        store.delete_price(&first[0].id).await.unwrap();
        assert_eq!(store.prices().await.unwrap(), first[1..]);
    }
}
