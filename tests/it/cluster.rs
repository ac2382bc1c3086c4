//! Several processes that share their limits, by PostgreSQL or by Redis: never beyond a cap, nobody refused wrongly, and what
//! one of them is told the others know.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::postgres_server::{Pooler, PostgresServer};
use crate::redis_server::RedisServer;
use crate::support::answers;
use crate::support::client::{Call, Client};
use crate::support::cluster::{Cluster, NODES, Owner, ask, nodes, shared};
use crate::support::marg::{Marg, merge};
use crate::support::money::{COST_NANO_USD, asking, spent_is, storm};
use crate::support::reply::Reply;
use crate::support::until;
use crate::support::upstream::Upstream;

/// Limits for each key, each for a model of its own, so that one cluster can try them one after the other.
fn limits() -> Value {
    json!([
        {"name": "dollars", "scope": "key", "models": ["fixed"], "unit": "usd", "window": "total", "amount_usd": "0.003"},
        {"name": "requests", "scope": "key", "models": ["requests"], "unit": "requests", "window": "minute", "amount": 100},
        {"name": "output", "scope": "key", "models": ["output"], "unit": "output_tokens", "window": "minute", "amount": 300},
        {"name": "tokens", "scope": "key", "models": ["tokens"], "unit": "tokens", "window": "minute", "amount": 1_200},
        {"name": "places", "scope": "key", "models": ["places"], "unit": "concurrent", "window": "now", "amount": 10},
        {"name": "level 1", "scope": "gateway", "models": ["levels"], "unit": "requests", "window": "day", "amount": 90},
        {"name": "level 2", "scope": "key", "models": ["levels"], "unit": "usd", "window": "total", "amount_usd": "0.003"},
        {"name": "level 3", "scope": "team", "models": ["levels"], "unit": "requests", "window": "minute", "amount": 60},
        {"name": "level 4", "scope": "model", "subject": "levels", "unit": "tokens", "window": "hour", "amount": 1_000_000},
        {"name": "level 5", "scope": "tag", "subject": "it", "models": ["levels"], "unit": "output_tokens", "window": "day", "amount": 240},
    ])
}

/// Races of a thousand for what a hundred calls cost: in dollars, requests a minute and tokens a minute; so many times.
async fn race_for_what_is_counted(owner: Owner, times: usize) {
    let upstream = Upstream::http1().await;
    let cluster = Cluster::start(&upstream, owner, json!({"limits": limits()})).await;
    for time in 1..=times {
        let begun = Instant::now();
        for (model, limit, amount) in
            [("fixed", "dollars", 100 * COST_NANO_USD), ("requests", "requests", 100), ("output", "output", 300)]
        {
            let (counts, id) = cluster.race(1_000, model).await;
            assert_eq!(counts, [(200, 100), (429, 900)], "{limit}, time {time}");
            spent_is(cluster.first(), limit, Some(&id), amount).await;
        }
        println!("{owner:?}, time {time}: three races of 1,000 calls for 100 in {:?}", begun.elapsed());
    }
}

/// Races in which a call reserves more than it uses, and at five levels at once.
async fn race_with_slack_and_levels(owner: Owner) {
    let upstream = Upstream::http1().await;
    let cluster = Cluster::start(&upstream, owner, json!({"limits": limits()})).await;
    let (counts, id) = cluster.race(300, "tokens").await;
    let served = i64::try_from(counts[0].1).unwrap();
    println!("{owner:?}: {served} calls of 12 tokens for 1,200");
    // A call reserves what its words may come to, which is more than 12 tokens; all but that last bit is used.
    assert!((90..=100).contains(&served), "{counts:?}");
    spent_is(cluster.first(), "tokens", Some(&id), 12 * served).await;

    let (token, id) = cluster.new_key(json!({"team": "red"})).await;
    let call = Call::chat("levels", &asking("levels")).header("x-marg-tags", "it");
    assert_eq!(storm(&cluster.addresses(), &token, 300, &call).await, [(200, 60), (429, 240)]);
    spent_is(cluster.first(), "level 1", None, 60).await;
    spent_is(cluster.first(), "level 2", Some(&id), 60 * COST_NANO_USD).await;
    spent_is(cluster.first(), "level 3", Some("red"), 60).await;
    spent_is(cluster.first(), "level 4", None, 60 * 12).await;
    spent_is(cluster.first(), "level 5", Some("it"), 180).await;
}

/// Calls that stay open, four times as many as there are places: each has its turn, and never are more open than places.
async fn take_turns(owner: Owner) {
    let upstream = Upstream::http1().await;
    let cluster = Cluster::start(&upstream, owner, json!({"limits": limits()})).await;
    let open = Arc::new(Mutex::new(Vec::new()));
    let feeds = open.clone();
    upstream.script("held", move |_, _| {
        let (reply, feed) = Reply::fed();
        feeds.lock().unwrap().push(feed);
        reply
    });
    let (token, _) = cluster.new_key(json!({})).await;
    let mut call = asking("places");
    call["stream"] = json!(true);
    let mut calls = JoinSet::new();
    for number in 0..40 {
        let (address, token, call) = (cluster.addresses()[number % NODES], token.clone(), call.clone());
        calls.spawn(async move { Client::http1(address, &token).await.send(Call::chat("held", &call)).await.status });
    }
    until("all places are taken", || async { (open.lock().unwrap().len() == 10).then_some(()) }).await;
    for _ in 0..40 {
        let feed = until("a call is open", || async {
            let mut open = open.lock().unwrap();
            assert!(open.len() <= 10, "{} calls are open at one time", open.len());
            (!open.is_empty()).then(|| open.remove(0))
        })
        .await;
        feed.send(answers::text("places", "Hello")).await;
        feed.send("data: [DONE]\n\n").await;
    }
    while let Some(status) = calls.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_on_postgres_spend_a_cap_to_the_nano_dollar() {
    race_for_what_is_counted(Owner::Postgres, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_on_redis_spend_a_cap_to_the_nano_dollar() {
    race_for_what_is_counted(Owner::Redis, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: the same races, 20 times"]
async fn four_processes_on_postgres_spend_a_cap_to_the_nano_dollar_every_time() {
    race_for_what_is_counted(Owner::Postgres, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: the same races, 20 times"]
async fn four_processes_on_redis_spend_a_cap_to_the_nano_dollar_every_time() {
    race_for_what_is_counted(Owner::Redis, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reserved_too_much_on_postgres_is_used_by_others_at_every_level() {
    race_with_slack_and_levels(Owner::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reserved_too_much_on_redis_is_used_by_others_at_every_level() {
    race_with_slack_and_levels(Owner::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_calls_take_turns_at_the_places_of_four_processes_on_postgres() {
    take_turns(Owner::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_calls_take_turns_at_the_places_of_four_processes_on_redis() {
    take_turns(Owner::Redis).await;
}

/// Makes a key, a limit and a route on one process, and revokes the key; says how long another took to know each.
async fn tell(one: &Marg, other: &Marg, how: &str) {
    let post = async |path: &str, body: Value| {
        let answer = one.ask_admin("POST", path, Some(&body)).await;
        assert!(answer.status < 300, "{path}: {}", answer.text());
        answer.json()
    };
    let mut figures = Vec::new();
    let made = post("/admin/keys", json!({"name": "told"})).await;
    let (token, id) = (made["token"].as_str().unwrap().to_owned(), made["key"]["id"].as_str().unwrap().to_owned());
    let begun = Instant::now();
    until("the other knows the key", || async { (ask(other, &token).await == 200).then_some(()) }).await;
    figures.push(("key", begun.elapsed()));

    let chat =
        async |model: &str| Client::http1(other.address, &token).await.send(Call::chat("told", &asking(model))).await;
    assert_eq!(chat("unpriced").await.status, 200);
    // A limit in dollars refuses a model without a price.
    let limit = json!({"scope": "gateway", "models": ["unpriced"], "unit": "usd", "window": "day", "amount_usd": "1"});
    post("/admin/limits", limit).await;
    let begun = Instant::now();
    until("the other knows the limit", || async { (chat("unpriced").await.status == 403).then_some(()) }).await;
    figures.push(("limit", begun.elapsed()));

    post("/admin/routes", json!({"route": {"name": "told", "match": {"model": "told"}, "to": "main:fixed"}})).await;
    let begun = Instant::now();
    until("the other knows the route", || async {
        let answer = other.ask_admin("GET", "/admin/routes/explain?model=told", None).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        (answer.json()["explanation"]["route"] == "told").then_some(())
    })
    .await;
    figures.push(("route", begun.elapsed()));

    let revoked = one.ask_admin("POST", &format!("/admin/keys/{id}/revoke"), None).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    let begun = Instant::now();
    until("the other knows the revocation", || async { (ask(other, &token).await == 401).then_some(()) }).await;
    figures.push(("revocation", begun.elapsed()));
    println!("known elsewhere {how}: {figures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_is_told_the_others_know() {
    let upstream = Upstream::http1().await;
    let cluster = Cluster::start(&upstream, Owner::Postgres, json!({})).await;
    tell(cluster.first(), &cluster.nodes[3], "by PostgreSQL's notification").await;
}

/// PgBouncer in transaction mode passes no notification on, so this is also the case of one that is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_pooler_a_cap_holds_and_news_arrive_without_notifications() {
    let upstream = Upstream::http1().await;
    let postgres = PostgresServer::start();
    let pooler = Pooler::start(&postgres);
    let url = format!("plain:{}", pooler.url(&postgres.database()));
    let database = json!({"url": url, "pooler": true, "connect_timeout_ms": 20_000});
    let mut settings = shared(&database);
    merge(&mut settings, json!({"limits": limits()}));
    let nodes = nodes(&upstream, &settings, 2).await;
    tell(&nodes[0], &nodes[1], "by the generation alone").await;
    let addresses = [nodes[0].address, nodes[1].address];
    let call = Call::chat("race", &asking("fixed"));
    assert_eq!(storm(&addresses, &nodes[0].key, 400, &call).await, [(200, 100), (429, 300)]);
    spent_is(&nodes[0], "dollars", Some(&nodes[0].key_id), 100 * COST_NANO_USD).await;
}

/// Two processes spend a cap by way of that Redis.
async fn spend_by(redis: Value) {
    let upstream = Upstream::http1().await;
    let postgres = PostgresServer::start();
    let mut settings = shared(&json!({"url": format!("plain:{}", postgres.database()), "connect_timeout_ms": 20_000}));
    merge(&mut settings, json!({"limits": limits(), "budget": {"authority": "redis"}, "redis": redis}));
    merge(&mut settings, json!({"redis": {"request_timeout_ms": 30_000, "background_timeout_ms": 30_000}}));
    let nodes = nodes(&upstream, &settings, 2).await;
    let call = Call::chat("race", &asking("fixed"));
    let counts = storm(&[nodes[0].address, nodes[1].address], &nodes[0].key, 400, &call).await;
    assert_eq!(counts, [(200, 100), (429, 300)]);
    spent_is(&nodes[0], "dollars", Some(&nodes[0].key_id), 100 * COST_NANO_USD).await;
    tell(&nodes[0], &nodes[1], "by Redis").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_holds_by_way_of_a_redis_that_speaks_tls() {
    let (_server, url, authority) = RedisServer::with_tls();
    spend_by(json!({"urls": [format!("plain:{url}")], "ca_file": authority})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_holds_by_way_of_a_redis_cluster_of_three_masters() {
    let servers: Vec<RedisServer> = (0..3).map(|_| RedisServer::start_with(&["--cluster-enabled", "yes"])).collect();
    RedisServer::join(&servers);
    let urls: Vec<String> = servers.iter().map(|server| format!("plain:{}", server.url())).collect();
    spend_by(json!({"urls": urls, "mode": "cluster"})).await;
}
