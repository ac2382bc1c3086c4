//! Orgs, teams and users in PostgreSQL.

use async_trait::async_trait;

use super::super::noun;
use super::super::value::Row;
use super::{Store, found, or_conflict};
use crate::error::StoreError;
use crate::key::party::{MAX_PARTIES, Party, PartyKind, PartyStore};

const INSERT: &str = "INSERT INTO party (org, team, description, labels, models, max_input_tokens, max_output_tokens, enabled, \
                      created_at, updated_at, kind, name) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
const UPDATE: &str = "UPDATE party SET org = $1, team = $2, description = $3, labels = $4, models = $5, \
                      max_input_tokens = $6, max_output_tokens = $7, enabled = $8, created_at = $9, updated_at = $10 \
                      WHERE kind = $11 AND name = $12";

#[async_trait]
impl PartyStore for Store {
    async fn list(&self, kind: Option<PartyKind>) -> Result<Vec<Party>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = "SELECT * FROM party WHERE $1::text IS NULL OR kind = $1::text ORDER BY kind, name";
            let rows = work.all(work.sql(statement).bind(kind.map(PartyKind::as_str))).await?;
            rows.iter().map(noun::party).collect()
        })
        .await
    }

    async fn get(&self, kind: PartyKind, name: &str) -> Result<Option<Party>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work.sql("SELECT * FROM party WHERE kind = $1 AND name = $2");
            let row = work.optional(statement.bind(kind.as_str()).bind(name.to_owned())).await?;
            row.as_ref().map(noun::party).transpose()
        })
        .await
    }

    async fn insert(&self, party: &Party) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            // Two that count at once would both find room.
            work.execute(work.sql("LOCK TABLE party IN SHARE ROW EXCLUSIVE MODE")).await?;
            let count = work.one(work.sql("SELECT count(*) AS parties FROM party")).await?.number("parties")?;
            if usize::try_from(count).unwrap_or(0) >= MAX_PARTIES {
                let text = format!("There are {MAX_PARTIES} organisations, teams and users; delete some.");
                return Err(StoreError::Conflict(text.into()));
            }
            let done = work.execute(work.filled(INSERT, noun::party_values(party)?)).await;
            done.map_err(|error| or_conflict(error, "This name is there already."))?;
            work.commit().await
        })
        .await
    }

    async fn update(&self, party: &Party) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            found(work.execute(work.filled(UPDATE, noun::party_values(party)?)).await?.rows_affected())?;
            work.commit().await
        })
        .await
    }

    async fn delete(&self, kind: PartyKind, name: &str) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work.sql("DELETE FROM party WHERE kind = $1 AND name = $2");
            let done = work.execute(statement.bind(kind.as_str()).bind(name.to_owned())).await?;
            found(done.rows_affected())?;
            work.commit().await
        })
        .await
    }
}
