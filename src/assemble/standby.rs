//! A start while the database is away, and what prepares for one: the snapshot in the data folder.
//!
//! While the database answers, what a gateway knows is written to a file shortly after each change. A start that does not reach
//! the database lives on that file: known keys work, unknown ones get 503, changes are refused. As soon as the database is
//! there the process catches up as after any change. Administrators are known by their tokens all the while.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use crate::admin::control::PartStatus;
use crate::assemble::core::Core;
use crate::error::StoreError;
use crate::key::admin::{AdminToken, AdminTokenStore};
use crate::key::token::TokenHash;
use crate::store::{Backend, standby};
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::{Tick, Timestamp};

/// How long after a change a snapshot is written: changes come in groups.
const PAUSE: Duration = Duration::from_secs(1);
/// A snapshot that took long is not followed by another for so many times as long: 100,000 keys take seconds.
const SHARE: u32 = 20;
/// When it is tried again after it failed.
const AGAIN: Duration = Duration::from_secs(10);

/// The snapshot of a process.
pub struct Standby {
    /// Where it is; `None` for a database in a file, which is there or is not.
    path: Option<PathBuf>,
    /// When the snapshot was taken that the process lives on; none once it has caught up.
    living_on: ArcSwapOption<Timestamp>,
    due: Notify,
}

impl Standby {
    /// For a snapshot in that file; `living_on` is when it was taken, if the process was started from it.
    pub fn new(path: Option<PathBuf>, living_on: Option<Timestamp>) -> Self {
        METRICS.on_snapshot.set(living_on.is_some().into());
        Self { path, living_on: ArcSwapOption::from_pointee(living_on), due: Notify::new() }
    }

    /// The process knows what the database holds; a snapshot is due if anything has changed since the last.
    pub fn caught_up(&self) {
        if let Some(taken_at) = self.living_on.swap(None) {
            METRICS.on_snapshot.set(0);
            tracing::warn!(
                snapshot = taken_at.rfc3339(),
                "the database is there; what this process knew from its snapshot is up to date now"
            );
        }
        self.due.notify_one();
    }

    /// What `/ready` says, as long as the process lives on its snapshot.
    pub fn part(&self) -> Option<PartStatus> {
        let taken_at = self.living_on.load();
        let detail = format!(
            "the database was away at the start; keys, limits, routes and prices are those of {}",
            taken_at.as_ref()?.rfc3339()
        );
        Some(PartStatus { name: "snapshot".to_owned(), ok: false, detail })
    }
}

/// Writes a snapshot after each change.
pub async fn keep(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    let Some(path) = core.standby.path.clone() else { return };
    let mut rest = PAUSE;
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = core.standby.due.notified() => {}
        }
        let mut pause = rest;
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = tokio::time::sleep(pause) => {}
            }
            let begun = Tick::now();
            match standby::keep(&*core.house.store, &path).await {
                Ok(()) => {
                    rest = PAUSE.max(begun.elapsed() * SHARE);
                    METRICS.snapshots.with_label_values(&["written"]).inc();
                    break;
                }
                Err(error) => {
                    METRICS.snapshots.with_label_values(&["failed"]).inc();
                    tracing::warn!(%error, "the snapshot for a start without the database was not written; tried again");
                    pause = AGAIN;
                }
            }
        }
    }
}

/// The admin tokens of the store, and in memory those that it held last: while the database is away those in charge can still
/// look.
pub struct Tokens {
    store: Arc<dyn Backend>,
    known: ArcSwap<Vec<AdminToken>>,
}

impl Tokens {
    /// The tokens of a store, known already.
    pub fn new(store: Arc<dyn Backend>, known: Vec<AdminToken>) -> Self {
        Self { store, known: ArcSwap::from_pointee(known) }
    }

    /// Reads them again.
    ///
    /// # Errors
    /// Those of the store; what is known stays.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        self.known.store(Arc::new(AdminTokenStore::all(&*self.store).await?));
        Ok(())
    }

    /// What the store says, or while it is away what was known.
    fn or_known(
        &self,
        found: Result<Option<AdminToken>, StoreError>,
        is_it: impl Fn(&AdminToken) -> bool,
    ) -> Result<Option<AdminToken>, StoreError> {
        match found {
            // One that is not known may have been made since.
            Err(StoreError::Away(cause)) => match self.known.load().iter().find(|token| is_it(token)) {
                Some(token) => Ok(Some(token.clone())),
                None => Err(StoreError::Away(cause)),
            },
            found => found,
        }
    }
}

#[async_trait]
impl AdminTokenStore for Tokens {
    async fn insert(&self, token: &AdminToken) -> Result<(), StoreError> {
        AdminTokenStore::insert(&*self.store, token).await
    }

    async fn update(&self, token: &AdminToken) -> Result<(), StoreError> {
        AdminTokenStore::update(&*self.store, token).await
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        AdminTokenStore::delete(&*self.store, id).await
    }

    async fn get(&self, id: &str) -> Result<Option<AdminToken>, StoreError> {
        self.or_known(AdminTokenStore::get(&*self.store, id).await, |token| &*token.id == id)
    }

    async fn find(&self, hash: &TokenHash) -> Result<Option<AdminToken>, StoreError> {
        self.or_known(AdminTokenStore::find(&*self.store, hash).await, |token| token.hash == *hash)
    }

    async fn all(&self) -> Result<Vec<AdminToken>, StoreError> {
        AdminTokenStore::all(&*self.store).await
    }
}
