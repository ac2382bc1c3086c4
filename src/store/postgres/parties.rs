//! Orgs, teams and users in PostgreSQL.

use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::super::value::{Row, json};
use super::keys::{cap, read_caps};
use super::{Statement, Store, Work, found, or_conflict};
use crate::error::StoreError;
use crate::key::party::{MAX_PARTIES, Party, PartyKind, PartyStore};
use crate::unit::clock::Timestamp;

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
            rows.iter().map(read).collect()
        })
        .await
    }

    async fn get(&self, kind: PartyKind, name: &str) -> Result<Option<Party>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work.sql("SELECT * FROM party WHERE kind = $1 AND name = $2");
            let row = work.optional(statement.bind(kind.as_str()).bind(name.to_owned())).await?;
            row.as_ref().map(read).transpose()
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
            let done = work.execute(bind(&work, INSERT, party)?).await;
            done.map_err(|error| or_conflict(error, "This name is there already."))?;
            work.commit().await
        })
        .await
    }

    async fn update(&self, party: &Party) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            found(work.execute(bind(&work, UPDATE, party)?).await?.rows_affected())?;
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

/// Binds every column in the order of both statements.
fn bind(work: &Work, statement: &'static str, party: &Party) -> Result<Statement<'static>, StoreError> {
    Ok(work
        .sql(statement)
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

fn read(row: &PgRow) -> Result<Party, StoreError> {
    let text = |column: &str| row.text(column).map(|text| text.map(Into::into));
    let kind = row.word("kind")?;
    let kind = PartyKind::ALL.into_iter().find(|known| known.as_str() == kind);
    Ok(Party {
        kind: kind.ok_or_else(|| StoreError::Corrupt("a party is of no known kind".into()))?,
        name: row.word("name")?.into(),
        org: text("org")?,
        team: text("team")?,
        description: row.word("description")?,
        labels: row.json("labels")?,
        models: row.json("models")?,
        caps: read_caps(row)?,
        enabled: row.flag("enabled")?,
        created_at: Timestamp(row.number("created_at")?),
        updated_at: Timestamp(row.number("updated_at")?),
    })
}
