use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::*;
use crate::budget::authority::PROTOCOL;
use crate::budget::conformance::conformance;
use crate::ledger::journal::tests::record;
use crate::unit::charge::{Charge, WindowId};
use crate::unit::clock::Tick;

async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("marg.db")).await.unwrap();
    (folder, store)
}

fn charged(charges: Vec<Charge>) -> Line {
    Line::Record(crate::ledger::Record { charges, ..record("/x") })
}

fn total() -> CounterId {
    CounterId { limit: "lim_1".into(), window: WindowId::Total, subject: "a".into() }
}

fn want(counter: &CounterId, cap: i64, need: i64) -> Want {
    Want { counter: counter.clone(), cap, pace: None, need, wish: need, ahead: 0 }
}

fn at(segment: &str, from: u64, to: u64) -> Position {
    Position { segment: segment.into(), from, to }
}

#[tokio::test]
async fn counters_in_sqlite_behave_as_every_authority_must() {
    let (_folder, store) = store().await;
    let counters = store.counters();
    let (taker, numbers) = (counters.clone(), AtomicU64::new(0));
    conformance(Arc::new(counters), async |owner, charges| {
        let segment = format!("{owner}-{:08}.journal", numbers.fetch_add(1, Ordering::Relaxed));
        taker.take(&[charged(charges)], &at(&segment, 0, 7)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn charges_are_taken_with_their_position_or_not_at_all() {
    let (_folder, store) = store().await;
    let counters = store.counters();
    let line = charged(vec![Charge { counter: total(), amount: 5, at: Timestamp::now() }]);
    let segment = "1-2-3.journal";
    for from in [1, 9] {
        let refused = counters.take(std::slice::from_ref(&line), &at(segment, from, 10)).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))));
    }
    counters.take(std::slice::from_ref(&line), &at(segment, 0, 10)).await.unwrap();
    assert!(matches!(counters.take(&[line], &at(segment, 0, 10)).await, Err(StoreError::Conflict(_))));
    assert_eq!(counters.standings(None, 9).await.unwrap()[0].spent, 5);
    assert_eq!((counters.position(segment).await.unwrap(), counters.segments().await.unwrap().len()), (10, 1));
    counters.forget(segment).await.unwrap();
    assert_eq!(counters.position(segment).await.unwrap(), 0);
}

#[tokio::test]
async fn absurd_amounts_neither_overflow_nor_open_a_cap() {
    let (_folder, store) = store().await;
    let counters = store.counters();
    for (number, amount) in [(0, i64::MAX), (1, i64::MAX), (2, -5)] {
        let line = charged(vec![Charge { counter: total(), amount, at: Timestamp(i64::MAX) }]);
        counters.take(&[line], &at("1-2-3.journal", number, number + 1)).await.unwrap();
    }
    let grant = counters.acquire("me", &[want(&total(), i64::MAX, 1)]).await.unwrap().grants[0];
    assert_eq!((grant.granted, grant.spent), (0, i64::MAX));
    let grant = counters.acquire("me", &[want(&total(), i64::MIN, i64::MAX)]).await.unwrap().grants[0];
    assert_eq!(grant.granted, 0);
}

#[tokio::test]
async fn a_minute_slides_by_the_clock_of_the_authority() {
    let (_folder, store) = store().await;
    let clock = Arc::new(AtomicI64::new(1_000_000_000_000_000));
    let hands = clock.clone();
    let counters = store.counters_by(move || Timestamp(hands.load(Ordering::SeqCst)));
    let minute = CounterId { window: WindowId::Sliding { seconds: 60 }, ..total() };
    let start = clock.load(Ordering::SeqCst);
    counters.acquire("9-9", &[want(&minute, 10, 10)]).await.unwrap();
    let line = charged(vec![Charge { counter: minute.clone(), amount: 10, at: Timestamp(start) }]);
    counters.take(&[line], &at("9-9-0.journal", 0, 1)).await.unwrap();
    for (passed, granted) in [(59_999_999, 0), (60_999_999, 0), (61_000_000, 1)] {
        clock.store(start + passed, Ordering::SeqCst);
        let grant = counters.acquire("me", &[want(&minute, 10, 1)]).await.unwrap().grants[0];
        assert_eq!(grant.granted, granted, "{passed}");
        if granted == 0 {
            assert_eq!(grant.retry_after, Some(Duration::from_micros(61_000_000 - passed as u64)));
        }
    }
}

#[tokio::test]
async fn a_snapshot_holds_what_is_spent_and_how_far_the_journals_have_come() {
    let (_folder, store) = store().await;
    let counters = store.counters();
    assert!(counters.snapshot().await.unwrap().is_empty());
    let now = Timestamp::now();
    let minute = CounterId { window: WindowId::Sliding { seconds: 60 }, ..total() };
    let charges =
        [(total(), 5), (minute.clone(), 3)].map(|(counter, amount)| Charge { counter, amount, at: now }).to_vec();
    counters.take(&[charged(charges)], &at("1-2-3.journal", 0, 10)).await.unwrap();
    let mut snapshot = counters.snapshot().await.unwrap();
    snapshot.spent.sort();
    assert_eq!(snapshot.spent, [(minute, vec![(now.seconds(), 3)]), (total(), vec![(0, 5)])]);
    assert_eq!(snapshot.positions, [("1-2-3.journal".to_owned(), 10)]);
}

#[tokio::test]
async fn two_processes_that_race_on_one_file_never_pass_the_cap() {
    let (folder, store) = store().await;
    let other = Store::open(folder.path().join("marg.db")).await.unwrap();
    let race = async |counters: Counters, owner: &'static str| {
        let mut held = 0;
        for _ in 0..60 {
            held += counters.acquire(owner, &[want(&total(), 50, 1)]).await.unwrap().grants[0].granted;
        }
        held
    };
    let (a, b) = tokio::join!(race(store.counters(), "a"), race(other.counters(), "b"));
    assert_eq!(a + b, 50);
}

#[tokio::test]
#[ignore = "a measurement: cargo test --release what_an_acquire_costs -- --ignored --nocapture"]
async fn what_an_acquire_costs() {
    let (_folder, store) = store().await;
    let counters = store.counters();
    let wants: Vec<Want> =
        (0..8).map(|n| want(&CounterId { subject: format!("s{n}").into(), ..total() }, i64::MAX, 1)).collect();
    let start = Tick::now();
    for _ in 0..500 {
        counters.acquire("me", &wants).await.unwrap();
    }
    println!("{:?} for each acquire of 8", start.elapsed() / 500);
}

#[tokio::test]
async fn who_is_older_than_others_on_the_same_counters_gets_no_leases() {
    let (_folder, store) = store().await;
    let (counters, id) = (store.counters(), total());
    let number = async || -> i64 {
        sqlx::query_scalar("SELECT number FROM counter_protocol").fetch_one(&store.readers).await.unwrap()
    };
    sqlx::query("UPDATE counter_protocol SET number = 0").execute(&store.writer).await.unwrap();
    assert_eq!(counters.acquire("a", &[want(&id, 100, 40)]).await.unwrap().grants[0].granted, 40);
    assert_eq!(number().await, PROTOCOL, "a newer one takes over");
    sqlx::query("UPDATE counter_protocol SET number = ?").bind(PROTOCOL + 1).execute(&store.writer).await.unwrap();
    let refused = counters.acquire("a", &[want(&id, 100, 1)]).await.unwrap_err();
    assert!(matches!(refused, StoreError::Outdated { found, known: PROTOCOL } if found == PROTOCOL + 1), "{refused}");
    assert!(refused.to_string().contains("upgrade this instance"), "{refused}");
    assert_eq!(number().await, PROTOCOL + 1);
    counters.release("a", &[(id, 40)]).await.unwrap();
    counters.beat("a").await.unwrap();
}
