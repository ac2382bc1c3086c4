//! Bringing a schema up to date.
//!
//! sqlx brings a migrator of its own, but for SQLite its lock does nothing, so two processes that start at once would both run
//! the same step. Here everything happens in one transaction that holds the write lock: the second process waits, then finds
//! nothing to do, and a step that fails leaves nothing behind.

use sqlx::Connection;
use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::super::Applied;
use super::failed;
use crate::error::StoreError;
use crate::unit::clock::Timestamp;

/// All steps: number, name, statements. A step that was released never changes.
const STEPS: &[(i64, &str, &str)] = &[
    (1, "ground", include_str!("../migrations/sqlite/0001_ground.sql")),
    (2, "charges", include_str!("../migrations/sqlite/0002_charges.sql")),
    (3, "counters", include_str!("../migrations/sqlite/0003_counters.sql")),
    (4, "limits", include_str!("../migrations/sqlite/0004_limits.sql")),
    (5, "prices", include_str!("../migrations/sqlite/0005_prices.sql")),
    (6, "kavach", include_str!("../migrations/sqlite/0006_kavach.sql")),
    (7, "memory", include_str!("../migrations/sqlite/0007_memory.sql")),
    (8, "images", include_str!("../migrations/sqlite/0008_images.sql")),
    (9, "key changes", include_str!("../migrations/sqlite/0009_key_changes.sql")),
    (10, "protocol", include_str!("../migrations/sqlite/0010_protocol.sql")),
];

/// Applies what is missing, all or nothing.
pub(super) async fn run(writer: &SqlitePool) -> Result<Vec<Applied>, StoreError> {
    apply(writer, STEPS).await
}

async fn apply(writer: &SqlitePool, steps: &[(i64, &'static str, &'static str)]) -> Result<Vec<Applied>, StoreError> {
    let known = steps.last().map_or(0, |(version, ..)| *version);
    // A look first: the command line must not need the write lock, nor room on the disk, to read an up-to-date database.
    let mut connection = writer.acquire().await.map_err(failed)?;
    let is_there: bool = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = 'schema_version'")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if is_there && found_version(&mut connection).await? == known {
        return Ok(Vec::new());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let table = "CREATE TABLE IF NOT EXISTS schema_version \
                 (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT";
    sqlx::query(table).execute(&mut *transaction).await.map_err(failed)?;
    let found = found_version(&mut transaction).await?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    let mut applied = Vec::new();
    for &(version, name, statements) in steps.iter().filter(|(version, ..)| *version > found) {
        sqlx::raw_sql(statements).execute(&mut *transaction).await.map_err(failed)?;
        sqlx::query("INSERT INTO schema_version (version, name, applied_at) VALUES (?, ?, ?)")
            .bind(version)
            .bind(name)
            .bind(Timestamp::now().micros())
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        applied.push(Applied { version, name });
    }
    transaction.commit().await.map_err(failed)?;
    Ok(applied)
}

async fn found_version(connection: &mut SqliteConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM schema_version")
        .fetch_one(connection)
        .await
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::{Store, prepare_files};
    use super::*;

    #[tokio::test]
    async fn a_database_that_is_newer_than_the_program_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marg.db");
        let store = Store::open(&path).await.unwrap();
        sqlx::query("INSERT INTO schema_version VALUES (99, 'later', 0)").execute(&store.writer).await.unwrap();
        store.close().await;
        let refused = Store::open(&path).await.err().unwrap();
        assert!(matches!(refused, StoreError::Newer { found: 99, .. }));
        assert!(refused.to_string().contains("newer version of the program"), "{refused}");
    }

    #[tokio::test]
    async fn a_step_that_fails_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marg.db");
        prepare_files(&path).unwrap();
        let pool = super::super::connect(sqlx::sqlite::SqliteConnectOptions::new().filename(&path)).await.unwrap();
        let broken = &[(1, "one", "CREATE TABLE a (b INTEGER); CREATE TABLE a (c INTEGER);")];
        assert!(apply(&pool, broken).await.is_err());
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&pool).await.unwrap();
        assert_eq!(tables, 0);
    }

    #[tokio::test]
    async fn many_that_start_at_once_apply_each_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marg.db");
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let path = path.clone();
            tasks.spawn(async move { Store::migrate(path).await.unwrap().len() });
        }
        let applied: usize = tasks.join_all().await.into_iter().sum();
        assert_eq!(applied, STEPS.len());
        assert_eq!(Store::migrate(&path).await.unwrap(), Vec::new());
    }
}
