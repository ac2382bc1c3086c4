//! Orgs, teams and users in SQLite.

use async_trait::async_trait;
use sqlx::{QueryBuilder, Sqlite};

use super::super::noun;
use super::{Store, failed, filled, found, or_conflict};
use crate::error::StoreError;
use crate::key::party::{MAX_PARTIES, Party, PartyKind, PartyStore};

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
        rows.iter().map(noun::party).collect()
    }

    async fn get(&self, kind: PartyKind, name: &str) -> Result<Option<Party>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE kind = ").push_bind(kind.as_str()).push(" AND name = ").push_bind(name);
        let row = query.build().fetch_optional(&self.readers).await;
        row.map_err(failed)?.as_ref().map(noun::party).transpose()
    }

    async fn insert(&self, party: &Party) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM party").fetch_one(&mut *transaction).await.map_err(failed)?;
        if usize::try_from(count).unwrap_or(0) >= MAX_PARTIES {
            let text = format!("There are {MAX_PARTIES} organisations, teams and users; delete some.");
            return Err(StoreError::Conflict(text.into()));
        }
        filled(INSERT, noun::party_values(party)?)
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), "This name is there already."))?;
        transaction.commit().await.map_err(failed)
    }

    async fn update(&self, party: &Party) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = filled(UPDATE, noun::party_values(party)?).execute(&mut *transaction).await.map_err(failed)?;
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
