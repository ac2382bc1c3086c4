//! How limits are held: times and bounds.

use std::time::Duration;

/// What happens to calls when the authority is away and no lease is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenAway {
    /// They are refused with 503.
    #[default]
    Refuse,
    /// They pass without a lease; what they use is charged all the same, so a limit may be exceeded.
    Admit,
}

/// What happens to a call whose model may read more, outside the body, than a whole limit has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnseenInput {
    /// It takes all that is left, so that one such call runs at a time; what it used beyond that is charged all the same.
    #[default]
    TakeRest,
    /// It is refused: no limit is exceeded, and such calls never pass.
    Refuse,
}

/// How limits are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSettings {
    /// How long a call waits for amounts that other calls and processes hold, before it is refused.
    pub wait: Duration,
    /// What happens when the authority is away.
    pub when_away: WhenAway,
    /// How long a call waits for an answer of the authority. One that takes longer counts as away: until it answers again no
    /// call waits for it.
    pub authority_timeout: Duration,
    /// How old a reservation may become; then it is charged in full. Longer than any exchange may take.
    pub reservation_ttl: Duration,
    /// After how long without use a lease goes back.
    pub idle: Duration,
    /// The most counters in memory, about 500 bytes each; unused ones are forgotten after a minute. Calls that need one more are
    /// refused with 503.
    pub max_counters: usize,
    /// The most calls that wait at one time; further ones are refused at once.
    pub max_waiting: usize,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(1),
            when_away: WhenAway::default(),
            authority_timeout: Duration::from_millis(5),
            reservation_ttl: Duration::from_secs(3_600),
            idle: Duration::from_secs(5),
            max_counters: 400_000,
            max_waiting: 10_000,
        }
    }
}

/// A heartbeat goes out so often while leases are held.
pub const HEARTBEAT: Duration = Duration::from_millis(250);
/// A call that waits asks the authority again after this.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(25);
/// For how long after a recall leases cover only what a call needs.
pub(super) const CONTENDED: Duration = Duration::from_secs(3);
/// So often contended leases are looked at for what has become free.
pub(super) const CONTENDED_EVERY: Duration = Duration::from_millis(20);
/// A refusal holds for so long without asking again, unless something is given back here.
pub(super) const REFUSED_FOR: Duration = Duration::from_millis(250);
/// After which time nobody's call to an authority can still take effect. An authority in a database has a shorter timeout.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// An answer that takes longer than this is given up, and may have taken effect.
pub(super) const ANSWER_GIVEN_UP: Duration = Duration::from_secs(10);
/// A counter that is unused for so long is forgotten; it holds no lease by then.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// What is given back when the process ends has at most this time.
pub(super) const GIVE_BACK: Duration = Duration::from_secs(2);
/// The most counters in one call to an authority.
pub(super) const BATCH: usize = 500;
