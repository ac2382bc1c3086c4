//! Keys in SQLite.

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::{Store, failed, found, or_conflict};
use crate::error::StoreError;
use crate::key::party::RequestCaps;
use crate::key::store::{KeyFilter, KeyList, KeyPage, KeyStore};
use crate::key::token::TokenHash;
use crate::key::{Key, KeyState, Principal, Suspension};
use crate::unit::clock::Timestamp;

const SELECT: &str = "SELECT id, name, hint, hash, org, team, user, labels, models, addresses, enabled, created_at, expires_at, \
                      revoked_at, rotated_at, max_input_tokens, max_output_tokens, suspended_until, suspended_reason FROM app_key";
const DUPLICATE: &str = "A key with this id or this token is there already.";

#[async_trait]
impl KeyStore for Store {
    async fn insert(&self, key: &Key) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let statement = "INSERT INTO app_key (id, name, hint, hash, org, team, user, labels, models, addresses, enabled, \
                         created_at, expires_at, revoked_at, rotated_at, max_input_tokens, max_output_tokens) \
                         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        sqlx::query(statement)
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
            .bind(cap(key.caps.max_output_tokens))
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), DUPLICATE))?;
        transaction.commit().await.map_err(failed)
    }

    async fn update(&self, key: &Key) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let rotated_at = key.rotated_at.map(Timestamp::micros);
        // All right sides see the row as it was, so one comparison decides for hash, hint and time alike.
        let statement = "UPDATE app_key SET name = ?1, org = ?2, team = ?3, user = ?4, labels = ?5, models = ?6, addresses = ?7, \
                         enabled = ?8, expires_at = ?9, revoked_at = coalesce(revoked_at, ?10), \
                         hint = iif(coalesce(rotated_at, 0) <= coalesce(?11, 0), ?12, hint), \
                         hash = iif(coalesce(rotated_at, 0) <= coalesce(?11, 0), ?13, hash), \
                         rotated_at = iif(coalesce(rotated_at, 0) <= coalesce(?11, 0), ?11, rotated_at), \
                         max_input_tokens = ?14, max_output_tokens = ?15 WHERE id = ?16";
        let done = sqlx::query(statement)
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
            .bind(rotated_at)
            .bind(key.hint.as_str())
            .bind(key.hash.0.as_slice())
            .bind(cap(key.caps.max_input_tokens))
            .bind(cap(key.caps.max_output_tokens))
            .bind(key.id.as_ref())
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), DUPLICATE))?;
        found(done.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }

    async fn suspend(&self, id: &str, suspension: Option<&Suspension>) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = sqlx::query("UPDATE app_key SET suspended_until = ?, suspended_reason = ? WHERE id = ?")
            .bind(suspension.and_then(|rest| rest.until).map(Timestamp::micros))
            .bind(suspension.map(|rest| &*rest.reason))
            .bind(id)
            .execute(&mut *transaction)
            .await;
        found(done.map_err(failed)?.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = sqlx::query("DELETE FROM app_key WHERE id = ?").bind(id).execute(&mut *transaction).await;
        found(done.map_err(failed)?.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }

    async fn get(&self, id: &str) -> Result<Option<Key>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let row = query.push(" WHERE id = ").push_bind(id).build().fetch_optional(&self.readers).await;
        row.map_err(failed)?.as_ref().map(read).transpose()
    }

    async fn list(&self, filter: &KeyFilter, page: &KeyPage) -> Result<KeyList, StoreError> {
        let limit = page.limit.clamp(1, 1_000);
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE TRUE");
        push_filter(&mut query, filter);
        if let Some(after) = &page.after {
            query.push(" AND id < ").push_bind(after.as_str());
        }
        // One more than asked for tells whether there is a rest. The bound keeps the number far inside an i64.
        query.push(" ORDER BY id DESC LIMIT ").push_bind(limit as i64 + 1);
        let rows = query.build().persistent(false).fetch_all(&self.readers).await.map_err(failed)?;
        let keys = rows.iter().take(limit).map(read).collect::<Result<Vec<Key>, StoreError>>()?;
        let next = keys.last().filter(|_| rows.len() > limit).map(|key| key.id.to_string());
        Ok(KeyList { keys, next })
    }

    async fn count(&self, filter: &KeyFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT count(*) FROM app_key WHERE TRUE");
        push_filter(&mut query, filter);
        let count: i64 = query.build_query_scalar().persistent(false).fetch_one(&self.readers).await.map_err(failed)?;
        Ok(count.unsigned_abs())
    }

    async fn all(&self) -> Result<Vec<Key>, StoreError> {
        let rows = sqlx::query(SELECT).fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(read).collect()
    }

    async fn generation(&self) -> Result<u64, StoreError> {
        let value: i64 =
            sqlx::query_scalar("SELECT value FROM generation").fetch_one(&self.readers).await.map_err(failed)?;
        u64::try_from(value).map_err(|_| StoreError::Corrupt("the generation is negative".into()))
    }
}

fn push_filter(query: &mut QueryBuilder<Sqlite>, filter: &KeyFilter) {
    let KeyFilter { org, team, user, name, label, state } = filter;
    for (column, value) in [(" AND org = ", org), (" AND team = ", team), (" AND user = ", user)] {
        if let Some(value) = value {
            query.push(column).push_bind(value.as_str());
        }
    }
    if let Some(part) = name {
        query.push(" AND instr(lower(name), lower(").push_bind(part.as_str()).push(")) > 0");
    }
    if let Some((name, value)) = label {
        query.push(" AND EXISTS (SELECT 1 FROM json_each(labels) AS label WHERE label.key = ").push_bind(name.as_str());
        query.push(" AND label.value = ").push_bind(value.as_str()).push(")");
    }
    // The same order as in `Key::state`.
    let Some((state, now)) = state else { return };
    match state {
        KeyState::Revoked => query.push(" AND revoked_at IS NOT NULL"),
        KeyState::Disabled => query.push(" AND revoked_at IS NULL AND enabled = 0"),
        KeyState::Expired => {
            query.push(" AND revoked_at IS NULL AND enabled = 1 AND expires_at <= ").push_bind(now.micros())
        }
        KeyState::Active => query
            .push(" AND revoked_at IS NULL AND enabled = 1 AND (expires_at IS NULL OR expires_at > ")
            .push_bind(now.micros())
            .push(") AND (suspended_reason IS NULL OR suspended_until <= ")
            .push_bind(now.micros())
            .push(")"),
        KeyState::Suspended => query
            .push(" AND revoked_at IS NULL AND enabled = 1 AND (expires_at IS NULL OR expires_at > ")
            .push_bind(now.micros())
            .push(") AND suspended_reason IS NOT NULL AND (suspended_until IS NULL OR suspended_until > ")
            .push_bind(now.micros())
            .push(")"),
    };
}

fn read(row: &SqliteRow) -> Result<Key, StoreError> {
    let text = |column: &str| row.try_get::<Option<String>, _>(column).map(|text| text.map(Into::into)).map_err(failed);
    let time = |column: &str| row.try_get::<Option<i64>, _>(column).map(|time| time.map(Timestamp)).map_err(failed);
    Ok(Key {
        id: row.try_get::<String, _>("id").map_err(failed)?.into(),
        name: row.try_get("name").map_err(failed)?,
        hint: row.try_get("hint").map_err(failed)?,
        hash: read_hash(row)?,
        principal: Principal { org: text("org")?, team: text("team")?, user: text("user")? },
        labels: from_json(row, "labels")?,
        models: from_json(row, "models")?,
        addresses: from_json(row, "addresses")?,
        enabled: row.try_get("enabled").map_err(failed)?,
        created_at: Timestamp(row.try_get("created_at").map_err(failed)?),
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
pub(super) fn read_caps(row: &SqliteRow) -> Result<RequestCaps, StoreError> {
    let cap =
        |column: &str| row.try_get::<Option<i64>, _>(column).map(|cap| cap.map(i64::unsigned_abs)).map_err(failed);
    Ok(RequestCaps { max_input_tokens: cap("max_input_tokens")?, max_output_tokens: cap("max_output_tokens")? })
}

/// The column `hash` of a row.
pub(super) fn read_hash(row: &SqliteRow) -> Result<TokenHash, StoreError> {
    let bytes: Vec<u8> = row.try_get("hash").map_err(failed)?;
    let hash = bytes.try_into().map_err(|_| StoreError::Corrupt("a token hash has not 32 bytes".into()))?;
    Ok(TokenHash(hash))
}

/// A value as JSON text.
pub(super) fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|cause| StoreError::Conflict(cause.to_string().into()))
}

/// A column of JSON text.
pub(super) fn from_json<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let text: String = row.try_get(column).map_err(failed)?;
    serde_json::from_str(&text).map_err(|cause| StoreError::Corrupt(format!("column {column}: {cause}").into()))
}
