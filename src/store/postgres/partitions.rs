//! Partitions of the request records, one for each month (UTC) of their start.
//!
//! They are made two months ahead, so no insert ever waits for one. A record of a month without a partition – a clock that goes
//! wrong, a journal that comes late – goes into `exchange_other`, and moves when its month gets a partition. Dropping a
//! partition is how old records go: it costs the same for a thousand and for a billion of them. All of it is done by whichever
//! process comes first; the others see the lock and leave it.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use sqlx::AssertSqlSafe;

use super::super::value::Row;
use super::{Store, Work, failed};
use crate::error::StoreError;
use crate::unit::clock::Timestamp;

/// How many months are made ahead of the present one.
const AHEAD: usize = 2;
/// Nobody waits longer than that for the table, since inserts would wait behind; it is tried again minutes later.
const LOCK: &str =
    "SELECT pg_try_advisory_xact_lock(1835102823, 2) AS mine, set_config('lock_timeout', '2s', true) AS bound";

/// A month, by its first day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Month(Date);

impl Month {
    fn of(time: Timestamp) -> Option<Self> {
        let date = jiff::Timestamp::from_microsecond(time.micros()).ok()?.to_zoned(TimeZone::UTC).date();
        Some(Self(date.first_of_month()))
    }

    fn next(self) -> Option<Self> {
        Some(Self(self.0.last_of_month().tomorrow().ok()?))
    }

    /// The first microsecond of it.
    fn begin(self) -> Option<i64> {
        Some(self.0.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond())
    }

    fn table(self) -> String {
        format!("exchange_{:04}{:02}", self.0.year(), self.0.month())
    }

    fn parse(table: &str) -> Option<Self> {
        let (year, month) = table.strip_prefix("exchange_").filter(|digits| digits.len() == 6)?.split_at(4);
        Some(Self(Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?))
    }
}

/// Makes the partition of that time's month and of those ahead.
pub(super) async fn make_ahead(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    let mut months: Vec<Month> = std::iter::successors(Month::of(now), |month| month.next()).take(AHEAD + 1).collect();
    let mut work = store.begin().await?;
    let there = existing(&mut work).await?;
    months.retain(|month| !there.contains(month));
    drop(work);
    for month in months {
        store.bounded(make(store, month)).await?;
    }
    Ok(())
}

/// Drops the partitions that end at or before that time; how many.
pub(super) async fn drop_before(store: &Store, before: Timestamp) -> Result<usize, StoreError> {
    let mut work = store.begin().await?;
    let mut old = existing(&mut work).await?;
    old.retain(|month| month.next().and_then(Month::begin).is_some_and(|end| end <= before.micros()));
    if old.is_empty() || !work.one(work.sql(LOCK)).await?.flag("mine")? {
        return Ok(0);
    }
    for month in &old {
        let statement = format!("DROP TABLE IF EXISTS {}", month.table());
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(work.connection()).await.map_err(failed)?;
    }
    work.commit().await?;
    Ok(old.len())
}

async fn existing(work: &mut Work) -> Result<Vec<Month>, StoreError> {
    let statement = "SELECT child.relname::text AS name FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid \
                     WHERE inhparent = to_regclass('exchange')";
    let rows = work.all(work.sql(statement)).await?;
    let names = rows.iter().map(|row| row.word("name")).collect::<Result<Vec<String>, StoreError>>()?;
    Ok(names.iter().filter_map(|name| Month::parse(name)).collect())
}

/// Makes one partition, and moves what waited for it in `exchange_other`. Attached instead of made in place, because that lets
/// others go on reading and writing.
async fn make(store: &Store, month: Month) -> Result<(), StoreError> {
    let (Some(from), Some(until)) = (month.begin(), month.next().and_then(Month::begin)) else { return Ok(()) };
    let mut work = store.begin().await?;
    work.one(work.sql("SELECT pg_advisory_xact_lock(1835102823, 2), set_config('lock_timeout', '2s', true)")).await?;
    if existing(&mut work).await?.contains(&month) {
        return Ok(());
    }
    let table = month.table();
    let statements = format!(
        "CREATE TABLE {table} (LIKE exchange INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES);
         LOCK TABLE exchange_other IN ACCESS EXCLUSIVE MODE;
         WITH moved AS (DELETE FROM exchange_other WHERE started_at >= {from} AND started_at < {until} RETURNING *)
         INSERT INTO {table} SELECT * FROM moved;
         ALTER TABLE exchange ATTACH PARTITION {table} FOR VALUES FROM ({from}) TO ({until});"
    );
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(work.connection()).await.map_err(failed)?;
    work.commit().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ledger::LedgerStore;
    use crate::store::suite::ledger::{record, write};
    use crate::store::testing::database;

    const NOVEMBER: Timestamp = Timestamp(1_795_000_000_000_000);

    async fn tables(store: &Store) -> Vec<String> {
        let mut months = existing(&mut store.begin().await.unwrap()).await.unwrap();
        months.sort();
        months.into_iter().map(Month::table).collect()
    }

    #[test]
    fn a_month_is_found_in_the_name_of_its_table_and_in_nothing_else() {
        for other in ["exchange_other", "exchange_2026", "exchange_202613", "exchange_20260a", "app_key"] {
            assert_eq!(Month::parse(other), None, "{other}");
        }
        let month = Month::of(NOVEMBER).unwrap();
        assert_eq!((month.table().as_str(), Month::parse(&month.table())), ("exchange_202611", Some(month)));
        assert_eq!(month.next().and_then(Month::next).unwrap().table(), "exchange_202701");
    }

    #[tokio::test]
    async fn months_are_made_ahead_and_take_what_waited_for_them() {
        let (store, _) = Store::open(&database()).await.unwrap();
        let before = tables(&store).await;
        assert_eq!(before.len(), AHEAD + 1);
        let far = NOVEMBER.plus(Duration::from_secs(40 * 365 * 86_400));
        write(&store, &[record(far.0), record(NOVEMBER.0 + 1)]).await;
        make_ahead(&store, far).await.unwrap();
        make_ahead(&store, far).await.unwrap();
        assert_eq!(tables(&store).await.len(), before.len() + AHEAD + 1);
        let statement = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {}", Month::of(far).unwrap().table()));
        let moved: i64 = sqlx::query_scalar(statement).fetch_one(&store.pool).await.unwrap();
        assert_eq!(moved, 1);
        assert_eq!(store.summarize(&Default::default()).await.unwrap().records, 2);
    }

    #[tokio::test]
    async fn whole_months_past_the_retention_are_dropped_and_no_younger_record_is_lost() {
        let (store, _) = Store::open(&database()).await.unwrap();
        make_ahead(&store, NOVEMBER).await.unwrap();
        let day = |days: i64| record(NOVEMBER.0 + days * 86_400_000_000);
        write(&store, &[day(0), day(30), day(45)]).await;
        let before = NOVEMBER.plus(Duration::from_secs(35 * 86_400));
        store.upkeep(Some(before)).await.unwrap();
        assert!(!tables(&store).await.contains(&"exchange_202611".to_owned()));
        assert_eq!(store.summarize(&Default::default()).await.unwrap().records, 2);
        assert_eq!(store.delete_before(before, 10).await.unwrap(), 1);
    }
}
