//! What happens to limits, for webhooks and people.

use std::sync::Arc;

use serde::Serialize;

use super::Budget;
use super::account::{Account, Period};
use super::limit::{Scope, Unit};
use crate::telemetry::metrics::METRICS;
use crate::unit::charge::WindowId;
use crate::unit::clock::Timestamp;

/// What happened to a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BudgetEvent {
    /// What is spent passed a share of the amount. Told once for each threshold, counter and window by each process that sees
    /// it pass; a process that comes later, or starts anew, does not tell what had passed before.
    Threshold {
        /// The id of the limit.
        limit: Arc<str>,
        /// Its name.
        name: String,
        /// Whose consumption.
        scope: Scope,
        /// Whose exactly; empty for the gateway.
        subject: Arc<str>,
        /// What it counts.
        unit: Unit,
        /// The share, in percent.
        percent: u8,
        /// What is spent, as this process knows.
        spent: i64,
        /// The most.
        amount: i64,
        /// The window, as in the counter's name.
        window: String,
        /// When that window ends, if it is of the calendar.
        resets_at: Option<Timestamp>,
        /// When it was seen, by the authority's clock.
        at: Timestamp,
    },
}

impl Budget {
    /// Tells the thresholds that what is spent has passed and that were not told yet.
    pub(super) fn tell_thresholds(&self, account: &Account, period: &Period) {
        let (amount, spent) = (account.line.most(), account.spent(period, self.clock.micros()));
        let reached = share(spent, amount);
        let told = period.threshold();
        if !period.is_told() || amount <= 0 || reached <= told {
            // A sliding window comes back to rest, and may pass its thresholds anew.
            if matches!(period.window, WindowId::Sliding { .. }) && reached < told / 2 {
                period.set_threshold(0);
            }
            return;
        }
        let limit = account.line.limit();
        let passed = limit.warn_at_percent.iter().filter(|percent| (told + 1..=reached).contains(*percent));
        let passed: Vec<u8> = passed.copied().collect();
        let Some(highest) = passed.last() else { return };
        if !period.pass_threshold(*highest) {
            return;
        }
        for percent in passed {
            METRICS.limit_thresholds.with_label_values(&[super::scope_word(limit.scope)]).inc();
            tracing::warn!(
                limit = %limit.id,
                name = limit.name,
                subject = %account.subject,
                unit = super::refusal::unit_word(limit.unit),
                percent,
                spent,
                amount,
                "a limit passed a threshold"
            );
            let event = BudgetEvent::Threshold {
                limit: limit.id.clone(),
                name: limit.name.clone(),
                scope: limit.scope,
                subject: account.subject.clone(),
                unit: limit.unit,
                percent,
                spent,
                amount,
                window: period.window.to_string(),
                resets_at: super::window::resets_at(period.window),
                at: self.clock.early(self.clock.micros()),
            };
            // Nobody listens where no webhook is set.
            drop(self.events.send(event));
        }
    }
}

/// A part of an amount in whole percent, 0 to 100.
pub(super) fn share(part: i64, amount: i64) -> u8 {
    let percent = i128::from(part.max(0)) * 100 / i128::from(amount.max(1));
    u8::try_from(percent.min(100)).unwrap_or(100)
}
