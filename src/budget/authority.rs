//! What owns the counters: leases out, charges in.
//!
//! Invariant, for every counter at every moment: `spent + Σ leases ≤ cap`, except by what a provider counted beyond its
//! reservation (which is spent, and is told as such). A charge moves its amount from the owner's lease to `spent`; a charge
//! beyond the lease adds to `spent` alone. The clock is the authority's.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::unit::charge::CounterId;
use crate::unit::clock::Timestamp;

/// The rules by which this program leases. An authority keeps the highest number that anybody leased by, beside the counters; whoever
/// knows a lower one gets no leases any more ([`StoreError::Outdated`]), so that an upgrade never lets two kinds of arithmetic
/// share a counter in silence. Raise it with any change of what counters hold or of what a lease means that the version before
/// would get wrong, and let the new program read what the old one left: it takes over at once. Charges and releases of older
/// processes are always taken, since what is spent is spent.
pub const PROTOCOL: i64 = 1;

/// What is asked of one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The counter; it is made if it is not there.
    pub counter: CounterId,
    /// The amount of the limit as this process knows it; the latest word counts.
    pub cap: i64,
    /// For a paced window, how it flows; then nothing is leased for long and charges are ignored: what is granted is spent, and
    /// what is released flows back.
    pub pace: Option<Pace>,
    /// Nothing below this is of any use. With 0, and a wish of 0, the answer only tells how things stand.
    pub need: i64,
    /// What would be welcome; at least `need`. The authority gives less the nearer the cap is, down to `need`.
    pub wish: i64,
    /// For a paced window, what would be welcome beyond `wish`, to be used soon. It is given out of the upper half of the burst
    /// alone, so that what one process holds ahead is not what another needs. 0 for other windows.
    pub ahead: i64,
}

/// A paced window: `cap` flows in evenly over `period`, and at most `burst` is there at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pace {
    /// The most at once.
    pub burst: i64,
    /// How long the whole amount takes to flow in.
    pub period: Duration,
}

/// What one counter answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The lease given: 0, or at least `need` and at most `wish` and `ahead`.
    pub granted: i64,
    /// What is spent in this window.
    pub spent: i64,
    /// What all processes hold as leases, this grant included.
    pub leased: i64,
    /// What of that this owner holds, this grant included.
    pub own: i64,
    /// Nothing was given because the window is over, or has not begun, by the authority's clock; ask again with the window that
    /// [`Answer::now`] falls into.
    pub wrong_window: bool,
    /// When `need` could flow in at the earliest, for sliding and paced windows that gave nothing.
    pub retry_after: Option<Duration>,
}

/// What the authority answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its clock.
    pub now: Timestamp,
    /// One for each want, in order.
    pub grants: Vec<Grant>,
}

/// What a heartbeat brings back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The authority's clock.
    pub now: Timestamp,
    /// Counters on which this owner holds a lease while somebody else was refused for want of it: unused parts should come back
    /// now, and leases be taken only for what a call needs for some seconds.
    pub recalled: Vec<CounterId>,
}

/// A counter, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The counter.
    pub counter: CounterId,
    /// The amount that was last asked with.
    pub cap: i64,
    /// What is spent.
    pub spent: i64,
    /// Who holds which lease.
    pub leases: Vec<(String, i64)>,
}

/// Owns the counters. Every method is one round trip, and fails with [`StoreError::Away`] when the authority cannot be reached.
///
/// An *owner* is one life of one process: the name that its journal segments begin with.
#[async_trait]
pub trait Authority: Send + Sync {
    /// Leases on several counters in one round trip, each by itself. A counter that has too little free is marked, so that
    /// heartbeats of other owners recall what they do not use. Fails with [`StoreError::Outdated`] once somebody leased by a newer
    /// [`PROTOCOL`].
    async fn acquire(&self, owner: &str, wants: &[Want]) -> Result<Answer, StoreError>;

    /// Gives unused parts of leases back. An amount beyond the lease counts as the lease. Sent at most once: an implementation
    /// does not repeat it on its own when it does not know whether it took effect, because a part given back twice would be
    /// taken from what is in use. (An acquire that took effect twice only leases more than is known, which is found later.)
    async fn release(&self, owner: &str, parts: &[(CounterId, i64)]) -> Result<(), StoreError>;

    /// Says that the owner lives; at least every few seconds while it holds leases.
    async fn beat(&self, owner: &str) -> Result<Beat, StoreError>;

    /// Ends an owner that is gone and whose charges have all been applied: its leases are free again.
    async fn close(&self, owner: &str) -> Result<(), StoreError>;

    /// Owners that hold leases, with the time of their last heartbeat.
    async fn owners(&self) -> Result<Vec<(String, Timestamp)>, StoreError>;

    /// The counters of a limit, or all; at most `most`, the most spent first.
    async fn standings(&self, limit: Option<&str>, most: usize) -> Result<Vec<Standing>, StoreError>;

    /// Moves what is spent by an amount, not below 0: a corrected price, or an operator's reset (`i64::MIN`).
    async fn adjust(&self, counter: &CounterId, delta: i64) -> Result<(), StoreError>;

    /// Forgets counters whose window has been over for a day, and leases on counters of what runs at present (`Now`) whose owners
    /// have been silent for at least `silent`; an acquire is a sign of life like a heartbeat.
    async fn tidy(&self, silent: Duration) -> Result<(), StoreError>;
}
