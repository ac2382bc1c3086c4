//! Several processes that share their limits, by PostgreSQL or by Redis: never beyond a cap, nobody refused wrongly, and what
//! one of them is told the others know.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::postgres_server::{Pooler, PostgresServer};
use crate::redis_server::RedisServer;
use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup, merge};
use crate::support::money::{COST_NANO_USD, counters, figure, fixed, priced, spent, spent_is, storm};
use crate::support::reply::Reply;
use crate::support::upstream::Upstream;
use crate::support::until;

/// How many processes share limits.
const NODES: usize = 4;

/// Who owns the counters.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Postgres,
    Redis,
}

/// Processes that share a database, a key and, if it is the owner of the counters, a Redis.
struct Cluster {
    nodes: Vec<Marg>,
    _redis: Option<RedisServer>,
    _postgres: PostgresServer,
}

impl Cluster {
    /// Starts all of them with these settings.
    async fn start(upstream: &Upstream, owner: Owner, settings: Value) -> Self {
        let postgres = PostgresServer::start();
        let redis = matches!(owner, Owner::Redis).then(RedisServer::start);
        let database = json!({"url": format!("plain:{}", postgres.database()), "connect_timeout_ms": 20_000});
        let mut shared = shared(&database);
        if let Some(redis) = &redis {
            // What is tried here is not whether a machine under load answers within 5 ms.
            let redis = json!({"urls": [format!("plain:{}", redis.url())], "request_timeout_ms": 1_000, "background_timeout_ms": 10_000});
            merge(&mut shared, json!({"redis": redis, "budget": {"authority": "redis"}}));
        }
        merge(&mut shared, settings);
        Self { nodes: nodes(upstream, &shared, NODES).await, _redis: redis, _postgres: postgres }
    }

    fn first(&self) -> &Marg {
        &self.nodes[0]
    }

    fn key(&self) -> &str {
        &self.first().key
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    async fn storm(&self, calls: usize) -> Vec<(u16, usize)> {
        storm(&self.addresses(), self.key(), calls, &fixed()).await
    }
}

/// What all processes have in common: the database, the key of the hashes, and patience, so that a slow machine does not decide.
fn shared(database: &Value) -> Value {
    json!({
        "database": database,
        "keys": {"hash_key": format!("plain:{}", "5a".repeat(32))},
        "budget": {"wait_ms": 20_000},
        "log": {"level": "warn"},
    })
}

/// Starts processes with the same settings, and waits until all know the first one's key.
async fn nodes(upstream: &Upstream, settings: &Value, count: usize) -> Vec<Marg> {
    let mut nodes = Vec::with_capacity(count);
    for _ in 0..count {
        let mut setup = priced(Setup::with_default(upstream));
        for (name, value) in settings.as_object().unwrap() {
            setup = setup.set(name, value.clone());
        }
        nodes.push(setup.start().await);
    }
    for node in &nodes {
        until("a process knows the key", || async { (ask(node, &nodes[0].key).await == 200).then_some(()) }).await;
    }
    nodes
}

async fn ask(marg: &Marg, token: &str) -> u16 {
    Client::http1(marg.address, token).await.send(Call::new("GET", "/v1/models")).await.status
}

fn dollars(calls: i64) -> Value {
    let amount = format!("0.{:09}", calls * COST_NANO_USD);
    json!([{"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": amount}])
}

async fn race_for_dollars(owner: Owner) {
    let upstream = Upstream::http1().await;
    let cluster = Cluster::start(&upstream, owner, json!({"limits": dollars(100)})).await;
    assert_eq!(cluster.storm(1_000).await, [(200, 100), (429, 900)]);
    spent_is(cluster.first(), "dollars", 100 * COST_NANO_USD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_on_postgres_spend_a_cap_to_the_nano_dollar() {
    race_for_dollars(Owner::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_on_redis_spend_a_cap_to_the_nano_dollar() {
    race_for_dollars(Owner::Redis).await;
}
