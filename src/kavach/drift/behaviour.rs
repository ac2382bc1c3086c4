//! How much a key is used, compared with what is usual for it: calls, tokens and cost a minute, models, hours of the day.
//!
//! The last minute is counted in six slots of ten seconds. For each of the last 168 hours the busiest minute is kept, and
//! what is usual is the value that nine tenths of the active hours stay below: one wild hour does not move it, a week of them
//! does. Below 10 calls, 20,000 tokens and 0.10 US dollars a minute nobody is suspected. Four times the usual scores 0,
//! twenty times 90, and between them the logarithm counts. Nothing is scored before three active hours or one day have been
//! learned; an hour is learned as at most four times the usual.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kavach::drift::{Settled, Sighting};
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;

const HOUR_SECONDS: i64 = 3_600;
const SLOT_SECONDS: i64 = 10;
const SLOTS: usize = 6;
const HOURS: usize = 168;
/// Calls, tokens, nano-dollars in a minute that are nothing to speak of for any key.
const FLOOR: Amounts = [10, 20_000, 100_000_000];
/// The ratio to the usual at which a score begins, and that at which it is 90.
const CALM: f64 = 4.0;
const WILD: f64 = 20.0;
const LEARNED_HOURS: usize = 3;
const LEARNED_SECONDS: i64 = 86_400;
/// Days of history before an unusual hour counts.
const HABIT_SECONDS: i64 = 5 * 86_400;
const UNUSUAL_HOUR: u8 = 40;
const UNUSUAL_MODELS: u8 = 50;
/// Calls before models that were never used count as unusual.
const HABIT_CALLS: u64 = 100;
const MAX_MODELS: usize = 32;

/// Calls, tokens, nano-dollars.
type Amounts = [u64; 3];

/// The habits of one key; about 5 KB.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub(super) struct Behaviour {
    begun_at: i64,
    /// The last minute, by ten seconds; each with the number of its ten seconds since 1970.
    slots: [(i64, Amounts); SLOTS],
    /// The busiest minute of each hour, by the number of the hour since 1970 modulo 168.
    hours: Box<[(i64, Amounts); HOURS]>,
    /// The hour that `usual` was computed for.
    hour: i64,
    usual: Option<Amounts>,
    calls: u64,
    /// Hashes of models that were used, and how often.
    models: Vec<(u64, u64)>,
    /// Of the last calls, how many were of models that are not usual; decays.
    strange: f64,
}

/// What is kept of it: everything but the last minute.
#[derive(Serialize, Deserialize)]
struct Kept {
    begun_at: i64,
    /// The number of an hour, and its busiest minute; only hours that were active.
    hours: Vec<(i64, Amounts)>,
    calls: u64,
    models: Vec<(u64, u64)>,
}

impl From<Kept> for Behaviour {
    fn from(kept: Kept) -> Self {
        let mut behaviour = Self::new(Timestamp::default());
        behaviour.begun_at = kept.begun_at;
        for (hour, amounts) in kept.hours {
            if let Some(slot) = behaviour.hours.get_mut(slot_of(hour)) {
                *slot = (hour, amounts);
            }
        }
        (behaviour.calls, behaviour.models) = (kept.calls, kept.models);
        behaviour.models.truncate(MAX_MODELS);
        behaviour
    }
}

impl From<Behaviour> for Kept {
    fn from(behaviour: Behaviour) -> Self {
        let Behaviour { begun_at, slots: _, hours, hour: _, usual: _, calls, models, strange: _ } = behaviour;
        Self { begun_at, hours: hours.iter().filter(|(at, _)| *at >= 0).copied().collect(), calls, models }
    }
}

fn slot_of(hour: i64) -> usize {
    usize::try_from(hour.rem_euclid(HOURS as i64)).unwrap_or(0)
}

impl Behaviour {
    /// What both know: the earlier beginning, the busier minute of each hour, every model as often as the one that saw it
    /// more did. The last minute is that of `self`, as each process judges the calls that it sees.
    pub(super) fn join(mut self, other: &Self) -> Self {
        self.begun_at = self.begun_at.min(other.begun_at);
        self.calls = self.calls.max(other.calls);
        for (mine, theirs) in self.hours.iter_mut().zip(other.hours.iter()) {
            if theirs.0 > mine.0 {
                *mine = *theirs;
            } else if theirs.0 == mine.0 {
                mine.1.iter_mut().zip(theirs.1).for_each(|(mine, theirs)| *mine = (*mine).max(theirs));
            }
        }
        let mut models: BTreeMap<u64, u64> = BTreeMap::new();
        for (model, count) in self.models.iter().chain(&other.models) {
            let known = models.entry(*model).or_default();
            *known = (*known).max(*count);
        }
        self.models = models.into_iter().collect();
        self.models.sort_by_key(|(model, count)| (std::cmp::Reverse(*count), *model));
        self.models.truncate(MAX_MODELS);
        // What is usual is worked out anew with the next call.
        self.hour = -1;
        self
    }

    /// Puts what a call used in the place of what was estimated.
    pub(super) fn correct(&mut self, used: &Settled, now: Timestamp) {
        let ten = |at: Timestamp| at.seconds().div_euclid(SLOT_SECONDS);
        let cost = |cost: NanoUsd| u64::try_from(cost.nanos()).unwrap_or(0);
        let (estimated, real) = ([0, used.tokens.0, cost(used.cost.0)], [0, used.tokens.1, cost(used.cost.1)]);
        let number = if self.slots.iter().any(|(slot, _)| *slot == ten(used.at)) { ten(used.at) } else { ten(now) };
        let index = usize::try_from(number.rem_euclid(SLOTS as i64)).unwrap_or(0);
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.0 != number {
            *slot = (number, [0; 3]);
        }
        for (sum, (estimated, real)) in slot.1.iter_mut().zip(estimated.into_iter().zip(real)) {
            *sum = sum.saturating_add(real).saturating_sub(estimated);
        }
        let minute = self.minute(ten(now));
        self.learn(now.seconds().div_euclid(HOUR_SECONDS), minute);
    }

    #[cfg(test)]
    pub(super) fn minute_at(&self, now: Timestamp) -> Amounts {
        self.minute(now.seconds().div_euclid(SLOT_SECONDS))
    }

    fn minute(&self, number: i64) -> Amounts {
        let mut minute = [0; 3];
        for (_, amounts) in self.slots.iter().filter(|(slot, _)| number - slot < SLOTS as i64) {
            add(&mut minute, amounts);
        }
        minute
    }

    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            begun_at: now.seconds(),
            slots: [(0, [0; 3]); SLOTS],
            hours: Box::new([(-1, [0; 3]); HOURS]),
            hour: -1,
            usual: None,
            calls: 0,
            models: Vec::new(),
            strange: 0.0,
        }
    }

    pub(super) fn score(&mut self, sighting: &Sighting<'_>, now: Timestamp) -> u8 {
        let seconds = now.seconds();
        let hour = seconds.div_euclid(HOUR_SECONDS);
        if hour != self.hour {
            self.usual = self.usual(hour, seconds);
            self.hour = hour;
        }
        let minute = self.count(sighting, seconds);
        let volume = self.usual.map_or(0, |usual| volume(minute, usual));
        let habit = seconds - self.begun_at >= HABIT_SECONDS;
        let hour_score = if habit && !self.is_usual_hour(hour) { UNUSUAL_HOUR } else { 0 };
        let model_score = self.model(sighting.model);
        self.learn(hour, minute);
        // Two things that are odd are odder than one.
        let most = volume.max(hour_score).max(model_score);
        let odd = [volume, hour_score, model_score].iter().filter(|score| **score >= 40).count();
        if odd >= 2 { most.saturating_add(20).min(100) } else { most }
    }

    /// Counts a call and gives the last minute with it.
    fn count(&mut self, sighting: &Sighting<'_>, seconds: i64) -> Amounts {
        let number = seconds.div_euclid(SLOT_SECONDS);
        let index = usize::try_from(number.rem_euclid(SLOTS as i64)).unwrap_or(0);
        if let Some(slot) = self.slots.get_mut(index) {
            if slot.0 != number {
                *slot = (number, [0; 3]);
            }
            let cost = u64::try_from(sighting.cost.nanos()).unwrap_or(0);
            add(&mut slot.1, &[1, sighting.tokens, cost]);
        }
        self.calls = self.calls.saturating_add(1);
        self.minute(number)
    }

    /// What nine tenths of the active hours before this one stayed below; `None` as long as too little is known.
    fn usual(&self, hour: i64, seconds: i64) -> Option<Amounts> {
        let active: Vec<&Amounts> = self
            .hours
            .iter()
            .filter(|(at, _)| *at != hour && hour - *at <= HOURS as i64 && *at >= 0)
            .map(|(_, amounts)| amounts)
            .collect();
        if active.is_empty() || active.len() < LEARNED_HOURS && seconds - self.begun_at < LEARNED_SECONDS {
            return None;
        }
        let high = |pick: fn(&Amounts) -> u64| {
            let mut values: Vec<u64> = active.iter().map(|amounts| pick(amounts)).collect();
            values.sort_unstable();
            values.get(values.len() * 9 / 10).or(values.last()).copied().unwrap_or(0)
        };
        Some([high(|[calls, _, _]| *calls), high(|[_, tokens, _]| *tokens), high(|[_, _, cost]| *cost)])
    }

    /// Whether the key was used in this hour of the day, or the one before or after it, on a day before.
    fn is_usual_hour(&self, hour: i64) -> bool {
        self.hours.iter().any(|(at, _)| {
            let apart = (hour - at).rem_euclid(24);
            *at >= 0 && hour - at > 1 && hour - at <= HOURS as i64 && (apart <= 1 || apart == 23)
        })
    }

    fn learn(&mut self, hour: i64, minute: Amounts) {
        let index = slot_of(hour);
        let most = self.usual.map(|usual| {
            std::array::from_fn::<u64, 3, _>(|place| {
                let [usual, floor] = [usual.get(place), FLOOR.get(place)].map(|value| value.copied().unwrap_or(0));
                usual.max(floor).saturating_mul(CALM as u64)
            })
        });
        let Some(kept) = self.hours.get_mut(index) else { return };
        if kept.0 != hour {
            *kept = (hour, [0; 3]);
        }
        for (place, (kept, minute)) in kept.1.iter_mut().zip(minute).enumerate() {
            let bound = most.and_then(|most| most.get(place).copied()).unwrap_or(u64::MAX);
            *kept = (*kept).max(minute.min(bound));
        }
    }

    /// How odd the models of the last calls are.
    fn model(&mut self, model: &str) -> u8 {
        let hash =
            u64::from_le_bytes(blake3::hash(model.as_bytes()).as_bytes().first_chunk().copied().unwrap_or_default());
        let calls = self.calls;
        let found = self.models.iter_mut().find(|(known, _)| *known == hash);
        let count = found.map_or(0, |(_, count)| {
            *count = count.saturating_add(1);
            *count
        });
        if count == 0 {
            if self.models.len() >= MAX_MODELS {
                let rarest =
                    self.models.iter().enumerate().min_by_key(|(_, (_, count))| *count).map_or(0, |(index, _)| index);
                self.models.swap_remove(rarest);
            }
            self.models.push((hash, 1));
        }
        // A model is usual once it had one call in fifty.
        let is_strange = calls > HABIT_CALLS && count.saturating_mul(50) < calls;
        self.strange = self.strange * 0.9 + if is_strange { 0.1 } else { 0.0 };
        if self.strange > 0.5 { UNUSUAL_MODELS } else { 0 }
    }
}

fn add(sum: &mut Amounts, amounts: &Amounts) {
    for (sum, amount) in sum.iter_mut().zip(amounts) {
        *sum = sum.saturating_add(*amount);
    }
}

fn volume(minute: Amounts, usual: Amounts) -> u8 {
    let ratios = minute.iter().zip(usual).zip(FLOOR).map(|((now, usual), floor)| *now as f64 / usual.max(floor) as f64);
    let ratio = ratios.fold(0.0, f64::max);
    if ratio <= CALM { 0 } else { (90.0 * (ratio / CALM).ln() / (WILD / CALM).ln()).min(100.0).round() as u8 }
}
