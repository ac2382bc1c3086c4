//! Admin tokens in PostgreSQL.

use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::super::value::Row;
use super::keys::read_hash;
use super::{Store, found, or_conflict};
use crate::error::StoreError;
use crate::key::admin::{AdminToken, AdminTokenStore, MAX_ADMIN_TOKENS};
use crate::key::token::TokenHash;
use crate::unit::clock::Timestamp;

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
            let statement = work
                .sql(
                    "INSERT INTO admin_token (id, label, role, hint, hash, created_at, expires_at, revoked_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                )
                .bind(token.id.as_ref())
                .bind(token.label.as_str())
                .bind(token.role.as_str())
                .bind(token.hint.as_str())
                .bind(token.hash.0.as_slice())
                .bind(token.created_at.micros())
                .bind(token.expires_at.map(Timestamp::micros))
                .bind(token.revoked_at.map(Timestamp::micros));
            let done = work.execute(statement).await;
            done.map_err(|error| or_conflict(error, "An admin token with this id or hash is there already."))?;
            work.commit().await
        })
        .await
    }

    async fn update(&self, token: &AdminToken) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work
                .sql(
                    "UPDATE admin_token SET label = $1, role = $2, expires_at = $3, \
                     revoked_at = coalesce(revoked_at, $4) WHERE id = $5",
                )
                .bind(token.label.as_str())
                .bind(token.role.as_str())
                .bind(token.expires_at.map(Timestamp::micros))
                .bind(token.revoked_at.map(Timestamp::micros))
                .bind(token.id.as_ref());
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
            row.as_ref().map(read).transpose()
        })
        .await
    }

    async fn find(&self, hash: &TokenHash) -> Result<Option<AdminToken>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work.sql("SELECT * FROM admin_token WHERE hash = $1").bind(hash.0.to_vec());
            work.optional(statement).await?.as_ref().map(read).transpose()
        })
        .await
    }

    async fn all(&self) -> Result<Vec<AdminToken>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let rows = work.all(work.sql("SELECT * FROM admin_token ORDER BY id DESC")).await?;
            rows.iter().map(read).collect()
        })
        .await
    }
}

fn read(row: &PgRow) -> Result<AdminToken, StoreError> {
    let time = |column: &str| row.integer(column).map(|time| time.map(Timestamp));
    Ok(AdminToken {
        id: row.word("id")?.into(),
        label: row.word("label")?,
        role: row.word("role")?.parse().map_err(|sentence: String| StoreError::Corrupt(sentence.into()))?,
        hint: row.word("hint")?,
        hash: read_hash(row)?,
        created_at: Timestamp(row.number("created_at")?),
        expires_at: time("expires_at")?,
        revoked_at: time("revoked_at")?,
    })
}
