//! An authority in memory, for gateways without a database and for tests: the same semantics as those in SQL and Redis.
//!
//! Its counters end with the process. A test may give it a clock and make it fail in each of the ways in which a network
//! fails: before the call took effect, after it, or for a while.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::authority::{Answer, Authority, Beat, PROTOCOL, Standing, Want};
use super::counter::Counter;
use crate::error::StoreError;
use crate::unit::charge::{Charge, CounterId, WindowId};
use crate::unit::clock::Timestamp;

/// For how long a counter is kept after its window.
const KEPT_SECONDS: i64 = 86_400;

/// Counters in memory.
pub struct Memory {
    state: Mutex<State>,
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    away: AtomicBool,
    losing_answers: AtomicBool,
    calls: AtomicU64,
    protocol: AtomicI64,
}

#[derive(Default)]
struct State {
    counters: HashMap<CounterId, Counter>,
    heard: BTreeMap<Arc<str>, Timestamp>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::with_clock(Timestamp::now)
    }
}

impl Memory {
    /// Counters that live by that clock.
    pub fn with_clock(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self {
            state: Mutex::default(),
            clock: Box::new(clock),
            away: AtomicBool::new(false),
            losing_answers: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            protocol: AtomicI64::new(PROTOCOL),
        }
    }

    /// Takes charges as the consumer of a journal does, so to be called once for each.
    pub fn apply(&self, owner: &str, charges: &[Charge]) {
        let mut state = self.state();
        for Charge { counter, amount, at } in charges {
            state.counters.entry(counter.clone()).or_default().charge(owner, counter.window, *amount, *at);
        }
    }

    /// From now on every call fails before it takes effect; or no longer.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// From now on every call takes effect but its answer is lost; or no longer.
    pub fn lose_answers(&self, lose: bool) {
        self.losing_answers.store(lose, Ordering::Relaxed);
    }

    /// From now on somebody leases by these rules.
    pub fn lease_by(&self, protocol: i64) {
        self.protocol.store(protocol, Ordering::Relaxed);
    }

    /// How many calls of [`Authority::acquire`] there were.
    pub fn acquires(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// What is spent and leased on a counter now.
    pub fn spent_and_leased(&self, id: &CounterId) -> (i64, i64) {
        let now = (self.clock)();
        self.state().counters.get(id).map_or((0, 0), |counter| (counter.spent(id.window, now), counter.leased()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reached(&self) -> Result<Timestamp, StoreError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Away("the counters in memory were told to be away".into()));
        }
        Ok((self.clock)())
    }

    fn answered<T>(&self, answer: T) -> Result<T, StoreError> {
        if self.losing_answers.load(Ordering::Relaxed) {
            return Err(StoreError::Away("the counters in memory were told to lose their answers".into()));
        }
        Ok(answer)
    }
}

#[async_trait]
impl Authority for Memory {
    async fn acquire(&self, owner: &str, wants: &[Want]) -> Result<Answer, StoreError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let now = self.reached()?;
        let found = self.protocol.load(Ordering::Relaxed);
        if found > PROTOCOL {
            return Err(StoreError::Outdated { found, known: PROTOCOL });
        }
        let mut state = self.state();
        state.heard.insert(owner.into(), now);
        let grants = wants
            .iter()
            .map(|want| match state.counters.get_mut(&want.counter) {
                Some(counter) => counter.acquire(owner, want, now),
                None => {
                    let mut counter = Counter::default();
                    let grant = counter.acquire(owner, want, now);
                    if !grant.wrong_window {
                        state.counters.insert(want.counter.clone(), counter);
                    }
                    grant
                }
            })
            .collect();
        self.answered(Answer { now, grants })
    }

    async fn release(&self, owner: &str, parts: &[(CounterId, i64)]) -> Result<(), StoreError> {
        self.reached()?;
        let mut state = self.state();
        for (id, amount) in parts {
            if let Some(counter) = state.counters.get_mut(id) {
                counter.release(owner, *amount);
            }
        }
        self.answered(())
    }

    async fn beat(&self, owner: &str) -> Result<Beat, StoreError> {
        let now = self.reached()?;
        let mut state = self.state();
        state.heard.insert(owner.into(), now);
        let recalled = state.counters.iter().filter(|(_, counter)| counter.recalled(owner, now));
        let recalled = recalled.map(|(id, _)| id.clone()).collect();
        self.answered(Beat { now, recalled })
    }

    async fn close(&self, owner: &str) -> Result<(), StoreError> {
        self.reached()?;
        let mut state = self.state();
        state.heard.remove(owner);
        for counter in state.counters.values_mut() {
            counter.close(owner);
        }
        self.answered(())
    }

    async fn owners(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        self.reached()?;
        let state = self.state();
        let holds = |owner: &str| state.counters.values().any(|counter| counter.lease(owner) > 0);
        let owners = state.heard.iter().filter(|(owner, _)| holds(owner));
        let owners = owners.map(|(owner, heard)| (owner.to_string(), *heard)).collect();
        self.answered(owners)
    }

    async fn standings(&self, limit: Option<&str>, most: usize) -> Result<Vec<Standing>, StoreError> {
        let now = self.reached()?;
        let state = self.state();
        let mut standings: Vec<Standing> = state
            .counters
            .iter()
            .filter(|(id, _)| limit.is_none_or(|limit| &*id.limit == limit))
            .map(|(id, counter)| Standing {
                counter: id.clone(),
                cap: counter.cap,
                spent: counter.spent(id.window, now),
                leases: counter.leases().map(|(owner, amount)| (owner.to_string(), amount)).collect(),
            })
            .collect();
        standings.sort_by(|a, b| b.spent.cmp(&a.spent).then_with(|| a.counter.cmp(&b.counter)));
        standings.truncate(most);
        self.answered(standings)
    }

    async fn adjust(&self, counter: &CounterId, delta: i64) -> Result<(), StoreError> {
        let now = self.reached()?;
        self.state().counters.entry(counter.clone()).or_default().adjust(counter.window, delta, now);
        self.answered(())
    }

    async fn tidy(&self, silent: Duration) -> Result<(), StoreError> {
        let now = self.reached()?;
        let mut state = self.state();
        let gone: Vec<Arc<str>> =
            state.heard.iter().filter(|(_, heard)| heard.plus(silent) <= now).map(|(owner, _)| owner.clone()).collect();
        state.counters.retain(|id, counter| {
            if id.window == WindowId::Now {
                gone.iter().for_each(|owner| counter.close(owner));
            }
            !matches!(id.window, WindowId::Calendar { until, .. } if until + KEPT_SECONDS <= now.seconds())
        });
        self.answered(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn counters_in_memory_behave_as_every_authority_must() {
        let memory = Arc::new(Memory::default());
        let applies = memory.clone();
        super::super::conformance::conformance(memory, async |owner, charges| applies.apply(&owner, &charges)).await;
    }
}
