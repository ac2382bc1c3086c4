//! What a process may hold of a paced window: pure arithmetic without a clock.
//!
//! A paced window was spent when it was granted, and its debt flows off at once, whether what was granted is used or not. So
//! what lies unused must go at the same pace, or it would come on top of what the authority gives out meanwhile. What is held
//! and what this process has used and has not yet flowed off are together never more than the debt that the authority keeps
//! for it; then no process, and not all of them together, can pass the burst (`the_burst_holds_whatever_processes_keep_ahead`).
//! What callers wait for is theirs for a moment after it came, or a window that lets one through at a time would let none through.

use super::authority::Pace;

/// What flows off, in units times microseconds of the period, so that it is exact in whole numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shelf {
    /// Up to when it is reckoned, in microseconds of the process.
    at: i64,
    /// What was used and has not flowed off.
    used: i128,
    /// What has flowed off of what is held; negative after a whole unit went early.
    gone: i128,
    /// What callers asked for and have not taken yet.
    awaited: i64,
    /// Until when it stays for them, in microseconds of the process.
    awaited_until: i64,
}

/// How long what was granted stays for the callers who asked for it, in microseconds: they are woken at once.
const STAYS_FOR: i64 = 250_000;

impl Shelf {
    /// How much of what is held has gone at that time. `amount` flows off in each period.
    pub(super) fn expire(&mut self, held: i64, (amount, pace): (i64, Pace), micros: i64) -> i64 {
        let passed = i128::from(micros.saturating_sub(self.at).max(0)) * i128::from(amount.max(0));
        self.at = self.at.max(micros);
        let first = passed.min(self.used);
        self.used -= first;
        if held <= 0 {
            self.gone = 0;
            return 0;
        }
        self.gone += passed - first;
        // A unit that is gone in part is gone: the authority rounds the same way.
        let unit = unit(pace);
        let awaited = if micros < self.awaited_until { self.awaited } else { 0 };
        let loose = held.saturating_sub(awaited).max(0);
        let expired = i64::try_from((self.gone + unit - 1).max(0) / unit).unwrap_or(i64::MAX).min(loose);
        self.gone -= i128::from(expired) * unit;
        expired
    }

    /// Something was granted, on a question that was asked at that time: from then on it flows off. Callers wait for so much of
    /// it.
    pub(super) fn granted(&mut self, (amount, asked): (i64, i64), awaited: i64) {
        self.awaited = awaited.max(0);
        self.awaited_until = self.at.saturating_add(STAYS_FOR);
        let passed = self.at.saturating_sub(asked).max(0);
        self.gone += i128::from(passed) * i128::from(amount.max(0));
    }

    /// Something was used.
    pub(super) fn used(&mut self, need: i64, pace: Pace) {
        self.awaited = self.awaited.saturating_sub(need.max(0)).max(0);
        self.used += i128::from(need.max(0)) * unit(pace);
    }

    /// Something was not used after all; gives how much of it has not flowed off, and so may be held again.
    pub(super) fn unused(&mut self, amount: i64, pace: Pace) -> i64 {
        let back = i64::try_from(self.used / unit(pace)).unwrap_or(i64::MAX).min(amount).max(0);
        self.used -= i128::from(back) * unit(pace);
        back
    }
}

fn unit(pace: Pace) -> i128 {
    i128::try_from(pace.period.as_micros()).unwrap_or(i128::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::budget::authority::Want;
    use crate::budget::counter::Counter;
    use crate::unit::charge::{CounterId, WindowId};
    use crate::unit::clock::Timestamp;

    const PACE: Pace = Pace { burst: 20, period: Duration::from_secs(60) };
    /// One a second.
    const AMOUNT: i64 = 60;

    #[test]
    fn what_is_held_goes_at_the_pace_of_the_window() {
        let mut shelf = Shelf { at: 0, ..Shelf::default() };
        shelf.granted((AMOUNT, 0), 0);
        assert_eq!(shelf.expire(5, (AMOUNT, PACE), 1), 1, "one is gone as soon as any of it is");
        assert_eq!(shelf.expire(4, (AMOUNT, PACE), 1_000_000), 0);
        assert_eq!(shelf.expire(4, (AMOUNT, PACE), 2_500_000), 2);
        assert_eq!(shelf.expire(2, (AMOUNT, PACE), 60_000_000), 2);
    }

    #[test]
    fn what_callers_wait_for_stays_for_them_for_a_moment() {
        let mut shelf = Shelf::default();
        shelf.granted((AMOUNT, 0), 1);
        assert_eq!(shelf.expire(1, (AMOUNT, PACE), 200_000), 0);
        assert_eq!(shelf.expire(1, (AMOUNT, PACE), STAYS_FOR), 1, "nobody came for it");
        shelf.granted((AMOUNT, STAYS_FOR), 1);
        shelf.used(1, PACE);
        shelf.expire(0, (AMOUNT, PACE), STAYS_FOR);
        assert_eq!(shelf.expire(1, (AMOUNT, PACE), 3 * STAYS_FOR), 0, "what was used flows off first");
    }

    #[test]
    fn while_what_was_used_flows_off_nothing_else_goes() {
        let mut shelf = Shelf::default();
        shelf.used(3, PACE);
        assert_eq!(shelf.expire(5, (AMOUNT, PACE), 3_000_000), 0);
        assert_eq!(shelf.expire(5, (AMOUNT, PACE), 3_000_001), 1);
        shelf.used(2, PACE);
        assert_eq!(shelf.unused(9, PACE), 2, "only what has not flowed off comes back");
    }

    /// A process: what it holds, and its shelf.
    #[derive(Default)]
    struct Process {
        held: i64,
        shelf: Shelf,
    }

    proptest! {
        /// Processes that keep ahead what they like, and an observer with one bucket that sees every use: never one too many.
        #[test]
        fn the_burst_holds_whatever_processes_keep_ahead(
            steps in prop::collection::vec((0_usize..3, 0_i64..2_500_000, 1_i64..8, 0_i64..20, 0_u8..4), 1..120),
        ) {
            let id = CounterId { limit: "l".into(), window: WindowId::Sliding { seconds: 60 }, subject: "".into() };
            let (mut authority, mut observer) = (Counter::default(), Counter::default());
            let mut processes = [Process::default(), Process::default(), Process::default()];
            let mut now = 1_000_000_i64;
            for (number, pause, need, ahead, action) in steps {
                now += pause;
                let process = &mut processes[number];
                process.held -= process.shelf.expire(process.held, (AMOUNT, PACE), now);
                let want = |need, wish, ahead| Want {
                    counter: id.clone(), cap: AMOUNT, pace: Some(PACE), need, wish, ahead,
                };
                if process.held < need {
                    let grant = authority.acquire("p", &want(need - process.held, need, ahead), Timestamp(now));
                    if grant.granted > 0 {
                        process.shelf.granted((AMOUNT, now), 0);
                    }
                    process.held += grant.granted;
                }
                if process.held >= need {
                    process.held -= need;
                    process.shelf.used(need, PACE);
                    let seen = observer.acquire("o", &want(need, need, 0), Timestamp(now));
                    prop_assert_eq!(seen.granted, need, "too many at {}", now);
                }
                if action == 0 {
                    authority.release("p", process.held);
                    process.held = 0;
                }
            }
        }
    }
}
