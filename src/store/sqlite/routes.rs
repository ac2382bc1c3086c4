//! Stored routes in SQLite.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::super::noun;
use super::{Store, failed, filled, found, or_conflict};
use crate::error::StoreError;
use crate::route::store::{MAX_STORED_ROUTES, RouteStore, StoredRoute};

const SELECT: &str = "SELECT id, position, config, created_at, updated_at FROM stored_route";

#[async_trait]
impl RouteStore for Store {
    async fn list(&self) -> Result<Vec<StoredRoute>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let rows = query.push(" ORDER BY position, id").build().fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(noun::route).collect()
    }

    async fn get(&self, id: &str) -> Result<Option<StoredRoute>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        let row = query.push(" WHERE id = ").push_bind(id).build().fetch_optional(&self.readers).await;
        row.map_err(failed)?.as_ref().map(noun::route).transpose()
    }

    async fn insert(&self, route: &StoredRoute) -> Result<StoredRoute, StoreError> {
        let mut transaction = self.write().await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM stored_route")
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        if usize::try_from(count).unwrap_or(0) >= MAX_STORED_ROUTES {
            return Err(StoreError::Conflict(
                format!("There are {MAX_STORED_ROUTES} stored routes; delete some.").into(),
            ));
        }
        let position = route.position.clamp(0, count);
        move_from(&mut transaction, position, 1).await?;
        let statement =
            "INSERT INTO stored_route (id, config, created_at, updated_at, position) VALUES (?, ?, ?, ?, ?)";
        filled(statement, noun::route_values(route, position)?)
            .execute(&mut *transaction)
            .await
            .map_err(|error| or_conflict(failed(error), "A route with this id is there already."))?;
        transaction.commit().await.map_err(failed)?;
        Ok(StoredRoute { position, ..route.clone() })
    }

    async fn update(&self, route: &StoredRoute) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let statement = "UPDATE stored_route SET config = ?, updated_at = ? WHERE id = ?";
        let done = filled(statement, noun::route_changes(route)?).execute(&mut *transaction).await;
        found(done.map_err(failed)?.rows_affected())?;
        transaction.commit().await.map_err(failed)
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let position: Option<i64> = sqlx::query_scalar("DELETE FROM stored_route WHERE id = ? RETURNING position")
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(failed)?;
        move_from(&mut transaction, position.ok_or(StoreError::NotFound)?, -1).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn reorder(&self, ids: &[&str]) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let stored: BTreeSet<String> = sqlx::query_scalar("SELECT id FROM stored_route")
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed)?
            .into_iter()
            .collect();
        let named: BTreeSet<&str> = ids.iter().copied().collect();
        if ids.len() != stored.len() || !named.iter().copied().eq(stored.iter().map(String::as_str)) {
            return Err(StoreError::Conflict("An order names every stored route exactly once.".into()));
        }
        for (position, id) in (0_i64..).zip(ids) {
            sqlx::query("UPDATE stored_route SET position = ?1 WHERE id = ?2 AND position <> ?1")
                .bind(position)
                .bind(*id)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }
}

/// Moves the routes at and behind a position.
async fn move_from(connection: &mut SqliteConnection, position: i64, by: i64) -> Result<(), StoreError> {
    sqlx::query("UPDATE stored_route SET position = position + ? WHERE position >= ?")
        .bind(by)
        .bind(position)
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed)
}
