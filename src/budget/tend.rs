//! What goes on beside the calls: heartbeats, recalls, refills ahead, idle leases, ended windows, forgotten reservations.
//!
//! Everything here is bounded by the counters that there are. The scan over all of them runs once a second; at 100,000 counters
//! it takes a few milliseconds.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Budget;
use super::account::{Account, Period};
use super::authority::{Grant, Want};
use super::lease;
use super::limit::Action;
use super::line::Line;
use super::settings::{BATCH, CONTENDED_EVERY, FORGOTTEN_AFTER, GIVE_BACK, HEARTBEAT, SETTLED_AFTER};
use super::time::span;
use crate::telemetry::metrics::METRICS;
use crate::unit::charge::CounterId;

/// Heartbeats between two scans over all counters.
const BEATS_A_SCAN: u32 = 4;
/// A heartbeat that is not answered within this has failed, unless calls wait longer than that for the authority.
const BEAT_TIMEOUT: Duration = Duration::from_secs(1);

/// A counter, and what is to go back of it.
type Part = (Arc<Period>, Arc<Account>, i64);

impl Budget {
    /// Keeps leases alive and moving until `stop` is true or its sender is gone. Runs once beside the calls; without it leases
    /// still work, but none goes back.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut beats = interval(HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u32;
        if self.has_limits() {
            // A want of nothing says by which rules this process leases, and tells it if others do by newer ones.
            drop(self.acquire(&[]).await);
        }
        while !*stop.borrow() {
            tokio::select! {
                changed = stop.changed() => if changed.is_err() { return },
                () = self.refill.notified() => {
                    self.return_lowered().await;
                    self.start_flight();
                }
                () = sleep(CONTENDED_EVERY), if self.contended.load(Relaxed) => self.return_contended().await,
                _ = beats.tick() => {
                    count = count.wrapping_add(1);
                    self.beat().await;
                    if count.is_multiple_of(BEATS_A_SCAN) {
                        self.tend().await;
                    }
                }
            }
        }
    }

    /// Gives everything back that no call holds, within two seconds; at the end of the process, when all calls have ended.
    pub async fn give_back(&self) {
        if timeout(GIVE_BACK, self.release(|| self.strip(|_, _| true))).await.is_err() {
            tracing::warn!("leases could not be given back in time; they are freed when the journal has been applied");
        }
    }

    /// One heartbeat, while anything is leased or the authority is away. What is recalled goes back at once.
    async fn beat(&self) {
        if !self.holding.load(Relaxed) && !self.away.load(Relaxed) {
            return;
        }
        let asked = self.clock.micros();
        // A database that is busy is not away: a heartbeat may take as long as a call may.
        let limit = BEAT_TIMEOUT.max(self.settings.load().authority_timeout);
        let beat = timeout(limit, self.authority.beat(&self.owner)).await.ok().and_then(Result::ok);
        self.heard("beat", beat.is_some());
        let Some(beat) = beat else { return };
        self.clock.learn(beat.now, asked);
        let recalled: Vec<_> = beat.recalled.iter().filter_map(|id| self.known(id)).collect();
        if recalled.is_empty() {
            return;
        }
        recalled.iter().for_each(|(_, period)| self.contend(period));
        self.release(|| {
            recalled.iter().filter_map(|(account, period)| free_part(account, period, self.clock.micros())).collect()
        })
        .await;
    }

    fn known(&self, id: &CounterId) -> Option<(Arc<Account>, Arc<Period>)> {
        let house = self.house.load();
        let account = house.table.line(&id.limit)?.known(&id.subject)?;
        let period = account.last_period();
        (period.window == id.window).then_some((account, period))
    }

    /// Gives back what has become free of contended counters.
    async fn return_contended(&self) {
        let (micros, mut any) = (self.clock.micros(), false);
        let strip = || {
            self.strip(|_, period| {
                let contended = period.is_contended(micros);
                any |= contended;
                contended
            })
        };
        self.release(strip).await;
        self.contended.store(any, Relaxed);
    }

    /// Gives back what is free of counters whose amount was lowered.
    pub(super) async fn return_lowered(&self) {
        let counters = self.flights.to_give_back();
        if !counters.is_empty() {
            self.release(|| {
                counters
                    .iter()
                    .filter_map(|(period, account)| free_part(account, period, self.clock.micros()))
                    .collect()
            })
            .await;
        }
    }

    /// Takes what is free off the counters that are picked.
    fn strip(&self, mut picked: impl FnMut(&Account, &Period) -> bool) -> Vec<Part> {
        let mut parts = Vec::new();
        for line in self.lines() {
            for account in line.all() {
                let period = account.last_period();
                if picked(&account, &period) {
                    parts.extend(free_part(&account, &period, self.clock.micros()));
                }
            }
        }
        parts
    }

    /// All limits that have accounts: those in force and those that are gone.
    fn lines(&self) -> Vec<Arc<Line>> {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.house.load().table.lines().cloned().chain(retired).collect()
    }

    /// The scan of once a second.
    pub(super) async fn tend(self: &Arc<Self>) {
        self.expire();
        self.return_idle().await;
        self.look().await;
        self.reconcile().await;
        self.forget();
    }

    /// Charges reservations that nobody ended in time, and frees what sliding windows have forgotten.
    fn expire(&self) {
        let micros = self.clock.micros();
        let ttl = span(self.settings.load().reservation_ttl);
        for (id, charges) in self.registry.tend((micros, self.clock.late(micros)), ttl) {
            METRICS.reservations_expired.inc();
            tracing::warn!(reservation = id, "a reservation was never ended; it is charged in full");
            if let Some(take) = self.on_expired.get() {
                take(id, charges);
            }
        }
        METRICS.reservations.set(i64::try_from(self.registry.len()).unwrap_or(i64::MAX));
    }

    /// Gives back leases that nobody uses, those of limits that are gone, and those of windows that are over. While the authority is
    /// away nothing goes back: nobody would take it, and this process could no longer live on it.
    async fn return_idle(&self) {
        let away = self.away.load(Relaxed);
        let micros = self.clock.micros();
        let idle = span(self.settings.load().idle);
        let table = self.house.load_full();
        let in_force =
            |account: &Account| table.table.line(&account.line.id).is_some_and(|line| Arc::ptr_eq(line, &account.line));
        let mut leased = 0_i64;
        let strip = || {
            let mut parts = self.strip(|account, period| {
                leased += i64::from(period.lease() != 0);
                // What is paced was spent when it was granted, and flows back.
                let idle = if account.line.paced { idle.min(span(Duration::from_secs(1))) } else { idle };
                let unused = micros.saturating_sub(account.used.load(Relaxed)) >= idle;
                !away && (unused || !in_force(account)) && account.waiting.load(Relaxed) == 0
            });
            {
                let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
                if !away {
                    parts.extend(past.iter().filter_map(|(account, period)| free_part(account, period, micros)));
                }
                past.retain(|(_, period)| Arc::strong_count(period) > 1 || period.free() > 0 || period.owes());
                leased += i64::try_from(past.len()).unwrap_or(0);
            }
            parts
        };
        self.release(strip).await;
        self.holding.store(leased > 0, Relaxed);
        METRICS.limit_leases.set(leased);
    }

    /// Asks how counters stand that are used, but hardly ever leased: those that only warn, have thresholds, or downgrade.
    async fn look(&self) {
        if self.away.load(Relaxed) {
            return;
        }
        let (micros, recent) = (self.clock.micros(), span(HEARTBEAT * BEATS_A_SCAN * 2));
        let mut looked: Vec<(Arc<Account>, Arc<Period>)> = Vec::new();
        for line in self.lines() {
            if line.paced || !(line.warns() || matches!(line.limit().action, Action::Downgrade { .. } | Action::Warn)) {
                continue;
            }
            let used = |account: &Arc<Account>| micros.saturating_sub(account.used.load(Relaxed)) < recent;
            looked.extend(line.all().into_iter().filter(used).map(|account| {
                let period = account.last_period();
                (account, period)
            }));
        }
        let _talk = self.flights.talk.lock().await;
        for counters in looked.chunks(BATCH) {
            let wants: Vec<Want> = counters.iter().map(|(account, period)| nothing(account, period)).collect();
            let Some(answer) = self.acquire(&wants).await else { return };
            for ((account, period), grant) in
                counters.iter().zip(&answer.grants).filter(|(_, grant)| !grant.wrong_window)
            {
                period.hear(grant, account.line.amount());
                self.tell_thresholds(account, period);
            }
        }
    }

    /// Notes that an authority which was away may hold something else than this process knows.
    pub(super) fn doubt_all(&self) {
        let ripe = self.clock.micros().saturating_add(span(SETTLED_AFTER));
        for account in self.lines().iter().flat_map(|line| line.all()) {
            let period = account.last_period();
            if period.lease() != 0 {
                period.doubt(ripe);
            }
        }
    }

    /// Finds what the authority leased in answers that were lost, and gives it back; forgets what it does not know of. Only
    /// once every charge has been applied, and when no call that was given up can still take effect: until then what the
    /// authority holds beyond the lease may be money that is spent.
    async fn reconcile(&self) {
        let micros = self.clock.micros();
        let applied = self.applied.load(Relaxed);
        let ripe = |period: &Period| {
            let ripe = period.doubted().is_some_and(|ripe| ripe <= micros);
            if ripe { period.settled_before(applied) } else { None }
        };
        let mut doubtful: Vec<(Arc<Account>, Arc<Period>)> = Vec::new();
        for account in self.lines().iter().flat_map(|line| line.all()) {
            let period = account.last_period();
            if ripe(&period).is_some() {
                doubtful.push((account, period));
            }
        }
        let mut leaks = Vec::new();
        for counters in doubtful.chunks(BATCH) {
            let _talk = self.flights.talk.lock().await;
            let before: Vec<Option<i64>> = counters.iter().map(|(_, period)| ripe(period)).collect();
            let wants: Vec<Want> = counters.iter().map(|(account, period)| nothing(account, period)).collect();
            let Some(answer) = self.acquire(&wants).await else { return };
            for (((account, period), before), grant) in counters.iter().zip(before).zip(&answer.grants) {
                let Some(known) = before.filter(|_| ripe(period) == before) else { continue };
                period.is_certain();
                if account.line.paced {
                    continue;
                }
                // A debt is part of what is spent by now.
                let known = known.max(0);
                let leak = lease::leak(grant.own, known);
                period.forget(period.lease().min(0));
                period.hear(&Grant { own: known, ..*grant }, account.line.amount());
                match leak {
                    1.. => leaks.push((period.clone(), account.clone(), leak)),
                    _ => period.forget(-leak),
                }
            }
        }
        if !leaks.is_empty() {
            self.release(|| leaks).await;
        }
    }

    /// Forgets keys and counters that nobody uses.
    fn forget(&self) {
        let micros = self.clock.micros();
        let long_ago = |used: i64| micros.saturating_sub(used) >= span(FORGOTTEN_AFTER);
        for shard in &self.faces {
            let mut faces = shard.write().unwrap_or_else(PoisonError::into_inner);
            faces.retain(|_, face| !long_ago(face.used.load(Relaxed)));
        }
        let spare = |account: &Account| {
            let period = account.last_period();
            long_ago(account.used.load(Relaxed)) && period.lease() == 0 && period.doubted().is_none()
        };
        for line in self.lines() {
            self.accounts.fetch_sub(line.forget(spare), Relaxed);
        }
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|line| !line.all().is_empty());
        METRICS.limit_counters.set(i64::try_from(self.accounts.load(Relaxed)).unwrap_or(i64::MAX));
    }
}

/// What is free of a counter, taken off its account.
fn free_part(account: &Arc<Account>, period: &Arc<Period>, micros: i64) -> Option<Part> {
    account.expire(period, micros);
    let free = period.strip();
    (free > 0).then(|| (period.clone(), account.clone(), free))
}

/// A want of nothing, which tells how a counter stands.
fn nothing(account: &Account, period: &Period) -> Want {
    Want {
        counter: account.counter(period),
        cap: account.line.amount(),
        pace: account.line.pace(),
        need: 0,
        wish: 0,
        ahead: 0,
    }
}
