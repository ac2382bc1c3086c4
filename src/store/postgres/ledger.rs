//! The ledger in PostgreSQL.
//!
//! Rows go in by statements of 128, 16, 4 and 1 rows. Batches of several gateways run at once, so their numbers become visible
//! out of order; a follower must not pass a number that is still on its way. Writers therefore share an advisory lock, and
//! whoever reads in order of arrival takes it alone for one look at the last number: what has a number up to that is there, or
//! never will be (`a_follower_misses_nothing_while_batches_cross`).

mod find;
mod reprice;

use std::sync::LazyLock;

use async_trait::async_trait;

use super::super::record;
use super::super::value::Row;
use super::{Store, Work, bind, partitions};
use crate::error::StoreError;
use crate::ledger::query::{Cursor, Filter, Group, LedgerStore, Order, Page, Position, Spender, Summary};
use crate::ledger::{Line, Record};
use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;

const WRITING: &str = "SELECT pg_advisory_xact_lock_shared(1835102823, 3)";
const WAIT_FOR_WRITERS: &str = "SELECT pg_advisory_xact_lock(1835102823, 3)";

#[async_trait]
impl LedgerStore for Store {
    async fn position(&self, segment: &str) -> Result<u64, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = work.sql("SELECT byte FROM journal_position WHERE segment = $1").bind(segment.to_owned());
            let row = work.optional(statement).await?;
            Ok(row.map(|row| row.count("byte")).transpose()?.flatten().unwrap_or(0))
        })
        .await
    }

    async fn write_batch(&self, lines: &[Line], position: &Position) -> Result<u64, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            work.one(work.sql(WRITING)).await?;
            move_position(&mut work, position, &self.node).await?;
            let records: Vec<&Record> = lines.iter().filter_map(Line::record).collect();
            let new = insert(&mut work, &records).await?;
            // An amendment stands behind its record in the journal, so the record is there by now.
            for amendment in lines.iter().filter_map(Line::amendment) {
                static STATEMENT: LazyLock<String> = LazyLock::new(record::amend_statement);
                let statement = work.sql(STATEMENT.as_str());
                let statement = record::measures(amendment)?.into_iter().fold(statement, bind);
                work.execute(statement).await?;
            }
            work.commit().await?;
            Ok(new)
        })
        .await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        // A commit is on the disk when it returns, unless the server is told otherwise; a commit that waits for the disk takes all
        // before it along.
        self.bounded(async {
            let mut work = self.begin().await?;
            work.one(work.sql("SELECT set_config('synchronous_commit', 'on', true)")).await?;
            work.execute(work.sql("UPDATE schema_version SET name = name WHERE version = 1")).await?;
            work.commit().await
        })
        .await
    }

    async fn segments(&self) -> Result<Vec<String>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            // Those of other data folders are none of this process's business.
            let statement =
                work.sql("SELECT segment FROM journal_position WHERE node = $1").bind(self.node.to_string());
            work.all(statement).await?.iter().map(|row| row.word("segment")).collect()
        })
        .await
    }

    async fn forget(&self, segment: &str) -> Result<(), StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            work.execute(work.sql("DELETE FROM journal_position WHERE segment = $1").bind(segment.to_owned())).await?;
            work.commit().await
        })
        .await
    }

    async fn get(&self, id: ExchangeId) -> Result<Option<Record>, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = bind(work.sql("SELECT * FROM exchange WHERE id = $1"), record::id(&id));
            work.optional(statement).await?.as_ref().map(record::read).transpose()
        })
        .await
    }

    async fn find(&self, filter: &Filter) -> Result<Page, StoreError> {
        let until = if filter.order == Order::Arrival { Some(self.arrived().await?) } else { None };
        self.bounded(async { find::page(&mut self.begin().await?, filter, until).await }).await
    }

    async fn end(&self) -> Result<Cursor, StoreError> {
        let until = self.arrived().await?;
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = "SELECT started_at, number FROM exchange WHERE number <= $1 ORDER BY number DESC LIMIT 1";
            let last = work.optional(work.sql(statement).bind(until)).await?;
            Ok(last.as_ref().map(find::cursor).transpose()?.unwrap_or(Cursor { started_at: Timestamp(0), number: 0 }))
        })
        .await
    }

    async fn summarize(&self, filter: &Filter) -> Result<Summary, StoreError> {
        self.bounded(async { find::summary(&mut self.begin().await?, filter).await }).await
    }

    async fn top(&self, filter: &Filter, group: Group, limit: usize) -> Result<Vec<Spender>, StoreError> {
        self.bounded(async { find::top(&mut self.begin().await?, filter, group, limit).await }).await
    }

    async fn upkeep(&self, before: Option<Timestamp>) -> Result<(), StoreError> {
        partitions::make_ahead(self, Timestamp::now()).await?;
        let Some(before) = before else { return Ok(()) };
        let dropped = self.bounded(partitions::drop_before(self, before)).await?;
        if dropped > 0 {
            tracing::info!(months = dropped, "request records past their retention are dropped");
        }
        Ok(())
    }

    async fn delete_before(&self, before: Timestamp, max_rows: u32) -> Result<u64, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            let statement = "DELETE FROM exchange WHERE (id, started_at) IN (SELECT id, started_at FROM exchange \
                             WHERE started_at < $1 ORDER BY started_at, number LIMIT $2)";
            let statement = work.sql(statement).bind(before.micros()).bind(i64::from(max_rows));
            let deleted = work.execute(statement).await?.rows_affected();
            work.commit().await?;
            Ok(deleted)
        })
        .await
    }
}

impl Store {
    /// The last number of which it is sure that it and all before it are there, or never will be.
    async fn arrived(&self) -> Result<i64, StoreError> {
        self.bounded(async {
            let mut work = self.begin().await?;
            work.one(work.sql(WAIT_FOR_WRITERS)).await?;
            work.one(work.sql("SELECT last_value FROM exchange_number")).await?.number("last_value")
        })
        .await
    }
}

/// Moves the position from where the caller believes it to be, or refuses.
async fn move_position(work: &mut Work, position: &Position, node: &str) -> Result<(), StoreError> {
    let (Ok(from), Ok(to)) = (i64::try_from(position.from), i64::try_from(position.to)) else {
        return Err(StoreError::Conflict("a journal position is out of range".into()));
    };
    let statement = work
        .sql(
            "INSERT INTO journal_position (segment, byte, node) SELECT $1::text, $2::bigint, $4::text \
             WHERE $3::bigint = 0 OR EXISTS (SELECT 1 FROM journal_position WHERE segment = $1::text) \
             ON CONFLICT (segment) DO UPDATE SET byte = excluded.byte, node = excluded.node \
             WHERE journal_position.byte = $3::bigint",
        )
        .bind(position.segment.as_ref())
        .bind(to)
        .bind(from)
        .bind(node);
    if work.execute(statement).await?.rows_affected() == 0 {
        return Err(StoreError::Conflict("the journal position is not where the batch begins".into()));
    }
    Ok(())
}

/// How many rows one statement inserts, and that statement; the largest first. 128 rows are 5,504 values of the 65,535 that a
/// statement can take.
static INSERTS: LazyLock<[(usize, String); 4]> =
    LazyLock::new(|| [128, 16, 4, 1].map(|rows| (rows, record::insert_statement(rows, "id, started_at"))));

/// Inserts the records that are not there yet; returns how many those are.
async fn insert(work: &mut Work, records: &[&Record]) -> Result<u64, StoreError> {
    let mut new = 0;
    let mut rest = records;
    for (rows, statement) in INSERTS.iter() {
        while let Some((chunk, behind)) = rest.split_at_checked(*rows) {
            let mut query = work.sql(statement.as_str());
            for record in chunk {
                query = record::values(record)?.into_iter().fold(query, bind);
            }
            new += work.execute(query).await?.rows_affected();
            rest = behind;
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::ledger::{record, write};
    use crate::store::testing::database;

    #[tokio::test]
    async fn a_follower_misses_nothing_while_batches_cross() {
        let (store, _) = Store::open(&database()).await.unwrap();
        let mut slow = store.begin().await.unwrap();
        slow.one(slow.sql(WRITING)).await.unwrap();
        insert(&mut slow, &[&record(1)]).await.unwrap();
        // The later number is there before the earlier one.
        write(&store, &[record(2)]).await;
        let filter = Filter { order: Order::Arrival, ..Filter::default() };
        let (page, committed) = tokio::join!(LedgerStore::find(&store, &filter), slow.commit());
        committed.unwrap();
        let started: Vec<i64> = page.unwrap().records.iter().map(|record| record.started_at.0).collect();
        assert_eq!(started, [1, 2]);
    }
}
