//! The only place that reads a clock.
//!
//! Wall time is microseconds since the Unix epoch, because it is stored and compared across processes; spans of time are
//! measured on the monotonic clock, because wall time may jump. Every function that decides something by time takes the
//! time as an argument, so a test can choose it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in wall time: microseconds since 1970-01-01T00:00:00Z, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The present wall time. A clock set before 1970 reads as 0.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    /// Microseconds since the epoch.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This time moved by a span; saturates at the ends of the range.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This time moved back by a span; stops at the epoch.
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)).max(0))
    }

    /// RFC 3339 in UTC with microseconds, as in `2026-11-21T09:30:00.000001Z`.
    pub fn rfc3339(self) -> String {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => format!("{time:.6}"),
            Err(_) => self.0.to_string(),
        }
    }

    /// The latest time that can be written, whatever the zone; what a time that is refused is told.
    pub const LATEST: &str = "9999-12-30T22:00:00Z";

    /// Parses RFC 3339, or a whole number of seconds since the epoch.
    ///
    /// # Errors
    /// A sentence that names what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(seconds) = text.parse::<i64>() {
            return seconds
                .checked_mul(1_000_000)
                .filter(|micros| *micros >= 0)
                .map(Self)
                .ok_or_else(|| format!("{text} is outside the range of times"));
        }
        match text.parse::<jiff::Timestamp>() {
            Ok(time) if time.as_microsecond() >= 0 => Ok(Self(time.as_microsecond())),
            _ => Err(format!(
                "{text:?} is not a time; write RFC 3339 such as 2026-11-21T09:30:00Z, not after {}, or seconds since 1970",
                Self::LATEST
            )),
        }
    }
}

/// A reading of the monotonic clock, for measuring spans inside one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(std::time::Instant);

impl Tick {
    /// The present reading.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    pub fn now() -> Self {
        Self(std::time::Instant::now())
    }

    /// The span since an earlier reading; zero if that reading is later.
    pub fn since(self, earlier: Tick) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }

    /// The span since this reading was taken.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// This reading moved forward by a span.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.checked_add(span).unwrap_or(self.0))
    }
}
