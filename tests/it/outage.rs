//! Parts that share money go away under load and come back: a process, Redis, PostgreSQL. No cap is ever exceeded, nothing
//! that was spent is forgotten, and what was not spent can be spent afterwards.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::support::client::{Call, Client};
use crate::support::cluster::{Cluster, Load, Owner, Told, ask};
use crate::support::marg::Marg;
use crate::support::money::{COST_NANO_USD, counters, figure, fixed, spent, spent_is};
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
