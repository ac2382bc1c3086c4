//! Limits in SQLite.

use async_trait::async_trait;
use sqlx::{QueryBuilder, Sqlite};

use super::super::noun;
use super::{Store, failed, filled, found, or_conflict};
use crate::budget::limit::Limit;
use crate::budget::store::{LimitStore, MAX_STORED_LIMITS};
use crate::error::StoreError;

const SELECT: &str = "SELECT id, name, scope, subject, models, unit, span, amount, action, warn_at_percent, enabled, created_at, \
                      updated_at FROM spend_limit";
const INSERT: &str = "INSERT INTO spend_limit (name, scope, subject, models, unit, span, amount, action, warn_at_percent, \
                      enabled, created_at, updated_at, id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const UPDATE: &str = "UPDATE spend_limit SET name = ?, scope = ?, subject = ?, models = ?, unit = ?, span = ?, amount = ?, \
                      action = ?, warn_at_percent = ?, enabled = ?, created_at = ?, updated_at = ? WHERE id = ?";

#[async_trait]
impl LimitStore for Store {
    async fn list(&self) -> Result<Vec<Limit>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let rows = query.push(" ORDER BY id").build().fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(noun::limit).collect()
    }

    async fn get(&self, id: &str) -> Result<Option<Limit>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let row = query.push(" WHERE id = ").push_bind(id).build().fetch_optional(&self.readers).await;
        row.map_err(failed)?.as_ref().map(noun::limit).transpose()
    }

    async fn insert(&self, limit: &Limit) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM spend_limit")
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        if usize::try_from(count).unwrap_or(0) >= MAX_STORED_LIMITS {
            return Err(StoreError::Conflict(
                format!("There are {MAX_STORED_LIMITS} stored limits; delete some.").into(),
            ));
        }
        filled(INSERT, noun::limit_values(limit)?)
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), "A limit with this id is there already."))?;
        transaction.commit().await.map_err(failed)
    }

    async fn update(&self, limit: &Limit) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = filled(UPDATE, noun::limit_values(limit)?).execute(&mut *transaction).await.map_err(failed)?;
        found(done.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = sqlx::query("DELETE FROM spend_limit WHERE id = ?").bind(id).execute(&mut *transaction).await;
        found(done.map_err(failed)?.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }
}
