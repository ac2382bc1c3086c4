use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::budget::conformance::conformance;
use crate::ledger::journal::tests::record;
use crate::store::Address;
use crate::store::testing::{database, pooled_database};
use crate::unit::charge::Charge;

fn charged(charges: Vec<Charge>) -> Line {
    Line::Record(crate::ledger::Record { charges, ..record("/x") })
}

fn total() -> CounterId {
    CounterId { limit: "lim_1".into(), window: WindowId::Total, subject: "a".into() }
}

fn at(segment: &str, from: u64, to: u64) -> Position {
    Position { segment: segment.into(), from, to }
}

async fn counters(address: &Address) -> Counters {
    Counters(Store::open(address).await.unwrap().0)
}

async fn conforms(address: Address) {
    let counters = counters(&address).await;
    let (taker, numbers) = (counters.clone(), AtomicU64::new(0));
    conformance(Arc::new(counters), async |owner, charges| {
        let segment = format!("{owner}-{:08}.journal", numbers.fetch_add(1, Ordering::Relaxed));
        taker.take(&[charged(charges)], &at(&segment, 0, 7)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn counters_in_postgres_behave_as_every_authority_must() {
    conforms(database()).await;
}

#[tokio::test]
async fn counters_behind_a_pooler_behave_as_every_authority_must() {
    conforms(pooled_database()).await;
}

#[tokio::test]
async fn charges_are_taken_with_their_position_or_not_at_all() {
    let counters = counters(&database()).await;
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
    let snapshot = counters.snapshot().await.unwrap();
    assert_eq!((snapshot.spent, snapshot.positions), (vec![(total(), vec![(0, 5)])], vec![(segment.to_owned(), 10)]));
    counters.forget(segment).await.unwrap();
    assert_eq!(counters.position(segment).await.unwrap(), 0);
}

#[tokio::test]
async fn processes_that_race_for_a_counter_that_is_not_there_never_pass_the_cap() {
    let address = database();
    let race = async |owner: &'static str| {
        let (counters, mut held) = (counters(&address).await, 0);
        for _ in 0..30 {
            let want = Want { counter: total(), cap: 50, pace: None, need: 1, wish: 1 };
            held += counters.acquire(owner, &[want]).await.unwrap().grants[0].granted;
        }
        held
    };
    let (a, b, c) = tokio::join!(race("a"), race("b"), race("c"));
    assert_eq!(a + b + c, 50);
}
