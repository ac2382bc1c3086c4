//! The PostgreSQL store: one database for any number of gateways.
//!
//! Every call is one transaction of a few statements on a pooled connection, with a time limit at the server and one here, so a
//! database that hangs fails calls instead of holding them. Nothing lives in a session: no named cursor, no session lock, no
//! setting that outlasts its transaction; with `pooler` not even a named statement, so that PgBouncer may give each transaction
//! another connection (the whole suite runs `behind_a_pooler`). What PostgreSQL and the driver say in errors may hold
//! hosts, users and values: it is translated (`failed`) and never passed on.

mod address;
mod copy;
mod counters;
mod failure;
mod keys;
mod ledger;
mod limits;
mod listen;
mod memory;
mod migrate;
mod parties;
mod partitions;
mod prices;
mod routes;
mod tokens;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgPool, PgPoolOptions, PgQueryResult, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, QueryBuilder, Row as _, Transaction};

pub(super) use address::check;
use address::options;
use failure::{at_a_start, away, failed};

use super::value::{Row, Value};
use super::{Address, Applied, Backend, CounterStore, Opened};
use crate::error::StoreError;

/// An open database. Cheap to clone; the clones share its connections.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    /// Statements keep names on their connections.
    named: bool,
    /// What begins each transaction.
    begin: Arc<str>,
    call_timeout: Duration,
    node: Arc<str>,
    changed: Arc<tokio::sync::Notify>,
    /// The schema is up to date; until then no call goes through.
    arrived: Arc<AtomicBool>,
    listener: Option<Arc<listen::Listener>>,
}

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// How long a transaction may wait for its process before the server ends it: one that is frozen, or cut off from the network,
/// would hold its locks on counters against all others for as long as TCP believes in it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long it may take to find out why a database could not be opened.
const LONGEST_LOOK: Duration = Duration::from_secs(2);

/// How long a close waits for connections that are in use: their server may be gone without a word.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// After which rest a connection is tried before it is used: its other end may be gone.
const IDLE: Duration = Duration::from_secs(1);

/// Opens the database of an address, and brings its schema up to date.
pub(super) async fn open(address: &Address) -> Result<Opened, StoreError> {
    let (store, applied) = Store::open(address).await?;
    Ok((Arc::new(store), applied))
}

/// Opens the database of an address without reaching for it; see [`super::open_later`].
pub(super) fn open_later(address: &Address) -> Result<Arc<dyn Backend>, StoreError> {
    Ok(Arc::new(Store::lazy(address)?))
}

impl Store {
    /// Connects, and brings the schema up to date.
    ///
    /// # Errors
    /// As for [`super::open`].
    pub async fn open(address: &Address) -> Result<(Self, Vec<Applied>), StoreError> {
        let store = Self::lazy(address)?;
        let applied = store.arrive().await?;
        Ok((store, applied))
    }

    fn lazy(address: &Address) -> Result<Self, StoreError> {
        let pool = PgPoolOptions::new()
            .max_connections(address.connections.max(1))
            .acquire_timeout(address.connect_timeout)
            // A look before each use would double the round trips; one that was in use a moment ago is good.
            .test_before_acquire(false)
            .before_acquire(|connection, used| {
                Box::pin(async move {
                    if used.idle_for >= IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options(address.url.expose(), address.pooler)?);
        let mut store = Self {
            pool,
            named: !address.pooler,
            begin: format!(
                "BEGIN; SET LOCAL statement_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {}",
                millis(address.call_timeout),
                millis(address.call_timeout.min(LONGEST_PAUSE))
            )
            .into(),
            call_timeout: address.call_timeout,
            node: address.node.as_str().into(),
            changed: Arc::default(),
            arrived: Arc::default(),
            listener: None,
        };
        // A pooler cannot pass notifications on: without a way around it, the generation alone tells of changes.
        let listen_at = address.listen_url.as_ref().or(Some(&address.url).filter(|_| !address.pooler));
        if let Some(url) = listen_at {
            let options = options(url.expose(), false)?;
            store.listener = Some(Arc::new(listen::Listener::start(options, store.changed.clone())));
        }
        Ok(store)
    }

    /// Why the database could not be opened. The pool tries again where nothing listens, until its time is up and the cause lost; one
    /// connection by itself tells it.
    async fn explained(&self, error: StoreError) -> StoreError {
        let error = match error {
            StoreError::Away(_) => self.reach().await.err().unwrap_or(error),
            other => other,
        };
        at_a_start(error)
    }

    async fn reach(&self) -> Result<(), StoreError> {
        let options = self.pool.connect_options();
        let connection = tokio::time::timeout(LONGEST_LOOK, PgConnection::connect_with(&options)).await;
        let connection = connection.map_err(|_| away("it does not answer in time"))?.map_err(failed)?;
        // The server ends it by itself if this cannot be said any more.
        drop(tokio::time::timeout(LONGEST_LOOK, connection.close()).await);
        Ok(())
    }

    /// The pool, once the schema is known to be the program's.
    fn pool(&self) -> Result<&PgPool, StoreError> {
        if self.arrived.load(Ordering::Acquire) {
            return Ok(&self.pool);
        }
        Err(away("it was away when this process started and has not been reached since"))
    }

    /// A transaction. Dropped without a commit, it is undone.
    async fn begin(&self) -> Result<Work, StoreError> {
        let statement = AssertSqlSafe(self.begin.clone());
        let transaction = self.pool()?.begin_with(statement).await.map_err(failed)?;
        Ok(Work { transaction, named: self.named })
    }

    /// Ends a call that takes too long, whatever it waits for: a server that is gone without a word says nothing.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let done = tokio::time::timeout(self.call_timeout, call).await;
        done.unwrap_or_else(|_| Err(away("it does not answer in time")))
    }
}

#[async_trait]
impl Backend for Store {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn rows(&self) -> &dyn super::copy::Rows {
        self
    }

    fn counters(&self) -> Arc<dyn CounterStore> {
        Arc::new(counters::Counters(self.clone()))
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn arrive(&self) -> Result<Vec<Applied>, StoreError> {
        if self.arrived.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        let through = Self { arrived: Arc::new(AtomicBool::new(true)), ..self.clone() };
        let applied = match migrate::run(&through).await {
            Ok(applied) => applied,
            Err(error) => return Err(self.explained(error).await),
        };
        self.arrived.store(true, Ordering::Release);
        if let Some(listener) = &self.listener {
            listener.begin();
        }
        Ok(applied)
    }

    async fn close(&self) {
        if let Some(listener) = &self.listener {
            listener.end().await;
        }
        // A connection that hangs in a call never comes back to be closed; the system closes it with the process.
        if tokio::time::timeout(LAST_WORDS, self.pool.close()).await.is_err() {
            tracing::warn!("the database does not answer; its connections are dropped without a word");
        }
    }
}

/// A transaction at work.
struct Work {
    transaction: Transaction<'static, Postgres>,
    named: bool,
}

impl Work {
    /// A statement, to which values are bound.
    fn sql(&self, text: &'static str) -> Statement<'static> {
        sqlx::query(text).persistent(self.named)
    }

    /// A statement with its values, in order.
    fn filled<'v>(&self, text: &'static str, values: impl IntoIterator<Item = Value<'v>>) -> Statement<'static> {
        values.into_iter().fold(self.sql(text), bind)
    }

    fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    async fn execute(&mut self, statement: Statement<'_>) -> Result<PgQueryResult, StoreError> {
        statement.execute(&mut *self.transaction).await.map_err(failed)
    }

    async fn optional(&mut self, statement: Statement<'_>) -> Result<Option<PgRow>, StoreError> {
        statement.fetch_optional(&mut *self.transaction).await.map_err(failed)
    }

    async fn one(&mut self, statement: Statement<'_>) -> Result<PgRow, StoreError> {
        statement.fetch_one(&mut *self.transaction).await.map_err(failed)
    }

    async fn all(&mut self, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        statement.fetch_all(&mut *self.transaction).await.map_err(failed)
    }

    /// The rows of a statement that was put together for this call; its name would only push others out.
    async fn built(&mut self, query: &mut QueryBuilder<Postgres>) -> Result<Vec<PgRow>, StoreError> {
        query.build().persistent(false).fetch_all(&mut *self.transaction).await.map_err(failed)
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.transaction.commit().await.map_err(failed)
    }
}

/// Binds a value. Text in PostgreSQL holds no NUL; the replacement character stands for it, since a record must not be lost for
/// what a caller wrote into it.
fn bind<'q>(query: Statement<'q>, value: Value<'_>) -> Statement<'q> {
    match value {
        Value::Integer(number) => query.bind(number),
        Value::Text(text) => query.bind(text.map(|text| storable(&text).into_owned())),
        Value::Bytes(bytes) => query.bind(bytes.map(Cow::into_owned)),
        Value::Flag(flag) => query.bind(flag),
    }
}

fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

impl Row for PgRow {
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

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).clamp(1, 86_400_000)
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
