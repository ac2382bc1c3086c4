//! Stored routes in PostgreSQL. Every write locks the table against other writes, because positions depend on all rows.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::super::noun;
use super::super::value::Row;
use super::{Store, Work, found, or_conflict};
use crate::error::StoreError;
use crate::route::store::{MAX_STORED_ROUTES, RouteStore, StoredRoute};

#[async_trait]
impl RouteStore for Store {
    async fn list(&self) -> Result<Vec<StoredRoute>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let rows = work.all(work.sql("SELECT * FROM stored_route ORDER BY position, id")).await?;
            rows.iter().map(noun::route).collect()
        })
        .await
    }

    async fn get(&self, id: &str) -> Result<Option<StoredRoute>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let row = work.optional(work.sql("SELECT * FROM stored_route WHERE id = $1").bind(id.to_owned())).await?;
            row.as_ref().map(noun::route).transpose()
        })
        .await
    }

    async fn insert(&self, route: &StoredRoute) -> Result<StoredRoute, StoreError> {
        self.bounded(async {
            let mut work = self.write_routes().await?;
            let count = work.one(work.sql("SELECT count(*) AS routes FROM stored_route")).await?.number("routes")?;
            if usize::try_from(count).unwrap_or(0) >= MAX_STORED_ROUTES {
                let text = format!("There are {MAX_STORED_ROUTES} stored routes; delete some.");
                return Err(StoreError::Conflict(text.into()));
            }
            let position = route.position.clamp(0, count);
            move_from(&mut work, position, 1).await?;
            let statement = "INSERT INTO stored_route (id, config, created_at, updated_at, position) \
                             VALUES ($1, $2, $3, $4, $5)";
            let statement = work.filled(statement, noun::route_values(route, position)?);
            let done = work.execute(statement).await;
            done.map_err(|error| or_conflict(error, "A route with this id is there already."))?;
            work.commit().await?;
            Ok(StoredRoute { position, ..route.clone() })
        })
        .await
    }

    async fn update(&self, route: &StoredRoute) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = "UPDATE stored_route SET config = $1, updated_at = $2 WHERE id = $3";
            let statement = work.filled(statement, noun::route_changes(route)?);
            found(work.execute(statement).await?.rows_affected())?;
            work.commit().await
        })
        .await
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.write_routes().await?;
            let statement = work.sql("DELETE FROM stored_route WHERE id = $1 RETURNING position").bind(id.to_owned());
            let row = work.optional(statement).await?.ok_or(StoreError::NotFound)?;
            move_from(&mut work, row.number("position")?, -1).await?;
            work.commit().await
        })
        .await
    }

    async fn reorder(&self, ids: &[&str]) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.write_routes().await?;
            let rows = work.all(work.sql("SELECT id FROM stored_route")).await?;
            let stored = rows.iter().map(|row| row.word("id")).collect::<Result<BTreeSet<String>, StoreError>>()?;
            let named: BTreeSet<&str> = ids.iter().copied().collect();
            if ids.len() != stored.len() || !named.iter().copied().eq(stored.iter().map(String::as_str)) {
                return Err(StoreError::Conflict("An order names every stored route exactly once.".into()));
            }
            let statement = work
                .sql(
                    "UPDATE stored_route SET position = place - 1 \
                     FROM unnest($1::text[]) WITH ORDINALITY AS wanted (wanted_id, place) \
                     WHERE id = wanted_id AND position <> place - 1",
                )
                .bind(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<String>>());
            work.execute(statement).await?;
            work.commit().await
        })
        .await
    }
}

impl Store {
    async fn write_routes(&self) -> Result<Work, StoreError> {
        let mut work = self.begin().await?;
        work.execute(work.sql("LOCK TABLE stored_route IN SHARE ROW EXCLUSIVE MODE")).await?;
        Ok(work)
    }
}

/// Moves the routes at and behind a position.
async fn move_from(work: &mut Work, position: i64, by: i64) -> Result<(), StoreError> {
    let statement = work.sql("UPDATE stored_route SET position = position + $1 WHERE position >= $2");
    work.execute(statement.bind(by).bind(position)).await.map(drop)
}
