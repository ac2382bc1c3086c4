//! What an authority that may forget (Redis) is rebuilt from: the counters that the database keeps along.
//!
//! The database's own consumer `limits` takes every charge whichever authority is in force. So it knows what is spent and up to
//! which byte of which segment; with both from one moment, another authority goes on from there, and every charge still counts
//! exactly once.

use async_trait::async_trait;

use crate::budget::counter::Counter;
use crate::error::StoreError;
use crate::unit::charge::{CounterId, WindowId};

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
                window => vec![(0, counter.spent(window, crate::unit::clock::Timestamp(0)))],
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
