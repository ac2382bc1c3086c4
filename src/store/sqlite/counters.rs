//! The authority over counters in SQLite, and the consumer that carries charges to it.
//!
//! A counter is a row that holds the whole [`Counter`](crate::budget::counter::Counter) as JSON; every call is one transaction that holds the write lock, so the
//! arithmetic is that of `budget::counter` and nobody sees half of it. The clock is this machine's. One call with eight wants
//! costs about half a millisecond (`what_an_acquire_costs`), which a lease spares nearly every admission.

mod row;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::{Store, failed};
use crate::budget::authority::{Answer, Authority, Beat, Grant, Standing, Want};
use crate::budget::counter::holds;
use crate::error::StoreError;
use crate::ledger::query::Position;
use crate::ledger::{Consumer, Line, owner_of};
use crate::store::shadow::{Shadow, Snapshot, sums};
use crate::unit::charge::CounterId;
use crate::unit::clock::Timestamp;

/// For how long a counter is kept after its window.
const KEPT: Duration = Duration::from_secs(86_400);

/// The counters of a database. Cheap to clone.
#[derive(Clone)]
pub struct Counters {
    store: Store,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Store {
    /// The counters of limits: an authority, and the consumer `limits`.
    pub fn counters(&self) -> Counters {
        self.counters_by(Timestamp::now)
    }

    /// The same, by another clock.
    pub fn counters_by(&self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Counters {
        Counters { store: self.clone(), clock: Arc::new(clock) }
    }
}

#[async_trait]
impl Authority for Counters {
    async fn acquire(&self, owner: &str, wants: &[Want]) -> Result<Answer, StoreError> {
        let mut transaction = self.store.write().await?;
        row::agree(&mut transaction).await?;
        // After the lock, so that time goes forward from call to call.
        let now = (self.clock)();
        row::hear(&mut transaction, owner, now).await?;
        let mut grants = Vec::with_capacity(wants.len());
        for want in wants {
            grants.push(acquire_one(&mut transaction, owner, want, now).await?);
        }
        transaction.commit().await.map_err(failed)?;
        Ok(Answer { now, grants })
    }

    async fn release(&self, owner: &str, parts: &[(CounterId, i64)]) -> Result<(), StoreError> {
        let mut transaction = self.store.write().await?;
        let now = (self.clock)();
        for (id, amount) in parts {
            if let Some(mut counter) = row::load(&mut transaction, id).await? {
                let held = counter.lease(owner) > 0;
                counter.release(owner, *amount);
                row::keep(&mut transaction, id, &counter, now).await?;
                row::note(&mut transaction, owner, id, (held, counter.lease(owner) > 0)).await?;
            }
        }
        transaction.commit().await.map_err(failed)
    }

    async fn beat(&self, owner: &str) -> Result<Beat, StoreError> {
        let mut transaction = self.store.write().await?;
        let now = (self.clock)();
        row::hear(&mut transaction, owner, now).await?;
        let wanted = row::wanted(&mut transaction, now).await?;
        transaction.commit().await.map_err(failed)?;
        let recalled = wanted.into_iter().filter(|(_, counter)| counter.recalled(owner, now)).map(|(id, _)| id);
        Ok(Beat { now, recalled: recalled.collect() })
    }

    async fn close(&self, owner: &str) -> Result<(), StoreError> {
        let mut transaction = self.store.write().await?;
        let now = (self.clock)();
        for id in row::leased_by(&mut transaction, owner).await? {
            if let Some(mut counter) = row::load(&mut transaction, &id).await? {
                counter.close(owner);
                row::keep(&mut transaction, &id, &counter, now).await?;
            }
        }
        row::forget_owner(&mut transaction, owner).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn owners(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        row::owners(&self.store.readers).await
    }

    async fn standings(&self, limit: Option<&str>, most: usize) -> Result<Vec<Standing>, StoreError> {
        let now = (self.clock)();
        let mut standings: Vec<Standing> = row::most_spent(&self.store.readers, limit, most)
            .await?
            .into_iter()
            .map(|(id, counter)| Standing {
                cap: counter.cap,
                spent: counter.spent(id.window, now),
                leases: counter.leases().map(|(owner, amount)| (owner.to_string(), amount)).collect(),
                counter: id,
            })
            .collect();
        // What a sliding window holds falls without a write.
        standings.sort_by(|a, b| b.spent.cmp(&a.spent).then_with(|| a.counter.cmp(&b.counter)));
        Ok(standings)
    }

    async fn adjust(&self, id: &CounterId, delta: i64) -> Result<(), StoreError> {
        let mut transaction = self.store.write().await?;
        let now = (self.clock)();
        let mut counter = row::load(&mut transaction, id).await?.unwrap_or_default();
        counter.adjust(id.window, delta, now);
        row::keep(&mut transaction, id, &counter, now).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn tidy(&self, silent: Duration) -> Result<(), StoreError> {
        let mut transaction = self.store.write().await?;
        let now = (self.clock)();
        for (owner, id) in row::runs_of_silent(&mut transaction, now.minus(silent)).await? {
            if let Some(mut counter) = row::load(&mut transaction, &id).await? {
                counter.close(&owner);
                row::keep(&mut transaction, &id, &counter, now).await?;
                row::note(&mut transaction, &owner, &id, (true, false)).await?;
            }
        }
        row::delete_old(&mut transaction, now.minus(KEPT)).await?;
        transaction.commit().await.map_err(failed)
    }
}

async fn acquire_one(
    connection: &mut SqliteConnection,
    owner: &str,
    want: &Want,
    now: Timestamp,
) -> Result<Grant, StoreError> {
    let known = row::load(connection, &want.counter).await?;
    let is_known = known.is_some();
    let before = known.unwrap_or_default();
    let mut counter = before.clone();
    let grant = counter.acquire(owner, want, now);
    // A counter whose window is wrong is not made; one that only was looked at is not written.
    if counter != before && (is_known || holds(want.counter.window, now)) {
        row::keep(connection, &want.counter, &counter, now).await?;
        row::note(connection, owner, &want.counter, (before.lease(owner) > 0, counter.lease(owner) > 0)).await?;
    }
    Ok(grant)
}

#[async_trait]
impl Consumer for Counters {
    fn name(&self) -> &'static str {
        "limits"
    }

    async fn position(&self, segment: &str) -> Result<u64, StoreError> {
        row::position(&self.store.writer, segment).await
    }

    async fn take(&self, lines: &[Line], position: &Position) -> Result<(), StoreError> {
        let owner = owner_of(&position.segment).unwrap_or_default();
        let charges = sums(lines);
        let mut transaction = self.store.write().await?;
        let now = (self.clock)();
        row::move_position(&mut transaction, position).await?;
        for (id, amounts) in charges {
            let mut counter = row::load(&mut transaction, id).await?.unwrap_or_default();
            let held = counter.lease(owner) > 0;
            for (second, amount) in amounts {
                // Nobody spends in the future, whatever the clock of the process that charged says.
                let at = Timestamp(second.saturating_mul(1_000_000)).min(now);
                counter.charge(owner, id.window, amount, at);
            }
            row::keep(&mut transaction, id, &counter, now).await?;
            row::note(&mut transaction, owner, id, (held, counter.lease(owner) > 0)).await?;
        }
        transaction.commit().await.map_err(failed)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.store.ledger().sync().await
    }

    async fn segments(&self) -> Result<Vec<String>, StoreError> {
        Ok(row::positions(&self.store.readers).await?.into_iter().map(|(segment, _)| segment).collect())
    }

    async fn forget(&self, segment: &str) -> Result<(), StoreError> {
        let mut transaction = self.store.write().await?;
        row::forget_position(&mut transaction, segment).await?;
        transaction.commit().await.map_err(failed)
    }
}

#[async_trait]
impl Shadow for Counters {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let mut transaction = self.store.readers.begin().await.map_err(failed)?;
        let positions = row::positions(&mut *transaction).await?;
        let counters = row::all(&mut transaction).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(Snapshot::of(counters, positions))
    }
}

#[cfg(test)]
mod tests;
