//! What the gate remembers beyond this process: sessions, and the habits of keys.
//!
//! Judging works from memory alone. Once a second what was counted goes to the store as one batch, off the path of calls, and
//! what all processes together counted comes back; so figures of a session that is used on several processes at once lag by
//! at most that second and a write (limits with the scope `session` are exact: the authority counts them). An act of an
//! operator moves the generation of the store, so every process takes it within a second, as it does a suspension. A batch
//! has a number that is kept with it, so one whose answer was lost is not counted twice; a process that is killed loses the
//! last second of its figures. While the store is away everything goes on as it is known here.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::kavach::drift::{Drift, Habit};
use crate::kavach::session::{Known, Part, Session, Sessions};
use crate::unit::clock::Timestamp;

/// The most sessions, or keys, in one batch.
const BATCH: usize = 500;
/// How long the habits of a key are kept after its last call.
const HABITS_FOR: Duration = Duration::from_secs(30 * 86_400);
/// How often what is over is deleted.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How long the number of a writer's last batch is kept.
const WRITERS_FOR: Duration = Duration::from_secs(86_400);

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A session: the key, and what the caller calls it (empty for one that it does not name).
    Session,
    /// The habits of a key.
    Habit,
    /// The number of the last batch of a process.
    Writer,
}

impl Kind {
    /// The word for it in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Habit => "habit",
            Self::Writer => "writer",
        }
    }
}

/// Which row is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// What it is about.
    pub kind: Kind,
    /// The key's id; the name of the process for [`Kind::Writer`].
    pub key: Arc<str>,
    /// What tells it from others of the key; may be empty.
    pub name: Arc<str>,
}

/// A row: what is remembered, in JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Remembered {
    /// Which it is.
    pub place: Place,
    /// When it was last used.
    pub seen_at: Timestamp,
    /// Until when an operator's word about it counts, if there is one.
    pub until: Option<Timestamp>,
    /// The generation in which an operator changed it; 0 if none ever did.
    pub mark: u64,
    /// The rest, at most some kilobytes of JSON.
    pub body: String,
}

/// What is to be done with the rows of some places: gets those that are there, gives those that are to be written.
pub type Change<'a> = &'a mut (dyn FnMut(Vec<Remembered>) -> Vec<Remembered> + Send);

/// Where it is kept. Every method does I/O and fails with [`StoreError::Away`] when the store cannot be reached.
#[async_trait]
pub trait MemoryStore: Send + Sync {
    /// The rows of a kind, the latest first: those of a key or of all, seen since, or with a word that counts beyond `until`.
    async fn remembered(
        &self,
        kind: Kind,
        key: Option<&str>,
        (since, until): (Timestamp, Timestamp),
        limit: usize,
    ) -> Result<Vec<Remembered>, StoreError>;

    /// The rows that operators changed after that generation; the latest mark is not above the present generation.
    async fn marked(&self, after: u64) -> Result<Vec<Remembered>, StoreError>;

    /// Reads the rows of these places (at most 1,000), changes them and writes what comes of it, in one transaction that no
    /// other change crosses. `marks` says that an operator does it: the generation moves on, and is the mark of what is
    /// written. The change may be asked again if the transaction has to be.
    async fn change(&self, places: &[Place], marks: bool, change: Change<'_>) -> Result<(), StoreError>;

    /// Deletes the rows of a kind that were not seen since and whose word is over by `until`, and the oldest of those without
    /// a word beyond a number.
    async fn forget_over(&self, kind: Kind, over: (Timestamp, Timestamp), most: usize) -> Result<(), StoreError>;
}

/// Carries what is remembered between this process and the store.
pub struct Memory {
    store: Arc<dyn MemoryStore>,
    /// The sessions here.
    pub sessions: Arc<Sessions>,
    /// The habits here.
    pub drift: Arc<Drift>,
    writer: Arc<str>,
    turn: tokio::sync::Mutex<Turn>,
}

/// What only one may do at a time.
#[derive(Default)]
struct Turn {
    /// The number of the batch below.
    number: u64,
    /// A batch that the store has not confirmed.
    pending: Vec<Part>,
    /// Whether what others remembered was read.
    loaded: bool,
    /// The generation up to which operators' words are known.
    mark: u64,
    pruned_at: Timestamp,
}

impl Memory {
    /// Between that store and what this process knows. `writer` names this life of this process.
    pub fn new(store: Arc<dyn MemoryStore>, (sessions, drift): (Arc<Sessions>, Arc<Drift>), writer: Arc<str>) -> Self {
        Self { store, sessions, drift, writer, turn: tokio::sync::Mutex::default() }
    }

    /// Takes in what the processes before this one remembered; `generation` is one that was read before.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn load(&self, generation: u64, now: Timestamp) -> Result<(), StoreError> {
        self.read_all(now).await?;
        let mut turn = self.turn.lock().await;
        (turn.loaded, turn.mark) = (true, generation);
        Ok(())
    }

    async fn read_all(&self, now: Timestamp) -> Result<(), StoreError> {
        let config = self.sessions.config();
        let since = now.minus(Duration::from_millis(config.idle_ms));
        let rows = self.store.remembered(Kind::Session, None, (since, now), config.max_sessions).await?;
        self.sessions.adopt(&rows.iter().rev().filter_map(known).collect::<Vec<_>>(), now);
        if self.drift.is_on() {
            let since = now.minus(HABITS_FOR);
            let rows =
                self.store.remembered(Kind::Habit, None, (since, Timestamp(i64::MAX)), self.drift.max_keys()).await?;
            for row in rows.iter().rev() {
                self.drift.adopt(&row.place.key, row.seen_at, read(row));
            }
        }
        Ok(())
    }

    /// Writes what was counted of sessions, and learns what others counted of them. One write for each 500 sessions that were
    /// used since the last time; none if none was.
    ///
    /// # Errors
    /// Those of the store; the batch is sent again by the next call.
    pub async fn flush(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut turn = self.turn.lock().await;
        loop {
            if turn.pending.is_empty() {
                turn.pending = self.sessions.collect(BATCH);
                turn.number += 1;
            }
            if turn.pending.is_empty() {
                break;
            }
            let known = self.send(&turn, now).await?;
            self.sessions.settle_batch(&std::mem::take(&mut turn.pending), &known);
        }
        if turn.pruned_at.plus(PRUNE_EVERY) < now {
            turn.pruned_at = now;
            self.prune(now).await?;
        }
        Ok(())
    }

    async fn send(&self, turn: &Turn, now: Timestamp) -> Result<Vec<Option<Known>>, StoreError> {
        let idle = Duration::from_millis(self.sessions.config().idle_ms);
        let writer = Place { kind: Kind::Writer, key: Arc::clone(&self.writer), name: "".into() };
        let places: Vec<Place> = turn.pending.iter().map(|part| part.place()).chain([writer.clone()]).collect();
        let mut result = Vec::new();
        let mut change = |rows: Vec<Remembered>| {
            let last = rows.iter().find(|row| row.place == writer).map_or(0, read::<u64>);
            let find = |part: &Part| rows.iter().find(|row| row.place == part.place()).and_then(known);
            if last >= turn.number {
                // It was written; only the answer was lost.
                result = turn.pending.iter().map(find).collect();
                return Vec::new();
            }
            result = turn.pending.iter().map(|part| Known::with(find(part), part, idle)).collect();
            let number =
                Remembered { place: writer.clone(), seen_at: now, until: None, mark: 0, body: turn.number.to_string() };
            result.iter().flatten().map(remembered).chain([number]).collect()
        };
        self.store.change(&places, false, &mut change).await?;
        Ok(result)
    }

    /// Writes what was learned of keys, and learns what others did: at most 500 keys, each not more often than every 30
    /// seconds unless it is the end. A key's habits are joined, so nothing is learned twice.
    ///
    /// # Errors
    /// Those of the store; what was learned is sent again by a later call.
    pub async fn share_habits(&self, now: Timestamp, is_end: bool) -> Result<(), StoreError> {
        loop {
            let learned = self.drift.collect(BATCH, now, is_end);
            if learned.is_empty() {
                return Ok(());
            }
            let places: Vec<Place> = learned.iter().map(|(key, ..)| habit_place(key)).collect();
            let mut joined: Vec<(Arc<str>, Timestamp, Habit)> = Vec::new();
            let mut change = |rows: Vec<Remembered>| {
                joined.clear();
                let mut written = Vec::new();
                for (key, seen_at, mine) in &learned {
                    let row = rows.iter().find(|row| *row.place.key == **key);
                    let (theirs, mark) = row.map_or((None, 0), |row| (Some(read::<Habit>(row)), row.mark));
                    let habit = theirs.map_or_else(|| mine.clone(), |theirs| theirs.join(mine));
                    let seen_at = row.map_or(*seen_at, |row| row.seen_at.max(*seen_at));
                    written.push(Remembered {
                        place: habit_place(key),
                        seen_at,
                        until: None,
                        mark,
                        body: text(&habit),
                    });
                    joined.push((Arc::clone(key), seen_at, habit));
                }
                written
            };
            let done = self.store.change(&places, false, &mut change).await;
            if let Err(error) = done {
                self.drift.keep_unsaved(learned.iter().map(|(key, ..)| key));
                return Err(error);
            }
            for (key, seen_at, habit) in joined {
                self.drift.adopt(&key, seen_at, habit);
            }
        }
    }

    /// Takes what operators said anywhere since the last time, and before that what was remembered, if [`load`](Self::load) could
    /// not be done yet. Call it when the generation has moved.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn take_marks(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut turn = self.turn.lock().await;
        if !turn.loaded {
            self.read_all(now).await?;
            turn.loaded = true;
        }
        let rows = self.store.marked(turn.mark).await?;
        for row in &rows {
            match row.place.kind {
                Kind::Session => self.sessions.adopt(known(row).as_slice(), now),
                Kind::Habit => self.drift.adopt(&row.place.key, row.seen_at, read(row)),
                Kind::Writer => {}
            }
        }
        turn.mark = rows.iter().map(|row| row.mark).fold(turn.mark, u64::max);
        Ok(())
    }

    async fn prune(&self, now: Timestamp) -> Result<(), StoreError> {
        let config = self.sessions.config();
        let idle = now.minus(Duration::from_millis(config.idle_ms));
        self.store.forget_over(Kind::Session, (idle, now), config.max_sessions).await?;
        self.store.forget_over(Kind::Habit, (now.minus(HABITS_FOR), now), self.drift.max_keys()).await?;
        self.store.forget_over(Kind::Writer, (now.minus(WRITERS_FOR), now), usize::MAX).await
    }
}

/// The sessions that are remembered, the latest first: those used within `idle`, and those that an operator ended.
///
/// # Errors
/// Those of the store.
pub async fn sessions(
    store: &dyn MemoryStore,
    key: Option<&str>,
    (now, idle): (Timestamp, Duration),
    limit: usize,
) -> Result<Vec<Session>, StoreError> {
    let rows = store.remembered(Kind::Session, key, (now.minus(idle), now), limit).await?;
    Ok(rows.iter().filter_map(known).map(Session::from).collect())
}

/// What an operator does to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Its calls are refused until then.
    EndUntil(Timestamp),
    /// Its figures are nothing, as if it began then, and it is not ended any more.
    ResetAt(Timestamp),
}

/// Does something to a session, for every process. Says whether it was there.
///
/// # Errors
/// Those of the store.
pub async fn act(store: &dyn MemoryStore, (key, id): (&str, &str), act: Act) -> Result<bool, StoreError> {
    let place = |name: &str| Place { kind: Kind::Session, key: key.into(), name: name.into() };
    let mut is_there = false;
    let mut change = |rows: Vec<Remembered>| {
        let found = rows.iter().filter_map(known).find(|known| *known.id == *id);
        is_there = found.is_some();
        found.map(|known| remembered(&known.after(act))).into_iter().collect()
    };
    store.change(&[place(id), place("")], true, &mut change).await?;
    Ok(is_there)
}

/// Forgets what was learned of a key, for every process.
///
/// # Errors
/// Those of the store.
pub async fn forget(store: &dyn MemoryStore, key: &str, now: Timestamp) -> Result<(), StoreError> {
    let place = habit_place(&key.into());
    let mut change = |rows: Vec<Remembered>| {
        let habit = rows.first().map_or_else(Habit::default, read).forgotten();
        vec![Remembered { place: place.clone(), seen_at: now, until: None, mark: 0, body: text(&habit) }]
    };
    store.change(std::slice::from_ref(&place), true, &mut change).await
}

fn habit_place(key: &Arc<str>) -> Place {
    Place { kind: Kind::Habit, key: Arc::clone(key), name: "".into() }
}

/// What a body says; nothing at all if it is none of this program's, since what is remembered is never worth a failure.
fn read<T: DeserializeOwned + Default>(row: &Remembered) -> T {
    serde_json::from_str(&row.body).unwrap_or_default()
}

fn text(value: &impl Serialize) -> String {
    // Numbers, texts and lists always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

fn known(row: &Remembered) -> Option<Known> {
    let place = (Arc::clone(&row.place.key), Arc::clone(&row.place.name));
    Some(Known {
        place,
        seen_at: row.seen_at,
        ended_until: row.until,
        mark: row.mark,
        ..serde_json::from_str(&row.body).ok()?
    })
}

fn remembered(known: &Known) -> Remembered {
    let (key, name) = known.place.clone();
    Remembered {
        place: Place { kind: Kind::Session, key, name },
        seen_at: known.seen_at,
        until: known.ended_until,
        mark: known.mark,
        body: text(known),
    }
}

impl Part {
    fn place(&self) -> Place {
        let (key, name) = self.place.clone();
        Place { kind: Kind::Session, key, name }
    }
}

#[cfg(test)]
mod tests;
