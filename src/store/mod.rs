//! Where things are kept. Implements the traits that the nouns own; nobody above this room knows SQL.
//!
//! [`open`] picks the backend by the scheme of the address ([`BACKENDS`]) and gives it as one object, [`Backend`], from which
//! each noun takes the trait it needs. A further backend is a folder here and a row there; `suite` holds the tests that run on
//! every backend.

mod copy;
mod filter;
mod keys;
mod memory;
mod noun;
pub mod postgres;
mod record;
pub mod redis;
pub mod shadow;
pub mod sqlite;
pub mod standby;
mod value;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use copy::Copied;
pub use sqlite::Store;

use crate::budget::authority::Authority;
use crate::budget::store::LimitStore;
use crate::catalog::stored::PriceStore;
use crate::error::StoreError;
use crate::kavach::memory::MemoryStore;
use crate::key::admin::AdminTokenStore;
use crate::key::party::PartyStore;
use crate::key::store::KeyStore;
use crate::ledger::reprice::RepriceStore;
use crate::ledger::{Consumer, LedgerStore};
use crate::route::store::RouteStore;
use crate::store::shadow::Shadow;
use crate::unit::secret::Secret;

/// Counters of limits: the authority over them, the consumer `limits` of the journal, and what another authority is rebuilt from.
pub trait CounterStore: Authority + Consumer + Shadow {}

impl<T: Authority + Consumer + Shadow> CounterStore for T {}

/// An open store, whatever it is made of. `Arc<dyn Backend>` becomes an `Arc` of each of the traits by itself.
#[async_trait]
pub trait Backend:
    KeyStore
    + AdminTokenStore
    + RouteStore
    + LimitStore
    + PartyStore
    + PriceStore
    + RepriceStore
    + LedgerStore
    + MemoryStore
{
    /// What it is, in one word: `sqlite`, `postgres`.
    fn name(&self) -> &'static str;

    /// The rows of its tables, to be moved to another store.
    fn rows(&self) -> &dyn copy::Rows;

    /// The counters of limits, kept beside everything else.
    fn counters(&self) -> Arc<dyn CounterStore>;

    /// Returns when another process may have written what this one keeps in memory, long before a look at
    /// `KeyStore::generation` is due; a backend that hears nothing of others waits for ever. A hint can be missed: the
    /// generation is what counts.
    async fn changed(&self);

    /// Brings the schema of a database up to date that was opened with [`open_later`], and lets calls through from then on.
    /// Returns the steps that this took; none, and at no cost, where that has happened.
    ///
    /// # Errors
    /// As for [`open`].
    async fn arrive(&self) -> Result<Vec<Applied>, StoreError> {
        Ok(Vec::new())
    }

    /// Waits for running calls and closes every connection; later calls fail with [`StoreError::Away`]. A database that may hang
    /// is waited for two seconds at most; connections that are still in use then are dropped.
    async fn close(&self);
}

/// Where a store is and how it is used.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// `sqlite:PATH` or `postgres://…`. It may hold a password, so it is told to nobody.
    pub url: Secret,
    /// Where to listen for what other processes write, when `url` leads through a pooler that cannot pass it on.
    pub listen_url: Option<Secret>,
    /// The path at `url` is a pooler that gives each transaction another connection (PgBouncer's transaction mode).
    pub pooler: bool,
    /// The most connections.
    pub connections: u32,
    /// How long a call waits for a connection, a new one included, before the store counts as away.
    pub connect_timeout: Duration,
    /// How long a call may take in all.
    pub call_timeout: Duration,
    /// Who this is among processes that share a database: the same for all that share a data folder, and for ever.
    pub node: String,
}

impl Address {
    /// A store in a file.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self::of(Secret::new(format!("sqlite:{}", path.into().display())), String::new())
    }

    /// Whether it is a file of this machine, which is there or is not.
    pub fn is_file(&self) -> bool {
        backend(self).is_ok_and(|(_, _, later)| later.is_none())
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<PathBuf> {
        let path = self.url.expose().strip_prefix("sqlite:")?;
        Some(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
    }

    /// A store at a URL, with everything else as usual.
    pub fn of(url: Secret, node: String) -> Self {
        Self {
            url,
            listen_url: None,
            pooler: false,
            connections: 8,
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(10),
            node,
        }
    }
}

/// A step of the schema that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its number, from 1; each backend counts its own.
    pub version: i64,
    /// Its name.
    pub name: &'static str,
}

/// A store that was just opened, and the steps that its schema went.
pub type Opened = (Arc<dyn Backend>, Vec<Applied>);

type Opening<'a> = Pin<Box<dyn Future<Output = Result<Opened, StoreError>> + Send + 'a>>;

type OpeningLater = fn(&Address) -> Result<Arc<dyn Backend>, StoreError>;

/// The backends: the schemes of their addresses, how they open one, and one that may be away.
type Row = (&'static [&'static str], for<'a> fn(&'a Address) -> Opening<'a>, Option<OpeningLater>);
const BACKENDS: &[Row] = &[
    (&["sqlite"], |address| Box::pin(sqlite::open(address)), None),
    (&["postgres", "postgresql"], |address| Box::pin(postgres::open(address)), Some(postgres::open_later)),
];

/// Opens a store, makes it if that is possible, brings its schema up to date and says which steps that took.
///
/// # Errors
/// [`StoreError::Conflict`] when no backend has that scheme or the address is malformed; [`StoreError::Newer`] when a newer
/// version of the program has written to it; [`StoreError::Away`] when it cannot be reached; [`StoreError::Corrupt`] when it
/// is not what the address says.
pub async fn open(address: &Address) -> Result<Opened, StoreError> {
    backend(address)?.1(address).await
}

/// Opens a store that cannot be reached at present: every call fails with [`StoreError::Away`] until [`Backend::arrive`] has
/// succeeded. `None` for a file, which is there or is not. Needs a runtime; costs no I/O.
///
/// # Errors
/// [`StoreError::Conflict`] as for [`open`].
pub fn open_later(address: &Address) -> Result<Option<Arc<dyn Backend>>, StoreError> {
    backend(address)?.2.map(|open| open(address)).transpose()
}

/// Whether an address can be one, as far as that can be told without reaching for it.
///
/// # Errors
/// [`StoreError::Conflict`] as for [`open`].
pub fn check(address: &Address) -> Result<(), StoreError> {
    match address.file() {
        Some(_) => Ok(()),
        None => backend(address).and_then(|_| postgres::check(address)),
    }
}

fn backend(address: &Address) -> Result<&'static Row, StoreError> {
    let scheme = address.url.expose().split_once(':').map_or("", |(scheme, _)| scheme);
    let unknown = || StoreError::Conflict("a database is named as sqlite:PATH or postgres://USER@HOST/NAME".into());
    BACKENDS.iter().find(|(schemes, ..)| schemes.contains(&scheme)).ok_or_else(unknown)
}

/// Copies everything from one store to another and compares both; again where it was interrupted. Nothing may write to either
/// meanwhile. `to.node` becomes the owner of the journal positions.
///
/// # Errors
/// As for [`open`]; [`StoreError::Conflict`] when there was nothing of this program at the source, when the target is in use, or
/// differs at the end.
pub async fn copy_all(from: &Address, to: &Address) -> Result<Vec<Copied>, StoreError> {
    // Opening makes what is missing, which of a source would be a mistyped name taken for an empty database.
    if let Some(path) = from.file()
        && let Err(cause) = std::fs::metadata(&path)
    {
        return Err(StoreError::Conflict(
            format!("there is no database to move from: {}: {cause}", path.display()).into(),
        ));
    }
    let (source, applied) = open(from).await?;
    if applied.iter().any(|step| step.version == 1) {
        source.close().await;
        return Err(StoreError::Conflict("the database to move from was empty; is it the right one?".into()));
    }
    let (target, _) = open(to).await?;
    let copied = copy::copy(source.rows(), target.rows()).await;
    source.close().await;
    target.close().await;
    copied
}

#[cfg(test)]
mod suite;
#[cfg(test)]
pub(crate) mod testing;
