//! The ledger in SQLite.
//!
//! Rows go in by statements of 64, 16, 4 and 1 rows, because each statement costs a trip to the connection's thread: a batch of any
//! size is a handful of trips, and the statements stay few enough to be kept prepared. Filters read one narrow index
//! (`a_filter_reads_the_narrow_index_only`); whole rows are fetched for the page alone.

mod find;
mod reprice;

use std::path::PathBuf;
use std::sync::LazyLock;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::super::record;
use super::{Store, bind, failed};
use crate::error::StoreError;
use crate::ledger::query::{Cursor, Filter, Group, LedgerStore, Page, Position, Spender, Summary, UsageSum};
use crate::ledger::{Amendment, Line, Record};
use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;

#[async_trait]
impl LedgerStore for Store {
    async fn position(&self, segment: &str) -> Result<u64, StoreError> {
        // Through the writer: after a commit that reported a failure, it is the connection that knows.
        let byte: Option<i64> = sqlx::query_scalar("SELECT byte FROM journal_position WHERE segment = ?")
            .bind(segment)
            .fetch_optional(&self.writer)
            .await
            .map_err(failed)?;
        u64::try_from(byte.unwrap_or(0)).map_err(|_| StoreError::Corrupt("a journal position is negative".into()))
    }

    async fn write_batch(&self, lines: &[Line], position: &Position) -> Result<u64, StoreError> {
        let mut transaction = self.write().await?;
        move_position(&mut transaction, position).await?;
        let records: Vec<&Record> = lines.iter().filter_map(Line::record).collect();
        let new = insert(&mut transaction, &records).await?;
        // An amendment stands behind its record in the journal, so the record is there by now.
        for amendment in lines.iter().filter_map(Line::amendment) {
            amend(&mut transaction, amendment).await?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(new)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        // What is said to be on the disk is forgotten by the journal, so it must be the disk's file.
        self.file.check(&self.path)?;
        // What is not in the write-ahead log any more was forced to the disk by SQLite itself when it was moved to the database.
        // No lock lives on the log, so opening it past SQLite is harmless.
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let synced = tokio::task::spawn_blocking(move || sync_file(&PathBuf::from(log))).await;
        let done = synced.map_err(std::io::Error::other).and_then(|done| done);
        done.map_err(|cause| StoreError::Away(Box::new(cause)))
    }

    async fn segments(&self) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar("SELECT segment FROM journal_position").fetch_all(&self.readers).await.map_err(failed)
    }

    async fn forget(&self, segment: &str) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        sqlx::query("DELETE FROM journal_position WHERE segment = ?")
            .bind(segment)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    async fn get(&self, id: ExchangeId) -> Result<Option<Record>, StoreError> {
        let found = sqlx::query("SELECT * FROM exchange WHERE id = ?")
            .bind(id.0.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await
            .map_err(failed)?;
        found.as_ref().map(record::read).transpose()
    }

    async fn find(&self, filter: &Filter) -> Result<Page, StoreError> {
        find::page(&self.readers, filter).await
    }

    async fn end(&self) -> Result<Cursor, StoreError> {
        find::end(&self.readers).await
    }

    async fn summarize(&self, filter: &Filter) -> Result<Summary, StoreError> {
        find::summary(&self.readers, filter).await
    }

    async fn sums(&self, filter: &Filter, width: i64) -> Result<Vec<UsageSum>, StoreError> {
        find::usage_sums(&self.readers, filter, width).await
    }

    async fn top(&self, filter: &Filter, group: Group, limit: usize) -> Result<Vec<Spender>, StoreError> {
        find::top(&self.readers, filter, group, limit).await
    }

    async fn delete_before(&self, before: Timestamp, max_rows: u32) -> Result<u64, StoreError> {
        let mut transaction = self.write().await?;
        let statement = "DELETE FROM exchange WHERE number IN (SELECT number FROM exchange INDEXED BY exchange_scan \
                         WHERE started_at < ? ORDER BY started_at LIMIT ?)";
        let done = sqlx::query(statement)
            .bind(before.micros())
            .bind(i64::from(max_rows))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(done.rows_affected())
    }
}

/// Forces a file to the disk; one that is not there holds nothing.
fn sync_file(path: &std::path::Path) -> std::io::Result<()> {
    match std::fs::File::open(path) {
        Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => Ok(()),
        opened => opened?.sync_data(),
    }
}

/// Moves the position from where the caller believes it to be, or refuses.
async fn move_position(connection: &mut SqliteConnection, position: &Position) -> Result<(), StoreError> {
    let (Ok(from), Ok(to)) = (i64::try_from(position.from), i64::try_from(position.to)) else {
        return Err(StoreError::Conflict("a journal position is out of range".into()));
    };
    let statement = "INSERT INTO journal_position (segment, byte) SELECT ?1, ?2 \
                     WHERE ?3 = 0 OR EXISTS (SELECT 1 FROM journal_position WHERE segment = ?1) \
                     ON CONFLICT (segment) DO UPDATE SET byte = ?2 WHERE byte = ?3";
    let done = sqlx::query(statement)
        .bind(position.segment.as_ref())
        .bind(to)
        .bind(from)
        .execute(connection)
        .await
        .map_err(failed)?;
    if done.rows_affected() == 0 {
        return Err(StoreError::Conflict("the journal position is not where the batch begins".into()));
    }
    Ok(())
}

/// How many rows one statement inserts, and that statement; the largest first.
static INSERTS: LazyLock<[(usize, String); 4]> =
    LazyLock::new(|| [64, 16, 4, 1].map(|rows| (rows, unnumbered(&record::insert_statement(rows, "id")))));

/// A statement with its places unnumbered. They stand in their order anyway, and SQLite looks a numbered place up among all of
/// them: with three thousand places that cost thirty microseconds a row.
fn unnumbered(statement: &str) -> String {
    let mut parts = statement.split('$');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "?" + part.trim_start_matches(|character: char| character.is_ascii_digit()))
}

/// Inserts the records that are not there yet; returns how many those are.
async fn insert(connection: &mut SqliteConnection, records: &[&Record]) -> Result<u64, StoreError> {
    let mut new = 0;
    let mut rest = records;
    for (rows, statement) in INSERTS.iter() {
        while let Some((chunk, behind)) = rest.split_at_checked(*rows) {
            let mut query = sqlx::query(statement.as_str());
            for record in chunk {
                query = record::values(record)?.into_iter().fold(query, bind);
            }
            new += query.execute(&mut *connection).await.map_err(failed)?.rows_affected();
            rest = behind;
        }
    }
    Ok(new)
}

async fn amend(connection: &mut SqliteConnection, amendment: &Amendment) -> Result<(), StoreError> {
    static STATEMENT: LazyLock<String> = LazyLock::new(record::amend_statement);
    let query = record::measures(amendment)?.into_iter().fold(sqlx::query(STATEMENT.as_str()), bind);
    query.execute(connection).await.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests;
