//! The accounts of this process: one for each counter that its calls touch.
//!
//! An account has a lease and the part of it that is free; both are single atomics. A reservation takes from what is free, if
//! there is enough; settling gives back what was not used and lowers the lease by what was charged. When a calendar window
//! ends, the account starts another one; reservations keep the window that they were made in.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::authority::Grant;
use super::lease::{self, Settlement};
use super::line::Line;
use super::shelf::Shelf;
use crate::unit::charge::{CounterId, WindowId};
use crate::unit::clock::Timestamp;

const RELAXED: Ordering = Ordering::Relaxed;
const STRICT: Ordering = Ordering::SeqCst;

/// What this process knows and holds of one limit for one subject.
pub(super) struct Account {
    pub(super) line: Arc<Line>,
    pub(super) subject: Arc<str>,
    period: ArcSwap<Period>,
    /// Woken when something becomes free.
    pub(super) freed: Notify,
    pub(super) waiting: AtomicUsize,
    average: AtomicI64,
    /// When it was last asked for, in microseconds of the process.
    pub(super) used: AtomicI64,
}

/// What this process knows and holds of one counter.
pub(super) struct Period {
    pub(super) window: WindowId,
    /// Its first microsecond, and the first after it, by the authority's clock.
    from: i64,
    until: i64,
    /// What the authority leased and was not charged, released or forgotten since.
    lease: AtomicI64,
    /// The part of the lease that no reservation has taken.
    free: AtomicI64,
    low_water: AtomicI64,
    /// After the amount was lowered: how much of what reservations hold goes back when they end, instead of being free.
    shed: AtomicI64,
    /// What of that has ended and waits to go back.
    owed: AtomicI64,
    /// A refill is asked for.
    queued: AtomicBool,
    /// What is spent and what is leased to this process, as last told. A charge moves its amount from the lease to what is
    /// spent, so this sum is the same before and after the authority has applied it; taking the lease off gives what is
    /// spent, charges on their way included, none counted twice.
    total: AtomicI64,
    /// What was charged without a lease since it was last told.
    loose: AtomicI64,
    paced: bool,
    /// What is held of a paced window goes with time.
    shelf: Mutex<Shelf>,
    /// What other processes hold, as last told.
    elsewhere: AtomicI64,
    /// The authority has told at least once.
    told: AtomicBool,
    /// When it told last, in microseconds of the process.
    told_at: AtomicI64,
    /// Until when the last refusal holds, in microseconds of the process.
    refused_until: AtomicI64,
    /// When the authority says that what was refused could fit, by its clock; 0 if it does not say.
    retry_at: AtomicI64,
    /// Until when leases cover only what a call needs.
    contended_until: AtomicI64,
    /// From when on it can be found out what the authority holds for this process, after an answer was lost or more was
    /// charged than leased; 0 if there is no doubt.
    doubted: AtomicI64,
    /// When a charge was last made or settled.
    charged: AtomicI64,
    /// Charges that are made but not yet settled here.
    settling: AtomicUsize,
    /// The highest threshold that was told, in percent.
    threshold: AtomicU8,
}

impl Account {
    pub(super) fn new(line: Arc<Line>, subject: Arc<str>, now: Timestamp, micros: i64) -> Self {
        let period = ArcSwap::from_pointee(Period::new(line.spans.at(now), line.paced));
        Self {
            line,
            subject,
            period,
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            average: AtomicI64::new(0),
            used: AtomicI64::new(micros),
        }
    }

    /// The counter for the authority's time `now`, and the one that it replaced if a window has just ended.
    pub(super) fn period(&self, now: Timestamp) -> (Arc<Period>, Option<Arc<Period>>) {
        let period = self.period.load();
        if period.holds(now) {
            return (Arc::clone(&period), None);
        }
        let next = Arc::new(Period::new(self.line.spans.at(now), self.line.paced));
        let before = self.period.compare_and_swap(&*period, next.clone());
        if Arc::ptr_eq(&before, &period) { (next, Some(Arc::clone(&before))) } else { (self.period.load_full(), None) }
    }

    /// The counter that was last used.
    pub(super) fn last_period(&self) -> Arc<Period> {
        self.period.load_full()
    }

    pub(super) fn counter(&self, period: &Period) -> CounterId {
        CounterId { limit: self.line.id.clone(), window: period.window, subject: self.subject.clone() }
    }

    /// Takes an amount from what is free, or nothing.
    pub(super) fn take(&self, period: &Period, need: i64, micros: i64) -> bool {
        let Some(pace) = self.line.pace() else { return period.take(need) };
        self.expire(period, micros);
        let taken = period.take(need);
        if taken {
            period.shelf().used(need, pace);
        }
        taken
    }

    /// Gives back what a reservation took and did not use. Of a paced window only what has not flowed off meanwhile.
    pub(super) fn put_back(&self, period: &Period, amount: i64, micros: i64) {
        period.put_back(self.kept(period, amount, micros));
    }

    /// Settles a part of a reservation. Says whether something became free.
    pub(super) fn settle(&self, period: &Period, settlement: Settlement, micros: i64) -> bool {
        let freed = self.kept(period, settlement.freed, micros);
        period.settle(Settlement { freed, ..settlement }, micros)
    }

    /// How much of what was not used may be held again: of a paced window only what has not flowed off meanwhile.
    fn kept(&self, period: &Period, amount: i64, micros: i64) -> i64 {
        let Some(pace) = self.line.pace() else { return amount };
        self.expire(period, micros);
        if amount <= 0 {
            period.shelf().used(-amount, pace);
            return amount;
        }
        let back = period.shelf().unused(amount, pace);
        period.lapse(amount - back);
        back
    }

    /// Forgets what has flowed off of a paced window.
    pub(super) fn expire(&self, period: &Period, micros: i64) {
        if let Some(pace) = self.line.pace() {
            let mut shelf = period.shelf();
            let expired = shelf.expire(period.free(), (self.line.amount(), pace), micros);
            if expired > 0 {
                period.forget(expired);
            }
        }
    }

    /// Takes what the authority granted on a question that was asked at `asked`; `now` is the time there. Callers wait for
    /// `awaited` of it.
    pub(super) fn granted(
        &self,
        period: &Period,
        (grant, awaited): (&Grant, i64),
        (asked, micros): (i64, i64),
        now: Timestamp,
    ) {
        if self.line.paced && grant.granted > 0 {
            self.expire(period, micros);
            period.shelf().granted((self.line.amount(), asked), awaited.min(grant.granted));
        }
        period.granted(grant, (self.line.amount(), self.average()), now);
        period.told_at.store(micros, RELAXED);
    }

    /// What is spent, as last told, with what was charged here since. Of a paced window: what has not flowed off by now, without
    /// what this process holds ahead for calls to come.
    pub(super) fn spent(&self, period: &Period, micros: i64) -> i64 {
        let Some(pace) = self.line.pace() else { return period.spent() };
        self.expire(period, micros);
        let passed = i128::from(micros.saturating_sub(period.told_at.load(RELAXED)).max(0));
        let length = i128::try_from(pace.period.as_micros()).unwrap_or(i128::MAX).max(1);
        let flowed = passed * i128::from(self.line.amount().max(0)) / length;
        let debt = (i128::from(period.spent()) - flowed).max(0);
        i64::try_from(debt).unwrap_or(i64::MAX).saturating_sub(period.free().max(0)).max(0)
    }

    /// What this process holds ahead of a paced window for calls to come; its authority counts that as spent.
    pub(super) fn held_ahead(&self, period: &Period, micros: i64) -> i64 {
        self.expire(period, micros);
        if self.line.paced { period.free().max(0) } else { 0 }
    }

    /// What is left of the limit for callers of this process, what running calls hold taken off. What is paced they have spent.
    pub(super) fn remaining(&self, period: &Period, micros: i64) -> i64 {
        let reserved = if self.line.paced { 0 } else { period.reserved() };
        self.line.most().saturating_sub(self.spent(period, micros)).saturating_sub(reserved).max(0)
    }

    pub(super) fn average(&self) -> i64 {
        self.average.load(RELAXED)
    }

    /// Notes what one call needs.
    pub(super) fn touch(&self, need: i64, micros: i64) {
        self.average.store(lease::average(self.average(), need), RELAXED);
        self.used.store(micros, RELAXED);
    }

    /// Wakes those who wait.
    pub(super) fn wake(&self) {
        if self.waiting.load(STRICT) > 0 {
            self.freed.notify_waiters();
        }
    }
}

impl Period {
    pub(super) fn new(window: WindowId, paced: bool) -> Self {
        let (from, until) = match window {
            WindowId::Calendar { from, until } => (from.saturating_mul(1_000_000), until.saturating_mul(1_000_000)),
            _ => (i64::MIN, i64::MAX),
        };
        Self {
            window,
            from,
            until,
            lease: AtomicI64::new(0),
            free: AtomicI64::new(0),
            low_water: AtomicI64::new(i64::MIN),
            shed: AtomicI64::new(0),
            owed: AtomicI64::new(0),
            queued: AtomicBool::new(false),
            total: AtomicI64::new(0),
            loose: AtomicI64::new(0),
            paced,
            shelf: Mutex::default(),
            elsewhere: AtomicI64::new(0),
            told: AtomicBool::new(false),
            told_at: AtomicI64::new(0),
            refused_until: AtomicI64::new(0),
            retry_at: AtomicI64::new(0),
            contended_until: AtomicI64::new(0),
            doubted: AtomicI64::new(0),
            charged: AtomicI64::new(0),
            settling: AtomicUsize::new(0),
            threshold: AtomicU8::new(0),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an amount from what is free, or nothing. An amount of nothing always fits.
    fn take(&self, need: i64) -> bool {
        need <= 0
            || self.free.fetch_update(STRICT, RELAXED, |free| (free >= need).then(|| free.saturating_sub(need))).is_ok()
    }

    /// Whether a refill should be asked for; true once until [`Period::granted`].
    pub(super) fn wants_refill(&self) -> bool {
        self.free.load(RELAXED) < self.low_water.load(RELAXED) && !self.queued.swap(true, STRICT)
    }

    /// Notes that what was asked for was answered, whatever the answer.
    pub(super) fn answered(&self) {
        self.queued.store(false, STRICT);
    }

    /// Gives back what a reservation took.
    fn put_back(&self, amount: i64) {
        let owed = self.owe(amount, amount);
        self.free.fetch_add(amount - owed, STRICT);
    }

    /// The amount was lowered: what is free, and what is held now and comes free later, is not to be spent here any more.
    pub(super) fn lower(&self) {
        if self.paced {
            return;
        }
        self.shed.store(self.reserved(), STRICT);
        let free = self.free.fetch_update(STRICT, RELAXED, |free| (free > 0).then_some(0)).unwrap_or(0);
        self.owed.fetch_add(free.max(0), STRICT);
    }

    /// A reservation of so much ends, of which a part comes free; gives how much of that goes back.
    fn owe(&self, reserved: i64, freed: i64) -> i64 {
        if self.shed.load(RELAXED) <= 0 {
            return 0;
        }
        let before =
            self.shed.fetch_update(STRICT, RELAXED, |shed| (shed > 0).then(|| (shed - reserved.max(0)).max(0)));
        let owed = before.unwrap_or(0).min(freed).max(0);
        self.owed.fetch_add(owed, STRICT);
        owed
    }

    /// Whether something waits to go back.
    pub(super) fn owes(&self) -> bool {
        self.owed.load(RELAXED) > 0
    }

    /// Settles a part of a reservation. Says whether something became free.
    fn settle(&self, settlement: Settlement, micros: i64) -> bool {
        let lease = self.lease.fetch_sub(settlement.consumed, STRICT).saturating_sub(settlement.consumed);
        let owed = self.owe(settlement.consumed.saturating_add(settlement.freed), settlement.freed);
        self.free.fetch_add(settlement.freed - owed, STRICT);
        self.charged.fetch_max(micros, RELAXED);
        if lease < 0 {
            self.doubt(micros);
        }
        settlement.freed > 0
    }

    /// A charge is made, and may be applied by the authority before it is settled here.
    pub(super) fn begin_settling(&self, micros: i64) {
        self.settling.fetch_add(1, STRICT);
        self.charged.fetch_max(micros, RELAXED);
    }

    /// The charge is settled here too.
    pub(super) fn end_settling(&self, micros: i64) {
        self.charged.fetch_max(micros, RELAXED);
        self.settling.fetch_sub(1, STRICT);
    }

    /// Counts what was charged without a lease.
    pub(super) fn spend(&self, amount: i64, micros: i64) {
        self.loose.fetch_add(amount, STRICT);
        self.charged.fetch_max(micros, RELAXED);
    }

    /// Takes what the authority granted; `now` is the time there.
    fn granted(&self, grant: &Grant, (cap, average): (i64, i64), now: Timestamp) {
        self.lease.fetch_add(grant.granted, STRICT);
        let free = self.free.fetch_add(grant.granted, STRICT).saturating_add(grant.granted);
        self.hear(grant, cap);
        self.low_water.store(lease::low_water(free, grant.granted, average), RELAXED);
        self.refused_until.store(0, RELAXED);
        let retry_at = grant.retry_after.map_or(0, |wait| now.plus(wait).micros());
        self.retry_at.store(retry_at, RELAXED);
    }

    /// Takes what the authority told.
    pub(super) fn hear(&self, grant: &Grant, cap: i64) {
        self.total.store(grant.spent.saturating_add(grant.own), STRICT);
        let loose = self.loose.swap(0, STRICT);
        if !self.told.load(RELAXED) {
            // What had passed before this process came was told by others.
            let before = super::event::share(grant.spent.saturating_sub(loose), cap);
            self.threshold.fetch_max(before, STRICT);
        }
        self.elsewhere.store((grant.leased - grant.own).max(0), RELAXED);
        self.told.store(true, RELAXED);
    }

    /// Notes that the authority gave nothing, so that it is not asked again at once.
    pub(super) fn refused(&self, until: i64) {
        self.refused_until.store(until, RELAXED);
    }

    pub(super) fn is_refused(&self, micros: i64) -> bool {
        micros < self.refused_until.load(RELAXED)
    }

    /// Takes all that is free away, to be released at the authority.
    pub(super) fn strip(&self) -> i64 {
        let free = self.free.fetch_update(STRICT, RELAXED, |free| (free > 0).then_some(0)).unwrap_or(0);
        let taken = free.saturating_add(self.owed.swap(0, STRICT));
        self.total.fetch_sub(taken, STRICT);
        self.lease.fetch_sub(taken, STRICT);
        self.low_water.store(i64::MIN, RELAXED);
        taken
    }

    /// Forgets a part of the lease that the authority does not know of.
    pub(super) fn forget(&self, amount: i64) {
        self.free.fetch_sub(amount, STRICT);
        self.lease.fetch_sub(amount, STRICT);
    }

    /// Forgets a part of the lease that a reservation held and that flowed off meanwhile.
    fn lapse(&self, amount: i64) {
        self.lease.fetch_sub(amount, STRICT);
    }

    /// Notes that the authority may hold something else for this process than it knows; that can be found out from `ripe` on.
    pub(super) fn doubt(&self, ripe: i64) {
        self.doubted.fetch_max(ripe.max(1), RELAXED);
    }

    pub(super) fn is_certain(&self) {
        self.doubted.store(0, RELAXED);
    }

    /// From when on a doubt can be cleared.
    pub(super) fn doubted(&self) -> Option<i64> {
        Some(self.doubted.load(RELAXED)).filter(|ripe| *ripe > 0)
    }

    /// Whether all charges that were ever made had been settled here by that reading, and what the lease is.
    pub(super) fn settled_before(&self, micros: i64) -> Option<i64> {
        let lease = self.lease();
        (self.settling.load(STRICT) == 0 && self.charged.load(STRICT) < micros).then_some(lease)
    }

    pub(super) fn contend(&self, until: i64) {
        self.contended_until.store(until, RELAXED);
        self.low_water.store(i64::MIN, RELAXED);
    }

    pub(super) fn is_contended(&self, micros: i64) -> bool {
        micros < self.contended_until.load(RELAXED)
    }

    pub(super) fn lease(&self) -> i64 {
        self.lease.load(STRICT)
    }

    pub(super) fn free(&self) -> i64 {
        self.free.load(STRICT)
    }

    /// What reservations of this process hold.
    pub(super) fn reserved(&self) -> i64 {
        self.lease().saturating_sub(self.free()).saturating_sub(self.owed.load(STRICT)).max(0)
    }

    /// What is spent, as last told, with what was charged here since; of a paced window also what is held ahead.
    fn spent(&self) -> i64 {
        let leased = if self.paced { 0 } else { self.lease().max(0) };
        self.total.load(STRICT).saturating_sub(leased).saturating_add(self.loose.load(STRICT)).max(0)
    }

    pub(super) fn elsewhere(&self) -> i64 {
        self.elsewhere.load(RELAXED)
    }

    /// Whether the authority has told how the counter stands.
    pub(super) fn is_told(&self) -> bool {
        self.told.load(RELAXED)
    }

    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        Some(self.retry_at.load(RELAXED)).filter(|at| *at > 0).map(Timestamp)
    }

    /// The highest threshold that was told, in percent.
    pub(super) fn threshold(&self) -> u8 {
        self.threshold.load(STRICT)
    }

    pub(super) fn set_threshold(&self, percent: u8) {
        self.threshold.store(percent, STRICT);
    }

    /// Notes a threshold as told; true for the first who does.
    pub(super) fn pass_threshold(&self, percent: u8) -> bool {
        self.threshold.fetch_max(percent, STRICT) < percent
    }

    /// Whether the window holds the authority's time.
    pub(super) fn holds(&self, now: Timestamp) -> bool {
        (self.from..self.until).contains(&now.micros())
    }
}
