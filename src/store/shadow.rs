//! What an authority that may forget (Redis) is rebuilt from: the counters that the database keeps along.
//!
//! The database's own consumer `limits` takes every charge whichever authority is in force. So it knows what is spent and up to
//! which byte of which segment; with both from one moment, another authority goes on from there, and every charge still counts
//! exactly once.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::budget::counter::Counter;
use crate::error::StoreError;
use crate::ledger::Line;
use crate::unit::charge::{Charge, CounterId, WindowId};
use crate::unit::clock::Timestamp;

/// Knows what is spent.
#[async_trait]
pub trait Shadow: Send + Sync {
    /// What is spent and how far the journals have come, all of one moment.
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;
}

/// What is spent at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What is spent, by counter: with the second for windows that slide, at second 0 for others.
    pub spent: Vec<(CounterId, Vec<(i64, i64)>)>,
    /// The byte behind the last line of each segment that is in it.
    pub positions: Vec<(String, u64)>,
}

impl Snapshot {
    /// A snapshot of those counters.
    pub fn of(counters: Vec<(CounterId, Counter)>, positions: Vec<(String, u64)>) -> Self {
        let spending = |(id, counter): (CounterId, Counter)| {
            let parts: Vec<(i64, i64)> = match id.window {
                WindowId::Sliding { .. } => counter.buckets().collect(),
                WindowId::Now => Vec::new(),
                window => vec![(0, counter.spent(window, Timestamp(0)))],
            };
            let parts: Vec<(i64, i64)> = parts.into_iter().filter(|(_, amount)| *amount > 0).collect();
            (!parts.is_empty()).then_some((id, parts))
        };
        Self { spent: counters.into_iter().filter_map(spending).collect(), positions }
    }

    /// Whether nothing was ever spent.
    pub fn is_empty(&self) -> bool {
        self.spent.is_empty() && self.positions.is_empty()
    }
}

/// The charges of the lines, added up by counter and second. Counters of what runs at present are not charged.
pub(in crate::store) fn sums(lines: &[Line]) -> BTreeMap<&CounterId, BTreeMap<i64, i64>> {
    let mut sums: BTreeMap<&CounterId, BTreeMap<i64, i64>> = BTreeMap::new();
    let charges = lines.iter().flat_map(Line::charges);
    for Charge { counter, amount, at } in charges.filter(|charge| charge.counter.window != WindowId::Now) {
        let sum = sums.entry(counter).or_default().entry(at.seconds()).or_default();
        *sum = sum.saturating_add((*amount).max(0));
    }
    sums
}
