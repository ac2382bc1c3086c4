//! Sessions: what belongs together, by what the caller says, else by time.
//!
//! A session belongs to its key: the same name under two keys is two sessions. A caller that says nothing has one session
//! for each key, which ends at a pause of `idle_ms`. Memory is bounded: at most 1,000 sessions for each key and
//! `max_sessions` in all; those that were idle longest make room, those that an operator ended go last
//! (`a_flood_of_sessions_does_not_reopen_one_that_was_ended`). State is that of this process.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::kavach::call::SessionFigures;
use crate::kavach::config::SessionConfig;
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
        let trace = self.traceparent?.split('-').nth(1)?;
        let sound = trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit());
        (sound && trace.bytes().any(|byte| byte != b'0')).then(|| bounded("trace:", trace))
    }
}

fn bounded(kind: &str, text: &str) -> Arc<str> {
    if kind.len() + text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        return format!("{kind}blake3:{}", blake3::hash(text.as_bytes()).to_hex()).into();
    }
    format!("{kind}{text}").into()
}

/// All sessions that this process knows.
#[derive(Debug)]
pub struct Sessions {
    config: ArcSwap<SessionConfig>,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    keys: HashMap<Arc<str>, HashMap<Arc<str>, Entry>>,
    count: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    id: Arc<str>,
    begun_at: Timestamp,
    seen_at: Timestamp,
    ended_until: Option<Timestamp>,
    requests: u64,
    input_tokens: u64,
    output_tokens: u64,
    cost: NanoUsd,
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
    /// Its calls so far, refused ones included.
    pub requests: u64,
    /// Their input tokens.
    pub input_tokens: u64,
    /// Their output tokens.
    pub output_tokens: u64,
    /// What they cost.
    pub cost: NanoUsd,
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
        Self { config: ArcSwap::from_pointee(config), hasher: RandomState::new(), shards }
    }

    /// Goes on with other settings; what is remembered stays.
    pub fn configure(&self, config: SessionConfig) {
        self.config.store(Arc::new(config));
    }

    /// Counts one more call of a session and gives its figures before that call; begins it if it is not there or was idle
    /// for too long. Two calls at once never get the same count.
    ///
    /// # Errors
    /// [`Ended`] while the session is one that an operator ended.
    pub fn enter(&self, key: &Arc<str>, name: Option<&Arc<str>>, now: Timestamp) -> Result<SessionFigures, Ended> {
        let name = name.cloned().unwrap_or_default();
        let config = **self.config.load();
        let mut shard = self.shard(key);
        let idle = Duration::from_millis(config.idle_ms);
        let known = shard.keys.get_mut(key).and_then(|sessions| sessions.get_mut(&name));
        if let Some(entry) = known {
            if let Some(until) = entry.ended_until.filter(|until| *until > now) {
                return Err(Ended { until });
            }
            if entry.ended_until.is_some() || entry.seen_at.plus(idle) < now {
                *entry = Entry::begin(&name, now);
            }
            return Ok(entry.count(now));
        }
        shard.make_room(key, config.max_sessions.div_ceil(SHARDS), now, idle);
        let mut entry = Entry::begin(&name, now);
        let figures = entry.count(now);
        shard.keys.entry(Arc::clone(key)).or_default().insert(name, entry);
        shard.count += 1;
        Ok(figures)
    }

    /// Adds what a call of a session used, once it is known. A session that is gone stays gone.
    pub fn settle(&self, key: &str, id: &str, (input_tokens, output_tokens): (u64, u64), cost: NanoUsd) {
        self.change(key, id, |entry| {
            entry.input_tokens = entry.input_tokens.saturating_add(input_tokens);
            entry.output_tokens = entry.output_tokens.saturating_add(output_tokens);
            entry.cost = NanoUsd(entry.cost.nanos().saturating_add(cost.nanos()));
        });
    }

    /// The sessions of a key, or of all, the latest first; at most `limit`.
    pub fn list(&self, key: Option<&str>, limit: usize) -> Vec<Session> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let keys = shard.keys.iter().filter(|(name, _)| key.is_none_or(|key| key == &***name));
            found.extend(keys.flat_map(|(key, sessions)| sessions.values().map(|entry| entry.shown(key))));
        }
        found.sort_by(|one: &Session, other| {
            (other.seen_at, &one.key, &one.id).cmp(&(one.seen_at, &other.key, &other.id))
        });
        found.truncate(limit);
        found
    }

    /// Sets the figures of a session to nothing, as if it began at that time, and takes back that it was ended. Says whether
    /// it was there.
    pub fn reset(&self, key: &str, id: &str, now: Timestamp) -> bool {
        self.change(key, id, |entry| *entry = Entry { id: Arc::clone(&entry.id), ..Entry::begin("", now) })
    }

    /// Ends a session: its calls are refused for `ended_ms`. Says whether it was there.
    pub fn end(&self, key: &str, id: &str, now: Timestamp) -> bool {
        let until = now.plus(Duration::from_millis(self.config.load().ended_ms));
        self.change(key, id, |entry| entry.ended_until = Some(until))
    }

    fn change(&self, key: &str, id: &str, change: impl FnOnce(&mut Entry)) -> bool {
        let mut shard = self.shard(key);
        let entry = shard.keys.get_mut(key).and_then(|sessions| sessions.values_mut().find(|entry| *entry.id == *id));
        entry.map(change).is_some()
    }

    #[allow(clippy::indexing_slicing, reason = "the remainder of a division by the length is below it")]
    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let index = (self.hasher.hash_one(key) as usize) % self.shards.len();
        // A panic in here leaves at most one count wrong.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn begin(name: &str, now: Timestamp) -> Self {
        let id = if name.is_empty() { format!("auto:{}", now.micros()).into() } else { Arc::from(name) };
        Self {
            id,
            begun_at: now,
            seen_at: now,
            ended_until: None,
            requests: 0,
            input_tokens: 0,
            output_tokens: 0,
            cost: NanoUsd::ZERO,
        }
    }

    fn count(&mut self, now: Timestamp) -> SessionFigures {
        let age = now.seconds().saturating_sub(self.begun_at.seconds());
        let figures = SessionFigures {
            id: Arc::clone(&self.id),
            requests: self.requests,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost: self.cost,
            age_seconds: u64::try_from(age).unwrap_or(0),
        };
        self.requests = self.requests.saturating_add(1);
        self.seen_at = self.seen_at.max(now);
        figures
    }

    fn shown(&self, key: &Arc<str>) -> Session {
        Session {
            key: Arc::clone(key),
            id: Arc::clone(&self.id),
            begun_at: self.begun_at,
            seen_at: self.seen_at,
            ended_until: self.ended_until,
            requests: self.requests,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost: self.cost,
        }
    }
}

impl Shard {
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
        let open = |entry: &Entry| entry.ended_until.is_some_and(|until| until > now);
        let mut ages: Vec<(bool, Timestamp)> =
            self.keys.values().flat_map(|own| own.values().map(|entry| (open(entry), entry.seen_at))).collect();
        ages.sort_unstable();
        let cut = ages.get(ages.len() / 16).copied().unwrap_or_default();
        for own in self.keys.values_mut() {
            own.retain(|_, entry| {
                let stale = !open(entry) && entry.seen_at.plus(idle) < now;
                !stale && (open(entry), entry.seen_at) > cut
            });
        }
        self.keys.retain(|_, own| !own.is_empty());
        self.count = self.keys.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(max_sessions: usize) -> Sessions {
        Sessions::new(SessionConfig { max_sessions, ..SessionConfig::default() })
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_800_000_000_000_000 + seconds * 1_000_000)
    }

    #[test]
    fn the_first_thing_that_a_caller_says_names_its_session() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let all = Said { header: Some("h"), metadata: Some("m"), user: Some("u"), traceparent: Some(trace) };
        assert_eq!(all.name().as_deref(), Some("h"));
        assert_eq!(Said { header: Some(""), ..all }.name().as_deref(), Some("metadata:m"));
        assert_eq!(Said { header: None, metadata: None, ..all }.name().as_deref(), Some("user:u"));
        let traced = Said { traceparent: Some(trace), ..Said::default() };
        assert_eq!(traced.name().as_deref(), Some("trace:0af7651916cd43dd8448eb211c80319c"));
        for text in ["", "00", "00-xyz-b7ad6b7169203331-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01"]
        {
            assert_eq!(Said { traceparent: Some(text), ..Said::default() }.name(), None, "{text}");
        }
        let long = "x".repeat(1_000_000);
        assert!(Said { header: Some(&long), ..Said::default() }.name().unwrap().len() <= 128);
        assert!(Said { header: Some("a\nb"), ..Said::default() }.name().unwrap().starts_with("blake3:"));
    }

    #[test]
    fn the_same_name_under_two_keys_is_two_sessions() {
        let sessions = sessions(1_000);
        let name: Arc<str> = "s".into();
        assert_eq!(sessions.enter(&"a".into(), Some(&name), at(0)).unwrap().requests, 0);
        assert_eq!(sessions.enter(&"a".into(), Some(&name), at(1)).unwrap().requests, 1);
        assert_eq!(sessions.enter(&"b".into(), Some(&name), at(2)).unwrap().requests, 0);
        sessions.settle("a", "s", (10, 20), NanoUsd(30));
        let figures = sessions.enter(&"a".into(), Some(&name), at(60)).unwrap();
        assert_eq!((figures.input_tokens, figures.output_tokens, figures.cost.nanos()), (10, 20, 30));
        assert_eq!((figures.requests, figures.age_seconds), (2, 60));
    }

    #[test]
    fn a_caller_that_says_nothing_has_a_session_until_it_pauses() {
        let sessions = sessions(1_000);
        let key: Arc<str> = "a".into();
        let first = sessions.enter(&key, None, at(0)).unwrap();
        assert_eq!(sessions.enter(&key, None, at(1_799)).unwrap().id, first.id);
        assert_eq!(sessions.enter(&key, None, at(1_799 + 1_800)).unwrap().requests, 2);
        let next = sessions.enter(&key, None, at(10_000)).unwrap();
        assert_ne!(next.id, first.id);
        assert_eq!((next.requests, next.age_seconds), (0, 0));
    }

    #[test]
    fn a_session_that_was_ended_refuses_until_its_time_is_over_or_it_is_reset() {
        let sessions = sessions(1_000);
        let (key, name): (Arc<str>, Arc<str>) = ("a".into(), "s".into());
        sessions.enter(&key, Some(&name), at(0)).unwrap();
        assert!(sessions.end("a", "s", at(10)));
        assert!(!sessions.end("b", "s", at(10)));
        let until = at(10 + 86_400);
        assert_eq!(sessions.enter(&key, Some(&name), at(11)), Err(Ended { until }));
        assert_eq!(sessions.enter(&key, Some(&name), at(10 + 86_399)), Err(Ended { until }));
        assert_eq!(sessions.enter(&key, Some(&name), until).unwrap().requests, 0);
        assert!(sessions.end("a", "s", until));
        assert!(sessions.reset("a", "s", until));
        assert_eq!(sessions.enter(&key, Some(&name), until).unwrap().requests, 0);
        assert_eq!(sessions.list(Some("a"), 10).len(), 1);
        assert_eq!(sessions.list(Some("b"), 10), []);
    }

    #[test]
    fn a_flood_of_sessions_does_not_reopen_one_that_was_ended() {
        let sessions = sessions(4_000);
        let (key, name): (Arc<str>, Arc<str>) = ("a".into(), "s".into());
        sessions.enter(&key, Some(&name), at(0)).unwrap();
        sessions.enter(&"quiet".into(), Some(&name), at(0)).unwrap();
        sessions.end("a", "s", at(0));
        for number in 0..5_000 {
            sessions.enter(&key, Some(&format!("{number}").into()), at(1)).unwrap();
        }
        assert!(sessions.list(Some("a"), usize::MAX).len() <= MAX_PER_KEY);
        assert!(sessions.enter(&key, Some(&name), at(2)).is_err());
        assert_eq!(sessions.list(Some("quiet"), 10).len(), 1, "another key is driven out");
        for number in 0..50_000 {
            sessions.enter(&format!("k{number}").into(), Some(&name), at(3)).unwrap();
        }
        assert!(sessions.list(None, usize::MAX).len() <= 4_000 + SHARDS);
        assert!(sessions.enter(&key, Some(&name), at(4)).is_err());
    }

    #[test]
    fn calls_at_once_never_get_the_same_count() {
        let sessions = sessions(1_000);
        let key: Arc<str> = "a".into();
        let counts = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let count = sessions.enter(&key, None, at(0)).unwrap().requests;
                        counts.lock().unwrap().push(count);
                    }
                });
            }
        });
        let mut counts = counts.into_inner().unwrap();
        counts.sort_unstable();
        assert_eq!(counts, (0..2_000).collect::<Vec<u64>>());
    }
}
