//! Keys in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{QueryBuilder, Sqlite};

use super::super::filter::push_key_state;
use super::super::keys::{is_remembered, number};
use super::super::noun;
use super::super::value::gather;
use super::{Store, failed, filled, found, or_conflict};
use crate::error::StoreError;
use crate::key::store::{KeyChanges, KeyFilter, KeyList, KeyPage, KeyStore};
use crate::key::{Key, Suspension};

const SELECT: &str = "SELECT id, name, hint, hash, org, team, user, labels, models, addresses, enabled, created_at, expires_at, \
                      revoked_at, rotated_at, max_input_tokens, max_output_tokens, suspended_until, suspended_reason FROM app_key";
const INSERT: &str = "INSERT INTO app_key (name, org, team, user, labels, models, addresses, enabled, expires_at, revoked_at, \
                      rotated_at, hint, hash, max_input_tokens, max_output_tokens, id, created_at) \
                      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// All right sides see the row as it was, so one comparison decides for hash, hint and time alike.
const UPDATE: &str = "UPDATE app_key SET name = ?1, org = ?2, team = ?3, user = ?4, labels = ?5, models = ?6, addresses = ?7, \
                      enabled = ?8, expires_at = ?9, revoked_at = coalesce(revoked_at, ?10), \
                      hint = iif(coalesce(rotated_at, 0) <= coalesce(?11, 0), ?12, hint), \
                      hash = iif(coalesce(rotated_at, 0) <= coalesce(?11, 0), ?13, hash), \
                      rotated_at = iif(coalesce(rotated_at, 0) <= coalesce(?11, 0), ?11, rotated_at), \
                      max_input_tokens = ?14, max_output_tokens = ?15 WHERE id = ?16";
/// A key that rests already, and for longer, goes on doing so: two processes may suspend one at the same time.
const SUSPEND: &str = "UPDATE app_key SET suspended_until = ?1, suspended_reason = ?2 WHERE id = ?3 \
                       AND NOT (?2 IS NOT NULL AND suspended_reason IS NOT NULL \
                                AND (suspended_until IS NULL OR coalesce(suspended_until >= ?1, FALSE)))";
const DUPLICATE: &str = "A key with this id or this token is there already.";

#[async_trait]
impl KeyStore for Store {
    async fn insert(&self, key: &Key) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        filled(INSERT, noun::key_values(key)?)
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), DUPLICATE))?;
        transaction.commit().await.map_err(failed)
    }

    async fn update(&self, key: &Key) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = filled(UPDATE, noun::key_values(key)?.into_iter().take(noun::KEY_UPDATE))
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), DUPLICATE))?;
        found(done.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }

    async fn suspend(&self, id: &str, suspension: Option<&Suspension>) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let done = filled(SUSPEND, noun::suspension_values(suspension)).bind(id).execute(&mut *transaction).await;
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
        row.map_err(failed)?.as_ref().map(noun::key).transpose()
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
        let keys = rows.iter().take(limit).map(noun::key).collect::<Result<Vec<Key>, StoreError>>()?;
        let next = keys.last().filter(|_| rows.len() > limit).map(|key| key.id.to_string());
        Ok(KeyList { keys, next })
    }

    async fn count(&self, filter: &KeyFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT count(*) FROM app_key WHERE TRUE");
        push_filter(&mut query, filter);
        let count: i64 = query.build_query_scalar().persistent(false).fetch_one(&self.readers).await.map_err(failed)?;
        Ok(count.unsigned_abs())
    }

    async fn all(&self) -> Result<Vec<Arc<Key>>, StoreError> {
        gather(sqlx::query(SELECT).fetch(&self.readers), failed, |row| noun::key(row).map(Arc::new)).await
    }

    async fn changed_after(&self, generation: u64) -> Result<Option<KeyChanges>, StoreError> {
        let mut reading = self.readers.begin().await.map_err(failed)?;
        let now: i64 =
            sqlx::query_scalar("SELECT value FROM generation").fetch_one(&mut *reading).await.map_err(failed)?;
        if !is_remembered(generation, now.unsigned_abs()) {
            return Ok(None);
        }
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query
            .push(" WHERE id IN (SELECT id FROM app_key_change WHERE generation > ")
            .push_bind(number(generation))
            .push(")");
        let rows = query.build().fetch_all(&mut *reading).await.map_err(failed)?;
        let gone = sqlx::query_scalar::<_, String>("SELECT id FROM app_key_gone WHERE generation > ?");
        let gone = gone.bind(number(generation)).fetch_all(&mut *reading).await.map_err(failed)?;
        let keys = rows.iter().map(noun::key).collect::<Result<_, _>>()?;
        Ok(Some(KeyChanges { keys, gone: gone.into_iter().map(Into::into).collect() }))
    }

    async fn generation(&self) -> Result<u64, StoreError> {
        // A file that was taken away cannot tell what others change in the one that took its place.
        self.file.check(&self.path)?;
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
    push_key_state(query, *state);
}
