//! Keys in PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Postgres, QueryBuilder};

use super::super::filter::push_key_state;
use super::super::keys::{is_remembered, number};
use super::super::noun;
use super::super::value::{Row, gather};
use super::{Store, failed, found, or_conflict};
use crate::error::StoreError;
use crate::key::store::{KeyChanges, KeyFilter, KeyList, KeyPage, KeyStore};
use crate::key::{Key, Suspension};

const INSERT: &str = "INSERT INTO app_key (name, org, team, \"user\", labels, models, addresses, enabled, expires_at, revoked_at, \
                      rotated_at, hint, hash, max_input_tokens, max_output_tokens, id, created_at) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";
/// All right sides see the row as it was, so one comparison decides for hash, hint and time alike.
const UPDATE: &str = "UPDATE app_key SET name = $1, org = $2, team = $3, \"user\" = $4, labels = $5, models = $6, \
                      addresses = $7, enabled = $8, expires_at = $9, revoked_at = coalesce(revoked_at, $10), \
                      hint = CASE WHEN coalesce(rotated_at, 0) <= coalesce($11, 0) THEN $12 ELSE hint END, \
                      hash = CASE WHEN coalesce(rotated_at, 0) <= coalesce($11, 0) THEN $13 ELSE hash END, \
                      rotated_at = CASE WHEN coalesce(rotated_at, 0) <= coalesce($11, 0) THEN $11 ELSE rotated_at END, \
                      max_input_tokens = $14, max_output_tokens = $15 WHERE id = $16";
/// A key that rests already, and for longer, goes on doing so: two processes may suspend one at the same time.
const SUSPEND: &str = "UPDATE app_key SET suspended_until = $1, suspended_reason = $2 WHERE id = $3 \
                       AND NOT ($2 IS NOT NULL AND suspended_reason IS NOT NULL \
                                AND (suspended_until IS NULL OR coalesce(suspended_until >= $1, FALSE)))";
const CHANGED: &str =
    "SELECT app_key.* FROM app_key_change JOIN app_key USING (id) WHERE app_key_change.generation > $1";
const GONE: &str = "SELECT id FROM app_key_gone WHERE generation > $1";
const DUPLICATE: &str = "A key with this id or this token is there already.";

#[async_trait]
impl KeyStore for Store {
    async fn insert(&self, key: &Key) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work.filled(INSERT, noun::key_values(key)?);
            work.execute(statement).await.map_err(|error| or_conflict(error, DUPLICATE))?;
            work.commit().await
        })
        .await
    }

    async fn update(&self, key: &Key) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work.filled(UPDATE, noun::key_values(key)?.into_iter().take(noun::KEY_UPDATE));
            let done = work.execute(statement).await.map_err(|error| or_conflict(error, DUPLICATE))?;
            found(done.rows_affected())?;
            work.commit().await
        })
        .await
    }

    async fn suspend(&self, id: &str, suspension: Option<&Suspension>) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work.filled(SUSPEND, noun::suspension_values(suspension)).bind(id.to_owned());
            found(work.execute(statement).await?.rows_affected())?;
            work.commit().await
        })
        .await
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let done = work.execute(work.sql("DELETE FROM app_key WHERE id = $1").bind(id.to_owned())).await?;
            found(done.rows_affected())?;
            work.commit().await
        })
        .await
    }

    async fn get(&self, id: &str) -> Result<Option<Key>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let row = work.optional(work.sql("SELECT * FROM app_key WHERE id = $1").bind(id.to_owned())).await?;
            row.as_ref().map(noun::key).transpose()
        })
        .await
    }

    async fn list(&self, filter: &KeyFilter, page: &KeyPage) -> Result<KeyList, StoreError> {
        let limit = page.limit.clamp(1, 1_000);
        let mut query = QueryBuilder::<Postgres>::new("SELECT * FROM app_key WHERE TRUE");
        push_filter(&mut query, filter);
        if let Some(after) = &page.after {
            query.push(" AND id < ").push_bind(after.clone());
        }
        // One more than asked for tells whether there is a rest. The bound keeps the number far inside an i64.
        query.push(" ORDER BY id DESC LIMIT ").push_bind(limit as i64 + 1);
        let rows = self.bounded(async { self.begin().await?.built(&mut query).await }).await?;
        let keys = rows.iter().take(limit).map(noun::key).collect::<Result<Vec<Key>, StoreError>>()?;
        let next = keys.last().filter(|_| rows.len() > limit).map(|key| key.id.to_string());
        Ok(KeyList { keys, next })
    }

    async fn count(&self, filter: &KeyFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new("SELECT count(*) AS keys FROM app_key WHERE TRUE");
        push_filter(&mut query, filter);
        let rows = self.bounded(async { self.begin().await?.built(&mut query).await }).await?;
        Ok(rows.first().map(|row| row.count("keys")).transpose()?.flatten().unwrap_or(0))
    }

    async fn all(&self) -> Result<Vec<Arc<Key>>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work.sql("SELECT * FROM app_key");
            gather(statement.fetch(work.connection()), failed, |row| noun::key(row).map(Arc::new)).await
        })
        .await
    }

    async fn changed_after(&self, generation: u64) -> Result<Option<KeyChanges>, StoreError> {
        let since = number(generation);
        self.bounded(async {
            let mut work = self.begin().await?;
            let now = work.one(work.sql("SELECT value FROM generation")).await?.count("value")?.unwrap_or(0);
            if !is_remembered(generation, now) {
                return Ok(None);
            }
            let rows = work.all(work.sql(CHANGED).bind(since)).await?;
            let gone = work.all(work.sql(GONE).bind(since)).await?;
            let gone = gone.iter().map(|row| row.word("id").map(Into::into)).collect::<Result<_, _>>()?;
            Ok(Some(KeyChanges { keys: rows.iter().map(noun::key).collect::<Result<_, _>>()?, gone }))
        })
        .await
    }

    async fn generation(&self) -> Result<u64, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let value = work.one(work.sql("SELECT value FROM generation")).await?.count("value")?;
            value.ok_or_else(|| StoreError::Corrupt("there is no generation".into()))
        })
        .await
    }
}

fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &KeyFilter) {
    let KeyFilter { org, team, user, name, label, state } = filter;
    for (column, value) in [(" AND org = ", org), (" AND team = ", team), (" AND \"user\" = ", user)] {
        if let Some(value) = value {
            query.push(column).push_bind(value.clone());
        }
    }
    if let Some(part) = name {
        // The letters of ASCII alone, in any case, as elsewhere.
        query.push(" AND strpos(lower(name COLLATE \"C\"), lower(").push_bind(part.clone());
        query.push(" COLLATE \"C\")) > 0");
    }
    if let Some((name, value)) = label {
        query.push(" AND labels::json ->> ").push_bind(name.clone()).push(" = ").push_bind(value.clone());
    }
    push_key_state(query, *state);
}
