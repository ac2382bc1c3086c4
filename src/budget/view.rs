//! What this process knows of its limits, for callers, operators and routing. Nothing here does I/O.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::account::{Account, Period};
use super::event::share;
use super::limit::{Action, Scope, Unit};
use super::line::Line;
use super::time::duration;
use super::window::{MINUTE_SECONDS, resets_at};
use super::{Budget, House, Payer, extras};
use crate::unit::charge::{CounterId, WindowId};

/// A limit that asks for another model, because little is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downgrade {
    /// The id of the limit.
    pub limit: Arc<str>,
    /// The model to ask for instead, as a caller would name it.
    pub to: String,
    /// How much is left, in percent.
    pub left_percent: u8,
}

/// A limit as a caller sees it in headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The amount.
    pub limit: i64,
    /// What is left of it, calls in flight of this process taken off.
    pub remaining: i64,
    /// In which time it is whole again; of a limit without end, nothing.
    pub reset: Option<Duration>,
}

/// The tightest limits of a payer, for `x-ratelimit-*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// That of the unit requests.
    pub requests: Option<Rate>,
    /// That of tokens: input, output or both.
    pub tokens: Option<Rate>,
}

/// A counter as this process holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveCounter {
    /// The counter.
    pub counter: CounterId,
    /// What it counts.
    pub unit: Unit,
    /// Whose consumption.
    pub scope: Scope,
    /// The amount of the limit.
    pub amount: i64,
    /// What this process has leased.
    pub leased: i64,
    /// What of that its calls in flight hold.
    pub reserved: i64,
    /// What is spent, as last told, with what was charged here since.
    pub spent: i64,
    /// Of a paced window what this process holds for calls to come. Its authority counts that as spent, `spent` here does not.
    pub held_ahead: i64,
    /// What other processes had leased when the authority was last asked.
    pub elsewhere: i64,
    /// Others asked for it, so this process leases only what its calls need.
    pub contended: bool,
}

impl Budget {
    /// The smallest share of an amount that is left to that payer, in percent, as this process last knew; `None` if no limit
    /// applies.
    pub fn share_left(&self, payer: &Payer<'_>) -> Option<u8> {
        let (mut least, micros) = (None, self.clock.micros());
        self.each(payer, &mut |account, period| {
            let left = left_percent(account, period, micros);
            least = Some(least.map_or(left, |least: u8| least.min(left)));
        });
        least
    }

    /// The model that this payer should ask for instead, by the limit that has least left, as this process last knew.
    pub fn downgrade(&self, payer: &Payer<'_>) -> Option<Downgrade> {
        if !self.house.load().table.downgrades {
            return None;
        }
        let (mut found, micros) = (None::<Downgrade>, self.clock.micros());
        self.each(payer, &mut |account, period| {
            let limit = account.line.limit();
            let Action::Downgrade { to, below_percent } = &limit.action else { return };
            let left_percent = left_percent(account, period, micros);
            if left_percent < *below_percent && found.as_ref().is_none_or(|found| left_percent < found.left_percent) {
                found = Some(Downgrade { limit: limit.id.clone(), to: to.clone(), left_percent });
            }
        });
        found
    }

    /// The tightest limits on requests and on tokens that apply to that payer, as this process last knew.
    pub fn rates(&self, payer: &Payer<'_>) -> Rates {
        let mut rates = Rates::default();
        let micros = self.clock.micros();
        let now = self.clock.early(micros);
        self.each(payer, &mut |account, period| {
            let place = match account.line.unit {
                Unit::Requests => &mut rates.requests,
                Unit::Tokens | Unit::InputTokens | Unit::OutputTokens => &mut rates.tokens,
                Unit::Usd | Unit::Concurrent => return,
            };
            let (limit, left) = (account.line.most(), account.remaining(period, micros));
            let reset = match period.window {
                _ if account.line.paced => Some(refill(limit - left, account.line.amount())),
                WindowId::Sliding { .. } => Some(Duration::from_secs(MINUTE_SECONDS.into())),
                window => resets_at(window).map(|at| duration(at.micros() - now.micros())),
            };
            let rate = Rate { limit, remaining: left, reset };
            let tighter = |than: &Rate| {
                i128::from(rate.remaining) * i128::from(than.limit.max(1))
                    < i128::from(than.remaining) * i128::from(limit.max(1))
            };
            if place.as_ref().is_none_or(tighter) {
                *place = Some(rate);
            }
        });
        rates
    }

    /// The counters of which this process holds or knows anything, by name; those that were not used for a minute are not
    /// among them.
    pub fn live(&self) -> Vec<LiveCounter> {
        let micros = self.clock.micros();
        let mut counters: Vec<LiveCounter> = Vec::new();
        for line in self.house.load().table.lines() {
            for account in line.all() {
                let period = account.last_period();
                counters.push(LiveCounter {
                    counter: account.counter(&period),
                    unit: line.unit,
                    scope: line.scope,
                    amount: line.amount(),
                    leased: period.lease(),
                    reserved: period.reserved(),
                    spent: account.spent(&period, micros),
                    held_ahead: account.held_ahead(&period, micros),
                    elsewhere: period.elsewhere(),
                    contended: period.is_contended(micros),
                });
            }
        }
        counters.sort_by(|a, b| a.counter.cmp(&b.counter));
        counters
    }

    /// Visits the accounts that apply to a payer and that this process knows already.
    fn each(&self, payer: &Payer<'_>, visit: &mut impl FnMut(&Account, &Period)) {
        let house: &House = &self.house.load();
        if house.table.is_empty() {
            return;
        }
        let micros = self.clock.micros();
        let now = self.clock.early(micros);
        let mut show = |account: &Arc<Account>| visit(account, &self.period(account, now));
        if let Ok(face) = self.face(house, payer, micros) {
            for (account, limit) in &face.accounts {
                if Line::takes_model(limit, payer.model) {
                    show(account);
                }
            }
        }
        extras(&house.table, payer, &mut |line, subject| {
            if let Some(account) = line.known(subject) {
                show(&account);
            }
        });
    }
}

/// How long a part of a minute's amount takes to flow in.
fn refill(part: i64, amount: i64) -> Duration {
    let nanos = u128::from(part.max(0).unsigned_abs()) * u128::from(MINUTE_SECONDS) * 1_000_000_000;
    let wait = nanos.div_ceil(u128::from(amount.max(1).unsigned_abs()));
    Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)).min(Duration::from_secs(MINUTE_SECONDS.into()))
}

fn left_percent(account: &Account, period: &Period, micros: i64) -> u8 {
    share(account.remaining(period, micros), account.line.most())
}
