//! What an admitted call holds until it is known what it used.
//!
//! A reservation ends in one of three ways. *Settled*: [`Reservation::charges`] says what it adds to the counters, the caller
//! writes that to the journal with the record, and dropping the reservation then moves the accounts of this process. *Dropped*
//! without charges: all of it is free again. *Expired*: nobody ended it in time, so it is charged in full, through
//! `Budget::on_expired`.
//!
//! Crashes: the charges are in the journal before the accounts move, so whatever dies in between has either told of its spending
//! or not answered. Until the journal is applied the authority counts the amount in the lease of this process, so nobody else
//! can have it; a process that dies keeps its leases taken until its journal has been applied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Budget;
use super::account::{Account, Period};
use super::lease::{Amounts, settlement};
use super::limit::Unit;
use super::refusal::unit_word;
use super::window::MINUTE_SECONDS;
use crate::telemetry::metrics::METRICS;
use crate::unit::charge::{Charge, CounterId, WindowId};
use crate::unit::clock::Timestamp;

/// What an admitted call holds on every limit that applies to it. Without limits it holds nothing and costs nothing.
#[must_use = "dropping a reservation gives it back"]
pub struct Reservation(Option<Hold>);

struct Hold {
    budget: Arc<Budget>,
    held: Arc<Held>,
}

/// One row of a reservation, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedRow {
    /// The counter.
    pub counter: CounterId,
    /// What it counts.
    pub unit: Unit,
    /// How much is held, in that unit.
    pub reserved: i64,
}

/// A reservation as the registry knows it.
pub(super) struct Held {
    id: u64,
    /// When it was made, in microseconds of the process.
    made: i64,
    /// When it was made, by the authority's clock.
    admitted: Timestamp,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Its charges are told; ending it moves the accounts.
    Charged,
    Expired,
    Ended,
}

/// What is held on one account.
pub(super) struct Part {
    pub(super) account: Arc<Account>,
    pub(super) period: Arc<Period>,
    /// What the call needs.
    pub(super) need: i64,
    /// What was taken from the account: the need, or nothing.
    pub(super) reserved: i64,
    /// A limit that only warns leases nothing.
    pub(super) leased: bool,
    /// It was given back because a sliding window has forgotten it.
    aged: bool,
    charged: Option<i64>,
}

impl Part {
    pub(super) fn new(account: Arc<Account>, period: Arc<Period>, need: i64) -> Self {
        let leased = account.line.refuses();
        Self { account, period, need, reserved: 0, leased, aged: false, charged: None }
    }

    /// What a use charges here; `None` for what only runs, and for what a sliding window has forgotten.
    fn charge(&self, used: &Amounts) -> Option<i64> {
        let unit = self.account.line.unit;
        if unit == Unit::Concurrent || self.aged { None } else { Some(used.of(unit).unwrap_or(self.need)) }
    }

    /// Moves the accounts of this process by what is charged.
    fn settle(&mut self, micros: i64) {
        let charged = self.charged;
        if !self.leased {
            self.period.spend(charged.unwrap_or(0), micros);
        } else if !self.aged {
            let outcome = settlement(self.reserved, charged);
            if outcome.freed < 0 && self.reserved > 0 {
                METRICS.limit_overruns.with_label_values(&[unit_word(self.account.line.unit)]).inc();
            }
            if self.account.settle(&self.period, outcome, micros) {
                self.account.wake();
            }
        }
        self.reserved = 0;
    }

    /// Gives all back.
    pub(super) fn put_back(&mut self, micros: i64) {
        if self.reserved > 0 && !self.aged {
            self.account.put_back(&self.period, self.reserved, micros);
            self.account.wake();
        }
        self.reserved = 0;
    }
}

impl Reservation {
    /// What holds nothing.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn new(budget: Arc<Budget>, parts: Vec<Part>, micros: i64) -> Self {
        let admitted = budget.clock.late(micros);
        let held = budget.registry.insert(parts, micros, admitted);
        Self(Some(Hold { budget, held }))
    }

    /// Its number in this process; 0 if no limit applies.
    pub fn id(&self) -> u64 {
        self.0.as_ref().map_or(0, |hold| hold.held.id)
    }

    /// What it holds, row by row.
    pub fn rows(&self) -> Vec<ReservedRow> {
        let Some(hold) = &self.0 else { return Vec::new() };
        let row = |part: &Part| ReservedRow {
            counter: part.account.counter(&part.period),
            unit: part.account.line.unit,
            reserved: part.reserved,
        };
        hold.held.state().parts.iter().map(row).collect()
    }

    /// What the exchange adds to each counter, to be written to the journal with its record before this is dropped. Requests
    /// are charged as of the time of admission, the rest as of now; a price that is not known charges what was reserved; what
    /// was used beyond the reservation is charged too. Told once: a second call gives nothing, and so does an expired
    /// reservation except for what goes beyond its full amount.
    pub fn charges(&mut self, used: &Amounts) -> Vec<Charge> {
        let Some(hold) = &self.0 else { return Vec::new() };
        let micros = hold.budget.clock.micros();
        hold.held.charge_by(|part| part.charge(used), (micros, hold.budget.clock.late(micros)))
    }

    /// Frees what it holds of limits on what runs at one time: the exchange is over, though what it used is still being counted.
    pub fn stop_running(&mut self) {
        if let Some(hold) = &self.0 {
            let mut state = hold.held.state();
            if state.phase != Phase::Open {
                return;
            }
            let micros = hold.budget.clock.micros();
            let (mut over, left): (Vec<Part>, Vec<Part>) =
                state.parts.drain(..).partition(|part| part.account.line.unit == Unit::Concurrent);
            state.parts = left;
            over.iter_mut().for_each(|part| part.put_back(micros));
            hold.budget.return_owed(&over);
        }
    }

    /// The same where nobody knows what was used: every row is charged what it holds, those in dollars the cost if that is known.
    pub fn charges_unknown(&mut self, usd: Option<i64>) -> Vec<Charge> {
        let Some(hold) = &self.0 else { return Vec::new() };
        let micros = hold.budget.clock.micros();
        let amount = |part: &Part| match part.account.line.unit {
            Unit::Concurrent => None,
            _ if part.aged => None,
            Unit::Usd => Some(usd.unwrap_or(part.need)),
            _ => Some(part.need),
        };
        hold.held.charge_by(amount, (micros, hold.budget.clock.late(micros)))
    }

    /// [`Reservation::charges`], and then the end of the reservation. For callers that have no journal to write in between.
    pub fn settle(mut self, used: &Amounts) -> Vec<Charge> {
        self.charges(used)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(hold) = self.0.take() {
            hold.budget.registry.remove(hold.held.id);
            let micros = hold.budget.clock.micros();
            hold.held.end(micros);
            hold.budget.notice(&hold.held.state().parts, micros);
        }
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Reservation({})", self.id())
    }
}

impl Held {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn charge_by(&self, amount: impl Fn(&Part) -> Option<i64>, (micros, now): (i64, Timestamp)) -> Vec<Charge> {
        let state = &mut *self.state();
        match state.phase {
            Phase::Open => {
                state.phase = Phase::Charged;
                self.tell(&mut state.parts, amount, (micros, now))
            }
            Phase::Expired => {
                let beyond = |part: &Part| amount(part).map(|used| (used - part.need).max(0));
                state.phase = Phase::Charged;
                self.tell(&mut state.parts, beyond, (micros, now))
            }
            Phase::Charged | Phase::Ended => Vec::new(),
        }
    }

    /// Notes what each part is charged and gives the charges that go to the authority.
    fn tell(
        &self,
        parts: &mut [Part],
        amount: impl Fn(&Part) -> Option<i64>,
        (micros, now): (i64, Timestamp),
    ) -> Vec<Charge> {
        let mut charges = Vec::with_capacity(parts.len());
        for part in parts {
            part.charged = amount(part);
            part.period.begin_settling(micros);
            // What is paced was spent when it was granted.
            if let Some(amount) = part.charged.filter(|amount| *amount > 0 && !part.account.line.paced) {
                let at = if part.account.line.unit == Unit::Requests { self.admitted } else { now };
                charges.push(Charge { counter: part.account.counter(&part.period), amount, at });
            }
        }
        charges
    }

    /// Ends it: by its charges if they are told, else by giving all back.
    fn end(&self, micros: i64) {
        let state = &mut *self.state();
        match state.phase {
            Phase::Open => state.parts.iter_mut().for_each(|part| part.put_back(micros)),
            Phase::Charged => settle_all(&mut state.parts, micros),
            Phase::Expired | Phase::Ended => {}
        }
        state.phase = Phase::Ended;
    }

    /// Charges it in full, if nobody has ended it.
    fn expire(&self, (micros, now): (i64, Timestamp)) -> Vec<Charge> {
        let state = &mut *self.state();
        if state.phase != Phase::Open {
            return Vec::new();
        }
        state.phase = Phase::Expired;
        let full = |part: &Part| (part.account.line.unit != Unit::Concurrent && !part.aged).then_some(part.need);
        let charges = self.tell(&mut state.parts, full, (micros, now));
        settle_all(&mut state.parts, micros);
        charges
    }

    /// Gives back requests of a sliding window that were admitted longer ago than it remembers: the lease was held for as
    /// long as the window counts them, so they need no charge any more.
    fn age(&self, micros: i64) {
        let state = &mut *self.state();
        if state.phase != Phase::Open {
            return;
        }
        for part in &mut state.parts {
            let sliding = matches!(part.period.window, WindowId::Sliding { .. }) && !part.account.line.paced;
            if sliding && part.account.line.unit == Unit::Requests && part.leased && !part.aged {
                part.put_back(micros);
                part.aged = true;
            }
        }
    }
}

fn settle_all(parts: &mut [Part], micros: i64) {
    for part in parts {
        part.settle(micros);
        part.period.end_settling(micros);
    }
}

/// How many locks share the reservations.
const SHARDS: u64 = 16;

/// All reservations of a process that have not ended.
pub(super) struct Registry {
    next: std::sync::atomic::AtomicU64,
    shards: Vec<Mutex<HashMap<u64, Arc<Held>>>>,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self { next: 1.into(), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn insert(&self, parts: Vec<Part>, made: i64, admitted: Timestamp) -> Arc<Held> {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let held = Arc::new(Held { id, made, admitted, state: Mutex::new(State { phase: Phase::Open, parts }) });
        if let Some(mut shard) = self.shard(id) {
            shard.insert(id, held.clone());
        }
        held
    }

    fn remove(&self, id: u64) {
        if let Some(mut shard) = self.shard(id) {
            shard.remove(&id);
        }
    }

    fn shard(&self, id: u64) -> Option<MutexGuard<'_, HashMap<u64, Arc<Held>>>> {
        let shard = self.shards.get(usize::try_from(id % SHARDS).ok()?)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        (0..SHARDS).filter_map(|number| Some(self.shard(number)?.len())).sum()
    }

    /// Ages and expires what is old; gives the charges of what expired.
    pub(super) fn tend(&self, (micros, now): (i64, Timestamp), ttl: i64) -> Vec<(u64, Vec<Charge>)> {
        // A second for the bucket that a charge falls into, one for the distance between the clocks.
        let remembered = i64::from(MINUTE_SECONDS + 2) * 1_000_000;
        let mut expired = Vec::new();
        for number in 0..SHARDS {
            let Some(mut shard) = self.shard(number) else { continue };
            shard.retain(|id, held| {
                let age = micros.saturating_sub(held.made);
                if age >= ttl {
                    expired.push((*id, held.expire((micros, now))));
                } else if age >= remembered {
                    held.age(micros);
                }
                age < ttl
            });
        }
        expired
    }
}
