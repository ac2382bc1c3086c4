//! Keys in PostgreSQL.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder};

use super::super::value::{Row, json};
use super::{Store, found, or_conflict};
use crate::error::StoreError;
use crate::key::party::RequestCaps;
use crate::key::store::{KeyFilter, KeyList, KeyPage, KeyStore};
use crate::key::token::TokenHash;
use crate::key::{Key, KeyState, Principal, Suspension};
use crate::unit::clock::Timestamp;

const DUPLICATE: &str = "A key with this id or this token is there already.";

#[async_trait]
impl KeyStore for Store {
    async fn insert(&self, key: &Key) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work
                .sql(
                    "INSERT INTO app_key (id, name, hint, hash, org, team, \"user\", labels, models, addresses, enabled, \
                     created_at, expires_at, revoked_at, rotated_at, max_input_tokens, max_output_tokens) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
                )
                .bind(key.id.as_ref())
                .bind(key.name.as_str())
                .bind(key.hint.as_str())
                .bind(key.hash.0.as_slice())
                .bind(key.principal.org.as_deref())
                .bind(key.principal.team.as_deref())
                .bind(key.principal.user.as_deref())
                .bind(json(&key.labels)?)
                .bind(json(&key.models)?)
                .bind(json(&key.addresses)?)
                .bind(key.enabled)
                .bind(key.created_at.0)
                .bind(key.expires_at.map(Timestamp::micros))
                .bind(key.revoked_at.map(Timestamp::micros))
                .bind(key.rotated_at.map(Timestamp::micros))
                .bind(cap(key.caps.max_input_tokens))
                .bind(cap(key.caps.max_output_tokens));
            work.execute(statement).await.map_err(|error| or_conflict(error, DUPLICATE))?;
            work.commit().await
        })
        .await
    }

    async fn update(&self, key: &Key) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            // All right sides see the row as it was, so one comparison decides for hash, hint and time alike.
            let statement = work
                .sql(
                    "UPDATE app_key SET name = $1, org = $2, team = $3, \"user\" = $4, labels = $5, models = $6, \
                     addresses = $7, enabled = $8, expires_at = $9, revoked_at = coalesce(revoked_at, $10), \
                     hint = CASE WHEN coalesce(rotated_at, 0) <= coalesce($11, 0) THEN $12 ELSE hint END, \
                     hash = CASE WHEN coalesce(rotated_at, 0) <= coalesce($11, 0) THEN $13 ELSE hash END, \
                     rotated_at = CASE WHEN coalesce(rotated_at, 0) <= coalesce($11, 0) THEN $11 ELSE rotated_at END, \
                     max_input_tokens = $14, max_output_tokens = $15 WHERE id = $16",
                )
                .bind(key.name.as_str())
                .bind(key.principal.org.as_deref())
                .bind(key.principal.team.as_deref())
                .bind(key.principal.user.as_deref())
                .bind(json(&key.labels)?)
                .bind(json(&key.models)?)
                .bind(json(&key.addresses)?)
                .bind(key.enabled)
                .bind(key.expires_at.map(Timestamp::micros))
                .bind(key.revoked_at.map(Timestamp::micros))
                .bind(key.rotated_at.map(Timestamp::micros))
                .bind(key.hint.as_str())
                .bind(key.hash.0.as_slice())
                .bind(cap(key.caps.max_input_tokens))
                .bind(cap(key.caps.max_output_tokens))
                .bind(key.id.as_ref());
            let done = work.execute(statement).await.map_err(|error| or_conflict(error, DUPLICATE))?;
            found(done.rows_affected())?;
            work.commit().await
        })
        .await
    }

    async fn suspend(&self, id: &str, suspension: Option<&Suspension>) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work
                .sql("UPDATE app_key SET suspended_until = $1, suspended_reason = $2 WHERE id = $3")
                .bind(suspension.and_then(|rest| rest.until).map(Timestamp::micros))
                .bind(suspension.map(|rest| rest.reason.to_string()))
                .bind(id.to_owned());
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
            row.as_ref().map(read).transpose()
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
        let keys = rows.iter().take(limit).map(read).collect::<Result<Vec<Key>, StoreError>>()?;
        let next = keys.last().filter(|_| rows.len() > limit).map(|key| key.id.to_string());
        Ok(KeyList { keys, next })
    }

    async fn count(&self, filter: &KeyFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new("SELECT count(*) AS keys FROM app_key WHERE TRUE");
        push_filter(&mut query, filter);
        let rows = self.bounded(async { self.begin().await?.built(&mut query).await }).await?;
        Ok(rows.first().map(|row| row.count("keys")).transpose()?.flatten().unwrap_or(0))
    }

    async fn all(&self) -> Result<Vec<Key>, StoreError> {
        let rows = self
            .bounded(async {
                let mut work = self.begin().await?;
                work.all(work.sql("SELECT * FROM app_key")).await
            })
            .await?;
        rows.iter().map(read).collect()
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
    // The same order as in `Key::state`.
    let Some((state, now)) = state else { return };
    match state {
        KeyState::Revoked => query.push(" AND revoked_at IS NOT NULL"),
        KeyState::Disabled => query.push(" AND revoked_at IS NULL AND NOT enabled"),
        KeyState::Expired => {
            query.push(" AND revoked_at IS NULL AND enabled AND expires_at <= ").push_bind(now.micros())
        }
        KeyState::Active => query
            .push(" AND revoked_at IS NULL AND enabled AND (expires_at IS NULL OR expires_at > ")
            .push_bind(now.micros())
            .push(") AND (suspended_reason IS NULL OR suspended_until <= ")
            .push_bind(now.micros())
            .push(")"),
        KeyState::Suspended => query
            .push(" AND revoked_at IS NULL AND enabled AND (expires_at IS NULL OR expires_at > ")
            .push_bind(now.micros())
            .push(") AND suspended_reason IS NOT NULL AND (suspended_until IS NULL OR suspended_until > ")
            .push_bind(now.micros())
            .push(")"),
    };
}

fn read(row: &PgRow) -> Result<Key, StoreError> {
    let text = |column: &str| row.text(column).map(|text| text.map(Into::into));
    let time = |column: &str| row.integer(column).map(|time| time.map(Timestamp));
    Ok(Key {
        id: row.word("id")?.into(),
        name: row.word("name")?,
        hint: row.word("hint")?,
        hash: read_hash(row)?,
        principal: Principal { org: text("org")?, team: text("team")?, user: text("user")? },
        labels: row.json("labels")?,
        models: row.json("models")?,
        addresses: row.json("addresses")?,
        enabled: row.flag("enabled")?,
        created_at: Timestamp(row.number("created_at")?),
        expires_at: time("expires_at")?,
        revoked_at: time("revoked_at")?,
        rotated_at: time("rotated_at")?,
        caps: read_caps(row)?,
        suspension: text("suspended_reason")?
            .map(|reason| Ok::<_, StoreError>(Suspension { until: time("suspended_until")?, reason }))
            .transpose()?,
    })
}

/// A cap as a column; beyond 2^63-1 it caps nothing that could be counted.
pub(super) fn cap(cap: Option<u64>) -> Option<i64> {
    cap.map(|cap| i64::try_from(cap).unwrap_or(i64::MAX))
}

/// The columns `max_input_tokens` and `max_output_tokens` of a row.
pub(super) fn read_caps(row: &PgRow) -> Result<RequestCaps, StoreError> {
    let (input, output) = (row.count("max_input_tokens")?, row.count("max_output_tokens")?);
    Ok(RequestCaps { max_input_tokens: input, max_output_tokens: output })
}

/// The column `hash` of a row.
pub(super) fn read_hash(row: &PgRow) -> Result<TokenHash, StoreError> {
    let hash = row.bytes("hash")?.and_then(|bytes| bytes.try_into().ok());
    hash.map(TokenHash).ok_or_else(|| StoreError::Corrupt("a token hash has not 32 bytes".into()))
}
