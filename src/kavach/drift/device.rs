//! Which device a key is used from, by a fingerprint that the caller sends.
//!
//! The first device of a key is learned. Another one, or none at all where there was one, scores 95 until it has been seen on
//! three days; leaving the header out is a signal, not a way around.

use serde::{Deserialize, Serialize};

use crate::unit::clock::Timestamp;

/// The most devices of a key.
const MAX_DEVICES: usize = 16;
/// On how many days a device is seen before it is known.
const DAYS: u8 = 3;
const UNKNOWN: u8 = 95;
const DAY_SECONDS: i64 = 86_400;

/// The devices of one key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Device {
    devices: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    /// The beginning of the BLAKE3 hash of the fingerprint; none for a call without one.
    print: Option<[u8; 16]>,
    days: u8,
    day: i64,
}

impl Device {
    /// What both know: every device as often as the one that saw it more did; known ones stay when there are too many.
    pub(super) fn join(mut self, other: &Self) -> Self {
        for theirs in &other.devices {
            match self.devices.iter_mut().find(|mine| mine.print == theirs.print) {
                Some(mine) => (mine.days, mine.day) = (mine.days.max(theirs.days), mine.day.max(theirs.day)),
                None => self.devices.push(*theirs),
            }
        }
        self.devices.sort_by_key(|seen| (std::cmp::Reverse((seen.days, seen.day)), seen.print));
        self.devices.truncate(MAX_DEVICES);
        self
    }

    pub(super) fn score(&mut self, fingerprint: Option<&str>, now: Timestamp) -> u8 {
        let print = fingerprint.filter(|text| !text.is_empty()).map(|text| {
            let hash = blake3::hash(text.as_bytes());
            hash.as_bytes().first_chunk().copied().unwrap_or_default()
        });
        let day = now.seconds().div_euclid(DAY_SECONDS);
        if let Some(seen) = self.devices.iter_mut().find(|seen| seen.print == print) {
            if day > seen.day {
                seen.days = seen.days.saturating_add(1);
                seen.day = day;
            }
            return if seen.days >= DAYS { 0 } else { UNKNOWN };
        }
        let first = self.devices.is_empty();
        if self.devices.len() >= MAX_DEVICES {
            // Known ones stay: strangers take turns in the last place.
            let stranger = self.devices.iter().rposition(|seen| seen.days < DAYS);
            self.devices.remove(stranger.unwrap_or(self.devices.len() - 1));
        }
        self.devices.push(Seen { print, days: if first { DAYS } else { 1 }, day });
        if first { 0 } else { UNKNOWN }
    }
}
