use super::*;
use crate::budget::authority::{Authority, PROTOCOL, Want};
use crate::budget::conformance::conformance;
use crate::ledger::journal::tests::record;
use crate::ledger::query::Position;
use crate::ledger::{Consumer, Line};
use crate::store::Store;
use crate::store::testing::redis_server::RedisServer;
use crate::unit::charge::{Charge, CounterId, WindowId};
use crate::unit::clock::Timestamp;

/// A time limit for what must happen some time.
const SOON: Duration = Duration::from_secs(20);

struct Bench {
    _folder: tempfile::TempDir,
    store: Store,
    /// Not that of a gateway: machines that run tests stand still now and then.
    settings: RedisSettings,
}

impl Bench {
    async fn new(urls: Vec<String>, mode: RedisMode) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("marg.db")).await.unwrap();
        let settings = RedisSettings {
            urls: urls.into_iter().map(Secret::new).collect(),
            mode,
            authorities: None,
            prefix: "marg".to_owned(),
            request_timeout: Duration::from_secs(2),
            background_timeout: Duration::from_secs(5),
        };
        Self { _folder: folder, store, settings }
    }

    /// A process of its own, with a connection and with counters in force.
    async fn process(&self) -> RedisCounters {
        let redis = Redis::open(self.settings.clone()).unwrap();
        timeout(SOON, redis.connected()).await.unwrap();
        let counters = RedisCounters::new(redis, Arc::new(self.store.counters()));
        soon(async || counters.beat("nobody").await.ok()).await;
        counters
    }

    /// Takes a charge as the feeder does: to the database and to Redis.
    async fn charge(&self, counters: &RedisCounters, segment: &str, (from, to): (u64, u64), amount: i64) {
        let charges = vec![Charge { counter: total(), amount, at: Timestamp::now() }];
        let line = [Line::Record(crate::ledger::Record { charges, ..record("/x") })];
        let position = Position { segment: segment.into(), from, to };
        self.store.counters().take(&line, &position).await.unwrap();
        counters.take(&line, &position).await.unwrap();
    }
}

/// Tries until it comes.
async fn soon<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let tries = async {
        loop {
            if let Some(done) = attempt().await {
                return done;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, tries).await.expect("it never came")
}

fn total() -> CounterId {
    CounterId { limit: "lim_1".into(), window: WindowId::Total, subject: "a".into() }
}

fn want(cap: i64, need: i64) -> [Want; 1] {
    [Want { counter: total(), cap, pace: None, need, wish: need, ahead: 0 }]
}

#[tokio::test]
async fn counters_in_redis_behave_as_every_authority_must() {
    let server = RedisServer::start();
    let bench = Bench::new(vec![server.url()], RedisMode::Standalone).await;
    let counters = bench.process().await;
    let (taker, numbers) = (counters.clone(), AtomicU64::new(0));
    conformance(Arc::new(counters), async |owner, charges| {
        let segment = format!("{owner}-{:08}.journal", numbers.fetch_add(1, Ordering::Relaxed));
        let line = Line::Record(crate::ledger::Record { charges, ..record("/x") });
        taker.take(&[line], &Position { segment: segment.into(), from: 0, to: 7 }).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_a_clock_that_ran_ahead_wrote_counts_from_now_on() {
    const AHEAD: &str = "for _, key in ipairs(redis.call('KEYS', '*c:*')) do \
        redis.call('HSET', key, 'b:' .. ARGV[1], '3', 'b:' .. ARGV[2], '4', 'b:' .. (ARGV[2] + 1), '5', \
                   'w:1-2', ARGV[2] .. '000000') end return {'OK'}";
    let server = RedisServer::start();
    let bench = Bench::new(vec![server.url()], RedisMode::Standalone).await;
    let counters = bench.process().await;
    let minute = CounterId { window: WindowId::Sliding { seconds: 60 }, ..total() };
    let want = |need| [Want { counter: minute.clone(), cap: 13, pace: None, need, wish: need, ahead: 0 }];
    assert_eq!(counters.acquire("1-1", &want(1)).await.unwrap().grants[0].granted, 1);
    let now = counters.beat("1-1").await.unwrap().now.seconds();
    let seconds = [(now - 30).to_string(), (now + 172_800).to_string()];
    let redis = Redis::open(bench.settings.clone()).unwrap();
    timeout(SOON, redis.connected()).await.unwrap();
    redis.run(&Script::new(AHEAD), &seconds, SOON).await.unwrap();
    assert_eq!(counters.beat("1-1").await.unwrap().recalled, [], "nobody waits for two days");
    for _ in 0..2 {
        let refused = counters.acquire("1-3", &want(1)).await.unwrap().grants[0];
        assert_eq!((refused.granted, refused.spent, refused.leased), (0, 12, 1));
        assert!(refused.retry_after.is_some_and(|wait| wait < Duration::from_secs(62)), "{refused:?}");
    }
    counters.adjust(&minute, -9).await.unwrap();
    assert_eq!(counters.acquire("1-3", &want(1)).await.unwrap().grants[0].spent, 3);
}

#[tokio::test]
async fn charges_are_taken_with_their_position_or_not_at_all() {
    let server = RedisServer::start();
    let bench = Bench::new(vec![server.url()], RedisMode::Standalone).await;
    let counters = bench.process().await;
    let charges = vec![Charge { counter: total(), amount: 5, at: Timestamp::now() }];
    let line = [Line::Record(crate::ledger::Record { charges, ..record("/x") })];
    let position = |from, to| Position { segment: "1-2-3.journal".into(), from, to };
    assert!(matches!(counters.take(&line, &position(3, 10)).await, Err(StoreError::Conflict(_))));
    counters.take(&line, &position(0, 10)).await.unwrap();
    assert!(matches!(counters.take(&line, &position(0, 10)).await, Err(StoreError::Conflict(_))));
    assert_eq!(counters.standings(None, 9).await.unwrap()[0].spent, 5);
    assert_eq!(counters.position("1-2-3.journal").await.unwrap(), 10);
    assert_eq!(counters.segments().await.unwrap(), ["1-2-3.journal"]);
    counters.forget("1-2-3.journal").await.unwrap();
    assert_eq!(counters.position("1-2-3.journal").await.unwrap(), 0);
}

#[tokio::test]
async fn amounts_beyond_what_doubles_hold_never_pass_the_cap() {
    let server = RedisServer::start();
    let bench = Bench::new(vec![server.url()], RedisMode::Standalone).await;
    let counters = bench.process().await;
    let cap = (1 << 60) + 1;
    let mut held = 0;
    for need in [1 << 59, 1 << 58, (1 << 58) - 5_000, 4_096, 903, 1, 1] {
        held += counters.acquire("1-1", &want(cap, need)).await.unwrap().grants[0].granted;
    }
    assert!(held <= cap && held >= cap - 8_192, "{held} of {cap}");
    for (from, amount) in [(0, i64::MAX), (1, i64::MAX)] {
        bench.charge(&counters, "1-1-0.journal", (from, from + 1), amount).await;
    }
    let grant = counters.acquire("1-1", &want(i64::MAX, 1)).await.unwrap().grants[0];
    assert_eq!((grant.granted, grant.spent), (0, i64::MAX));
}

#[tokio::test]
async fn eight_processes_that_race_share_a_cap_to_the_last_unit() {
    let server = RedisServer::start();
    let bench = Bench::new(vec![server.url()], RedisMode::Standalone).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let counters = bench.process().await;
        tasks.spawn(async move {
            let owner = format!("7-{number}");
            let mut held = 0;
            for _ in 0..100 {
                held += counters.acquire(&owner, &want(500, 1)).await.unwrap().grants[0].granted;
            }
            held
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<i64>(), 500);
}

/// What a test does to a server so that it forgets everything.
async fn a_loss_is_made_good(lose: impl FnOnce(&mut RedisServer)) {
    let mut server = RedisServer::start();
    let bench = Bench::new(vec![server.url()], RedisMode::Standalone).await;
    let (one, two) = (bench.process().await, bench.process().await);
    assert_eq!(one.acquire("1-1", &want(100, 50)).await.unwrap().grants[0].granted, 50);
    bench.charge(&one, "1-1-0.journal", (0, 10), 20).await;

    lose(&mut server);
    // 20 are spent and 30 held: 51 must not be had, whatever was lost.
    let refused = soon(async || {
        // The other process declares what it holds with its next heartbeat.
        drop(one.beat("1-1").await);
        two.acquire("2-2", &want(100, 51)).await.ok()
    });
    let refused = refused.await.grants[0];
    assert_eq!((refused.granted, refused.spent, refused.leased), (0, 20, 30));
    let last = two.acquire("2-2", &want(100, 50)).await.unwrap().grants[0];
    assert_eq!((last.granted, last.spent, last.leased), (50, 20, 80));
    // The position is that of the counters, so what follows counts once.
    assert_eq!(one.position("1-1-0.journal").await.unwrap(), 10);
    bench.charge(&one, "1-1-0.journal", (10, 20), 30).await;
    let seen = two.acquire("2-2", &want(100, 1)).await.unwrap().grants[0];
    assert_eq!((seen.granted, seen.spent, seen.leased), (0, 50, 50));
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_empty_is_made_good() {
    a_loss_is_made_good(RedisServer::restart).await;
}

#[tokio::test]
async fn a_server_that_is_flushed_is_made_good() {
    a_loss_is_made_good(|server| drop(server.ask(&["FLUSHALL"]))).await;
}

#[tokio::test]
async fn nobody_waits_for_a_server_that_is_dead_or_silent() {
    let mut server = RedisServer::start();
    let mut bench = Bench::new(vec![server.url()], RedisMode::Standalone).await;
    bench.settings.request_timeout = Duration::from_millis(5);
    bench.settings.background_timeout = Duration::from_millis(500);
    let counters = bench.process().await;
    server.signal("STOP");
    let refused = counters.acquire("1-1", &want(10, 1)).await;
    assert!(matches!(refused, Err(StoreError::Away(_))), "{refused:?}");
    server.signal("CONT");
    soon(async || counters.acquire("1-1", &want(10, 1)).await.ok()).await;

    server.kill();
    let refused = counters.acquire("1-1", &want(10, 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Away(_)), "{refused}");
    server.restart();
    soon(async || counters.acquire("1-1", &want(10, 1)).await.ok()).await;
}

#[tokio::test]
async fn errors_name_neither_password_nor_address() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let url = server.url().replace("redis://", "redis://:wrong-password@");
    let bench = Bench::new(vec![url], RedisMode::Standalone).await;
    let redis = Redis::open(bench.settings.clone()).unwrap();
    let counters = RedisCounters::new(redis, Arc::new(bench.store.counters()));
    let refused = counters.acquire("1-1", &want(10, 1)).await.unwrap_err().to_string();
    assert!(!refused.contains("wrong-password") && !refused.contains("127.0.0.1"), "{refused}");
    let wrong = RedisSettings { urls: vec![Secret::new("http://:hunter2@x")], ..bench.settings.clone() };
    let refused = Redis::open(wrong).err().unwrap().to_string();
    assert!(!refused.contains("hunter2"), "{refused}");
    assert!(!format!("{:?}", bench.settings).contains("wrong-password"));
}

#[tokio::test]
async fn a_change_is_heard_by_others_and_after_an_interruption() {
    let mut server = RedisServer::start();
    let bench = Bench::new(vec![server.url()], RedisMode::Standalone).await;
    let redis = Redis::open(bench.settings.clone()).unwrap();
    timeout(SOON, redis.connected()).await.unwrap();
    let changes = Changes::new(redis);
    let mut news = Changes::new(Redis::open(bench.settings.clone()).unwrap()).subscribe().unwrap();
    // The first is the subscription itself.
    timeout(SOON, news.changed()).await.unwrap().unwrap();
    news.mark_unchanged();
    changes.publish().await.unwrap();
    timeout(SOON, news.changed()).await.unwrap().unwrap();
    news.mark_unchanged();
    server.restart();
    timeout(SOON, news.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn sentinels_lead_to_the_master() {
    let master = RedisServer::start();
    let sentinel = RedisServer::sentinel("money", &master);
    let mode = RedisMode::Sentinel { master: "money".to_owned(), username: None, password: None };
    let bench = Bench::new(vec![sentinel.url()], mode).await;
    let counters = bench.process().await;
    assert_eq!(counters.acquire("1-1", &want(10, 3)).await.unwrap().grants[0].granted, 3);
    assert!(master.ask(&["EXISTS", "{marg}:epoch"]).starts_with(":1"));
}

#[tokio::test]
async fn a_cluster_keeps_all_counters_together() {
    let servers: Vec<RedisServer> = (0..3).map(|_| RedisServer::start_with(&["--cluster-enabled", "yes"])).collect();
    RedisServer::join(&servers);
    let bench = Bench::new(servers.iter().map(RedisServer::url).collect(), RedisMode::Cluster).await;
    let counters = bench.process().await;
    let other = CounterId { limit: "lim_2".into(), ..total() };
    let wants = [want(10, 3)[0].clone(), Want { counter: other, ..want(10, 4)[0].clone() }];
    let grants = counters.acquire("1-1", &wants).await.unwrap().grants;
    assert_eq!((grants[0].granted, grants[1].granted), (3, 4));
    bench.charge(&counters, "1-1-0.journal", (0, 10), 2).await;
    assert_eq!(counters.standings(Some("lim_1"), 9).await.unwrap()[0].spent, 2);
    let mut news = Changes::new(Redis::open(bench.settings.clone()).unwrap()).subscribe().unwrap();
    timeout(SOON, news.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn tls_is_spoken_with_whom_the_named_authority_vouches_for_and_with_nobody_else() {
    let (server, url, authority) = RedisServer::with_tls();
    let mut bench = Bench::new(vec![url], RedisMode::Standalone).await;
    let doubted = Redis::open(bench.settings.clone()).unwrap();
    assert!(timeout(Duration::from_millis(500), doubted.connected()).await.is_err(), "the system does not know it");
    bench.settings.authorities = Some(std::fs::read(authority).unwrap());
    let counters = bench.process().await;
    assert_eq!(counters.acquire("1-1", &want(10, 3)).await.unwrap().grants[0].granted, 3);
    assert!(server.ask(&["EXISTS", "{marg}:epoch"]).starts_with(":1"));
    let mut news = Changes::new(Redis::open(bench.settings.clone()).unwrap()).subscribe().unwrap();
    timeout(SOON, news.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn when_sentinels_promote_a_replica_nothing_is_forgotten_and_nothing_is_leased_twice() {
    let mut master = RedisServer::start();
    let (_replica, sentinel) = (RedisServer::replica(&master), RedisServer::sentinel("money", &master));
    sentinel.knows_a_replica("money");
    let mode = RedisMode::Sentinel { master: "money".to_owned(), username: None, password: None };
    let bench = Bench::new(vec![sentinel.url()], mode).await;
    let (one, two) = (bench.process().await, bench.process().await);
    assert_eq!(one.acquire("1-1", &want(100, 50)).await.unwrap().grants[0].granted, 50);
    bench.charge(&one, "1-1-0.journal", (0, 10), 20).await;
    master.kill();
    let refused = soon(async || {
        drop(one.beat("1-1").await);
        two.acquire("2-2", &want(100, 51)).await.ok()
    });
    let refused = refused.await.grants[0];
    assert_eq!((refused.granted, refused.spent, refused.leased), (0, 20, 30));
    let last = two.acquire("2-2", &want(100, 50)).await.unwrap().grants[0];
    assert_eq!((last.granted, last.spent, last.leased), (50, 20, 80));
    bench.charge(&one, "1-1-0.journal", (10, 20), 30).await;
    let seen = two.acquire("2-2", &want(100, 1)).await.unwrap().grants[0];
    assert_eq!((seen.granted, seen.spent, seen.leased), (0, 50, 50));
}

#[tokio::test]
async fn a_call_without_a_connection_waits_for_nothing_at_all() {
    let mut server = RedisServer::start();
    let bench = Bench::new(vec![server.url()], RedisMode::Standalone).await;
    server.kill();
    let counters = RedisCounters::new(Redis::open(bench.settings.clone()).unwrap(), Arc::new(bench.store.counters()));
    let wants = want(10, 1);
    let mut call = std::pin::pin!(counters.acquire("1-1", &wants));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let answer = call.as_mut().poll(&mut context);
    assert!(matches!(answer, std::task::Poll::Ready(Err(StoreError::Away(_)))), "it is answered where it is asked");
}

#[tokio::test]
async fn who_is_older_than_others_on_the_same_counters_gets_no_leases() {
    let server = RedisServer::start();
    let bench = Bench::new(vec![server.url()], RedisMode::Standalone).await;
    let counters = bench.process().await;
    assert_eq!(counters.acquire("a", &want(100, 40)).await.unwrap().grants[0].granted, 40);
    let set = Script::new("redis.call('SET', string.sub(KEYS[1], 1, -6) .. 'protocol', ARGV[1]) return {'OK'}");
    let number = |number: i64| [number.to_string()];
    let beside = Redis::open(bench.settings.clone()).unwrap();
    timeout(SOON, beside.connected()).await.unwrap();
    let limit = beside.background_limit();
    beside.run(&set, &number(PROTOCOL + 1), limit).await.unwrap();
    let refused = counters.acquire("a", &want(100, 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Outdated { found, known: PROTOCOL } if found == PROTOCOL + 1), "{refused}");
    counters.release("a", &[(total(), 40)]).await.unwrap();
    counters.beat("a").await.unwrap();
    beside.run(&set, &number(0), limit).await.unwrap();
    assert_eq!(counters.acquire("a", &want(100, 100)).await.unwrap().grants[0].granted, 100, "a newer one takes over");
}
