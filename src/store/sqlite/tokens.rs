//! Admin tokens in SQLite.

use async_trait::async_trait;
use sqlx::{QueryBuilder, Sqlite};

use super::super::noun;
use super::{Store, failed, filled, found, or_conflict};
use crate::error::StoreError;
use crate::key::admin::{AdminToken, AdminTokenStore, MAX_ADMIN_TOKENS};
use crate::key::token::TokenHash;

const SELECT: &str = "SELECT id, label, role, hint, hash, created_at, expires_at, revoked_at FROM admin_token";

#[async_trait]
impl AdminTokenStore for Store {
    async fn insert(&self, token: &AdminToken) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM admin_token")
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        if usize::try_from(count).unwrap_or(0) >= MAX_ADMIN_TOKENS {
            return Err(StoreError::Conflict(
                format!("There are {MAX_ADMIN_TOKENS} admin tokens; delete some.").into(),
            ));
        }
        let statement = "INSERT INTO admin_token (id, label, role, hint, hash, created_at, expires_at, revoked_at) \
                         VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        filled(statement, noun::admin_token_values(token))
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), "An admin token with this id or hash is there already."))?;
        transaction.commit().await.map_err(failed)
    }

    async fn update(&self, token: &AdminToken) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let statement = "UPDATE admin_token SET label = ?, role = ?, expires_at = ?, revoked_at = coalesce(revoked_at, ?) \
                         WHERE id = ?";
        let done = filled(statement, noun::admin_token_changes(token)).execute(&mut *transaction).await;
        found(done.map_err(failed)?.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = sqlx::query("DELETE FROM admin_token WHERE id = ?").bind(id).execute(&mut *transaction).await;
        found(done.map_err(failed)?.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }

    async fn get(&self, id: &str) -> Result<Option<AdminToken>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let row = query.push(" WHERE id = ").push_bind(id).build().fetch_optional(&self.readers).await;
        row.map_err(failed)?.as_ref().map(noun::admin_token).transpose()
    }

    async fn find(&self, hash: &TokenHash) -> Result<Option<AdminToken>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let row = query.push(" WHERE hash = ").push_bind(hash.0.as_slice()).build().fetch_optional(&self.readers).await;
        row.map_err(failed)?.as_ref().map(noun::admin_token).transpose()
    }

    async fn all(&self) -> Result<Vec<AdminToken>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let rows = query.push(" ORDER BY id DESC").build().fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(noun::admin_token).collect()
    }
}
