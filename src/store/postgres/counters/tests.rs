use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::budget::authority::{PROTOCOL, Pace};
use crate::budget::conformance::conformance;
use crate::ledger::journal::tests::record;
use crate::store::Address;
use crate::store::testing::{database, pooled_database};
use crate::unit::charge::{Charge, WindowId};

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
            let want = Want { counter: total(), cap: 50, pace: None, need: 1, wish: 1, ahead: 0 };
            held += counters.acquire(owner, &[want]).await.unwrap().grants[0].granted;
        }
        held
    };
    let (a, b, c) = tokio::join!(race("a"), race("b"), race("c"));
    assert_eq!(a + b + c, 50);
}

/// Numbers that look like chance and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % most
    }
}

/// A counter as the functions keep it, beside one that the program reckons by itself.
struct Twin {
    counters: Counters,
    mirror: BTreeMap<CounterId, Counter>,
    dice: Dice,
    segments: u64,
}

impl Twin {
    fn ids(now: Timestamp) -> Vec<CounterId> {
        let hour = now.seconds() - now.seconds() % 3_600;
        let windows = [
            WindowId::Total,
            WindowId::Now,
            WindowId::Sliding { seconds: 60 },
            WindowId::Sliding { seconds: 3 },
            WindowId::Calendar { from: hour - 3_600, until: hour + 7_200 },
            WindowId::Calendar { from: hour - 7_200, until: hour - 3_600 },
        ];
        let id = |window, subject: &str| CounterId { limit: "lim_1".into(), window, subject: subject.into() };
        let paced = CounterId { limit: "lim_2".into(), ..id(WindowId::Sliding { seconds: 60 }, "p") };
        windows.into_iter().flat_map(|window| [id(window, "a'\\"), id(window, "b")]).chain([paced]).collect()
    }

    async fn acquire(&mut self, ids: &[CounterId], owner: &str) {
        let count = 1 + self.dice.below(4);
        let wants: Vec<Want> = (0..count)
            .map(|_| {
                let counter = ids[usize::try_from(self.dice.below(i64::try_from(ids.len()).unwrap())).unwrap()].clone();
                let need = self.dice.below(12);
                let paced = &*counter.limit == "lim_2";
                let pace = paced.then_some(Pace { burst: 30, period: Duration::from_millis(60_000) });
                let cap = if paced { 600_000 } else { 100 + self.dice.below(20) };
                Want { counter, cap, pace, need, wish: need + self.dice.below(30), ahead: self.dice.below(20) }
            })
            .collect();
        let answer = self.counters.acquire(owner, &wants).await.unwrap();
        for (want, grant) in wants.iter().zip(&answer.grants) {
            let known = self.mirror.contains_key(&want.counter);
            let mut counter = self.mirror.get(&want.counter).cloned().unwrap_or_default();
            assert_eq!(counter.acquire(owner, want, answer.now), *grant, "{want:?}");
            if known || crate::budget::counter::holds(want.counter.window, answer.now) {
                self.mirror.insert(want.counter.clone(), counter);
            }
        }
    }

    async fn charge(&mut self, ids: &[CounterId], owner: &str, now: Timestamp) {
        let mut charges = Vec::new();
        for id in ids.iter().filter(|_| self.dice.below(5) == 0).cloned().collect::<Vec<_>>() {
            let at = now.minus(Duration::from_secs(u64::try_from(1 + self.dice.below(70)).unwrap()));
            let amount = self.dice.below(9);
            charges.push(Charge { counter: id.clone(), amount, at });
            if id.window != WindowId::Now {
                self.mirror.entry(id.clone()).or_default().charge(owner, id.window, amount, at);
            }
        }
        self.segments += 1;
        let segment = format!("{owner}-{:08}.journal", self.segments);
        self.counters.take(&[charged(charges)], &at(&segment, 0, 9)).await.unwrap();
    }

    async fn release(&mut self, ids: &[CounterId], owner: &str) {
        let picked: Vec<&CounterId> = ids.iter().filter(|_| self.dice.below(4) == 0).collect();
        let parts: Vec<(CounterId, i64)> = picked.into_iter().map(|id| (id.clone(), 7)).collect();
        self.counters.release(owner, &parts).await.unwrap();
        for (id, amount) in parts {
            if let Some(counter) = self.mirror.get_mut(&id) {
                counter.release(owner, amount);
            }
        }
    }

    /// Both are the same, and so is the list of who holds leases.
    async fn compare(&self) {
        let rows = sqlx::query("SELECT id, state FROM counter").fetch_all(&self.counters.0.pool).await.unwrap();
        let kept: BTreeMap<CounterId, Counter> =
            rows.iter().map(|row| (identify(&row.word("id").unwrap()).unwrap(), read(row).unwrap())).collect();
        assert_eq!(kept, self.mirror);
        for owner in ["o1", "o2", "o3"] {
            let listed: BTreeSet<CounterId> = self.counters.leased_by(owner).await.unwrap().into_iter().collect();
            let held = self.mirror.iter().filter(|(_, counter)| counter.lease(owner) > 0).map(|(id, _)| id.clone());
            assert_eq!(listed, held.collect());
        }
    }
}

#[tokio::test]
async fn the_functions_reckon_as_the_program_does() {
    for seed in 0..4 {
        let counters = counters(&database()).await;
        let mut twin = Twin { counters, mirror: BTreeMap::new(), dice: Dice(seed), segments: 0 };
        let now = twin.counters.beat("o1").await.unwrap().now;
        let ids = Twin::ids(now);
        for _ in 0..150 {
            let owner = ["o1", "o2", "o3"][usize::try_from(twin.dice.below(3)).unwrap()];
            match twin.dice.below(5) {
                0 => twin.charge(&ids, owner, now).await,
                1 => twin.release(&ids, owner).await,
                _ => twin.acquire(&ids, owner).await,
            }
            twin.compare().await;
        }
    }
}

/// What a clock that ran ahead for two days has written.
async fn run_ahead(counters: &Counters, now: Timestamp) {
    let write = format!(
        "UPDATE counter SET state = (state::jsonb
            || CASE WHEN kind = 's' AND limit_id = 'lim_1' THEN '{{\"buckets\": {{\"{0}\": 3, \"{1}\": 4, \"{2}\": 5}}}}' ELSE '{{}}' END::jsonb
            || '{{\"wanted\": {{\"o3\": {3}}}}}'
            || CASE WHEN limit_id = 'lim_2' THEN jsonb_build_object('flow', (state::jsonb -> 'flow') || '{{\"at\": {3}}}')
               ELSE '{{}}' END)::text",
        now.seconds() - 30,
        now.seconds() + 172_800,
        now.seconds() + 172_801,
        now.micros() + 172_800_000_000,
    );
    sqlx::query(sqlx::AssertSqlSafe(write)).execute(&counters.0.pool).await.unwrap();
}

#[tokio::test]
async fn what_a_clock_that_ran_ahead_wrote_is_reckoned_as_the_program_does() {
    let counters = counters(&database()).await;
    let mut twin = Twin { counters, mirror: BTreeMap::new(), dice: Dice(9), segments: 0 };
    let now = twin.counters.beat("o1").await.unwrap().now;
    let ids: Vec<CounterId> =
        Twin::ids(now).into_iter().filter(|id| !matches!(id.window, WindowId::Calendar { .. })).collect();
    for _ in 0..20 {
        twin.acquire(&ids, "o1").await;
    }
    run_ahead(&twin.counters, now).await;
    assert_eq!(twin.counters.beat("o1").await.unwrap().recalled, []);
    let rows = sqlx::query("SELECT id, state FROM counter").fetch_all(&twin.counters.0.pool).await.unwrap();
    twin.mirror = rows.iter().map(|row| (identify(&row.word("id").unwrap()).unwrap(), read(row).unwrap())).collect();
    let minute = ids.iter().find(|id| id.window == WindowId::Sliding { seconds: 60 } && &*id.limit == "lim_1").unwrap();
    let cap = 12 + twin.mirror[minute].leased();
    let want = Want { counter: minute.clone(), cap, pace: None, need: 1, wish: 1, ahead: 0 };
    let refused = twin.counters.acquire("o2", std::slice::from_ref(&want)).await.unwrap();
    assert_eq!(refused.grants[0].spent, 12);
    assert!(refused.grants[0].retry_after.is_some_and(|wait| wait < Duration::from_secs(62)), "{refused:?}");
    twin.mirror.get_mut(minute).unwrap().acquire("o2", &want, refused.now);
    for _ in 0..40 {
        twin.acquire(&ids, "o2").await;
        twin.compare().await;
    }
}

/// Calls in all orders on the same counters, and one that deletes them meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_on_the_same_counters_never_block_each_other_for_ever() {
    let address = database();
    let id = |number: i64| CounterId { subject: number.to_string().into(), ..total() };
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..6 {
        let counters = counters(&address).await;
        tasks.spawn(async move {
            let (owner, mut dice) = (format!("o{seed}"), Dice(seed));
            for round in 0..40_u64 {
                let picked: Vec<CounterId> = (0..20).map(|_| id(dice.below(40))).collect();
                let want = |counter: &CounterId| Want {
                    counter: counter.clone(),
                    cap: 1_000,
                    pace: None,
                    need: 1,
                    wish: 1,
                    ahead: 0,
                };
                let wants: Vec<Want> = picked.iter().map(want).collect();
                let answer = counters.acquire(&owner, &wants).await.unwrap();
                assert!(answer.grants.iter().all(|grant| grant.granted == 1));
                let charge = |id: &CounterId| Charge { counter: id.clone(), amount: 1, at: answer.now };
                let segment = format!("{owner}-{round:08}.journal");
                let line = charged(picked.iter().take(10).map(charge).collect());
                counters.take(&[line], &at(&segment, 0, 5)).await.unwrap();
                let rest: Vec<(CounterId, i64)> = picked.into_iter().skip(10).map(|id| (id, 1)).collect();
                counters.release(&owner, &rest).await.unwrap();
                if round % 10 == 0 {
                    counters.tidy(Duration::from_secs(3_600)).await.unwrap();
                    counters.adjust(&id(dice.below(40)), 0).await.unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
    let standings = counters(&address).await.standings(None, 100).await.unwrap();
    assert_eq!(standings.iter().map(|standing| standing.spent).sum::<i64>(), 6 * 40 * 10);
    assert!(standings.iter().all(|standing| standing.leases.is_empty()), "{standings:?}");
}

/// Stands between a process and the server, and counts what the process sends.
async fn counting_relay(server: String) -> (u16, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, sent) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
    let counted = sent.clone();
    drop(crate::telemetry::task::spawn("relay", async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, sent) = (tokio::net::TcpStream::connect(&server).await.unwrap(), counted.clone());
            drop(crate::telemetry::task::spawn("relay", relay(client, server, sent)));
        }
    }));
    (port, sent)
}

async fn relay(client: tokio::net::TcpStream, server: tokio::net::TcpStream, sent: Arc<AtomicU64>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    drop(crate::telemetry::task::spawn("relay", async move {
        drop(tokio::io::copy(&mut from_server, &mut to_client).await);
    }));
    let mut piece = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from_client.read(&mut piece).await {
        // A connection that goes back to the pool is looked at: a Sync alone, for which no caller waits.
        if piece[..count] != [b'S', 0, 0, 0, 4] {
            sent.fetch_add(1, Ordering::SeqCst);
        }
        if to_server.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}

/// The fewest messages of several tries: a connection may be new.
async fn fewest(sent: &AtomicU64, mut call: impl AsyncFnMut()) -> u64 {
    let mut fewest = u64::MAX;
    for _ in 0..5 {
        let before = sent.load(Ordering::SeqCst);
        call().await;
        fewest = fewest.min(sent.load(Ordering::SeqCst) - before);
    }
    fewest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_callers_wait_for_is_one_round_trip_with_a_pooler_and_without() {
    for address in [database(), pooled_database()] {
        let (before, after) = address.url.expose().rsplit_once(':').unwrap();
        let (port, name) = after.split_once('/').unwrap();
        let (relayed, sent) = counting_relay(format!("127.0.0.1:{port}")).await;
        let url = crate::unit::secret::Secret::new(format!("{before}:{relayed}/{name}"));
        let counters = counters(&Address { url, listen_url: None, pooler: true, ..address.clone() }).await;
        let want = Want { counter: total(), cap: 1_000, pace: None, need: 2, wish: 2, ahead: 0 };
        let wants = [want.clone(), Want { counter: CounterId { subject: "b".into(), ..total() }, ..want }];
        assert_eq!(fewest(&sent, async || drop(counters.acquire("o", &wants).await.unwrap())).await, 1, "acquire");
        assert_eq!(fewest(&sent, async || counters.release("o", &[(total(), 1)]).await.unwrap()).await, 1, "release");
        assert_eq!(fewest(&sent, async || drop(counters.beat("o").await.unwrap())).await, 1, "heartbeat");
        let mut number = 0;
        let take = async || {
            number += 1;
            let charges = vec![Charge { counter: total(), amount: 1, at: Timestamp::now() }; 3];
            let lines = [charged(charges.clone()), charged(charges)];
            counters.take(&lines, &at(&format!("o-{number:08}.journal"), 0, 7)).await.unwrap();
        };
        assert_eq!(fewest(&sent, take).await, 1, "charges");
    }
}

#[tokio::test]
async fn who_is_older_than_others_on_the_same_counters_gets_no_leases() {
    let counters = counters(&database()).await;
    let want = |need| [Want { counter: total(), cap: 100, pace: None, need, wish: need, ahead: 0 }];
    let set = async |number: i64| {
        let statement = sqlx::query("UPDATE counter_protocol SET number = $1").bind(number);
        statement.execute(&counters.0.pool).await.unwrap();
    };
    let number = async || -> i64 {
        sqlx::query_scalar("SELECT number FROM counter_protocol").fetch_one(&counters.0.pool).await.unwrap()
    };
    set(0).await;
    assert_eq!(counters.acquire("a", &want(40)).await.unwrap().grants[0].granted, 40);
    assert_eq!(number().await, PROTOCOL, "a newer one takes over");
    set(PROTOCOL + 1).await;
    let refused = counters.acquire("a", &want(1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Outdated { found, known: PROTOCOL } if found == PROTOCOL + 1), "{refused}");
    assert_eq!(number().await, PROTOCOL + 1);
    counters.release("a", &[(total(), 40)]).await.unwrap();
    counters.beat("a").await.unwrap();
}
