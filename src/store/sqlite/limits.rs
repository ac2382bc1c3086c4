//! Limits in SQLite.

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};

use super::keys::{from_json, json};
use super::{Store, failed, found, or_conflict};
use crate::budget::limit::Limit;
use crate::budget::store::{LimitStore, MAX_STORED_LIMITS};
use crate::error::StoreError;
use crate::unit::clock::Timestamp;

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
        rows.iter().map(read).collect()
    }

    async fn get(&self, id: &str) -> Result<Option<Limit>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let row = query.push(" WHERE id = ").push_bind(id).build().fetch_optional(&self.readers).await;
        row.map_err(failed)?.as_ref().map(read).transpose()
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
        bind(INSERT, limit)?
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), "A limit with this id is there already."))?;
        transaction.commit().await.map_err(failed)
    }

    async fn update(&self, limit: &Limit) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = bind(UPDATE, limit)?.execute(&mut *transaction).await.map_err(failed)?;
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

/// Binds every column in the order of both statements.
fn bind<'a>(statement: &'static str, limit: &'a Limit) -> Result<Query<'a, Sqlite, SqliteArguments>, StoreError> {
    Ok(sqlx::query(statement)
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
fn from_word<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let word: String = row.try_get(column).map_err(failed)?;
    serde_json::from_value(serde_json::Value::String(word))
        .map_err(|cause| StoreError::Corrupt(format!("column {column}: {cause}").into()))
}

fn read(row: &SqliteRow) -> Result<Limit, StoreError> {
    Ok(Limit {
        id: row.try_get::<String, _>("id").map_err(failed)?.into(),
        name: row.try_get("name").map_err(failed)?,
        scope: from_word(row, "scope")?,
        subject: row.try_get::<Option<String>, _>("subject").map_err(failed)?.map(Into::into),
        models: from_json(row, "models")?,
        unit: from_word(row, "unit")?,
        window: from_json(row, "span")?,
        amount: row.try_get("amount").map_err(failed)?,
        action: from_json(row, "action")?,
        warn_at_percent: from_json(row, "warn_at_percent")?,
        enabled: row.try_get("enabled").map_err(failed)?,
        created_at: Timestamp(row.try_get("created_at").map_err(failed)?),
        updated_at: Timestamp(row.try_get("updated_at").map_err(failed)?),
    })
}
