//! The arithmetic of a process on its leases: pure, and shared by the accounts and by the model check.
//!
//! What a process holds of a counter is its *lease*; the part that no reservation has taken is *free*. Both may be negative
//! for a while, when a provider counted beyond a reservation: that debt is paid from the next lease.

use std::sync::Arc;

use serde::Serialize;

use super::limit::Unit;

/// How many average admissions a lease is to cover. A refill is asked for at the half, so that a process that works steadily
/// asks its authority once in about 128 admissions.
pub const ADMISSIONS: i64 = 256;

/// What an exchange needs or used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// Nano-dollars; `None` if no price is known.
    pub usd: Option<i64>,
    /// Input tokens of every class.
    pub input_tokens: i64,
    /// Output tokens of every class.
    pub output_tokens: i64,
}

impl Amounts {
    /// The amount in a unit: `None` for dollars without a price, 1 for requests and exchanges, never negative.
    pub fn of(&self, unit: Unit) -> Option<i64> {
        let amount = match unit {
            Unit::Usd => self.usd?,
            Unit::InputTokens => self.input_tokens,
            Unit::OutputTokens => self.output_tokens,
            Unit::Tokens => self.input_tokens.max(0).saturating_add(self.output_tokens.max(0)),
            Unit::Requests | Unit::Concurrent => 1,
        };
        Some(amount.max(0))
    }
}

/// The most that one counter is to hold for a call, where that is less than the call may need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The limit.
    pub limit: Arc<str>,
    /// Whose counter of it.
    pub subject: Arc<str>,
    /// So much.
    pub most: i64,
}

/// What a call needs, counter by counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need<'a> {
    pub(super) amounts: &'a Amounts,
    pub(super) rests: &'a [Rest],
}

impl<'a> From<&'a Amounts> for Need<'a> {
    fn from(amounts: &'a Amounts) -> Self {
        Self { amounts, rests: &[] }
    }
}

impl Need<'_> {
    /// What of it a counter holds; nothing of dollars without a price.
    pub(super) fn of(&self, unit: Unit, limit: &str, subject: &str) -> i64 {
        let need = self.amounts.of(unit).unwrap_or(0);
        let rest = self.rests.iter().find(|rest| *rest.limit == *limit && *rest.subject == *subject);
        rest.map_or(need, |rest| need.min(rest.most.max(0)))
    }
}

/// What to ask an authority for: at least `missing`; more, so that it lasts, unless the counter is contended.
pub fn wish(missing: i64, average: i64, free: i64, contended: bool) -> i64 {
    if contended {
        return missing;
    }
    average.max(1).saturating_mul(ADMISSIONS).saturating_sub(free.max(0)).max(missing)
}

/// What to ask for ahead of a paced window: a quarter of its burst, so that a process which works steadily need not ask for each
/// call; nothing where that would be a few calls only. It lasts for as long as it takes to flow in, whether it is used or not,
/// and costs nobody anything: what goes unused here has come back there.
pub fn ahead(burst: i64, average: i64, free: i64) -> i64 {
    let most = burst / 4;
    if most < average.max(1).saturating_mul(8) { 0 } else { (most - free.max(0)).max(0) }
}

/// The free amount below which a refill is asked for ahead; none near the cap, where a lease covers a few calls only.
pub fn low_water(free: i64, granted: i64, average: i64) -> i64 {
    if granted >= average.max(1).saturating_mul(8) { free / 2 } else { i64::MIN }
}

/// The moving average of what one admission takes.
pub fn average(before: i64, need: i64) -> i64 {
    if before == 0 { need } else { before.saturating_add((need.saturating_sub(before)) / 16) }
}

/// What settling does to the account of a counter: how much its lease falls, and how much becomes free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// By how much the lease falls: what was charged.
    pub consumed: i64,
    /// What becomes free again; negative when more was used than reserved.
    pub freed: i64,
}

/// Settles a reserved amount by a charged one; nothing is charged for what only runs, or was never asked for.
pub fn settlement(reserved: i64, charged: Option<i64>) -> Settlement {
    let consumed = charged.unwrap_or(0);
    Settlement { consumed, freed: reserved.saturating_sub(consumed) }
}

/// What an authority holds for this process beyond what the process knows of, once all its charges have been applied: the
/// grants of answers that were lost. Positive is to be released, negative is to be forgotten here.
pub fn leak(own: i64, lease: i64) -> i64 {
    own.saturating_sub(lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_counts_its_own_and_never_below_nothing() {
        let used = Amounts { usd: None, input_tokens: -5, output_tokens: 7 };
        assert_eq!(used.of(Unit::Usd), None);
        assert_eq!((used.of(Unit::InputTokens), used.of(Unit::Tokens)), (Some(0), Some(7)));
        assert_eq!((used.of(Unit::Requests), used.of(Unit::Concurrent)), (Some(1), Some(1)));
        let most = Amounts { usd: Some(1), input_tokens: i64::MAX, output_tokens: i64::MAX };
        assert_eq!(most.of(Unit::Tokens), Some(i64::MAX));
    }

    #[test]
    fn a_lease_lasts_for_many_calls_unless_others_wait() {
        assert_eq!(wish(10, 10, 0, true), 10);
        assert_eq!(wish(10, 10, 0, false), 2_560);
        assert_eq!(wish(10, 10, 1_000, false), 1_560);
        assert_eq!(low_water(2_560, 2_560, 10), 1_280);
        assert_eq!(low_water(70, 70, 10), i64::MIN);
        assert_eq!(average(100, 260), 110);
    }
}
