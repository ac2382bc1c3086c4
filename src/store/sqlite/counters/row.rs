//! The statements behind counters.

use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Executor, Row, Sqlite, SqliteConnection};

use super::super::{failed, found};
use crate::budget::authority::PROTOCOL;
use crate::budget::counter::Counter;
use crate::error::StoreError;
use crate::ledger::query::Position;
use crate::unit::charge::{CounterId, WindowId};
use crate::unit::clock::Timestamp;

/// Refuses if a newer program leases from these counters; notes that this one does.
pub(super) async fn agree(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let found: i64 = sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM counter_protocol")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if found > PROTOCOL {
        return Err(StoreError::Outdated { found, known: PROTOCOL });
    }
    if found < PROTOCOL {
        let statement = "UPDATE counter_protocol SET number = ?";
        sqlx::query(statement).bind(PROTOCOL).execute(connection).await.map_err(failed)?;
    }
    Ok(())
}

/// Records that an owner lives.
pub(super) async fn hear(connection: &mut SqliteConnection, owner: &str, now: Timestamp) -> Result<(), StoreError> {
    let statement = "INSERT INTO counter_owner (owner, heard_at) VALUES (?1, ?2) \
                     ON CONFLICT (owner) DO UPDATE SET heard_at = ?2";
    sqlx::query(statement).bind(owner).bind(now.micros()).execute(connection).await.map(drop).map_err(failed)
}

/// The counter of that id, as it was last written.
pub(super) async fn load(connection: &mut SqliteConnection, id: &CounterId) -> Result<Option<Counter>, StoreError> {
    let state: Option<String> = sqlx::query_scalar("SELECT state FROM counter WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    state.as_deref().map(read).transpose()
}

fn read(state: &str) -> Result<Counter, StoreError> {
    serde_json::from_str(state)
        .map_err(|cause| StoreError::Corrupt(format!("a counter cannot be read: {cause}").into()))
}

/// Writes a counter.
pub(super) async fn keep(
    connection: &mut SqliteConnection,
    id: &CounterId,
    counter: &Counter,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (kind, until) = match id.window {
        WindowId::Calendar { until, .. } => ("c", Some(until)),
        WindowId::Sliding { .. } => ("s", None),
        WindowId::Total => ("t", None),
        WindowId::Now => ("n", None),
    };
    let state = serde_json::to_string(counter)
        .map_err(|cause| StoreError::Corrupt(format!("a counter cannot be written: {cause}").into()))?;
    let statement = "INSERT INTO counter (id, limit_id, kind, until, spent, wanted_until, changed_at, state) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
                     ON CONFLICT (id) DO UPDATE SET spent = ?5, wanted_until = ?6, changed_at = ?7, state = ?8";
    let query = sqlx::query(statement)
        .bind(id.to_string())
        .bind(id.limit.as_ref())
        .bind(kind)
        .bind(until)
        .bind(counter.spent(id.window, now))
        .bind(counter.wanted_until().map_or(0, Timestamp::micros))
        .bind(now.micros())
        .bind(state);
    query.execute(connection).await.map(drop).map_err(failed)
}

/// Keeps the list of leases in step, given whether the owner held one before and after.
pub(super) async fn note(
    connection: &mut SqliteConnection,
    owner: &str,
    id: &CounterId,
    held: (bool, bool),
) -> Result<(), StoreError> {
    let statement = match held {
        (false, true) => "INSERT INTO counter_lease (owner, counter) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (true, false) => "DELETE FROM counter_lease WHERE owner = ? AND counter = ?",
        _ => return Ok(()),
    };
    sqlx::query(statement).bind(owner).bind(id.to_string()).execute(connection).await.map(drop).map_err(failed)
}

/// The counters that somebody waits for.
pub(super) async fn wanted(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<Vec<(CounterId, Counter)>, StoreError> {
    let statement = "SELECT id, state FROM counter WHERE wanted_until > 0 AND wanted_until > ?";
    let rows = sqlx::query(statement).bind(now.micros()).fetch_all(connection).await.map_err(failed)?;
    rows.iter().map(pair).collect()
}

fn pair(row: &SqliteRow) -> Result<(CounterId, Counter), StoreError> {
    let id: &str = row.try_get("id").map_err(failed)?;
    let state: &str = row.try_get("state").map_err(failed)?;
    Ok((identify(id)?, read(state)?))
}

fn identify(id: &str) -> Result<CounterId, StoreError> {
    id.parse().map_err(|cause: String| StoreError::Corrupt(cause.into()))
}

/// The counters on which that owner holds a lease.
pub(super) async fn leased_by(connection: &mut SqliteConnection, owner: &str) -> Result<Vec<CounterId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar("SELECT counter FROM counter_lease WHERE owner = ?")
        .bind(owner)
        .fetch_all(connection)
        .await
        .map_err(failed)?;
    ids.iter().map(|id| identify(id)).collect()
}

/// Forgets an owner and that it held leases.
pub(super) async fn forget_owner(connection: &mut SqliteConnection, owner: &str) -> Result<(), StoreError> {
    for statement in ["DELETE FROM counter_lease WHERE owner = ?", "DELETE FROM counter_owner WHERE owner = ?"] {
        sqlx::query(statement).bind(owner).execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}

/// Owners that hold leases, and when they were last heard of.
pub(super) async fn owners(readers: &SqlitePool) -> Result<Vec<(String, Timestamp)>, StoreError> {
    let statement = "SELECT owner, heard_at FROM counter_owner \
                     WHERE EXISTS (SELECT 1 FROM counter_lease WHERE counter_lease.owner = counter_owner.owner)";
    let rows: Vec<(String, i64)> = sqlx::query_as(statement).fetch_all(readers).await.map_err(failed)?;
    Ok(rows.into_iter().map(|(owner, heard_at)| (owner, Timestamp(heard_at))).collect())
}

/// The counters of a limit, or all, the most spent first.
pub(super) async fn most_spent(
    readers: &SqlitePool,
    limit: Option<&str>,
    most: usize,
) -> Result<Vec<(CounterId, Counter)>, StoreError> {
    let statement = match limit {
        Some(_) => "SELECT id, state FROM counter WHERE limit_id = ?1 ORDER BY spent DESC LIMIT ?2",
        None => "SELECT id, state FROM counter WHERE ?1 IS NULL ORDER BY spent DESC LIMIT ?2",
    };
    let query = sqlx::query(statement).bind(limit).bind(i64::try_from(most).unwrap_or(i64::MAX));
    query.fetch_all(readers).await.map_err(failed)?.iter().map(pair).collect()
}

/// Every counter.
pub(super) async fn all(connection: &mut SqliteConnection) -> Result<Vec<(CounterId, Counter)>, StoreError> {
    let rows = sqlx::query("SELECT id, state FROM counter").fetch_all(connection).await.map_err(failed)?;
    rows.iter().map(pair).collect()
}

/// Leases on what runs at present, of owners that were not heard of since that time.
pub(super) async fn runs_of_silent(
    connection: &mut SqliteConnection,
    since: Timestamp,
) -> Result<Vec<(String, CounterId)>, StoreError> {
    let statement = "SELECT lease.owner, lease.counter FROM counter_lease AS lease \
                     JOIN counter ON counter.id = lease.counter \
                     LEFT JOIN counter_owner AS owner ON owner.owner = lease.owner \
                     WHERE counter.kind = 'n' AND coalesce(owner.heard_at, 0) <= ?";
    let rows: Vec<(String, String)> =
        sqlx::query_as(statement).bind(since.micros()).fetch_all(connection).await.map_err(failed)?;
    rows.into_iter().map(|(owner, id)| Ok((owner, identify(&id)?))).collect()
}

/// Deletes counters whose window was over at that time, those that slide or count what runs and that nobody has touched since
/// and holds, and owners that were not heard of since and hold nothing.
pub(super) async fn delete_old(connection: &mut SqliteConnection, before: Timestamp) -> Result<(), StoreError> {
    for (statement, bound) in [
        ("DELETE FROM counter WHERE kind = 'c' AND until <= ?", before.seconds()),
        (
            "DELETE FROM counter WHERE kind IN ('s', 'n') AND changed_at <= ? \
             AND id NOT IN (SELECT counter FROM counter_lease)",
            before.micros(),
        ),
        ("DELETE FROM counter_lease WHERE ?1 IS NOT NULL AND counter NOT IN (SELECT id FROM counter)", 0),
        (
            "DELETE FROM counter_owner WHERE heard_at <= ? AND owner NOT IN (SELECT owner FROM counter_lease)",
            before.micros(),
        ),
    ] {
        sqlx::query(statement).bind(bound).execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}

/// How far a segment has come.
pub(super) async fn position(pool: &SqlitePool, segment: &str) -> Result<u64, StoreError> {
    let byte: Option<i64> = sqlx::query_scalar("SELECT byte FROM counter_position WHERE segment = ?")
        .bind(segment)
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    u64::try_from(byte.unwrap_or(0)).map_err(|_| StoreError::Corrupt("a journal position is negative".into()))
}

/// How far each segment has come.
pub(super) async fn positions<'e>(
    executor: impl Executor<'e, Database = Sqlite>,
) -> Result<Vec<(String, u64)>, StoreError> {
    let statement = "SELECT segment, byte FROM counter_position";
    let rows: Vec<(String, i64)> = sqlx::query_as(statement).fetch_all(executor).await.map_err(failed)?;
    Ok(rows.into_iter().map(|(segment, byte)| (segment, u64::try_from(byte).unwrap_or(0))).collect())
}

/// Moves the position from where the caller believes it to be, or refuses.
pub(super) async fn move_position(connection: &mut SqliteConnection, position: &Position) -> Result<(), StoreError> {
    let stale = || StoreError::Conflict("the journal position is not where the batch begins".into());
    let (Ok(from), Ok(to)) = (i64::try_from(position.from), i64::try_from(position.to)) else {
        return Err(stale());
    };
    let statement = "INSERT INTO counter_position (segment, byte) SELECT ?1, ?2 \
                     WHERE ?3 = 0 OR EXISTS (SELECT 1 FROM counter_position WHERE segment = ?1) \
                     ON CONFLICT (segment) DO UPDATE SET byte = ?2 WHERE byte = ?3";
    let query = sqlx::query(statement).bind(position.segment.as_ref()).bind(to).bind(from);
    let done = query.execute(connection).await.map_err(failed)?;
    found(done.rows_affected()).map_err(|_| stale())
}

/// Forgets a position.
pub(super) async fn forget_position(connection: &mut SqliteConnection, segment: &str) -> Result<(), StoreError> {
    let query = sqlx::query("DELETE FROM counter_position WHERE segment = ?").bind(segment);
    query.execute(connection).await.map(drop).map_err(failed)
}
