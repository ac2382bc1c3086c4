//! The ledger.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use tokio::sync::watch;
use uuid::Uuid;

use super::Place;
use crate::error::StoreError;
use crate::ledger::query::{Filter, Group, LedgerStore, Order, Position, StatusFilter, Summary};
use crate::ledger::record::{Verdict, VerdictGround};
use crate::ledger::{
    Amendment, Attempt, AttemptEnd, Correction, Feeder, FeederSettings, Journal, JournalSettings, Line, Outcome,
    Record, Takers,
};
use crate::store::Backend;
use crate::telemetry::task;
use crate::unit::charge::Charge;
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;
use crate::unit::id::ExchangeId;
use crate::unit::money::{NanoUsd, PriceRef};
use crate::unit::raw::Raw;
use crate::unit::usage::{Images, ServiceTier, Usage, UsageSource};

pub fn record(started_at: i64) -> Record {
    Record {
        operation: "chat".to_owned(),
        method: "POST".to_owned(),
        path: "/v1/chat/completions".to_owned(),
        status: 200,
        outcome: Outcome::Answered,
        ..Record::blank(ExchangeId::new(), Timestamp(started_at))
    }
}

/// Writes records as one batch of a segment of their own.
pub async fn write(store: &dyn LedgerStore, records: &[Record]) -> u64 {
    let lines: Vec<Line> = records.iter().cloned().map(Line::Record).collect();
    let position = Position { segment: Uuid::now_v7().to_string().into(), from: 0, to: 1 };
    store.write_batch(&lines, &position).await.unwrap()
}

pub async fn started(store: &dyn LedgerStore, filter: Filter) -> Vec<i64> {
    let page = store.find(&filter).await.unwrap();
    page.records.iter().map(|record| record.started_at.0).collect()
}

prop_compose! {
    fn usages()(counts in vec(prop_oneof![Just(0), 0..1_000_000_u64, Just(i64::MAX as u64)], 10)) -> Usage {
        Usage {
            input: counts[0],
            cache_read: counts[1],
            cache_write_5m: counts[2],
            cache_write_1h: counts[3],
            input_audio: counts[4],
            input_image: counts[5],
            output: counts[6],
            reasoning: counts[7],
            output_audio: counts[8],
            output_image: counts[9],
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z]{1,8}", any::<String>(), Just("a\0b'\";--".to_owned())]
}

fn shared() -> impl Strategy<Value = Option<Arc<str>>> {
    of(text().prop_map(Into::into))
}

prop_compose! {
    fn attempts()(
        provider in text(),
        model in text(),
        credential in of(any::<u32>()),
        status in of(any::<u16>()),
        error in of(text()),
        permit in of(text()),
        started_us in any::<u64>(),
    ) -> Attempt {
        let (end, duration_us) = (AttemptEnd::RateLimited, 5);
        Attempt { provider: provider.into(), model, credential, permit, end, status, error, started_us, duration_us }
    }
}

type Names =
    (Option<Arc<str>>, Option<Arc<str>>, Option<Arc<str>>, Option<Arc<str>>, Option<Arc<str>>, Option<Arc<str>>);
type Texts = (
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);
type Money = (Option<Usage>, Option<bool>, Option<i64>, Option<(String, String, Option<String>)>);

prop_compose! {
    fn records()(
        id in any::<[u8; 16]>(),
        started_at in 0..i64::MAX,
        names in (shared(), shared(), shared(), shared(), shared(), shared()),
        texts in (text(), text(), text(), of(text()), of(text()), of(text()), of(text()), of(text()), of(text())),
        (stream, status, outcome) in (any::<bool>(), any::<u16>(), 0..6_usize),
        money in (of(usages()), of(any::<bool>()), of(any::<i64>()), of((text(), text(), of(text())))),
        numbers in (0..i64::MAX as u64, of(0..i64::MAX as u64), 0..i64::MAX as u64, 0..1_000_000_u64),
        attempts in vec(attempts(), 0..4),
    ) -> Record {
        let (key_id, org, team, user, provider, route): Names = names;
        let (operation, method, path, request_id, address, model_requested, model_served, reason, error): Texts = texts;
        let (usage, reported, cost, price): Money = money;
        let (duration_us, ttft_us, bytes_in, bytes_out) = numbers;
        let outcomes = [
            Outcome::Answered,
            Outcome::Refused,
            Outcome::UpstreamFailed,
            Outcome::UpstreamCut,
            Outcome::ClientGone,
            Outcome::Withdrawn,
            Outcome::Interrupted,
        ];
        Record {
            id: ExchangeId(Uuid::from_bytes(id)),
            started_at: Timestamp(started_at),
            request_id, operation, method, path, address,
            key_id, org, team, user, model_requested, model_served, provider, route, stream, status,
            outcome: outcomes[outcome],
            reason, error, usage,
            usage_source: reported.map(|yes| if yes { UsageSource::Reported } else { UsageSource::Estimated }),
            service_tier: reported.map(|yes| if yes { ServiceTier::Flex } else { ServiceTier::Standard }),
            cost: cost.map(NanoUsd),
            price: price.map(|(source, name, effective)| PriceRef { source: source.into(), name, effective }),
            duration_us, ttft_us, bytes_in, bytes_out, attempts,
            tags: vec!["a".into(), "b \"c\"".into()], session: Some("s".into()),
            verdict: Some(Verdict {
                mode: "enforce".into(),
                verdict: "deny".into(),
                real: "deny".into(),
                deciding: vec![VerdictGround { policy: "caps".into(), reason: Some("too \"long\"".into()) }],
                would_refuse: Vec::new(),
                set: "0123456789abcdef".into(),
                dropped: 2,
                call: Some(Raw::parse("{\"action\": \"chat\"}".to_owned()).unwrap()),
            }),
            images: stream.then(|| Images { count: bytes_in, size: Some("1024x1024".to_owned()), quality: None }),
            charges: vec![Charge { counter: "lim_1|t|team".parse().unwrap(), amount: i64::MAX, at: Timestamp(3) }],
            commitments: None,
        }
    }
}

/// As a database may keep it: PostgreSQL has no NUL in text.
fn kept(record: &Record) -> Record {
    let json = serde_json::to_string(record).unwrap();
    // What is a list is kept as JSON, which has a way to write it.
    let mut kept: Record = serde_json::from_str(&json.replace("\\u0000", "\u{fffd}")).unwrap();
    kept.attempts.clone_from(&record.attempts);
    kept
}

pub fn a_whole_record_survives_the_database(runtime: &tokio::runtime::Runtime, place: &Place, cases: u32) {
    let store = runtime.block_on(place.open());
    proptest!(ProptestConfig::with_cases(cases), |(records in vec(records(), 1..90))| {
        runtime.block_on(async {
            prop_assert_eq!(write(&*store, &records).await, records.len() as u64);
            for record in &records {
                let read = LedgerStore::get(&*store, record.id).await.unwrap().unwrap();
                prop_assert!(read == *record || read == kept(record), "{:?} {:?}", read, record);
            }
            Ok(())
        })?;
    });
}

/// Twelve records: every filter finds the one that stands out for it.
pub async fn varied(store: &dyn LedgerStore) {
    let text = |text: &str| Some(text.to_owned());
    let failed = Record { status: 502, outcome: Outcome::UpstreamFailed, ..record(8) };
    let records = [
        Record { key_id: Some("key_1".into()), ..record(1) },
        Record { org: Some("acme".into()), ..record(2) },
        Record { team: Some("web".into()), ..record(3) },
        Record { user: Some("ann".into()), ..record(4) },
        Record { model_requested: text("gpt-4o"), ..record(5) },
        Record { model_served: text("gpt-4o"), model_requested: text("best[1]"), ..record(6) },
        Record { provider: Some("groq".into()), ..record(7) },
        failed,
        Record { status: 429, outcome: Outcome::Refused, ..record(9) },
        Record { operation: "embeddings".to_owned(), ..record(10) },
        Record { status: 0, outcome: Outcome::ClientGone, ..record(11) },
        Record { status: 404, outcome: Outcome::Answered, ..record(12) },
    ];
    write(store, &records).await;
}

pub async fn a_count_beyond_the_range_is_stored_as_its_end(place: &Place) {
    let store = place.open().await;
    let usage = Usage { output: u64::MAX, ..Usage::default() };
    let huge = Record { usage: Some(usage), bytes_in: u64::MAX, cost: Some(NanoUsd(i64::MAX)), ..record(1) };
    write(&*store, &[huge.clone(), Record { id: ExchangeId::new(), ..huge.clone() }]).await;
    let read = ledger(&store).get(huge.id).await.unwrap().unwrap();
    assert_eq!((read.usage.unwrap().output, read.bytes_in), (i64::MAX as u64, i64::MAX as u64));
    // And it does not make sums overflow.
    let sums = ledger(&store).summarize(&Filter::default()).await.unwrap();
    assert_eq!((sums.records, sums.output_tokens), (2, 2_000_000_000_000));
}

pub async fn a_batch_from_the_wrong_position_changes_nothing(place: &Place) {
    let store = place.open().await;
    let ledger = ledger(&store);
    let at = |from, to| Position { segment: "s".into(), from, to };
    let line = |started_at| [Line::Record(record(started_at))];
    assert!(matches!(ledger.write_batch(&line(1), &at(5, 9)).await, Err(StoreError::Conflict(_))));
    assert_eq!(ledger.position("s").await.unwrap(), 0);
    assert_eq!(ledger.write_batch(&line(2), &at(0, 10)).await.unwrap(), 1);
    assert!(matches!(ledger.write_batch(&line(3), &at(0, 10)).await, Err(StoreError::Conflict(_))));
    assert!(matches!(ledger.write_batch(&line(4), &at(9, 12)).await, Err(StoreError::Conflict(_))));
    assert_eq!(ledger.write_batch(&[], &at(10, 10)).await.unwrap(), 0);
    assert_eq!(ledger.write_batch(&line(5), &at(10, 20)).await.unwrap(), 1);
    assert_eq!((ledger.position("s").await.unwrap(), ledger.segments().await.unwrap()), (20, vec!["s".to_owned()]));
    assert_eq!(started(&*store, Filter::default()).await, [5, 2]);
    ledger.forget("s").await.unwrap();
    ledger.forget("s").await.unwrap();
    assert_eq!(ledger.position("s").await.unwrap(), 0);
}

pub async fn a_record_that_is_there_is_not_stored_again(place: &Place) {
    let store = place.open().await;
    let first = record(1);
    assert_eq!(write(&*store, std::slice::from_ref(&first)).await, 1);
    let again = Record { status: 500, ..first.clone() };
    assert_eq!(write(&*store, &[again, record(2)]).await, 1);
    assert_eq!(ledger(&store).get(first.id).await.unwrap(), Some(first));
}

pub async fn an_amendment_sets_usage_and_cost_and_nothing_else(place: &Place) {
    let store = place.open().await;
    let first = Record { bytes_out: 7, ..record(1) };
    let usage = Usage { input: 3, output: 4, ..Usage::default() };
    let price = PriceRef { source: "overlay".into(), name: "openai/gpt-4o".to_owned(), effective: None };
    let amend = |id, correction| {
        let (usage_source, cost, price) = (UsageSource::Estimated, Some(NanoUsd(9)), Some(price.clone()));
        Line::Amend(Amendment { id, usage, usage_source, cost, price, charges: Vec::new(), correction })
    };
    let charges = vec![Charge { counter: "lim_1|t|team".parse().unwrap(), amount: 9, at: Timestamp(3) }];
    let correction = Some(Correction { at: Timestamp(8), charges: charges.clone() });
    let second = record(2);
    let lines = [
        Line::Record(first.clone()),
        amend(first.id, None),
        amend(ExchangeId::new(), None),
        Line::Record(second.clone()),
        amend(second.id, correction),
    ];
    assert!(lines.iter().all(|line| line.charges().is_empty()), "a correction moves counters apart from the journal");
    let position = Position { segment: "s".into(), from: 0, to: 9 };
    assert_eq!(ledger(&store).write_batch(&lines, &position).await.unwrap(), 2);
    assert_eq!(ledger(&store).get(second.id).await.unwrap().unwrap().charges, charges);
    let expected = Record {
        usage: Some(usage),
        usage_source: Some(UsageSource::Estimated),
        cost: Some(NanoUsd(9)),
        price: Some(price.clone()),
        ..first.clone()
    };
    assert_eq!(ledger(&store).get(first.id).await.unwrap(), Some(expected));
}

pub async fn every_filter_finds_what_it_names_and_nothing_else(place: &Place) {
    let store = place.open().await;
    varied(&*store).await;
    let text = |text: &str| Some(text.to_owned());
    let model = |pattern: &str| Some(Glob::new(pattern).unwrap());
    let all = Filter::default;
    let cases = [
        (Filter { since: Some(Timestamp(3)), until: Some(Timestamp(5)), ..all() }, vec![4, 3]),
        (Filter { key_id: text("key_1"), ..all() }, vec![1]),
        (Filter { key_id: text("key_1' OR '1'='1"), ..all() }, vec![]),
        (Filter { org: text("acme"), ..all() }, vec![2]),
        (Filter { team: text("web"), ..all() }, vec![3]),
        (Filter { user: text("ann"), ..all() }, vec![4]),
        (Filter { model: model("gpt-4o"), ..all() }, vec![6, 5]),
        (Filter { model: model("GPT-4o"), ..all() }, vec![]),
        (Filter { model: model("gpt-?o"), ..all() }, vec![6, 5]),
        (Filter { model: model("best[1]"), ..all() }, vec![6]),
        (Filter { model: model("*[1]"), ..all() }, vec![6]),
        (Filter { model: model("*[!a]*"), ..all() }, vec![]),
        (Filter { provider: text("groq"), ..all() }, vec![7]),
        (Filter { status: Some(StatusFilter::Exact(429)), ..all() }, vec![9]),
        (Filter { status: Some(StatusFilter::Exact(0)), ..all() }, vec![11]),
        (Filter { status: Some(StatusFilter::Class(4)), ..all() }, vec![12, 9]),
        (Filter { outcome: Some(Outcome::Refused), ..all() }, vec![9]),
        (Filter { errors_only: true, ..all() }, vec![11, 9, 8]),
        (Filter { errors_only: true, order: Order::OldestFirst, limit: 2, ..all() }, vec![8, 9]),
        (Filter { operation: text("embeddings"), ..all() }, vec![10]),
        (Filter { team: text("web"), user: text("ann"), ..all() }, vec![]),
        (Filter { order: Order::OldestFirst, limit: 3, ..all() }, vec![1, 2, 3]),
        (Filter { order: Order::Arrival, limit: 0, ..all() }, vec![1]),
    ];
    for (filter, expected) in cases {
        assert_eq!(started(&*store, filter.clone()).await, expected, "{filter:?}");
        if filter.limit == 100 {
            let summary = ledger(&store).summarize(&filter).await.unwrap();
            assert_eq!(summary.records, expected.len() as u64, "{filter:?}");
        }
    }
}

pub async fn sums_count_errors_tokens_and_cost(place: &Place) {
    let store = place.open().await;
    let usage = Usage { input: 1, cache_read: 2, output: 10, reasoning: 20, ..Usage::default() };
    let paid = |cost| Record { usage: Some(usage), cost: Some(NanoUsd(cost)), ..record(1) };
    let free =
        |provider: Option<&str>, status| Record { provider: provider.map(Into::into), status, cost: None, ..record(2) };
    let interrupted = Record { outcome: Outcome::Interrupted, ..free(None, 0) };
    write(&*store, &[paid(5), paid(-2), interrupted]).await;
    let summary = ledger(&store).summarize(&Filter::default()).await.unwrap();
    let costs = Summary { cost: NanoUsd(3), priced: 2, ..Summary::default() };
    let expected = Summary { records: 3, errors: 1, input_tokens: 6, output_tokens: 60, ..costs };
    assert_eq!((summary, summary.known_cost()), (expected, Some(NanoUsd(3))));
    // Served without a price, refused by its provider, counted though it failed.
    let team = |record| Record { team: Some("unpriced".into()), ..record };
    let counted = Record { usage: Some(usage), ..free(Some("p"), 500) };
    write(&*store, &[team(free(Some("p"), 200)), team(free(Some("p"), 429)), team(counted)]).await;
    let of_team = Filter { team: Some("unpriced".to_owned()), ..Filter::default() };
    let summary = ledger(&store).summarize(&of_team).await.unwrap();
    assert_eq!((summary.priced, summary.unpriced, summary.known_cost()), (0, 2, None), "what is not known is not zero");
    let refused = Filter { status: Some(StatusFilter::Exact(429)), ..of_team };
    let summary = ledger(&store).summarize(&refused).await.unwrap();
    assert_eq!((summary.unpriced, summary.known_cost()), (0, Some(NanoUsd::ZERO)));
    let top = ledger(&store).top(&Filter::default(), Group::Team, 10).await.unwrap();
    let unpriced = top.iter().find(|one| one.name.as_deref() == Some("unpriced")).unwrap();
    assert_eq!((unpriced.sums.unpriced, unpriced.sums.known_cost()), (2, None));
    let none = Filter { org: Some("nobody".to_owned()), ..Filter::default() };
    assert_eq!(ledger(&store).summarize(&none).await.unwrap(), Summary::default());
}

pub async fn pages_neither_repeat_nor_miss_a_record_while_others_arrive(place: &Place) {
    for order in [Order::NewestFirst, Order::OldestFirst] {
        let place = place.fresh();
        let store = place.open().await;
        // Ten at each of ten times, so that pages end between equals.
        let there: Vec<Record> = (0..100).map(|n| record(1_000 + n / 10)).collect();
        write(&*store, &there).await;
        let mut filter = Filter { order, limit: 7, ..Filter::default() };
        let mut seen = Vec::new();
        loop {
            let page = ledger(&store).find(&filter).await.unwrap();
            seen.extend(page.records.iter().map(|record| record.id));
            // Before, among and after what is being read.
            write(&*store, &[record(1), record(1_003), record(1_007), record(9_999)]).await;
            match page.next {
                None => break,
                next => filter.after = next,
            }
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "{order:?}: no record appears twice");
        assert!(there.iter().all(|record| once.binary_search(&record.id).is_ok()), "{order:?}: none is missed");
    }
}

pub async fn a_follower_sees_a_long_exchange_that_started_before_what_it_has_seen(place: &Place) {
    let store = place.open().await;
    write(&*store, &[record(1)]).await;
    let mut filter =
        Filter { order: Order::Arrival, after: Some(ledger(&store).end().await.unwrap()), ..Filter::default() };
    let nothing = ledger(&store).find(&filter).await.unwrap();
    assert_eq!((nothing.records.len(), nothing.next), (0, filter.after));
    write(&*store, &[record(100)]).await;
    let page = ledger(&store).find(&filter).await.unwrap();
    assert_eq!(page.records[0].started_at, Timestamp(100));
    filter.after = page.next;
    write(&*store, &[record(50)]).await;
    assert_eq!(started(&*store, filter).await, [50]);
}

pub async fn numbers_of_deleted_records_are_never_given_again(place: &Place) {
    let store = place.open().await;
    write(&*store, &[record(1), record(2)]).await;
    let end = ledger(&store).end().await.unwrap();
    assert_eq!(ledger(&store).delete_before(Timestamp(10), 10).await.unwrap(), 2);
    assert_eq!(ledger(&store).end().await.unwrap().number, 0);
    write(&*store, &[record(20)]).await;
    let filter = Filter { order: Order::Arrival, after: Some(end), ..Filter::default() };
    assert_eq!(started(&*store, filter).await, [20]);
}

pub async fn retention_deletes_the_oldest_first_and_at_most_as_many_as_asked(place: &Place) {
    let store = place.open().await;
    let records: Vec<Record> = [5, 3, 1, 4, 2, 6].map(record).into();
    write(&*store, &records).await;
    assert_eq!(ledger(&store).delete_before(Timestamp(6), 2).await.unwrap(), 2);
    assert_eq!(started(&*store, Filter::default()).await, [6, 5, 4, 3]);
    assert_eq!(ledger(&store).delete_before(Timestamp(6), 100).await.unwrap(), 3);
    assert_eq!(ledger(&store).delete_before(Timestamp(6), 100).await.unwrap(), 0);
    assert_eq!(started(&*store, Filter::default()).await, [6]);
}

pub async fn a_batch_of_any_size_goes_in_whole(place: &Place) {
    let store = place.open().await;
    for size in [0, 1, 3, 4, 15, 16, 17, 63, 64, 65, 149, 512] {
        let records: Vec<Record> = (0..size).map(record).collect();
        assert_eq!(write(&*store, &records).await, size as u64);
    }
}

pub async fn journal_feeder_and_database_together_store_each_record_once(place: &Place) {
    let store = place.open().await;
    let bounds = JournalSettings { segment_bytes: 20_000, max_bytes: 1 << 30 };
    let settings = FeederSettings {
        batch_rows: 50,
        batch_delay: Duration::from_millis(2),
        sync_interval: Duration::from_millis(5),
        retention: None,
    };
    let start = || {
        let journal = Arc::new(Journal::open(place.folder.path().join("journal"), bounds).unwrap());
        let feeder = Feeder::new(journal.clone(), Takers::ledger_only(store.clone()), settings);
        let (stop, stopped) = watch::channel(false);
        let handle = feeder.handle();
        (journal, handle, stop, task::spawn("feeder", feeder.run(stopped)))
    };
    // Two at once, as during an upgrade.
    let running = [start(), start()];
    let writers = running.iter().map(|(journal, ..)| {
        let journal = journal.clone();
        tokio::task::spawn_blocking(move || {
            for n in 0..400 {
                journal.append(&Line::Record(record(n))).unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for (_, handle, stop, task) in running {
        handle.flush().await.unwrap();
        stop.send_replace(true);
        task.await.unwrap();
        assert_eq!(handle.state().rows, 400);
    }
    assert_eq!(ledger(&store).summarize(&Filter::default()).await.unwrap().records, 800);
    let left = std::fs::read_dir(place.folder.path().join("journal")).unwrap();
    assert!(left.map(|entry| entry.unwrap().metadata().unwrap().len()).all(|bytes| bytes == 0));
    ledger(&store).sync().await.unwrap();
}

fn ledger(store: &Arc<dyn Backend>) -> &dyn LedgerStore {
    &**store
}
