//! Pricing rows of the ledger again, and what that moves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::json;

use super::Place;
use crate::catalog::stored::{PriceRow, StoredPrice};
use crate::catalog::{Catalog, Pricing};
use crate::error::StoreError;
use crate::ledger::journal::Line;
use crate::ledger::query::{Filter, LedgerStore, Position};
use crate::ledger::reprice::{Adjust, Job, Report, Repriced, deliver, run};
use crate::store::Backend;
use crate::unit::charge::CounterId;
use crate::unit::clock::Timestamp;
use crate::unit::money::{NanoUsd, PriceRef};

/// Counters in memory, which may be away.
#[derive(Default)]
struct Counters {
    spent: Mutex<HashMap<String, i64>>,
    away_after: Mutex<Option<u32>>,
}

#[async_trait]
impl Adjust for Counters {
    async fn money_limits(&self) -> Result<HashSet<Arc<str>>, StoreError> {
        Ok(["lim_usd".into()].into())
    }

    async fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn adjust(&self, counter: &CounterId, delta: i64) -> Result<(), StoreError> {
        if let Some(left) = &mut *self.away_after.lock().unwrap() {
            *left = left.checked_sub(1).ok_or_else(|| StoreError::Away("the authority is away".into()))?;
        }
        *self.spent.lock().unwrap().entry(counter.to_string()).or_default() += delta;
        Ok(())
    }
}

/// A minute of 2026-11-01.
fn at(minute: i64) -> i64 {
    Timestamp::parse("2026-11-01T00:00:00Z").unwrap().0 + minute * 60_000_000
}

fn record(minute: i64, cost: i64, charges: &[(&str, i64)]) -> Line {
    let charges: Vec<_> = charges.iter().map(|(counter, n)| json!({"c": counter, "n": n, "t": at(minute)})).collect();
    let record = json!({
        "id": crate::unit::id::ExchangeId::new(), "started_at": at(minute), "operation": "chat", "method": "POST",
        "path": "/", "model_requested": "m", "provider": "p", "team": "web", "key_id": "key_1", "status": 200,
        "outcome": "answered", "usage": {"input": 1_000_000, "output": 0}, "cost": cost, "duration_us": 1, "bytes_in": 1,
        "bytes_out": 1, "charges": charges, "attempts": [
            {"provider": "p", "model": "m", "end": "served", "status": 200, "started_us": 1, "duration_us": 2}],
    });
    Line::Record(serde_json::from_value(record).unwrap())
}

fn pricing(input_usd: f64) -> Pricing {
    let rates = [("input".to_owned(), input_usd), ("output".to_owned(), 1.0)].into();
    let row = PriceRow { model: "m".to_owned(), usd_per_million_tokens: Some(rates), ..PriceRow::default() };
    let stored = [StoredPrice::new(row, "test", Timestamp(0))];
    let catalog = Catalog::load(None).unwrap().with_stored(&stored).unwrap();
    Pricing { catalog: Arc::new(catalog), providers: BTreeMap::from([("p".to_owned(), None)]) }
}

async fn store(place: &Place, lines: &[Line]) -> Arc<dyn Backend> {
    let store = place.open().await;
    store.write_batch(lines, &Position { segment: "s".into(), from: 0, to: 1 }).await.unwrap();
    store
}

async fn apply(store: &Arc<dyn Backend>, counters: &Counters, pricing: &Pricing) -> Result<Report, StoreError> {
    let job = Job { filter: Filter::default(), apply: true, by: "tok_1".to_owned(), now: Timestamp(at(30)) };
    run(&**store, &**store, counters, pricing, job).await
}

/// 100 dollars instead of 1: a decimal point was forgotten.
const WRONG: i64 = 100_000_000_000;
const RIGHT: i64 = 1_000_000_000;

pub async fn a_corrected_price_gives_a_user_the_money_back(place: &Place) {
    let day = "lim_usd|c1793491200-1793577600|web";
    let lines: Vec<Line> = (0..5).map(|minute| record(minute, WRONG, &[(day, WRONG), ("lim_tok|t|web", 7)])).collect();
    let store = store(place, &lines).await;
    let counters = Counters::default();
    counters.spent.lock().unwrap().insert(day.to_owned(), 5 * WRONG);
    let report = apply(&store, &counters, &pricing(1.0)).await.unwrap();
    assert_eq!((report.changed, report.difference_nano_usd), (5, 5 * (RIGHT - WRONG)));
    assert_eq!(counters.spent.lock().unwrap()[day], 5 * RIGHT);
    assert_eq!(counters.spent.lock().unwrap().len(), 1, "a limit of tokens is not moved");
    for record in LedgerStore::find(&*store, &Filter::default()).await.unwrap().records {
        assert_eq!(record.cost, Some(NanoUsd(RIGHT)));
        assert_eq!(record.charges.iter().map(|charge| charge.amount).collect::<Vec<_>>(), [RIGHT, 7]);
    }
    let again = apply(&store, &counters, &pricing(1.0)).await.unwrap();
    assert_eq!((again.changed, counters.spent.lock().unwrap()[day]), (0, 5 * RIGHT));
}

pub async fn windows_that_are_over_are_not_moved(place: &Place) {
    // An hour that ended, a minute that slid away, what runs at present, and for ever.
    let counters = Counters::default();
    let charges = [("lim_usd|c1793487600-1793491200|a", WRONG), ("lim_usd|s60|a", WRONG), ("lim_usd|t|a", WRONG)];
    let store = store(place, &[record(0, WRONG, &charges)]).await;
    let report = apply(&store, &counters, &pricing(1.0)).await.unwrap();
    assert_eq!(report.counters.len(), 1);
    assert_eq!(*counters.spent.lock().unwrap(), HashMap::from([("lim_usd|t|a".to_owned(), RIGHT - WRONG)]));
}

pub async fn counters_move_once_although_the_authority_was_away(place: &Place) {
    let lines = [record(0, WRONG, &[("lim_usd|t|a", WRONG)]), record(1, WRONG, &[("lim_usd|t|b", WRONG)])];
    let store = store(place, &lines).await;
    let counters = Counters { away_after: Mutex::new(Some(1)), ..Counters::default() };
    assert!(matches!(apply(&store, &counters, &pricing(1.0)).await, Err(StoreError::Away(_))));
    *counters.away_after.lock().unwrap() = None;
    // The one that was interrupted may or may not have been made: it is told, and not made again.
    let report = apply(&store, &counters, &pricing(1.0)).await.unwrap();
    assert_eq!((report.changed, report.uncertain.len()), (0, 1));
    assert_eq!(report.uncertain[0].name, "lim_usd|t|b");
    assert_eq!(*counters.spent.lock().unwrap(), HashMap::from([("lim_usd|t|a".to_owned(), RIGHT - WRONG)]));
    assert!(deliver(&*store, &counters).await.unwrap().is_empty());
}

pub async fn a_row_that_changed_in_the_meantime_is_left_alone(place: &Place) {
    let store = store(place, &[record(0, WRONG, &[("lim_usd|t|a", WRONG)])]).await;
    let id = LedgerStore::find(&*store, &Filter::default()).await.unwrap().records[0].id;
    let price = PriceRef { source: "test".into(), name: "p/m".to_owned(), effective: None };
    let counter: CounterId = "lim_usd|t|a".parse().unwrap();
    let row = Repriced {
        id,
        before: Some(NanoUsd(1)),
        cost: NanoUsd(2),
        price,
        charges: Vec::new(),
        moves: vec![(counter, 1)],
    };
    assert_eq!(store.reprice("rpc_x", &[row]).await.unwrap(), []);
    assert!(store.adjustments().await.unwrap().is_empty());
    assert_eq!(LedgerStore::get(&*store, id).await.unwrap().unwrap().cost, Some(NanoUsd(WRONG)));
}

pub async fn what_has_no_price_now_keeps_its_cost(place: &Place) {
    let store = store(place, &[record(0, WRONG, &[])]).await;
    let none = Pricing { catalog: Arc::new(Catalog::load(None).unwrap()), providers: BTreeMap::new() };
    let report = apply(&store, &Counters::default(), &none).await.unwrap();
    assert_eq!((report.records, report.unpriced, report.changed), (1, 1, 0));
}
