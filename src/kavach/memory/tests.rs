//! Between processes and a store that forgets nothing but sometimes does not answer.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::kavach::config::{DriftConfig, SessionConfig};
use crate::kavach::drift::Sighting;

/// A store in memory.
#[derive(Default)]
struct Fake {
    rows: Mutex<HashMap<Place, Remembered>>,
    generation: Mutex<u64>,
    /// Whether it is away, and whether it does what is asked and then says nothing.
    is_away: AtomicBool,
    is_mute: AtomicBool,
}

impl Fake {
    fn answers(&self) -> Result<(), StoreError> {
        let away = || StoreError::Away("away".into());
        if self.is_away.load(Ordering::Relaxed) { Err(away()) } else { Ok(()) }
    }
}

#[async_trait]
impl MemoryStore for Fake {
    async fn remembered(
        &self,
        kind: Kind,
        key: Option<&str>,
        (since, until): (Timestamp, Timestamp),
        limit: usize,
    ) -> Result<Vec<Remembered>, StoreError> {
        self.answers()?;
        let rows = self.rows.lock().unwrap();
        let wanted = |row: &&Remembered| {
            row.place.kind == kind
                && key.is_none_or(|key| *row.place.key == *key)
                && (row.seen_at >= since || row.until.is_some_and(|word| word > until))
        };
        Ok(rows.values().filter(wanted).take(limit).cloned().collect())
    }

    async fn marked(&self, after: u64) -> Result<Vec<Remembered>, StoreError> {
        self.answers()?;
        Ok(self.rows.lock().unwrap().values().filter(|row| row.mark > after).cloned().collect())
    }

    async fn change(&self, places: &[Place], marks: bool, change: Change<'_>) -> Result<(), StoreError> {
        self.answers()?;
        let mut rows = self.rows.lock().unwrap();
        let found = places.iter().filter_map(|place| rows.get(place).cloned()).collect();
        let mut generation = self.generation.lock().unwrap();
        let written = change(found);
        if marks && !written.is_empty() {
            *generation += 1;
        }
        for row in written {
            let mark = if marks { *generation } else { row.mark };
            rows.insert(row.place.clone(), Remembered { mark, ..row });
        }
        if self.is_mute.load(Ordering::Relaxed) { Err(StoreError::Away("no answer".into())) } else { Ok(()) }
    }

    async fn forget_over(&self, _: Kind, _: (Timestamp, Timestamp), _: usize) -> Result<(), StoreError> {
        self.answers()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(1_800_000_000_000_000 + seconds * 1_000_000)
}

fn process(store: &Arc<Fake>, name: &str) -> Memory {
    let drift = DriftConfig { device: true, ..DriftConfig::default() };
    let here = (Arc::new(Sessions::new(SessionConfig::default())), Arc::new(Drift::new(drift)));
    Memory::new(store.clone(), here, name.into())
}

fn enter(memory: &Memory, now: i64) -> Option<u64> {
    memory.sessions.enter(&"key".into(), Some(&"s".into()), at(now)).ok().map(|figures| figures.requests)
}

fn device(memory: &Memory, device: &str, now: i64) -> u8 {
    let sighting = Sighting { device: Some(device), ..Sighting::default() };
    memory.drift.score(&"key".into(), &sighting, at(now)).device
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_not_counted_twice() {
    let store = Arc::<Fake>::default();
    let memory = process(&store, "one");
    enter(&memory, 0);
    enter(&memory, 1);
    store.is_mute.store(true, Ordering::Relaxed);
    assert!(memory.flush(at(2)).await.is_err());
    enter(&memory, 3);
    assert!(memory.flush(at(4)).await.is_err());
    store.is_mute.store(false, Ordering::Relaxed);
    memory.flush(at(5)).await.unwrap();
    assert_eq!(enter(&memory, 6), Some(3));
    memory.flush(at(7)).await.unwrap();
    let found = sessions(&*store, None, (at(8), Duration::from_secs(60)), 10).await.unwrap();
    assert_eq!(found[0].figures.requests, 4);
}

#[tokio::test]
async fn while_the_store_is_away_everything_goes_on_as_it_is_known_here() {
    let store = Arc::<Fake>::default();
    let memory = process(&store, "one");
    enter(&memory, 0);
    memory.flush(at(1)).await.unwrap();
    store.is_away.store(true, Ordering::Relaxed);
    for second in 2..10 {
        assert_eq!(enter(&memory, second), Some(second as u64 - 1));
        assert!(memory.flush(at(second)).await.is_err());
    }
    store.is_away.store(false, Ordering::Relaxed);
    memory.flush(at(10)).await.unwrap();
    let next = process(&store, "two");
    next.load(0, at(11)).await.unwrap();
    assert_eq!(enter(&next, 12), Some(9));
}

#[tokio::test]
async fn an_operators_word_reaches_every_process_and_the_next_one() {
    let store = Arc::<Fake>::default();
    let (one, other) = (process(&store, "one"), process(&store, "other"));
    enter(&one, 0);
    enter(&other, 0);
    one.flush(at(1)).await.unwrap();
    assert!(!act(&*store, ("key", "none"), Act::EndUntil(at(100))).await.unwrap());
    assert!(act(&*store, ("key", "s"), Act::EndUntil(at(100))).await.unwrap());
    other.take_marks(at(2)).await.unwrap();
    assert_eq!(enter(&other, 3), None);
    let next = process(&store, "next");
    next.load(0, at(90)).await.unwrap();
    assert_eq!(enter(&next, 91), None);
    assert!(act(&*store, ("key", "s"), Act::ResetAt(at(92))).await.unwrap());
    for memory in [&other, &next] {
        memory.take_marks(at(92)).await.unwrap();
        assert_eq!(enter(memory, 93), Some(0));
    }
}

#[tokio::test]
async fn habits_are_shared_kept_and_forgotten_everywhere() {
    let store = Arc::<Fake>::default();
    let (one, other) = (process(&store, "one"), process(&store, "other"));
    assert_eq!(device(&one, "laptop", 0), 0);
    one.share_habits(at(0), false).await.unwrap();
    other.load(0, at(1)).await.unwrap();
    assert_eq!((device(&other, "laptop", 2), device(&other, "phone", 3)), (0, 95));
    forget(&*store, "key", at(4)).await.unwrap();
    // What a process had learned before it heard of that does not come back by it.
    one.share_habits(at(40), true).await.unwrap();
    for memory in [&one, &other] {
        memory.take_marks(at(41)).await.unwrap();
    }
    assert_eq!(device(&other, "phone", 42), 0);
    other.share_habits(at(80), true).await.unwrap();
    let next = process(&store, "next");
    next.load(0, at(81)).await.unwrap();
    assert_eq!((device(&next, "phone", 82), device(&next, "laptop", 83)), (0, 95));
}
