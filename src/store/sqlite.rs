//! The SQLite store: one file, any number of readers, one writer, several processes.
//!
//! The file and its companions (`-wal`, `-shm`) have mode 0600. Write-ahead logging lets readers go on while somebody writes; all
//! writes of a process go through one connection, and a writer in another process is waited for up to five seconds. A commit
//! survives the death of the process; it survives a loss of power once `LedgerStore::sync` has returned or SQLite has
//! checkpointed. The database file is never opened here past SQLite: closing such a descriptor would drop SQLite's own locks
//! (sqlite.org/howtocorrupt.html, section 2.2).

mod copy;
mod counters;
mod file;
mod keys;
mod ledger;
mod limits;
mod memory;
mod migrate;
mod parties;
mod prices;
mod routes;
mod tokens;

use std::borrow::Cow;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Connection as _, Row as _, Sqlite, Transaction};

pub use counters::Counters;

use super::value::{Row, Value};
use super::{Address, Applied, Backend, CounterStore, Opened};
use crate::budget::store::LimitStore;
use crate::error::StoreError;
use crate::key::admin::AdminTokenStore;
use crate::key::party::PartyStore;
use crate::key::store::KeyStore;
use crate::ledger::LedgerStore;
use crate::route::store::RouteStore;

/// An open database. Cheap to clone; the clones share its connections.
#[derive(Clone)]
pub struct Store {
    path: PathBuf,
    /// What lay at the path when it was opened.
    file: file::Identity,
    readers: SqlitePool,
    writer: SqlitePool,
}

type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

/// How long a statement waits for a writer in another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call waits for a connection of this process.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most reading connections; each is a thread.
const READERS: u32 = 4;

impl Store {
    /// Opens the database, makes it if it is missing (file 0600, folder 0700), and brings its schema up to date. Works while other
    /// processes have it open.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a newer version of the program has written to it; [`StoreError::Away`] when the file cannot be
    /// made, opened or locked; [`StoreError::Corrupt`] when it is no database.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self::open_and_migrate(path.as_ref()).await?.0)
    }

    /// Brings the schema up to date and says what was done; nothing if it was up to date. Makes the database if it is missing.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub async fn migrate(path: impl AsRef<Path>) -> Result<Vec<Applied>, StoreError> {
        let (store, applied) = Self::open_and_migrate(path.as_ref()).await?;
        store.close().await;
        Ok(applied)
    }

    async fn open_and_migrate(path: &Path) -> Result<(Self, Vec<Applied>), StoreError> {
        prepare_files(path).map_err(|cause| StoreError::Away(Box::new(cause)))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("journal_size_limit", "67108864")
            // The same few pages change in every batch: rarer checkpoints write them back less often.
            .pragma("wal_autocheckpoint", "4000");
        let writer = connect(options.clone()).await?;
        // After SQLite has it open for writing: a layered file system may have copied it only then.
        let file = file::Identity::of(path)?;
        let applied = migrate::run(&writer).await?;
        let readers = pool(READERS).connect_lazy_with(options.pragma("query_only", "ON"));
        Ok((Self { path: path.to_owned(), file, readers, writer }, applied))
    }

    /// Waits for running calls and closes every connection; later calls fail with [`StoreError::Away`].
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys: the same object, by the trait, whose methods have the same names as those of its neighbours.
    pub fn keys(&self) -> &dyn KeyStore {
        self
    }

    /// The admin tokens.
    pub fn admin_tokens(&self) -> &dyn AdminTokenStore {
        self
    }

    /// The stored routes.
    pub fn routes(&self) -> &dyn RouteStore {
        self
    }

    /// The limits.
    pub fn limits(&self) -> &dyn LimitStore {
        self
    }

    /// The orgs, teams and users.
    pub fn parties(&self) -> &dyn PartyStore {
        self
    }

    /// The ledger.
    pub fn ledger(&self) -> &dyn LedgerStore {
        self
    }

    /// A transaction that holds the write lock from its beginning, so that it cannot fail half-way for a reader that became a
    /// writer. Dropped without a commit, it is undone.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.file.check(&self.path)?;
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)
    }
}

/// Opens the file of an address.
pub(super) async fn open(address: &Address) -> Result<Opened, StoreError> {
    let path = address.file().unwrap_or_default();
    let (store, applied) = Store::open_and_migrate(&path).await?;
    Ok((Arc::new(store), applied))
}

#[async_trait]
impl Backend for Store {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn rows(&self) -> &dyn super::copy::Rows {
        self
    }

    fn counters(&self) -> Arc<dyn CounterStore> {
        Arc::new(Store::counters(self))
    }

    async fn changed(&self) {
        // SQLite tells nobody; a look at the generation costs a few microseconds.
        std::future::pending().await
    }

    async fn close(&self) {
        Store::close(self).await;
    }
}

/// Makes folder and file with their modes. SQLite gives its companion files the mode of the database.
fn prepare_files(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(there) if there.kind() == ErrorKind::AlreadyExists => {
            std::fs::set_permissions(path, Permissions::from_mode(0o600))
        }
        made => made.map(drop),
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        // The file is local: a connection does not die on its own.
        .test_before_acquire(false)
        // SQLite undoes a transaction by itself when the disk is full or fails, when a statement is interrupted, and sometimes when
        // a commit fails (sqlite.org/lang_transaction.html, section 3). sqlx then goes on counting it as open, and would refuse
        // every later one on that connection, the only one that writes. It is closed, and the next call opens another. What an
        // earlier call left to be undone is undone by now: nothing comes back to the pool before. Costs a load.
        .before_acquire(|connection, _| {
            let is_whole = !connection.is_in_transaction();
            Box::pin(async move { Ok(is_whole) })
        })
}

/// Opens the writing connection. The switch to write-ahead logging needs the database for itself for a moment, and SQLite does
/// not always wait for that: it is tried again while another process does the same.
async fn connect(options: SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    let mut attempts_left = 50;
    loop {
        match pool(1).connect_with(options.clone()).await.map_err(failed) {
            Err(StoreError::Away(_)) if attempts_left > 0 => {
                attempts_left -= 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done,
        }
    }
}

/// A statement with its values, in order.
fn filled<'v>(statement: &'static str, values: impl IntoIterator<Item = Value<'v>>) -> Statement<'static> {
    values.into_iter().fold(sqlx::query(statement), bind)
}

/// Binds a value.
fn bind<'q>(query: Statement<'q>, value: Value<'_>) -> Statement<'q> {
    match value {
        Value::Integer(number) => query.bind(number),
        Value::Text(text) => query.bind(text.map(Cow::into_owned)),
        Value::Bytes(bytes) => query.bind(bytes.map(Cow::into_owned)),
        Value::Flag(flag) => query.bind(flag),
    }
}

impl Row for SqliteRow {
    fn integer(&self, column: &str) -> Result<Option<i64>, StoreError> {
        self.try_get(column).map_err(failed)
    }

    fn text(&self, column: &str) -> Result<Option<String>, StoreError> {
        self.try_get(column).map_err(failed)
    }

    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.try_get(column).map_err(failed)
    }

    fn flag(&self, column: &str) -> Result<bool, StoreError> {
        self.try_get(column).map_err(failed)
    }
}

/// What a failure of the database means. Codes: sqlite.org/rescode.html.
fn failed(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(cause) => {
            let code = cause.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or_default();
            match code & 0xff {
                // TOOBIG, CONSTRAINT, MISMATCH, RANGE: the row is at fault.
                18 | 19 | 20 | 25 => StoreError::Conflict(format!("the database refuses the row: {cause}").into()),
                // ERROR (a schema that is not ours), CORRUPT, NOTADB.
                1 | 11 | 26 => StoreError::Corrupt(cause.to_string().into()),
                _ => StoreError::Away(cause),
            }
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::TypeNotFound { .. } => StoreError::Corrupt(error.to_string().into()),
        other => StoreError::Away(Box::new(other)),
    }
}

/// Turns a violated constraint into a sentence about the noun.
fn or_conflict(error: StoreError, sentence: &'static str) -> StoreError {
    match error {
        StoreError::Conflict(_) => StoreError::Conflict(sentence.into()),
        other => other,
    }
}

/// Whether a write found its row.
fn found(rows_affected: u64) -> Result<(), StoreError> {
    if rows_affected == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
