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
            // The last year that RFC 3339 can write is 9999.
            return jiff::Timestamp::from_second(seconds)
                .ok()
                .map(|time| Self(time.as_microsecond()))
                .filter(|time| time.0 >= 0)
                .ok_or_else(|| format!("{text} is outside the range of times"));
        }
        match text.parse::<jiff::Timestamp>() {
            Ok(time) if time.as_microsecond() >= 0 && !is_far(text, time) => Ok(Self(time.as_microsecond())),
            _ => Err(format!(
                "{text:?} is not a time; write RFC 3339 such as 2026-11-21T09:30:00Z, not after {}, or seconds since 1970",
                Self::LATEST
            )),
        }
    }
}

/// Whether a time is written with an offset of a day or more, which RFC 3339 does not know (section 5.6: hours are 00 to 23).
fn is_far(text: &str, time: jiff::Timestamp) -> bool {
    let local = text.parse::<jiff::civil::DateTime>().ok();
    let local = local.and_then(|local| local.to_zoned(jiff::tz::TimeZone::UTC).ok());
    local.is_some_and(|local| local.timestamp().as_second().abs_diff(time.as_second()) >= 86_400)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_that_can_be_written_again() {
        let second = |text: &str| Timestamp::parse(text).unwrap().micros() / 1_000_000;
        assert_eq!(second("1969-12-31T23:00:01-01:00"), 1);
        assert_eq!(second("1970-01-02T23:59:01+23:59"), 86_401);
        assert_eq!(second("253402207200"), 253_402_207_200);
        for text in [
            "253402300799",
            "-1",
            "9223372036854775807",
            "2026-11-21T09:30:00+25:00",
            "2026-11-21T09:30:00-24:00",
            "",
            "x",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }
}
