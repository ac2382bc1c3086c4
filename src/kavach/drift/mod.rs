//! Drift: what is odd about a call, as scores that policies may use.
//!
//! One file a signal; each is off until the operator switches it on, and then scores 0 to 100. A key that is new is learned,
//! not suspected; what scores 90 or more is not learned, so that an attack does not become usual. Nothing here refuses:
//! policies do. Memory is bounded by `max_keys`; an operator forgets what was learned of a key with [`Drift::forget`]. State
//! is that of this process; time is an argument.

pub mod behaviour;
pub mod device;
pub mod geo;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

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
    geo: geo::Geo,
    device: device::Device,
    behaviour: Option<Box<behaviour::Behaviour>>,
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
        if config.geo {
            scores.geo = watch.geo.score(sighting.place, config.geo_speed_km_h as f64, now);
        }
        if config.device {
            scores.device = watch.device.score(sighting.device, now);
        }
        if config.behaviour {
            let behaviour = watch.behaviour.get_or_insert_with(|| Box::new(behaviour::Behaviour::new(now)));
            scores.behaviour = behaviour.score(sighting, now);
        }
        scores
    }

    /// Forgets what was learned of a key, after an operator found that all is well. Says whether anything was known.
    pub fn forget(&self, key: &str) -> bool {
        self.shard(key).remove(key).is_some()
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
