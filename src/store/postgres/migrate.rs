//! Bringing the schema up to date, while other processes work with it.
//!
//! Each step is a transaction of its own that holds an advisory lock, so of many processes that start at once one does the work
//! and the others find it done. A step may run beside a process of the version before, so it only adds; it never waits long for a
//! table (`LOCK`), since everybody else would wait behind it; and what would hold a large table for long is split into steps that
//! do not.

use super::super::value::Row;
use super::{Applied, Store, Work, failed};
use crate::error::StoreError;
use crate::unit::clock::Timestamp;

/// All steps: number, name, statements. A step that was released never changes.
const STEPS: &[Step] = &[
    (1, "ground", include_str!("../migrations/postgres/0001_ground.sql")),
    (2, "limits", include_str!("../migrations/postgres/0002_limits.sql")),
    (3, "prices", include_str!("../migrations/postgres/0003_prices.sql")),
    (4, "counters", include_str!("../migrations/postgres/0004_counters.sql")),
    (5, "kavach", include_str!("../migrations/postgres/0005_kavach.sql")),
    (6, "memory", include_str!("../migrations/postgres/0006_memory.sql")),
    (7, "counter calls", include_str!("../migrations/postgres/0007_counter_calls.sql")),
    (8, "images", include_str!("../migrations/postgres/0008_images.sql")),
    (9, "key changes", include_str!("../migrations/postgres/0009_key_changes.sql")),
    (10, "protocol", include_str!("../migrations/postgres/0010_protocol.sql")),
    (11, "clock put back", include_str!("../migrations/postgres/0011_clock_put_back.sql")),
];

type Step = (i64, &'static str, &'static str);

/// The advisory lock of migrations: "marg" and a number, as one.
const LOCK: &str = "SELECT pg_advisory_xact_lock(1835102823, 1), set_config('lock_timeout', '5s', true)";

/// Applies what is missing.
pub(super) async fn run(store: &Store) -> Result<Vec<Applied>, StoreError> {
    let applied = store.bounded(apply(store, STEPS)).await?;
    super::partitions::make_ahead(store, Timestamp::now()).await?;
    Ok(applied)
}

async fn apply(store: &Store, steps: &'static [Step]) -> Result<Vec<Applied>, StoreError> {
    let known = steps.last().map_or(0, |(version, ..)| *version);
    let mut applied = Vec::new();
    loop {
        let mut work = store.begin().await?;
        // A look first: nobody waits for the lock on an up-to-date database.
        if found_version(&mut work).await? == known {
            return Ok(applied);
        }
        work.one(work.sql(LOCK)).await?;
        let table = "CREATE TABLE IF NOT EXISTS schema_version \
                     (version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)";
        work.execute(work.sql(table)).await?;
        let found = found_version(&mut work).await?;
        if found > known {
            return Err(StoreError::Newer { found, known });
        }
        let Some((version, name, statements)) = steps.iter().find(|(version, ..)| *version > found) else {
            return Ok(applied);
        };
        sqlx::raw_sql(*statements).execute(work.connection()).await.map_err(failed)?;
        let statement = work.sql("INSERT INTO schema_version (version, name, applied_at) VALUES ($1, $2, $3)");
        work.execute(statement.bind(version).bind(name).bind(Timestamp::now().micros())).await?;
        work.commit().await?;
        applied.push(Applied { version: *version, name });
    }
}

/// The version of the schema; 0 where there is none.
async fn found_version(work: &mut Work) -> Result<i64, StoreError> {
    let row = work.one(work.sql("SELECT to_regclass('schema_version') IS NOT NULL AS is_there")).await?;
    if !row.flag("is_there")? {
        return Ok(0);
    }
    work.one(work.sql("SELECT coalesce(max(version), 0) AS version FROM schema_version")).await?.number("version")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::database;

    #[tokio::test]
    async fn a_database_that_is_newer_than_the_program_is_refused_in_words() {
        let address = database();
        let (store, _) = Store::open(&address).await.unwrap();
        sqlx::query("INSERT INTO schema_version VALUES (99, 'later', 0)").execute(&store.pool).await.unwrap();
        let refused = Store::open(&address).await.err().unwrap();
        assert!(matches!(refused, StoreError::Newer { found: 99, .. }));
        assert!(refused.to_string().contains("newer version of the program"), "{refused}");
    }

    #[tokio::test]
    async fn a_step_that_fails_leaves_nothing_of_itself_behind() {
        const BROKEN: &[Step] = &[
            (1, "one", "CREATE TABLE kept (b INTEGER)"),
            (2, "two", "CREATE TABLE half (b INTEGER); CREATE TABLE half (c INTEGER);"),
        ];
        let (store, _) = Store::open(&database()).await.unwrap();
        sqlx::raw_sql("DROP TABLE schema_version").execute(&store.pool).await.unwrap();
        assert!(apply(&store, BROKEN).await.is_err());
        let there = "SELECT to_regclass('kept')::text AS kept, to_regclass('half')::text AS half";
        let row = sqlx::query(there).fetch_one(&store.pool).await.unwrap();
        assert_eq!((row.text("kept").unwrap().as_deref(), row.text("half").unwrap()), (Some("kept"), None));
    }

    #[tokio::test]
    async fn many_that_start_at_once_apply_each_step_once() {
        let address = database();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let address = address.clone();
            tasks.spawn(async move { Store::open(&address).await.unwrap().1.len() });
        }
        let applied: usize = tasks.join_all().await.into_iter().sum();
        assert_eq!(applied, STEPS.len());
        assert_eq!(Store::open(&address).await.unwrap().1, Vec::new());
    }
}
