//! One counter as its authority keeps it: pure arithmetic without a clock, a lock or a network.
//!
//! It holds `spent + Σ leases ≤ cap` as long as nobody spends beyond a lease. The in-memory authority is a map of these, the
//! model check explores these, and the authorities in databases and Redis behave like these (`conformance.rs`). Time comes
//! in as an argument. Owners per counter are processes, so the maps here are short.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::authority::{Grant, Pace, Want};
use crate::unit::charge::WindowId;
use crate::unit::clock::Timestamp;

/// How long a refusal keeps asking other owners for what they do not use. One who still waits asks again, which renews it.
pub const RECALL: Duration = Duration::from_secs(2);

/// How far the clock may lie behind what it said before without more than a paced window standing still meanwhile. Beyond that it has
/// been put back, and the window flows on from now.
const PUT_BACK: Duration = Duration::from_secs(5);

/// An owner gets at most this part of what is free at once, unless its need is more: the nearer the cap, the smaller the
/// leases, so that several processes share the rest.
pub const SHARE: i64 = 4;

/// How much of `free` is leased to one who needs `need` and would welcome `wish`: 0, or at least `need` and at most `wish`.
pub fn lease_size(free: i64, need: i64, wish: i64) -> i64 {
    if free < need || free <= 0 { 0 } else { wish.min(free / SHARE).max(need).max(0) }
}

/// How much of the room of a paced window is given: 0, or at least what is needed, and more for later as long as half of the
/// burst stays there for whoever comes.
fn flow_size(room: i64, want: &Want, pace: Pace) -> i64 {
    if room < want.need || room <= 0 {
        return 0;
    }
    let granted = want.wish.min(room).max(want.need).max(0);
    granted + want.ahead.min(room - granted - pace.burst / 2).max(0)
}

/// A counter of one limit, one subject and one window. Authorities in databases keep it as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Counter {
    /// The amount that was last asked with.
    pub cap: i64,
    /// What was spent, for windows that do not slide.
    spent: i64,
    /// What was spent in which second since 1970, for sliding windows.
    buckets: BTreeMap<i64, i64>,
    /// For paced windows.
    flow: Option<Flow>,
    /// Who holds which lease; never 0.
    leases: BTreeMap<Arc<str>, i64>,
    /// Who was refused because others hold leases, and until when that counts.
    wanted: BTreeMap<Arc<str>, Timestamp>,
}

/// A paced window. Its debt is in units times microseconds of the period, so that flowing is exact in whole numbers: each
/// microsecond takes `cap` off it, and each unit granted puts `period` on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Flow {
    pace: Pace,
    debt: i128,
    at: Timestamp,
}

impl Counter {
    /// Leases to an owner, at the authority's time `now`. A paced window spends at once what it grants.
    pub fn acquire(&mut self, owner: &str, want: &Want, now: Timestamp) -> Grant {
        self.cap = want.cap;
        if !holds(want.counter.window, now) {
            return Grant { wrong_window: true, ..self.standing(owner, want.counter.window, now) };
        }
        self.forget(want.counter.window, now);
        if let Some(pace) = want.pace {
            return self.flow(want, pace, now);
        }
        self.flow = None;
        let granted = lease_size(self.free(want.counter.window, now), want.need, want.wish);
        if granted > 0 {
            *self.leases.entry(owner.into()).or_default() += granted;
        }
        if granted > 0 || want.need <= 0 {
            self.wanted.remove(owner);
        } else {
            self.wanted.insert(owner.into(), now.plus(RECALL));
        }
        let retry_after = (granted == 0 && want.need > 0).then(|| self.retry_after(want, now)).flatten();
        Grant { granted, retry_after, ..self.standing(owner, want.counter.window, now) }
    }

    /// Takes back a part of a lease that is not used; a paced window lets it flow back.
    pub fn release(&mut self, owner: &str, amount: i64) {
        if let Some(flow) = &mut self.flow {
            flow.debt = (flow.debt - i128::from(amount.max(0)) * micros(flow.pace.period)).max(0);
        } else {
            self.lower(owner, amount);
        }
    }

    /// Moves an amount from the owner's lease to what is spent; beyond the lease it adds to what is spent alone.
    pub fn charge(&mut self, owner: &str, window: WindowId, amount: i64, at: Timestamp) {
        if self.flow.is_some() || matches!(window, WindowId::Now) {
            return;
        }
        match window {
            WindowId::Sliding { .. } => {
                let bucket = self.buckets.entry(at.seconds()).or_default();
                *bucket = bucket.saturating_add(amount);
            }
            _ => self.spent = self.spent.saturating_add(amount),
        }
        self.lower(owner, amount);
    }

    /// Ends all leases of an owner.
    pub fn close(&mut self, owner: &str) {
        self.leases.remove(owner);
        self.wanted.remove(owner);
    }

    /// Whether that owner should bring back what it does not use.
    pub fn recalled(&self, owner: &str, now: Timestamp) -> bool {
        self.lease(owner) > 0 && self.wanted.iter().any(|(other, until)| &**other != owner && is_asked(*until, now))
    }

    /// Forgets who was refused.
    #[cfg(test)]
    pub(super) fn forget_wanted(&mut self) {
        self.wanted.clear();
    }

    /// Moves what is spent by an amount, not below 0.
    pub fn adjust(&mut self, window: WindowId, delta: i64, now: Timestamp) {
        if let Some(flow) = &mut self.flow {
            flow.debt = flow.debt.saturating_add(i128::from(delta) * micros(flow.pace.period)).max(0);
            return;
        }
        if !matches!(window, WindowId::Sliding { .. }) {
            self.spent = self.spent.saturating_add(delta).max(0);
            return;
        }
        if delta >= 0 {
            *self.buckets.entry(now.seconds()).or_default() += delta;
            return;
        }
        let mut rest = delta.saturating_neg();
        for bucket in self.buckets.values_mut().rev() {
            let part = rest.min(*bucket);
            *bucket -= part;
            rest -= part;
        }
        self.buckets.retain(|_, amount| *amount > 0);
    }

    /// What is spent. A second's bucket of a sliding window counts until its last microsecond has left the window.
    pub fn spent(&self, window: WindowId, now: Timestamp) -> i64 {
        if let Some(flow) = &self.flow {
            let period = micros(flow.pace.period).max(1);
            return i64::try_from((flow.debt_at(self.cap, now) + period - 1) / period).unwrap_or(i64::MAX);
        }
        match window {
            WindowId::Sliding { seconds } => {
                let first = now.seconds() - i64::from(seconds);
                self.buckets.range(first..).fold(0, |sum: i64, (_, amount)| sum.saturating_add(*amount))
            }
            _ => self.spent,
        }
    }

    /// What was spent in which second since 1970, for a window that slides.
    pub fn buckets(&self) -> impl Iterator<Item = (i64, i64)> {
        self.buckets.iter().map(|(second, amount)| (*second, *amount))
    }

    /// Until when somebody who was refused waits for others to bring back what they do not use; `None` if nobody does.
    pub fn wanted_until(&self) -> Option<Timestamp> {
        self.wanted.values().max().copied()
    }

    /// What that owner holds.
    pub fn lease(&self, owner: &str) -> i64 {
        self.leases.get(owner).copied().unwrap_or(0)
    }

    /// What all owners hold.
    pub fn leased(&self) -> i64 {
        self.leases.values().fold(0, |sum: i64, amount| sum.saturating_add(*amount))
    }

    /// Who holds which lease, by owner.
    pub fn leases(&self) -> impl Iterator<Item = (&Arc<str>, i64)> {
        self.leases.iter().map(|(owner, amount)| (owner, *amount))
    }

    /// What may still be leased; negative when the cap was lowered or a provider counted beyond its reservation.
    pub fn free(&self, window: WindowId, now: Timestamp) -> i64 {
        self.cap.saturating_sub(self.spent(window, now)).saturating_sub(self.leased())
    }

    fn standing(&self, owner: &str, window: WindowId, now: Timestamp) -> Grant {
        Grant { spent: self.spent(window, now), leased: self.leased(), own: self.lease(owner), ..Grant::default() }
    }

    fn lower(&mut self, owner: &str, amount: i64) {
        if let Some(lease) = self.leases.get_mut(owner) {
            *lease = lease.saturating_sub(amount.max(0)).max(0);
            if *lease == 0 {
                self.leases.remove(owner);
            }
        }
    }

    /// Drops what a counter need not know any more. What lies in the future was written by a clock that has been put back since: it was
    /// spent now at the latest, or nobody could spend until that time comes.
    fn forget(&mut self, window: WindowId, now: Timestamp) {
        if let WindowId::Sliding { seconds } = window {
            self.buckets = self.buckets.split_off(&(now.seconds() - i64::from(seconds)));
            for amount in self.buckets.split_off(&(now.seconds() + 1)).into_values() {
                let bucket = self.buckets.entry(now.seconds()).or_default();
                *bucket = bucket.saturating_add(amount);
            }
        }
        if let Some(flow) = self.flow.as_mut().filter(|flow| flow.at > now.plus(PUT_BACK)) {
            flow.at = now;
        }
        self.wanted.retain(|_, until| is_asked(*until, now));
    }

    fn flow(&mut self, want: &Want, pace: Pace, now: Timestamp) -> Grant {
        let period = micros(pace.period).max(1);
        let before = self.flow.unwrap_or(Flow { pace, debt: 0, at: now });
        let mut flow = Flow { pace, debt: before.debt_at(want.cap, now), at: now.max(before.at) };
        let room = i64::try_from((i128::from(pace.burst) * period - flow.debt) / period).unwrap_or(0);
        let granted = flow_size(room, want, pace);
        flow.debt += i128::from(granted) * period;
        self.flow = Some(flow);
        let over = flow.debt + i128::from(want.need) * period - i128::from(pace.burst) * period;
        let retry_after = (granted == 0 && want.need > 0 && want.need <= pace.burst && want.cap > 0)
            .then(|| Duration::from_micros(u64::try_from(over.div_euclid(i128::from(want.cap)) + 1).unwrap_or(0)));
        Grant { granted, spent: self.spent(want.counter.window, now), retry_after, ..Grant::default() }
    }

    /// When enough buckets have left a sliding window.
    fn retry_after(&self, want: &Want, now: Timestamp) -> Option<Duration> {
        let WindowId::Sliding { seconds } = want.counter.window else { return None };
        let mut missing = want.need.saturating_sub(self.free(want.counter.window, now));
        for (second, amount) in &self.buckets {
            missing = missing.saturating_sub(*amount);
            if missing <= 0 {
                let leaves = (second + i64::from(seconds) + 1) * 1_000_000;
                return Some(Duration::from_micros(u64::try_from(leaves - now.micros()).unwrap_or(0)));
            }
        }
        None
    }
}

impl Flow {
    fn debt_at(&self, cap: i64, now: Timestamp) -> i128 {
        let passed = now.micros().saturating_sub(self.at.micros()).max(0);
        (self.debt - i128::from(passed) * i128::from(cap)).max(0)
    }
}

/// Whether a refusal that counts until then counts now. One that counts for longer than any comes from a clock that ran ahead.
fn is_asked(until: Timestamp, now: Timestamp) -> bool {
    until > now && until <= now.plus(RECALL)
}

/// Whether a window holds that time.
pub fn holds(window: WindowId, now: Timestamp) -> bool {
    match window {
        WindowId::Calendar { from, until } => (from..until).contains(&now.seconds()),
        _ => true,
    }
}

fn micros(span: Duration) -> i128 {
    i128::try_from(span.as_micros()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::charge::CounterId;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);
    const MINUTE: WindowId = WindowId::Sliding { seconds: 60 };

    fn want(need: i64, pace: Option<Pace>) -> Want {
        let counter = CounterId { limit: "lim_1".into(), window: MINUTE, subject: "".into() };
        Want { counter, cap: 5, pace, need, wish: need, ahead: 0 }
    }

    #[test]
    fn what_was_spent_while_the_clock_ran_ahead_leaves_a_sliding_window_a_window_later() {
        let (ahead, mut counter) = (NOW.plus(Duration::from_secs(172_800)), Counter::default());
        assert_eq!(counter.acquire("a", &want(5, None), ahead).granted, 5);
        counter.charge("a", MINUTE, 5, ahead);
        let refused = counter.acquire("a", &want(1, None), NOW);
        assert_eq!((refused.granted, refused.spent), (0, 5), "it was spent, whenever that was");
        assert!(refused.retry_after.is_some_and(|wait| wait <= Duration::from_secs(61)), "{refused:?}");
        let later = NOW.plus(Duration::from_secs(61));
        assert_eq!(counter.acquire("a", &want(5, None), later).granted, 5);
    }

    #[test]
    fn a_paced_window_flows_on_after_the_clock_was_put_back() {
        let pace = Some(Pace { burst: 5, period: Duration::from_secs(60) });
        let (ahead, mut counter) = (NOW.plus(Duration::from_secs(172_800)), Counter::default());
        assert_eq!(counter.acquire("a", &want(5, pace), ahead).granted, 5);
        assert_eq!(counter.acquire("a", &want(1, pace), NOW).granted, 0);
        assert_eq!(counter.acquire("a", &want(1, pace), NOW.plus(Duration::from_secs(12))).granted, 1);
    }

    #[test]
    fn a_refusal_of_a_clock_that_ran_ahead_recalls_nothing() {
        let (ahead, mut counter) = (NOW.plus(Duration::from_secs(172_800)), Counter::default());
        counter.acquire("a", &want(5, None), ahead);
        counter.acquire("b", &want(5, None), ahead);
        assert!(counter.recalled("a", ahead) && !counter.recalled("a", NOW));
    }
}
