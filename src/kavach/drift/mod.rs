//! Drift: what is odd about a call, as scores that policies may use.
//!
//! One file a signal; each is off until the operator switches it on, and then scores 0 to 100. A key that is new is learned,
//! not suspected; what scores 90 or more is not learned, so that an attack does not become usual. Nothing here refuses:
//! policies do. Memory is bounded by `max_keys`. What was learned of a key is its *habit*: it is kept and shared with other
//! processes by `memory`, and two habits of a key join into one, in any order and any number of times the same
//! (`habits_join_in_any_order_and_any_number_of_times`). The last minute is that of this process; time is an argument.

pub mod behaviour;
pub mod device;
pub mod geo;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::kavach::call::Scores;
use crate::kavach::config::DriftConfig;
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;

const SHARDS: usize = 16;
/// From this score on nothing is learned.
pub(super) const ALARM: u8 = 90;

/// What is seen of one call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sighting<'a> {
    /// Where it comes from, if that is known.
    pub place: Option<geo::Place>,
    /// The header `x-marg-device`.
    pub device: Option<&'a str>,
    /// How old its session is.
    pub session_age: Duration,
    /// The model.
    pub model: &'a str,
    /// Tokens, in and out, estimated.
    pub tokens: u64,
    /// What it costs, estimated.
    pub cost: NanoUsd,
}

/// How often the habit of a key is shared, at most.
const SHARE_EVERY: Duration = Duration::from_secs(30);

/// What was learned of a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Habit {
    /// How often an operator had it forgotten.
    epoch: u64,
    geo: geo::Geo,
    device: device::Device,
    #[serde(skip_serializing_if = "Option::is_none")]
    behaviour: Option<Box<behaviour::Behaviour>>,
}

impl Habit {
    /// What both know. One of before an operator had it forgotten counts for nothing.
    pub fn join(self, other: &Self) -> Self {
        if self.epoch != other.epoch {
            return if self.epoch > other.epoch { self } else { other.clone() };
        }
        Self {
            epoch: self.epoch,
            geo: self.geo.join(&other.geo),
            device: self.device.join(&other.device),
            behaviour: match (self.behaviour, &other.behaviour) {
                (Some(mine), Some(theirs)) => Some(Box::new(mine.join(theirs))),
                (mine, theirs) => mine.or_else(|| theirs.clone()),
            },
        }
    }

    /// Nothing, and what was learned before counts no more.
    pub fn forgotten(self) -> Self {
        Self { epoch: self.epoch.saturating_add(1), ..Self::default() }
    }
}

/// What a call used, once it is known, and what was estimated of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// When it was scored.
    pub at: Timestamp,
    /// Tokens as in its [`Sighting`], and as used.
    pub tokens: (u64, u64),
    /// Cost as in its [`Sighting`], and as charged.
    pub cost: (NanoUsd, NanoUsd),
}

/// What is known of every key.
#[derive(Debug)]
pub struct Drift {
    config: ArcSwap<DriftConfig>,
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<Arc<str>, Watch>>>,
}

#[derive(Debug, Default)]
struct Watch {
    seen_at: Timestamp,
    habit: Habit,
    /// Whether something was learned that nobody else knows, and when it was last shared.
    is_unsaved: bool,
    shared_at: Timestamp,
}

impl Drift {
    /// Nothing is known yet.
    pub fn new(config: DriftConfig) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { config: ArcSwap::from_pointee(config), hasher: RandomState::new(), shards }
    }

    /// Goes on with other settings; what was learned stays.
    pub fn configure(&self, config: DriftConfig) {
        self.config.store(Arc::new(config));
    }

    /// Scores a call and learns from it.
    ///
    /// *Cost*: no I/O; under a microsecond and a lock that is shared with a sixteenth of the keys; nothing if every signal
    /// is off.
    pub fn score(&self, key: &Arc<str>, sighting: &Sighting<'_>, now: Timestamp) -> Scores {
        let config = self.config.load();
        let mut scores = Scores::default();
        if config.session_age {
            scores.session_age = session_age(sighting.session_age, Duration::from_millis(config.session_age_ms));
        }
        if !(config.geo || config.device || config.behaviour) {
            return scores;
        }
        let mut shard = self.shard(key);
        if !shard.contains_key(key) {
            make_room(&mut shard, config.max_keys.div_ceil(SHARDS));
        }
        let watch = shard.entry(Arc::clone(key)).or_default();
        watch.seen_at = watch.seen_at.max(now);
        watch.is_unsaved = true;
        let habit = &mut watch.habit;
        if config.geo {
            scores.geo = habit.geo.score(sighting.place, config.geo_speed_km_h as f64, now);
        }
        if config.device {
            scores.device = habit.device.score(sighting.device, now);
        }
        if config.behaviour {
            let behaviour = habit.behaviour.get_or_insert_with(|| Box::new(behaviour::Behaviour::new(now)));
            scores.behaviour = behaviour.score(sighting, now);
        }
        scores
    }

    /// Puts what a call really used in the place of what was estimated when it was scored, once that is known: the minute of
    /// the call is corrected, or what it used beyond the estimate counts now if that minute is over.
    pub fn settle(&self, key: &str, used: &Settled, now: Timestamp) {
        if !self.config.load().behaviour {
            return;
        }
        if let Some(watch) = self.shard(key).get_mut(key)
            && let Some(behaviour) = &mut watch.habit.behaviour
        {
            behaviour.correct(used, now);
            watch.is_unsaved = true;
        }
    }

    /// Whether any signal needs what is learned.
    pub fn is_on(&self) -> bool {
        let config = self.config.load();
        config.geo || config.device || config.behaviour
    }

    /// The most keys that are remembered.
    pub fn max_keys(&self) -> usize {
        self.config.load().max_keys
    }

    /// What was learned and nobody else knows, of at most so many keys: of none that was shared in the last 30 seconds,
    /// unless it is the end.
    pub fn collect(&self, most: usize, now: Timestamp, is_end: bool) -> Vec<(Arc<str>, Timestamp, Habit)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            // What a panic leaves behind is a little less learned.
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let due = |watch: &Watch| watch.is_unsaved && (is_end || watch.shared_at.plus(SHARE_EVERY) <= now);
            let left = most.saturating_sub(found.len());
            for (key, watch) in shard.iter_mut().filter(|(_, watch)| due(watch)).take(left) {
                watch.is_unsaved = false;
                watch.shared_at = now;
                found.push((Arc::clone(key), watch.seen_at, watch.habit.clone()));
            }
        }
        found
    }

    /// What was collected of these keys could not be shared; it is due again.
    pub fn keep_unsaved<'a>(&self, keys: impl Iterator<Item = &'a Arc<str>>) {
        for key in keys {
            if let Some(watch) = self.shard(key).get_mut(key) {
                watch.is_unsaved = true;
            }
        }
    }

    /// Takes what others learned of a key, or that an operator had it forgotten.
    pub fn adopt(&self, key: &Arc<str>, seen_at: Timestamp, habit: Habit) {
        let max_keys = self.max_keys();
        let mut shard = self.shard(key);
        if !shard.contains_key(key) {
            make_room(&mut shard, max_keys.div_ceil(SHARDS));
        }
        let watch = shard.entry(Arc::clone(key)).or_default();
        watch.seen_at = watch.seen_at.max(seen_at);
        watch.habit = std::mem::take(&mut watch.habit).join(&habit);
    }

    #[cfg(test)]
    fn habit(&self, key: &str) -> Habit {
        self.shard(key).get(key).map(|watch| watch.habit.clone()).unwrap_or_default()
    }

    #[allow(clippy::indexing_slicing, reason = "the remainder of a division by the length is below it")]
    fn shard(&self, key: &str) -> MutexGuard<'_, HashMap<Arc<str>, Watch>> {
        let index = (self.hasher.hash_one(key) as usize) % self.shards.len();
        // What a panic leaves behind is a little less learned.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the sixteenth of the keys that were idle longest, if there is no room for one more.
fn make_room(keys: &mut HashMap<Arc<str>, Watch>, most: usize) {
    if keys.len() < most.max(1) {
        return;
    }
    let mut ages: Vec<Timestamp> = keys.values().map(|watch| watch.seen_at).collect();
    ages.sort_unstable();
    let cut = ages.get(ages.len() / 16).copied().unwrap_or_default();
    keys.retain(|_, watch| watch.seen_at > cut);
}

/// The share of the age that is allowed, 100 at the age itself.
fn session_age(age: Duration, most: Duration) -> u8 {
    let percent = age.as_millis().saturating_mul(100) / most.as_millis().max(1);
    u8::try_from(percent.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests;
