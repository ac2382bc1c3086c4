//! What the tests of this room share: limits, a key, and a bench of processes on one authority in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::limit::{Action, Limit, Scope, Unit, Window};
use super::memory::Memory;
use super::time::Clock;
use super::*;
use crate::key::Key;

/// A limit for each subject of a scope: a day in UTC for what is spent, the present for what runs.
pub(super) fn limit(id: &str, scope: Scope, unit: Unit, amount: i64) -> Limit {
    Limit {
        id: id.into(),
        name: id.into(),
        scope,
        subject: None,
        models: Vec::new(),
        unit,
        window: if unit == Unit::Concurrent { Window::Now } else { Window::Day { timezone: "UTC".into() } },
        amount,
        action: Action::Refuse,
        warn_at_percent: Vec::new(),
        enabled: true,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
    }
}

/// A key of team `research` in the org `acme`, labelled `tier:gold`.
pub(super) fn key(id: &str) -> Key {
    let json = serde_json::json!({
        "id": id, "name": id, "hint": "", "org": "acme", "team": "research", "user": null,
        "labels": {"tier": "gold"}, "enabled": true, "created_at": 0,
    });
    serde_json::from_value(json).unwrap()
}

pub(super) fn payer(key: &Key) -> Payer<'_> {
    Payer { key, model: Some("gpt-4o"), tags: &[], session: None }
}

/// Dollars and tokens alike.
pub(super) fn amounts(number: i64) -> Amounts {
    Amounts { usd: Some(number), input_tokens: number, output_tokens: 0 }
}

/// An authority in memory, budgets on it, and one clock that only the test moves.
pub(super) struct Bench {
    pub(super) memory: Arc<Memory>,
    pub(super) micros: Arc<AtomicI64>,
}

/// The middle of a day.
pub(super) const START: i64 = 1_795_996_800 + 40_000;

impl Bench {
    pub(super) fn new() -> Self {
        let micros = Arc::new(AtomicI64::new(START * 1_000_000));
        let clock = micros.clone();
        Self { memory: Arc::new(Memory::with_clock(move || Timestamp(clock.load(Ordering::SeqCst)))), micros }
    }

    /// A process of that name with limits.
    pub(super) fn process(&self, owner: &str, limits: &[Limit]) -> Arc<Budget> {
        let micros = self.micros.clone();
        let clock = Clock::new(Arc::new(move || micros.load(Ordering::SeqCst)), Timestamp(START * 1_000_000));
        let settings = BudgetSettings { authority_timeout: Duration::from_secs(5), ..BudgetSettings::default() };
        let budget = Budget::with_clock(self.memory.clone(), owner.to_owned(), settings, clock);
        budget.set_limits(limits.to_vec());
        budget
    }

    pub(super) fn pass(&self, seconds: i64) {
        self.micros.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    /// What is spent and leased of the only counter of a limit.
    pub(super) async fn standing(&self, limit: &str) -> (i64, i64) {
        let standings = self.memory.standings(Some(limit), 2).await.unwrap();
        assert_eq!(standings.len(), 1, "{standings:?}");
        (standings[0].spent, standings[0].leases.iter().map(|(_, lease)| lease).sum())
    }
}

pub(super) fn refused(result: Result<Reservation, Refusal>) -> Refused {
    match result.unwrap_err() {
        Refusal::Limit(refused) => *refused,
        other => panic!("{other:?}"),
    }
}
