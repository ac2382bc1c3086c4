//! What an exchange adds to a counter.
//!
//! Charges travel with the record through the journal, so that a counter is moved exactly once for each exchange, whatever
//! crashes in between.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::unit::clock::Timestamp;

/// Which counter: one limit, one subject, one window. As text `LIMIT|WINDOW|SUBJECT`, for instance
/// `lim_7k…|d1795996800|team-a`; the subject comes last because it alone may hold any character.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterId {
    /// The id of the limit; letters, digits, `_` and `-` only.
    pub limit: Arc<str>,
    /// Which span of time.
    pub window: WindowId,
    /// Whose: the org, team, user, key id, model, tag or session; empty where all share one counter.
    pub subject: Arc<str>,
}

/// A span of time that a counter counts in, by the clock of the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WindowId {
    /// From a second (included) to a second (excluded) since 1970: an hour, a day or a month. As text `c<from>-<until>`.
    Calendar {
        /// The first second of it.
        from: i64,
        /// The first second after it.
        until: i64,
    },
    /// The last so many seconds, sliding. As text `s<seconds>`.
    Sliding {
        /// How many.
        seconds: u32,
    },
    /// For ever. As text `t`.
    Total,
    /// No time at all: what runs at present. As text `n`.
    Now,
}

/// What one exchange adds to one counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// The counter.
    #[serde(rename = "c")]
    pub counter: CounterId,
    /// How much, in the unit of the limit: nano-dollars, tokens or requests. Never negative.
    #[serde(rename = "n")]
    pub amount: i64,
    /// When it was spent, by the clock of the authority as this process knows it; sliding windows forget it by this.
    #[serde(rename = "t")]
    pub at: Timestamp,
}

impl fmt::Display for WindowId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calendar { from, until } => write!(out, "c{from}-{until}"),
            Self::Sliding { seconds } => write!(out, "s{seconds}"),
            Self::Total => out.write_str("t"),
            Self::Now => out.write_str("n"),
        }
    }
}

impl FromStr for WindowId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a window of a counter");
        match text.split_at_checked(1) {
            Some(("t", "")) => Ok(Self::Total),
            Some(("n", "")) => Ok(Self::Now),
            Some(("s", seconds)) => seconds.parse().map(|seconds| Self::Sliding { seconds }).map_err(|_| wrong()),
            Some(("c", span)) => span
                .split_once('-')
                .and_then(|(from, until)| Some(Self::Calendar { from: from.parse().ok()?, until: until.parse().ok()? }))
                .ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for CounterId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}|{}|{}", self.limit, self.window, self.subject)
    }
}

impl FromStr for CounterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, '|');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(limit), Some(window), Some(subject)) if !limit.is_empty() => {
                Ok(Self { limit: limit.into(), window: window.parse()?, subject: subject.into() })
            }
            _ => Err(format!("{text:?} is not a counter")),
        }
    }
}

impl Serialize for CounterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CounterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_counter_is_refused() {
        for text in ["", "lim", "lim|t", "|t|x", "lim|x9|a", "lim|c12|a", "lim|s|a"] {
            assert!(text.parse::<CounterId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_counter_survives_text_whatever_its_subject() {
        for (window, subject) in [
            (WindowId::Total, "a|b"),
            (WindowId::Now, ""),
            (WindowId::Sliding { seconds: 60 }, "équipe \"1\""),
            (WindowId::Calendar { from: 1_795_996_800, until: 1_796_083_200 }, "team-a"),
        ] {
            let counter = CounterId { limit: "lim_1".into(), window, subject: subject.into() };
            assert_eq!(counter.to_string().parse(), Ok(counter.clone()));
            let json =
                serde_json::to_string(&Charge { counter: counter.clone(), amount: 7, at: Timestamp(9) }).unwrap();
            assert_eq!(serde_json::from_str::<Charge>(&json).unwrap().counter, counter);
        }
    }
}
