//! Admin tokens in PostgreSQL.

use async_trait::async_trait;

use super::super::noun;
use super::super::value::Row;
use super::{Store, found, or_conflict};
use crate::error::StoreError;
use crate::key::admin::{AdminToken, AdminTokenStore, MAX_ADMIN_TOKENS};
use crate::key::token::TokenHash;

#[async_trait]
impl AdminTokenStore for Store {
    async fn insert(&self, token: &AdminToken) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            // Two that count at once would both find room.
            work.execute(work.sql("LOCK TABLE admin_token IN SHARE ROW EXCLUSIVE MODE")).await?;
            let count = work.one(work.sql("SELECT count(*) AS tokens FROM admin_token")).await?.number("tokens")?;
            if usize::try_from(count).unwrap_or(0) >= MAX_ADMIN_TOKENS {
                let text = format!("There are {MAX_ADMIN_TOKENS} admin tokens; delete some.");
                return Err(StoreError::Conflict(text.into()));
            }
            let statement = "INSERT INTO admin_token (id, label, role, hint, hash, created_at, expires_at, revoked_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
            let statement = work.filled(statement, noun::admin_token_values(token));
            let done = work.execute(statement).await;
            done.map_err(|error| or_conflict(error, "An admin token with this id or hash is there already."))?;
            work.commit().await
        })
        .await
    }

    async fn update(&self, token: &AdminToken) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = "UPDATE admin_token SET label = $1, role = $2, expires_at = $3, \
                     revoked_at = coalesce(revoked_at, $4) WHERE id = $5";
            let statement = work.filled(statement, noun::admin_token_changes(token));
            found(work.execute(statement).await?.rows_affected())?;
            work.commit().await
        })
        .await
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let done = work.execute(work.sql("DELETE FROM admin_token WHERE id = $1").bind(id.to_owned())).await?;
            found(done.rows_affected())?;
            work.commit().await
        })
        .await
    }

    async fn get(&self, id: &str) -> Result<Option<AdminToken>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let row = work.optional(work.sql("SELECT * FROM admin_token WHERE id = $1").bind(id.to_owned())).await?;
            row.as_ref().map(noun::admin_token).transpose()
        })
        .await
    }

    async fn find(&self, hash: &TokenHash) -> Result<Option<AdminToken>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work.sql("SELECT * FROM admin_token WHERE hash = $1").bind(hash.0.to_vec());
            work.optional(statement).await?.as_ref().map(noun::admin_token).transpose()
        })
        .await
    }

    async fn all(&self) -> Result<Vec<AdminToken>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let rows = work.all(work.sql("SELECT * FROM admin_token ORDER BY id DESC")).await?;
            rows.iter().map(noun::admin_token).collect()
        })
        .await
    }
}
