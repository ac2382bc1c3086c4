//! What the gate remembers, on each backend.

use std::time::Duration;

use super::Place as Database;
use crate::kavach::memory::{Kind, MemoryStore, Place, Remembered};
use crate::unit::clock::Timestamp;

fn row(kind: Kind, key: &str, name: &str, seen_at: i64) -> Remembered {
    let place = Place { kind, key: key.into(), name: name.into() };
    Remembered { place, seen_at: Timestamp(seen_at), until: None, mark: 0, body: format!("{{\"of\":\"{name}\"}}") }
}

async fn put(store: &dyn MemoryStore, rows: &[Remembered], marks: bool) {
    let places: Vec<Place> = rows.iter().map(|row| row.place.clone()).collect();
    store.change(&places, marks, &mut |_| rows.to_vec()).await.unwrap();
}

fn names(rows: &[Remembered]) -> Vec<&str> {
    rows.iter().map(|row| &*row.place.name).collect()
}

pub async fn what_is_remembered_is_found_again_and_what_is_over_is_forgotten(database: &Database) {
    let store = database.open().await;
    let ended = Remembered { until: Some(Timestamp(900)), ..row(Kind::Session, "k", "ended", 5) };
    let odd = "a \"name\" with % _ ' ☃";
    let rows = [row(Kind::Session, "k", "old", 10), row(Kind::Session, "k", odd, 100), ended.clone()];
    put(&*store, &rows, false).await;
    put(&*store, &[row(Kind::Session, "other", "", 50), row(Kind::Habit, "k", "", 60)], false).await;
    let other = database.open().await;
    let find = async |key: Option<&str>, since: i64, until: i64, limit: usize| {
        let times = (Timestamp(since), Timestamp(until));
        other.remembered(Kind::Session, key, times, limit).await.unwrap()
    };
    assert_eq!(names(&find(None, 50, 500, 10).await), [odd, "", "ended"]);
    assert_eq!(names(&find(Some("k"), 50, 900, 10).await), [odd]);
    assert_eq!(names(&find(None, 0, 0, 2).await), [odd, ""]);
    assert_eq!(find(Some("k"), 0, 500, 10).await[2], ended);
    other.forget_over(Kind::Session, (Timestamp(11), Timestamp(500)), 100).await.unwrap();
    assert_eq!(names(&find(None, 0, 0, 10).await), [odd, "", "ended"]);
    other.forget_over(Kind::Session, (Timestamp(0), Timestamp(500)), 1).await.unwrap();
    assert_eq!(names(&find(None, 0, 0, 10).await), [odd, "ended"]);
    assert_eq!(other.remembered(Kind::Habit, None, (Timestamp(0), Timestamp(0)), 9).await.unwrap().len(), 1);
}

pub async fn an_operators_word_moves_the_generation_and_a_count_does_not(database: &Database) {
    let (store, other) = (database.open().await, database.open().await);
    let before = store.generation().await.unwrap();
    put(&*store, &[row(Kind::Session, "k", "a", 1), row(Kind::Session, "k", "b", 1)], false).await;
    assert_eq!(other.generation().await.unwrap(), before);
    assert_eq!(other.marked(0).await.unwrap(), []);
    put(&*store, &[row(Kind::Session, "k", "b", 2)], true).await;
    let after = other.generation().await.unwrap();
    assert!(after > before);
    let marked = other.marked(before).await.unwrap();
    assert_eq!((names(&marked), marked[0].mark), (vec!["b"], after));
    assert_eq!(other.marked(after).await.unwrap(), []);
    // A word about nothing is none.
    store.change(&[], true, &mut |_| Vec::new()).await.unwrap();
    assert_eq!(other.generation().await.unwrap(), after);
}

pub async fn changes_of_the_same_rows_do_not_cross(database: &Database) {
    let stores = [database.open().await, database.open().await];
    let count = async |store: &dyn MemoryStore| {
        for _ in 0..20 {
            let place = row(Kind::Writer, "w", "", 0).place;
            let mut add = |rows: Vec<Remembered>| {
                let number: u64 = rows.first().map_or(0, |row| row.body.parse().unwrap());
                vec![Remembered { body: (number + 1).to_string(), ..row(Kind::Writer, "w", "", 0) }]
            };
            // A database that is busy for long is asked again, as the gateway does.
            while store.change(std::slice::from_ref(&place), false, &mut add).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::join!(count(&*stores[0]), count(&*stores[1]), count(&*stores[1]));
    let found = stores[0].remembered(Kind::Writer, None, (Timestamp(0), Timestamp(0)), 9).await.unwrap();
    assert_eq!(found[0].body, "60");
}
