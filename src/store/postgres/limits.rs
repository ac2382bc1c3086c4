//! Limits in PostgreSQL.

use async_trait::async_trait;

use super::super::noun;
use super::super::value::Row;
use super::{Store, found, or_conflict};
use crate::budget::limit::Limit;
use crate::budget::store::{LimitStore, MAX_STORED_LIMITS};
use crate::error::StoreError;

const INSERT: &str = "INSERT INTO spend_limit (name, scope, subject, models, unit, span, amount, action, warn_at_percent, \
                      enabled, created_at, updated_at, id) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
const UPDATE: &str = "UPDATE spend_limit SET name = $1, scope = $2, subject = $3, models = $4, unit = $5, span = $6, \
                      amount = $7, action = $8, warn_at_percent = $9, enabled = $10, created_at = $11, updated_at = $12 \
                      WHERE id = $13";

#[async_trait]
impl LimitStore for Store {
    async fn list(&self) -> Result<Vec<Limit>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let rows = work.all(work.sql("SELECT * FROM spend_limit ORDER BY id")).await?;
            rows.iter().map(noun::limit).collect()
        })
        .await
    }

    async fn get(&self, id: &str) -> Result<Option<Limit>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let row = work.optional(work.sql("SELECT * FROM spend_limit WHERE id = $1").bind(id.to_owned())).await?;
            row.as_ref().map(noun::limit).transpose()
        })
        .await
    }

    async fn insert(&self, limit: &Limit) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            // Two that count at once would both find room.
            work.execute(work.sql("LOCK TABLE spend_limit IN SHARE ROW EXCLUSIVE MODE")).await?;
            let count = work.one(work.sql("SELECT count(*) AS limits FROM spend_limit")).await?.number("limits")?;
            if usize::try_from(count).unwrap_or(0) >= MAX_STORED_LIMITS {
                let text = format!("There are {MAX_STORED_LIMITS} stored limits; delete some.");
                return Err(StoreError::Conflict(text.into()));
            }
            let done = work.execute(work.filled(INSERT, noun::limit_values(limit)?)).await;
            done.map_err(|error| or_conflict(error, "A limit with this id is there already."))?;
            work.commit().await
        })
        .await
    }

    async fn update(&self, limit: &Limit) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            found(work.execute(work.filled(UPDATE, noun::limit_values(limit)?)).await?.rows_affected())?;
            work.commit().await
        })
        .await
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let done = work.execute(work.sql("DELETE FROM spend_limit WHERE id = $1").bind(id.to_owned())).await?;
            found(done.rows_affected())?;
            work.commit().await
        })
        .await
    }
}
