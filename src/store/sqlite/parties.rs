//! Orgs, teams and users in SQLite.

use async_trait::async_trait;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};

use super::keys::{cap, from_json, json, read_caps};
use super::{Store, failed, found, or_conflict};
use crate::error::StoreError;
use crate::key::party::{MAX_PARTIES, Party, PartyKind, PartyStore};
use crate::unit::clock::Timestamp;

const SELECT: &str = "SELECT kind, name, org, team, description, labels, models, max_input_tokens, max_output_tokens, enabled, \
                      created_at, updated_at FROM party";
const INSERT: &str = "INSERT INTO party (org, team, description, labels, models, max_input_tokens, max_output_tokens, enabled, \
                      created_at, updated_at, kind, name) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const UPDATE: &str = "UPDATE party SET org = ?, team = ?, description = ?, labels = ?, models = ?, max_input_tokens = ?, \
                      max_output_tokens = ?, enabled = ?, created_at = ?, updated_at = ? WHERE kind = ? AND name = ?";

#[async_trait]
impl PartyStore for Store {
    async fn list(&self, kind: Option<PartyKind>) -> Result<Vec<Party>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        if let Some(kind) = kind {
            query.push(" WHERE kind = ").push_bind(kind.as_str());
        }
        let rows = query.push(" ORDER BY kind, name").build().fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(read).collect()
    }

    async fn get(&self, kind: PartyKind, name: &str) -> Result<Option<Party>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE kind = ").push_bind(kind.as_str()).push(" AND name = ").push_bind(name);
        let row = query.build().fetch_optional(&self.readers).await;
        row.map_err(failed)?.as_ref().map(read).transpose()
    }

    async fn insert(&self, party: &Party) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM party").fetch_one(&mut *transaction).await.map_err(failed)?;
        if usize::try_from(count).unwrap_or(0) >= MAX_PARTIES {
            let text = format!("There are {MAX_PARTIES} organisations, teams and users; delete some.");
            return Err(StoreError::Conflict(text.into()));
        }
        bind(INSERT, party)?
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), "This name is there already."))?;
        transaction.commit().await.map_err(failed)
    }

    async fn update(&self, party: &Party) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = bind(UPDATE, party)?.execute(&mut *transaction).await.map_err(failed)?;
        found(done.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }

    async fn delete(&self, kind: PartyKind, name: &str) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = sqlx::query("DELETE FROM party WHERE kind = ? AND name = ?")
            .bind(kind.as_str())
            .bind(name)
            .execute(&mut *transaction)
            .await;
        found(done.map_err(failed)?.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }
}

/// Binds every column in the order of both statements.
fn bind<'a>(statement: &'static str, party: &'a Party) -> Result<Query<'a, Sqlite, SqliteArguments>, StoreError> {
    Ok(sqlx::query(statement)
        .bind(party.org.as_deref())
        .bind(party.team.as_deref())
        .bind(party.description.as_str())
        .bind(json(&party.labels)?)
        .bind(json(&party.models)?)
        .bind(cap(party.caps.max_input_tokens))
        .bind(cap(party.caps.max_output_tokens))
        .bind(party.enabled)
        .bind(party.created_at.micros())
        .bind(party.updated_at.micros())
        .bind(party.kind.as_str())
        .bind(party.name.as_ref()))
}

fn read(row: &SqliteRow) -> Result<Party, StoreError> {
    let text = |column: &str| row.try_get::<Option<String>, _>(column).map(|text| text.map(Into::into)).map_err(failed);
    let kind: String = row.try_get("kind").map_err(failed)?;
    let kind = PartyKind::ALL.into_iter().find(|known| known.as_str() == kind);
    Ok(Party {
        kind: kind.ok_or_else(|| StoreError::Corrupt("a party is of no known kind".into()))?,
        name: row.try_get::<String, _>("name").map_err(failed)?.into(),
        org: text("org")?,
        team: text("team")?,
        description: row.try_get("description").map_err(failed)?,
        labels: from_json(row, "labels")?,
        models: from_json(row, "models")?,
        caps: read_caps(row)?,
        enabled: row.try_get("enabled").map_err(failed)?,
        created_at: Timestamp(row.try_get("created_at").map_err(failed)?),
        updated_at: Timestamp(row.try_get("updated_at").map_err(failed)?),
    })
}
