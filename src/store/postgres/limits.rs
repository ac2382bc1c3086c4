//! Limits in PostgreSQL.

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;

use super::super::value::{Row, json};
use super::{Statement, Store, Work, found, or_conflict};
use crate::budget::limit::{Limit, Window};
use crate::budget::store::{LimitStore, MAX_STORED_LIMITS};
use crate::error::StoreError;
use crate::unit::clock::Timestamp;

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
            rows.iter().map(read).collect()
        })
        .await
    }

    async fn get(&self, id: &str) -> Result<Option<Limit>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let row = work.optional(work.sql("SELECT * FROM spend_limit WHERE id = $1").bind(id.to_owned())).await?;
            row.as_ref().map(read).transpose()
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
            let done = work.execute(bind(&work, INSERT, limit)?).await;
            done.map_err(|error| or_conflict(error, "A limit with this id is there already."))?;
            work.commit().await
        })
        .await
    }

    async fn update(&self, limit: &Limit) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            found(work.execute(bind(&work, UPDATE, limit)?).await?.rows_affected())?;
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

/// Binds every column in the order of both statements.
fn bind(work: &Work, statement: &'static str, limit: &Limit) -> Result<Statement<'static>, StoreError> {
    Ok(work
        .sql(statement)
        .bind(limit.name.as_str())
        .bind(word(&limit.scope)?)
        .bind(limit.subject.as_deref())
        .bind(json(&limit.models)?)
        .bind(word(&limit.unit)?)
        .bind(json(&limit.window)?)
        .bind(limit.amount)
        .bind(json(&limit.action)?)
        .bind(json(&limit.warn_at_percent)?)
        .bind(limit.enabled)
        .bind(limit.created_at.micros())
        .bind(limit.updated_at.micros())
        .bind(limit.id.as_ref()))
}

/// The bare word of a value that JSON writes as one text.
fn word(value: &impl Serialize) -> Result<String, StoreError> {
    Ok(json(value)?.trim_matches('"').to_owned())
}

/// A column that holds such a word.
fn from_word<T: DeserializeOwned>(row: &PgRow, column: &'static str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(row.word(column)?))
        .map_err(|cause| StoreError::Corrupt(format!("column {column}: {cause}").into()))
}

fn read(row: &PgRow) -> Result<Limit, StoreError> {
    Ok(Limit {
        id: row.word("id")?.into(),
        name: row.word("name")?,
        scope: from_word(row, "scope")?,
        subject: row.text("subject")?.map(Into::into),
        models: row.json("models")?,
        unit: from_word(row, "unit")?,
        window: window(row)?,
        amount: row.number("amount")?,
        action: row.json("action")?,
        warn_at_percent: row.json("warn_at_percent")?,
        enabled: row.flag("enabled")?,
        created_at: Timestamp(row.number("created_at")?),
        updated_at: Timestamp(row.number("updated_at")?),
    })
}

fn window(row: &PgRow) -> Result<Window, StoreError> {
    let corrupt = |cause| StoreError::Corrupt(format!("column span: {cause}").into());
    serde_json::from_str(&row.word("span")?).map_err(corrupt)
}
