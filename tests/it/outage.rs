//! Parts that share money go away under load and come back: a process, Redis, PostgreSQL. No cap is ever exceeded, nothing
//! that was spent is forgotten, and what was not spent can be spent afterwards.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::postgres_server::PostgresServer;
use crate::redis_server::RedisServer;
use crate::support::client::{Call, Client};
use crate::support::cluster::{Cluster, Load, Owner, Told, ask, nodes, shared};
use crate::support::marg::{Marg, Setup, merge};
use crate::support::money::{COST_NANO_USD, asking, counters, figure, fixed, priced, spent, spent_is};
use crate::support::until;
use crate::support::upstream::Upstream;

/// A limit for each key that pays for so many calls.
fn dollars(calls: i64) -> Value {
    let amount = format!("0.{:09}", calls * COST_NANO_USD);
    json!([{"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": amount}])
}

/// Spends what is left, one call after the other, until the cap is reached; how many calls that were.
async fn spend_the_rest(marg: &Marg, key: &str, cap: i64) -> i64 {
    let mut served = 0;
    // What a dead process held, or an answer that was lost, comes back some seconds later.
    for _ in 0..3 {
        if spent(marg, "dollars", None).await == cap {
            break;
        }
        let again = || async {
            let answer = Client::http1(marg.address, key).await.send(Call::chat("rest", &fixed())).await;
            assert!(matches!(answer.status, 200 | 429 | 503), "{}: {}", answer.status, answer.text());
            answer.status == 200
        };
        let begun = std::time::Instant::now();
        while begun.elapsed().as_secs() < 29 {
            if again().await {
                served += 1;
            } else if spent(marg, "dollars", None).await == cap {
                return served;
            }
        }
    }
    served
}

/// Waits until every process holds a lease.
async fn all_hold_leases(cluster: &Cluster) {
    until("all processes hold leases", || async {
        let all = counters(cluster.first(), "dollars").await;
        (all.first()?["leases"].as_array()?.len() == cluster.nodes.len()).then_some(())
    })
    .await;
}

/// What all processes hold.
async fn leased(cluster: &Cluster) -> i64 {
    counters(cluster.first(), "dollars").await.iter().map(|counter| figure(&counter["leased"])).sum()
}

fn only(told: &Told, statuses: &[u16]) {
    assert!(told.statuses.keys().all(|status| statuses.contains(status)), "{:?}", told.statuses);
}

/// One of four is killed while it holds a lease, and is started again.
async fn kill_one(owner: Owner) {
    const CALLS: i64 = 600;
    let upstream = Upstream::http1().await;
    let settings = json!({"limits": dollars(CALLS), "budget": {"wait_ms": 1_000}});
    let mut cluster = Cluster::start(&upstream, owner, settings).await;
    let key = cluster.first().key.clone();
    let load = Load::start(&cluster.addresses(), &key, 8);
    all_hold_leases(&cluster).await;
    cluster.nodes[3].kill9();
    load.more(429, 10).await;
    let told = load.stop().await;
    only(&told, &[200, 429]);
    let held = leased(&cluster).await;
    println!("{owner:?}: {} served, {} broken, {held} nano-dollars held by the dead", told.count(), told.broken);
    assert!(told.count() <= CALLS);
    cluster.nodes[3].restart().await;
    let rest = spend_the_rest(cluster.first(), &key, CALLS * COST_NANO_USD).await;
    spent_is(cluster.first(), "dollars", None, CALLS * COST_NANO_USD).await;
    let served = told.count() + rest;
    println!("{owner:?}: {rest} more once it was back, {served} of {CALLS}");
    // A call that broke off may have been recorded, and then it is paid.
    assert!(served <= CALLS && served + i64::try_from(told.broken).unwrap() >= CALLS, "{served}, {told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_held_on_postgres_is_spendable_once_it_is_back() {
    kill_one(Owner::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_held_on_redis_is_spendable_once_it_is_back() {
    kill_one(Owner::Redis).await;
}

/// One of four is killed while it holds a lease, and never comes back; the operator chose to release what it held.
async fn lose_one(owner: Owner) {
    const CALLS: i64 = 300;
    let upstream = Upstream::http1().await;
    let budget = json!({"wait_ms": 1_000, "dead_node": "release", "dead_node_after_ms": 10_000});
    let mut cluster = Cluster::start(&upstream, owner, json!({"limits": dollars(CALLS), "budget": budget})).await;
    let key = cluster.first().key.clone();
    let load = Load::start(&cluster.addresses(), &key, 8);
    all_hold_leases(&cluster).await;
    // Everything that it served is applied before it dies, so the figures are exact in the end.
    let told = load.stop().await;
    spent_is(cluster.first(), "dollars", None, told.count() * COST_NANO_USD).await;
    cluster.nodes[3].kill9();
    let rest = spend_the_rest(cluster.first(), &key, CALLS * COST_NANO_USD).await;
    println!("{owner:?}: {} before, {rest} after one of four was lost, of {CALLS}", told.count());
    assert_eq!(told.count() + rest, CALLS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_process_held_is_released_if_the_operator_says_so() {
    lose_one(Owner::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_leases_carry_on_then_calls_are_refused_in_words_and_nothing_spent_is_forgotten() {
    const CALLS: i64 = 4_000;
    let upstream = Upstream::http1().await;
    let redis = json!({"request_timeout_ms": 250, "background_timeout_ms": 1_000});
    let settings = json!({"limits": dollars(CALLS), "budget": {"wait_ms": 1_000}, "redis": redis});
    let mut cluster = Cluster::start(&upstream, Owner::Redis, settings).await;
    let key = cluster.first().key.clone();
    let load = Load::start(&cluster.addresses(), &key, 8);
    load.more(200, 50).await;
    load.hurry(false);
    cluster.redis.as_mut().unwrap().kill();
    load.more(200, 20).await;
    load.hurry(true);
    load.more(503, 20).await;
    load.hurry(false);
    let away = ready(cluster.first()).await;
    assert_eq!((away["status"].as_str(), part(&away, "authority")), (Some("degraded"), Some(false)), "{away}");
    cluster.redis.as_mut().unwrap().restart();
    load.more(200, 50).await;
    until("the gateway is ready", || async { (ready(cluster.first()).await["status"] == "ready").then_some(()) }).await;
    cluster.redis.as_ref().unwrap().ask(&["FLUSHALL"]);
    load.more(200, 50).await;
    load.hurry(true);
    load.more(429, 10).await;
    let told = load.stop().await;
    only(&told, &[200, 429, 503]);
    println!("{:?}, the slowest 503 after {:?}", told.statuses, told.slowest_away);
    assert_eq!(told.broken, 0);
    let rest = spend_the_rest(cluster.first(), &key, CALLS * COST_NANO_USD).await;
    spent_is(cluster.first(), "dollars", None, CALLS * COST_NANO_USD).await;
    assert_eq!(told.count() + rest, CALLS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgres_is_away_leases_carry_on_and_each_call_is_counted_and_recorded_once() {
    const CALLS: i64 = 2_000;
    let upstream = Upstream::http1().await;
    let settings =
        json!({"limits": dollars(CALLS), "budget": {"wait_ms": 1_000}, "database": {"connect_timeout_ms": 1_000}});
    let mut cluster = Cluster::start(&upstream, Owner::Postgres, settings).await;
    let key = cluster.first().key.clone();
    let (gone, id) = cluster.new_key(json!({})).await;
    assert!(cluster.first().ask_admin("DELETE", &format!("/admin/keys/{id}"), None).await.status < 300);
    let load = Load::start(&cluster.addresses(), &key, 8);
    load.more(200, 50).await;
    cluster.postgres.stop();
    load.more(200, 20).await;
    load.more(503, 20).await;
    until("an unknown key is told to come again", || async {
        (ask(cluster.first(), &gone).await == 503).then_some(())
    })
    .await;
    cluster.postgres.resume();
    load.more(200, 50).await;
    load.more(429, 10).await;
    let told = load.stop().await;
    only(&told, &[200, 429, 503]);
    println!("{:?}, the slowest 503 after {:?}", told.statuses, told.slowest_away);
    let rest = spend_the_rest(cluster.first(), &key, CALLS * COST_NANO_USD).await;
    spent_is(cluster.first(), "dollars", None, CALLS * COST_NANO_USD).await;
    assert_eq!((told.broken, told.count() + rest), (0, CALLS));
    recorded_once(cluster.first(), &told.served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgres_is_away_every_call_is_served_if_the_operator_says_so() {
    const CALLS: i64 = 20_000;
    let upstream = Upstream::http1().await;
    let settings = json!({
        "limits": dollars(CALLS), "budget": {"when_away": "admit"}, "database": {"connect_timeout_ms": 500},
    });
    let mut cluster = Cluster::start(&upstream, Owner::Postgres, settings).await;
    let load = Load::start(&cluster.addresses(), &cluster.first().key, 8);
    load.more(200, 50).await;
    cluster.postgres.stop();
    // More than all leases together pay for.
    load.more(200, 2_000).await;
    cluster.postgres.resume();
    load.more(200, 50).await;
    let told = load.stop().await;
    println!("{:?} with PostgreSQL away for 2,000 of them", told.statuses);
    only(&told, &[200]);
    assert_eq!(told.broken, 0);
    spent_is(cluster.first(), "dollars", None, told.count() * COST_NANO_USD).await;
    recorded_once(cluster.first(), &told.served).await;
}

/// The master dies under load, the sentinel promotes its replica, and the processes find it by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_sentinels_promote_a_replica_leases_carry_on_and_the_cap_is_spent_exactly() {
    const CALLS: i64 = 3_000;
    let upstream = Upstream::http1().await;
    let postgres = PostgresServer::start();
    let mut master = RedisServer::start();
    let (_replica, sentinel) = (RedisServer::replica(&master), RedisServer::sentinel("money", &master));
    sentinel.knows_a_replica("money");
    let database = json!({"url": format!("plain:{}", postgres.database()), "connect_timeout_ms": 20_000});
    let redis = json!({
        "urls": [format!("plain:{}", sentinel.url())], "mode": "sentinel", "sentinel_master": "money",
        "request_timeout_ms": 250, "background_timeout_ms": 1_000,
    });
    let mut settings = shared(&database);
    let more = json!({"limits": dollars(CALLS), "budget": {"authority": "redis", "wait_ms": 1_000}, "redis": redis});
    merge(&mut settings, more);
    let nodes = nodes(&upstream, &settings, 2).await;
    let key = nodes[0].key.clone();
    let load = Load::start(&[nodes[0].address, nodes[1].address], &key, 4);
    load.more(200, 50).await;
    load.hurry(false);
    master.kill();
    load.more(200, 20).await;
    until("a process is without Redis", || async {
        (part(&ready(&nodes[0]).await, "authority") == Some(false)).then_some(())
    })
    .await;
    until("both are ready again", || async {
        let both = [ready(&nodes[0]).await, ready(&nodes[1]).await];
        both.iter().all(|node| node["status"] == "ready").then_some(())
    })
    .await;
    load.more(200, 50).await;
    load.hurry(true);
    load.more(429, 10).await;
    let told = load.stop().await;
    only(&told, &[200, 429, 503]);
    println!("{:?} while a replica was promoted", told.statuses);
    let rest = spend_the_rest(&nodes[0], &key, CALLS * COST_NANO_USD).await;
    spent_is(&nodes[0], "dollars", None, CALLS * COST_NANO_USD).await;
    assert_eq!((told.broken, told.count() + rest), (0, CALLS));
}

/// A gateway on PostgreSQL that has served, with what is needed to start it again.
async fn on_postgres(upstream: &Upstream, postgres: &PostgresServer) -> Marg {
    let database = json!({"url": format!("plain:{}", postgres.database()), "connect_timeout_ms": 1_000});
    priced(Setup::with_default(upstream)).set("database", database).start().await
}

async fn told(marg: &Marg, method: &str, path: &str, body: Option<Value>) -> Value {
    let answer = marg.ask_admin(method, path, body.as_ref()).await;
    assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text());
    if answer.text().is_empty() { Value::Null } else { answer.json() }
}

/// The snapshots in a data folder.
fn snapshots(marg: &Marg) -> Vec<std::path::PathBuf> {
    let found = std::fs::read_dir(marg.path("data")).unwrap().map(|entry| entry.unwrap().path());
    found.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snapshot-"))).collect()
}

/// Waits until the snapshot holds that text.
async fn snapshot_holds(marg: &Marg, text: &str) {
    until("the snapshot is written", || async {
        let whole = snapshots(marg).into_iter().filter(|path| path.extension().is_some_and(|end| end == "db"));
        let held = |path| std::fs::read(path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text));
        whole.into_iter().any(held).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_starts_from_its_snapshot_while_postgres_is_away_and_catches_up() {
    let upstream = Upstream::http1().await;
    let mut postgres = PostgresServer::start();
    let mut marg = on_postgres(&upstream, &postgres).await;
    let (gone, gone_id) = marg.make_key(&[]).await;
    told(&marg, "DELETE", &format!("/admin/keys/{gone_id}"), None).await;
    let (revoked, revoked_id) = marg.make_key(&[]).await;
    told(&marg, "POST", &format!("/admin/keys/{revoked_id}/revoke"), None).await;
    let limit = json!({"scope": "gateway", "models": ["unpriced"], "unit": "usd", "window": "day", "amount_usd": "1"});
    told(&marg, "POST", "/admin/limits", Some(limit)).await;
    let route = json!({"route": {"name": "told-route", "match": {"model": "told"}, "to": "main:fixed"}});
    told(&marg, "POST", "/admin/routes", Some(route)).await;
    snapshot_holds(&marg, "told-route").await;
    marg.kill9();
    postgres.stop();

    marg.restart().await;
    let degraded = ready(&marg).await;
    assert_eq!(
        (degraded["status"].as_str(), part(&degraded, "snapshot")),
        (Some("degraded"), Some(false)),
        "{degraded}"
    );
    marg.logs("this process starts from its snapshot").await;
    let served = marg.chat("told", &asking("told")).await;
    assert_eq!(served.status, 200, "{}", served.text());
    assert_eq!(marg.chat("refused", &asking("unpriced")).await.status, 403, "the stored limit is in force");
    assert_eq!(ask(&marg, &revoked).await, 401, "it is known to be revoked");
    assert_eq!(ask(&marg, &gone).await, 503, "nobody can say whether there is such a key");
    let refused = marg.ask_admin("POST", "/admin/keys", Some(&json!({"name": "new"}))).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    let metrics = marg.ask_admin("GET", "/metrics", None).await;
    assert!(metrics.text().contains("marg_on_snapshot 1"), "an administrator is known: {}", metrics.status);

    postgres.resume();
    until("it has caught up", || async { (ready(&marg).await["status"] == "ready").then_some(()) }).await;
    assert_eq!(part(&ready(&marg).await, "snapshot"), None);
    assert_eq!(ask(&marg, &gone).await, 401);
    let made = told(&marg, "POST", "/admin/keys", Some(json!({"name": "new"}))).await;
    let token = made["token"].as_str().unwrap();
    assert_eq!(ask(&marg, token).await, 200);
    assert!(marg.ask_admin("GET", "/metrics", None).await.text().contains("marg_on_snapshot 0"));
    recorded_once(&marg, &[served.id()]).await;
}

/// Each device of a key but the first is refused, and the key with it until an operator releases it.
const ODD_DEVICE: &str = "@id(\"all\") permit(principal, action, resource);\n\
     @id(\"odd\") @then(\"approval\") forbid(principal, action, resource) when { context.drift.device >= 90 };\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_outlives_the_process_while_postgres_is_away() {
    let upstream = Upstream::http1().await;
    let mut postgres = PostgresServer::start();
    let database = json!({"url": format!("plain:{}", postgres.database()), "connect_timeout_ms": 1_000});
    let setup = priced(Setup::with_default(&upstream)).set("database", database);
    std::fs::write(setup.path("policy.cedar"), ODD_DEVICE).unwrap();
    let policy = json!({"mode": "enforce", "policy": setup.path("policy.cedar"), "drift": {"device": true}});
    let mut marg = setup.set("kavach", policy).start().await;
    let (other, other_id) = marg.make_key(&[]).await;
    snapshot_holds(&marg, &other_id).await;
    let call = async |marg: &Marg, token: &str, device: &str| {
        let body = Call::chat("device", &asking("told")).header("x-marg-device", device);
        Client::http1(marg.address, token).await.send(body).await.status
    };
    let key = marg.key.clone();
    assert_eq!((call(&marg, &key, "one").await, call(&marg, &other, "one").await), (200, 200));
    postgres.stop();
    assert_eq!(call(&marg, &key, "two").await, 403);
    marg.kill9();

    marg.restart().await;
    marg.logs("this process starts from its snapshot").await;
    assert_eq!((call(&marg, &key, "one").await, call(&marg, &other, "one").await), (403, 200));
    // What only the database can keep is not pretended to be done.
    let path = format!("/admin/keys/{}", marg.key_id);
    let session = json!({"key_id": marg.key_id, "id": "s"});
    for (method, path, body) in [
        ("POST", format!("{path}/release"), None),
        ("POST", format!("{path}/revoke"), None),
        ("POST", format!("{path}/disable"), None),
        ("DELETE", path.clone(), None),
        ("POST", "/admin/sessions/end".to_owned(), Some(&session)),
    ] {
        let refused = marg.ask_admin(method, &path, body).await;
        assert_eq!(refused.status, 503, "{path}: {}", refused.text());
        assert!(refused.text().contains("database"), "{path}: {}", refused.text());
    }

    postgres.resume();
    until("the database has the suspension", || async {
        (marg.ask_admin("GET", &path, None).await.json()["status"] == "suspended").then_some(())
    })
    .await;
    assert_eq!(call(&marg, &key, "one").await, 403);
    let files = || std::fs::read_dir(marg.path("data/suspensions")).unwrap().count();
    until("nothing is left to be told", || async { (files() == 0).then_some(()) }).await;
    told(&marg, "POST", &format!("{path}/release"), None).await;
    assert_eq!(call(&marg, &key, "two").await, 200);
    marg.kill9();
    marg.restart().await;
    assert_eq!(call(&marg, &key, "two").await, 200, "a release is for good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_holds_no_token_and_is_for_its_owner_alone() {
    let upstream = Upstream::http1().await;
    let postgres = PostgresServer::start();
    let marg = on_postgres(&upstream, &postgres).await;
    snapshot_holds(&marg, &marg.key_id).await;
    for path in snapshots(&marg) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions()) & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
        let bytes = std::fs::read(&path).unwrap();
        for secret in [marg.key.as_str(), &marg.admin_token, "never-shown"] {
            assert!(!String::from_utf8_lossy(&bytes).contains(secret));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_snapshot_a_start_is_refused_in_words_or_waits_as_the_operator_says() {
    let upstream = Upstream::http1().await;
    let mut postgres = PostgresServer::start();
    let mut marg = on_postgres(&upstream, &postgres).await;
    snapshot_holds(&marg, &marg.key_id).await;
    marg.kill9();
    postgres.stop();
    let mut config = marg.config.clone();
    merge(&mut config, json!({"database": {"away_at_start": "refuse"}}));
    marg.rewrite(&config);
    let (code, _, errors) = marg.try_command(&["start"]).await;
    assert!(code != 0 && errors.contains("database.url"), "{code}: {errors}");
    snapshots(&marg).iter().for_each(|path| std::fs::remove_file(path).unwrap());
    merge(&mut config, json!({"database": {"away_at_start": "snapshot"}}));
    marg.rewrite(&config);
    let (code, _, errors) = marg.try_command(&["start"]).await;
    assert!(code != 0 && errors.contains("no snapshot") && errors.contains("away_at_start"), "{code}: {errors}");
    assert!(!errors.contains("never-shown"), "{errors}");
    merge(&mut config, json!({"database": {"away_at_start": "wait"}}));
    marg.rewrite(&config);
    marg.relaunch();
    marg.logs("there is no snapshot; waiting").await;
    postgres.resume();
    marg.ready().await;
    assert_eq!(ask(&marg, &marg.key).await, 200);
}

async fn ready(marg: &Marg) -> Value {
    Client::http1(marg.address, "").await.send(Call::new("GET", "/ready").without_key()).await.json()
}

fn part(ready: &Value, name: &str) -> Option<bool> {
    ready["parts"].as_array()?.iter().find(|part| part["name"] == name)?["ok"].as_bool()
}

/// Waits until the ledger holds a record of each of these, and then that it is one.
async fn recorded_once(marg: &Marg, served: &[String]) {
    let rows = until("the ledger holds everything", || async {
        let path = "/admin/requests/export?format=jsonl&operation=chat";
        let export = marg.ask_admin("GET", path, None).await;
        assert_eq!(export.status, 200, "{}", export.text());
        let mut rows: HashMap<String, usize> = HashMap::new();
        for line in export.text().lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            *rows.entry(record["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        served.iter().all(|id| rows.contains_key(id)).then_some(rows)
    })
    .await;
    assert!(rows.values().all(|count| *count == 1), "a record is there twice");
}
