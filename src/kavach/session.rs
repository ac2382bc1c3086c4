//! Sessions: what belongs together, by what the caller says, else by time.
//!
//! A session belongs to its key: the same name under two keys is two sessions. A caller that says nothing has one session
//! for each key, which ends at a pause of `idle_ms`. Memory is bounded: at most 1,000 sessions for each key and
//! `max_sessions` in all; those that were idle longest make room, first those of a key that has more than its share
//! (`a_flood_of_sessions_of_one_key_leaves_those_of_others_alone`), and those that an operator ended go last
//! (`a_flood_of_sessions_does_not_reopen_one_that_was_ended`). What is counted here is shared with other processes, and kept,
//! by `memory`: a session's figures are what all together had counted when this process last wrote, and what it counted since.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::kavach::call::SessionFigures;
use crate::kavach::config::SessionConfig;
use crate::kavach::memory::Act;
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;

const SHARDS: usize = 16;
/// The most sessions of one key, so that none can drive out those of others.
const MAX_PER_KEY: usize = 1_000;
/// The longest name that is kept as it is; a longer one is kept as its hash.
const MAX_NAME_BYTES: usize = 128;

/// What a caller says of its session, the first that is there counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said<'a> {
    /// The header `x-marg-session`.
    pub header: Option<&'a str>,
    /// `metadata.session_id` of an OpenAI request, or `metadata.user_id` of an Anthropic one.
    pub metadata: Option<&'a str>,
    /// The field `user` of an OpenAI request.
    pub user: Option<&'a str>,
    /// The header `traceparent`; its trace is the session (W3C Trace Context section 3.2).
    pub traceparent: Option<&'a str>,
}

impl Said<'_> {
    /// The session's name: at most 128 bytes of printable characters; `None` if the caller says nothing of use.
    pub fn name(&self) -> Option<Arc<str>> {
        let plain = [("", self.header), ("metadata:", self.metadata), ("user:", self.user)];
        let plain = plain.into_iter().find_map(|(kind, text)| Some((kind, text.filter(|text| !text.is_empty())?)));
        if let Some((kind, text)) = plain {
            return Some(bounded(kind, text));
        }
        trace(self.traceparent?).map(|trace| bounded("trace:", trace))
    }
}

/// The trace of a `traceparent`, if it is a sound one; of a later version only the beginning is looked at.
///
/// *Source*: W3C Trace Context, section 3.2.
fn trace(text: &str) -> Option<&str> {
    let hex =
        |part: &str, length| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_some = |part: &str| part.bytes().any(|byte| byte != b'0');
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_whole = version != "00" || parts.next().is_none();
    let sound = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    (sound && is_whole && is_some(trace) && is_some(parent)).then_some(trace)
}

fn bounded(kind: &str, text: &str) -> Arc<str> {
    if kind.len() + text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        return format!("{kind}blake3:{}", blake3::hash(text.as_bytes()).to_hex()).into();
    }
    format!("{kind}{text}").into()
}

/// What was counted of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Calls, refused ones included.
    pub requests: u64,
    /// Their input tokens.
    pub input_tokens: u64,
    /// Their output tokens.
    pub output_tokens: u64,
    /// What they cost.
    pub cost: NanoUsd,
}

impl Figures {
    /// Both together, saturating.
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cost: NanoUsd(self.cost.nanos().saturating_add(other.cost.nanos())),
        }
    }
}

/// The key, and what the caller calls the session; empty for one that it does not name.
pub type SessionPlace = (Arc<str>, Arc<str>);

/// What this process counted of a session and the store does not know yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which session.
    pub place: SessionPlace,
    /// What identifies it for its key, as far as this process knows.
    pub id: Arc<str>,
    /// When it began, as far as this process knows.
    pub begun_at: Timestamp,
    /// When its latest call came.
    pub seen_at: Timestamp,
    /// How often it had been reset when this was counted.
    pub epoch: u64,
    /// What was counted.
    pub figures: Figures,
    life: u64,
}

/// A session as the store knows it: what all processes together counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Which session.
    #[serde(skip)]
    pub place: SessionPlace,
    /// What identifies it for its key.
    pub id: Arc<str>,
    /// When its first call came.
    pub begun_at: Timestamp,
    /// When its latest call came.
    #[serde(skip)]
    pub seen_at: Timestamp,
    /// Until when it refuses, if an operator ended it.
    #[serde(skip)]
    pub ended_until: Option<Timestamp>,
    /// The generation in which an operator changed it; 0 if none ever did.
    #[serde(skip)]
    pub mark: u64,
    /// How often it was reset.
    #[serde(default)]
    pub epoch: u64,
    /// What was counted.
    #[serde(flatten)]
    pub figures: Figures,
}

impl Known {
    /// What is known with one more part. A part of before a reset, or of before a pause that ended the session, changes
    /// nothing; one of after such a pause begins it anew.
    pub fn with(known: Option<Self>, part: &Part, idle: Duration) -> Option<Self> {
        let Some(known) = known else {
            let ended_until = None;
            return Some(Self { ended_until, mark: 0, ..Self::begun(part) });
        };
        let is_over =
            known.seen_at.plus(idle) < part.begun_at || known.ended_until.is_some_and(|until| until <= part.begun_at);
        if part.epoch < known.epoch || part.seen_at.plus(idle) < known.begun_at {
            return Some(known);
        }
        if is_over {
            return Some(Self { mark: known.mark, epoch: known.epoch, ..Self::begun(part) });
        }
        Some(Self {
            begun_at: known.begun_at.min(part.begun_at),
            seen_at: known.seen_at.max(part.seen_at),
            figures: known.figures.plus(part.figures),
            ..known
        })
    }

    fn begun(part: &Part) -> Self {
        Self {
            place: part.place.clone(),
            id: Arc::clone(&part.id),
            begun_at: part.begun_at,
            seen_at: part.seen_at,
            ended_until: None,
            mark: 0,
            epoch: part.epoch,
            figures: part.figures,
        }
    }

    /// It after an operator's act.
    pub fn after(self, act: Act) -> Self {
        match act {
            Act::EndUntil(until) => Self { ended_until: Some(until), ..self },
            Act::ResetAt(now) => Self {
                begun_at: now,
                seen_at: now,
                ended_until: None,
                epoch: self.epoch.saturating_add(1),
                figures: Figures::default(),
                ..self
            },
        }
    }
}

/// All sessions that this process knows.
#[derive(Debug)]
pub struct Sessions {
    config: ArcSwap<SessionConfig>,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    lives: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    keys: HashMap<Arc<str>, HashMap<Arc<str>, Entry>>,
    count: usize,
    /// Those of which something was counted that is in no batch; each once.
    unsaved: Vec<SessionPlace>,
}

#[derive(Clone, Debug)]
struct Entry {
    place: SessionPlace,
    /// Tells this session from another of the same name before or after it.
    life: u64,
    id: Arc<str>,
    begun_at: Timestamp,
    seen_at: Timestamp,
    ended_until: Option<Timestamp>,
    epoch: u64,
    /// What the store knew when it was last written.
    known: Figures,
    /// What is in a batch that the store has not confirmed.
    sent: Figures,
    /// What was counted since.
    own: Figures,
    is_unsaved: bool,
}

/// A session as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// The key that it belongs to.
    pub key: Arc<str>,
    /// What identifies it for that key.
    pub id: Arc<str>,
    /// When its first call came.
    pub begun_at: Timestamp,
    /// When its latest call came.
    pub seen_at: Timestamp,
    /// Until when it refuses, if an operator ended it.
    pub ended_until: Option<Timestamp>,
    /// Calls, tokens and cost so far.
    pub figures: Figures,
}

impl From<Known> for Session {
    fn from(known: Known) -> Self {
        let Known { place: (key, _), id, begun_at, seen_at, ended_until, mark: _, epoch: _, figures } = known;
        Self { key, id, begun_at, seen_at, ended_until, figures }
    }
}

/// The session was ended by an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an operator ended this session; begin another one")]
pub struct Ended {
    /// Until when it refuses.
    pub until: Timestamp,
}

impl Sessions {
    /// No sessions yet.
    pub fn new(config: SessionConfig) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { config: ArcSwap::from_pointee(config), hasher: RandomState::new(), shards, lives: AtomicU64::new(0) }
    }

    /// Goes on with other settings; what is remembered stays.
    pub fn configure(&self, config: SessionConfig) {
        self.config.store(Arc::new(config));
    }

    /// The settings.
    pub fn config(&self) -> SessionConfig {
        **self.config.load()
    }

    /// Counts one more call of a session and gives its figures before that call; begins it if it is not there or was idle
    /// for too long. Two calls of this process at once never get the same count.
    ///
    /// # Errors
    /// [`Ended`] while the session is one that an operator ended.
    pub fn enter(&self, key: &Arc<str>, name: Option<&Arc<str>>, now: Timestamp) -> Result<SessionFigures, Ended> {
        let config = self.config.load();
        let idle = Duration::from_millis(config.idle_ms);
        let life = || self.lives.fetch_add(1, Ordering::Relaxed);
        let enter = |entry: &mut Entry| {
            if let Some(until) = entry.ended_until.filter(|until| *until > now) {
                return Err(Ended { until });
            }
            if entry.ended_until.is_some() || entry.seen_at.plus(idle) < now {
                let begun = Entry::begin(entry.place.clone(), life(), now);
                *entry = Entry { epoch: entry.epoch, is_unsaved: entry.is_unsaved, ..begun };
            }
            Ok(entry.count(now))
        };
        let mut shard = self.shard(key);
        if let Some(figures) = shard.change(key, name.map_or("", |name| name), enter) {
            return figures;
        }
        shard.make_room(key, config.max_sessions.div_ceil(SHARDS), now, idle);
        let name = name.cloned().unwrap_or_default();
        shard.insert(Entry::begin((Arc::clone(key), Arc::clone(&name)), life(), now));
        // It was put there just now, under the same lock.
        shard.change(key, &name, enter).unwrap_or_else(|| Ok(SessionFigures::default()))
    }

    /// Adds what a call of a session used, once it is known: of the session that has that id under that name. One that is gone
    /// stays gone.
    pub fn settle(
        &self,
        (key, name, id): (&str, &str, &str),
        (input_tokens, output_tokens): (u64, u64),
        cost: NanoUsd,
    ) {
        let used = Figures { requests: 0, input_tokens, output_tokens, cost };
        if used == Figures::default() {
            return;
        }
        self.shard(key).change(key, name, |entry| {
            if *entry.id == *id {
                entry.own = entry.own.plus(used);
            }
        });
    }

    /// Takes what was counted and is in no batch yet, of at most so many sessions.
    pub fn collect(&self, most: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        for shard in &self.shards {
            // A panic in here leaves at most one count wrong.
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let left = shard.unsaved.len().saturating_sub(most.saturating_sub(parts.len()));
            for (key, name) in shard.unsaved.split_off(left) {
                parts.extend(shard.find(&key, &name).map(Entry::take_part));
            }
        }
        parts
    }

    /// The store has these parts; what it knows now of each of their sessions.
    pub fn settle_batch(&self, parts: &[Part], known: &[Option<Known>]) {
        for (part, known) in parts.iter().zip(known) {
            let (key, name) = &part.place;
            let mut shard = self.shard(key);
            let Some(entry) = shard.find(key, name).filter(|entry| entry.life == part.life) else { continue };
            entry.sent = Figures::default();
            if let Some(known) = known {
                entry.learn(known);
            }
        }
    }

    /// Takes what the store says of sessions: at the start, and after an operator's act.
    pub fn adopt(&self, all: &[Known], now: Timestamp) {
        let config = self.config();
        let idle = Duration::from_millis(config.idle_ms);
        for known in all {
            let (key, name) = &known.place;
            let mut shard = self.shard(key);
            if let Some(entry) = shard.find(key, name) {
                let figures = if known.epoch > entry.epoch { known.figures } else { entry.known };
                entry.learn(&Known { figures, ..known.clone() });
                continue;
            }
            shard.make_room(key, config.max_sessions.div_ceil(SHARDS), now, idle);
            let life = self.lives.fetch_add(1, Ordering::Relaxed);
            let mut entry = Entry { seen_at: known.seen_at, ..Entry::begin(known.place.clone(), life, now) };
            entry.learn(known);
            shard.insert(entry);
        }
    }

    #[allow(clippy::indexing_slicing, reason = "the remainder of a division by the length is below it")]
    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let index = (self.hasher.hash_one(key) as usize) % self.shards.len();
        // A panic in here leaves at most one count wrong.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn begin(place: SessionPlace, life: u64, now: Timestamp) -> Self {
        let (_, name) = &place;
        let id = if name.is_empty() { format!("auto:{}", now.micros()).into() } else { Arc::clone(name) };
        Self {
            place,
            life,
            id,
            begun_at: now,
            seen_at: now,
            ended_until: None,
            epoch: 0,
            known: Figures::default(),
            sent: Figures::default(),
            own: Figures::default(),
            is_unsaved: false,
        }
    }

    fn figures(&self) -> Figures {
        self.known.plus(self.sent).plus(self.own)
    }

    fn count(&mut self, now: Timestamp) -> SessionFigures {
        let age = now.seconds().saturating_sub(self.begun_at.seconds());
        let Figures { requests, input_tokens, output_tokens, cost } = self.figures();
        let figures = SessionFigures {
            id: Arc::clone(&self.id),
            requests,
            input_tokens,
            output_tokens,
            cost,
            age_seconds: u64::try_from(age).unwrap_or(0),
        };
        self.own.requests = self.own.requests.saturating_add(1);
        self.seen_at = self.seen_at.max(now);
        figures
    }

    fn take_part(&mut self) -> Part {
        let figures = std::mem::take(&mut self.own);
        self.sent = self.sent.plus(figures);
        self.is_unsaved = false;
        Part {
            place: self.place.clone(),
            id: Arc::clone(&self.id),
            begun_at: self.begun_at,
            seen_at: self.seen_at,
            epoch: self.epoch,
            figures,
            life: self.life,
        }
    }

    /// Takes what the store knows. What was counted before a reset counts no more.
    fn learn(&mut self, known: &Known) {
        if known.epoch > self.epoch {
            (self.sent, self.own) = (Figures::default(), Figures::default());
        }
        self.id = Arc::clone(&known.id);
        self.begun_at = known.begun_at;
        self.ended_until = known.ended_until;
        self.epoch = known.epoch;
        self.known = known.figures;
    }
}

impl Shard {
    fn find(&mut self, key: &str, name: &str) -> Option<&mut Entry> {
        self.keys.get_mut(key)?.get_mut(name)
    }

    fn insert(&mut self, entry: Entry) {
        let (key, name) = entry.place.clone();
        if self.keys.entry(key).or_default().insert(name, entry).is_none() {
            self.count += 1;
        }
    }

    /// Changes a session so that the store has to hear of it.
    fn change<T>(&mut self, key: &str, name: &str, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let entry = self.keys.get_mut(key)?.get_mut(name)?;
        let done = change(entry);
        if !entry.is_unsaved && entry.own != Figures::default() {
            entry.is_unsaved = true;
            self.unsaved.push(entry.place.clone());
            if self.unsaved.len() > 2 * self.count + 64 {
                // The store is away, and a flood of names has driven out what waits for it.
                let keys = &self.keys;
                let is_there = |name: &Arc<str>, own: &HashMap<Arc<str>, Entry>| own.contains_key(name);
                self.unsaved.retain(|(key, name)| keys.get(key).is_some_and(|own| is_there(name, own)));
                self.unsaved.sort_unstable();
                self.unsaved.dedup();
            }
        }
        Some(done)
    }

    /// Makes room for one more session of a key. What is dropped goes by sixteenths, so that a flood pays a look at the whole
    /// shard only now and then.
    fn make_room(&mut self, key: &Arc<str>, most: usize, now: Timestamp, idle: Duration) {
        if let Some(own) = self.keys.get_mut(key)
            && own.len() >= MAX_PER_KEY
        {
            let oldest = own.iter().min_by_key(|(_, entry)| (entry.ended_until.is_some(), entry.seen_at));
            if let Some(name) = oldest.map(|(name, _)| Arc::clone(name)) {
                own.remove(&name);
                self.count -= 1;
            }
        }
        if self.count < most {
            return;
        }
        let age = |entry: &Entry| (entry.ended_until.is_some_and(|until| until > now), entry.seen_at);
        // A key that has more than its share makes room among its own, so that its flood drives out nobody else's.
        let is_flood = self.keys.get(key).is_some_and(|own| own.len() * self.keys.len() > self.count);
        let gives = |of: &Arc<str>| !is_flood || of == key;
        let giving = self.keys.iter().filter(|(of, _)| gives(of));
        let mut ages: Vec<_> = giving.flat_map(|(_, own)| own.values().map(age)).collect();
        ages.sort_unstable();
        let cut = ages.get(ages.len() / 16).copied().unwrap_or_default();
        for (of, own) in &mut self.keys {
            own.retain(|_, entry| {
                let (is_ended, seen_at) = age(entry);
                let is_stale = !is_ended && seen_at.plus(idle) < now;
                !is_stale && (!gives(of) || (is_ended, seen_at) > cut)
            });
        }
        self.keys.retain(|_, own| !own.is_empty());
        let keys = &self.keys;
        self.unsaved.retain(|(key, name)| keys.get(key).is_some_and(|own| own.contains_key(name)));
        self.count = self.keys.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
mod tests;
