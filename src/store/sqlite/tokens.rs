//! Admin tokens in SQLite.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::keys::read_hash;
use super::{Store, failed, found, or_conflict};
use crate::error::StoreError;
use crate::key::admin::{AdminToken, AdminTokenStore, MAX_ADMIN_TOKENS};
use crate::key::token::TokenHash;
use crate::unit::clock::Timestamp;

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
        sqlx::query(statement)
            .bind(token.id.as_ref())
            .bind(token.label.as_str())
            .bind(token.role.as_str())
            .bind(token.hint.as_str())
            .bind(token.hash.0.as_slice())
            .bind(token.created_at.micros())
            .bind(token.expires_at.map(Timestamp::micros))
            .bind(token.revoked_at.map(Timestamp::micros))
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), "An admin token with this id or hash is there already."))?;
        transaction.commit().await.map_err(failed)
    }

    async fn update(&self, token: &AdminToken) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let statement = "UPDATE admin_token SET label = ?, role = ?, expires_at = ?, revoked_at = coalesce(revoked_at, ?) \
                         WHERE id = ?";
        let done = sqlx::query(statement)
            .bind(token.label.as_str())
            .bind(token.role.as_str())
            .bind(token.expires_at.map(Timestamp::micros))
            .bind(token.revoked_at.map(Timestamp::micros))
            .bind(token.id.as_ref())
            .execute(&mut *transaction)
            .await;
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
        row.map_err(failed)?.as_ref().map(read).transpose()
    }

    async fn find(&self, hash: &TokenHash) -> Result<Option<AdminToken>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let row = query.push(" WHERE hash = ").push_bind(hash.0.as_slice()).build().fetch_optional(&self.readers).await;
        row.map_err(failed)?.as_ref().map(read).transpose()
    }

    async fn all(&self) -> Result<Vec<AdminToken>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let rows = query.push(" ORDER BY id DESC").build().fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &SqliteRow) -> Result<AdminToken, StoreError> {
    let time = |column: &str| row.try_get::<Option<i64>, _>(column).map(|time| time.map(Timestamp)).map_err(failed);
    let role: String = row.try_get("role").map_err(failed)?;
    Ok(AdminToken {
        id: row.try_get::<String, _>("id").map_err(failed)?.into(),
        label: row.try_get("label").map_err(failed)?,
        role: role.parse().map_err(|sentence: String| StoreError::Corrupt(sentence.into()))?,
        hint: row.try_get("hint").map_err(failed)?,
        hash: read_hash(row)?,
        created_at: Timestamp(row.try_get("created_at").map_err(failed)?),
        expires_at: time("expires_at")?,
        revoked_at: time("revoked_at")?,
    })
}
