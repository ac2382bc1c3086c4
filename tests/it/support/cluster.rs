//! Several processes that share a database, limits and keys.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::postgres_server::PostgresServer;
use crate::redis_server::RedisServer;
use crate::support::client::{Answer, Call, Client};
use crate::support::marg::{Marg, Setup, merge};
use crate::support::money::{asking, priced, storm};
use crate::support::upstream::Upstream;
use crate::support::{soon, until};

/// How many processes share limits.
pub const NODES: usize = 4;

/// Who owns the counters.
#[derive(Clone, Copy, Debug)]
pub enum Owner {
    /// The database.
    Postgres,
    /// Redis; the database keeps count along.
    Redis,
}

/// Processes that share a database, a key and, if it is the owner of the counters, a Redis.
pub struct Cluster {
    /// The processes.
    pub nodes: Vec<Marg>,
    /// The Redis, if it owns the counters.
    pub redis: Option<RedisServer>,
    /// The database.
    pub postgres: PostgresServer,
}

impl Cluster {
    /// Starts all of them with these settings.
    pub async fn start(upstream: &Upstream, owner: Owner, settings: Value) -> Self {
        let postgres = PostgresServer::start();
        let redis = matches!(owner, Owner::Redis).then(RedisServer::start);
        let database = json!({"url": format!("plain:{}", postgres.database()), "connect_timeout_ms": 20_000});
        let mut shared = shared(&database);
        if let Some(redis) = &redis {
            // What is tried here is not whether a machine under load answers within 5 ms.
            let redis = json!({"urls": [format!("plain:{}", redis.url())], "request_timeout_ms": 30_000, "background_timeout_ms": 30_000});
            merge(&mut shared, json!({"redis": redis, "budget": {"authority": "redis"}}));
        }
        merge(&mut shared, settings);
        Self { nodes: nodes(upstream, &shared, NODES).await, redis, postgres }
    }

    /// The first process.
    pub fn first(&self) -> &Marg {
        &self.nodes[0]
    }

    /// Where applications connect.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// A new key that all of them know; its token and its id.
    pub async fn new_key(&self, more: Value) -> (String, String) {
        let mut wanted = json!({"name": "it"});
        merge(&mut wanted, more);
        let made = self.first().ask_admin("POST", "/admin/keys", Some(&wanted)).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let made = made.json();
        let (token, id) = (made["token"].as_str().unwrap().to_owned(), made["key"]["id"].as_str().unwrap().to_owned());
        for node in &self.nodes {
            until("a process knows the key", || async { (ask(node, &token).await == 200).then_some(()) }).await;
        }
        (token, id)
    }

    /// So many calls at once, to all processes in turn, with a key of their own; which statuses there were, and whose key.
    pub async fn race(&self, calls: usize, model: &str) -> (Vec<(u16, usize)>, String) {
        let (token, id) = self.new_key(json!({})).await;
        (storm(&self.addresses(), &token, calls, &Call::chat("race", &asking(model))).await, id)
    }
}

/// What all processes have in common: the database, the key of the hashes, and patience, so that a slow machine does not decide.
pub fn shared(database: &Value) -> Value {
    json!({
        "database": database,
        "keys": {"hash_key": format!("plain:{}", "5a".repeat(32))},
        "budget": {"wait_ms": 20_000},
        "providers": {"main": {"connect_timeout_ms": 60_000}},
        "log": {"level": "warn"},
    })
}

/// Starts processes with the same settings, and waits until all know the first one's key.
pub async fn nodes(upstream: &Upstream, settings: &Value, count: usize) -> Vec<Marg> {
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

/// What a process says to a key.
pub async fn ask(marg: &Marg, token: &str) -> u16 {
    Client::http1(marg.address, token).await.send(Call::new("GET", "/v1/models")).await.status
}

/// Callers that ask one after the other until they are told to stop, and note what they were told.
pub struct Load {
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
    hurry: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
}

/// What callers were told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// How often which status came.
    pub statuses: BTreeMap<u16, usize>,
    /// How many calls broke off without an answer.
    pub broken: usize,
    /// The codes of errors.
    pub codes: BTreeSet<String>,
    /// The ids of the exchanges that were served.
    pub served: Vec<String>,
    /// The longest that a call took whose answer was 503.
    pub slowest_away: Duration,
}

impl Load {
    /// So many callers, on the gateways in turn.
    pub fn start(addresses: &[SocketAddr], key: &str, callers: usize) -> Self {
        let (told, stop) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
        let hurry = Arc::new(AtomicBool::new(true));
        let caller = |number: usize| {
            let flags = (stop.clone(), hurry.clone());
            tokio::spawn(call(addresses[number % addresses.len()], key.to_owned(), told.clone(), flags))
        };
        let callers = (0..callers).map(caller).collect();
        Self { told, stop, hurry, callers }
    }

    /// Whether callers ask again at once, or take their time so that a cap lasts.
    pub fn hurry(&self, yes: bool) {
        self.hurry.store(yes, Ordering::SeqCst);
    }

    /// Waits until so many more have been told that, for as long as anything is told: how long a cap lasts is the machine's affair.
    pub async fn more(&self, status: u16, count: usize) {
        let count_now = || self.told.lock().unwrap().statuses.get(&status).copied().unwrap_or(0);
        let all_now = || self.told.lock().unwrap().statuses.values().sum::<usize>();
        let goal = count_now() + count;
        while count_now() < goal {
            let before = all_now();
            let progress = || async { (all_now() > before || count_now() >= goal).then_some(()) };
            until(&format!("{count} callers are told {status}"), progress).await;
        }
    }

    /// Ends the callers when each has its answer.
    pub async fn stop(self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        for caller in self.callers {
            soon("a caller ends", caller).await.unwrap();
        }
        self.told.lock().unwrap().clone()
    }
}

impl Told {
    /// How many were served.
    pub fn count(&self) -> i64 {
        i64::try_from(self.served.len()).unwrap()
    }

    /// Notes an answer; whether there was none.
    fn note(&mut self, answer: Option<&Answer>, took: Duration) -> bool {
        let Some(answer) = answer else {
            self.broken += 1;
            return true;
        };
        *self.statuses.entry(answer.status).or_default() += 1;
        if answer.status == 200 {
            self.served.push(answer.id());
        } else {
            self.codes.insert(answer.json()["error"]["code"].to_string());
        }
        if answer.status == 503 {
            self.slowest_away = self.slowest_away.max(took);
        }
        false
    }
}

async fn call(
    address: SocketAddr,
    key: String,
    told: Arc<Mutex<Told>>,
    (stop, hurry): (Arc<AtomicBool>, Arc<AtomicBool>),
) {
    while !stop.load(Ordering::SeqCst) {
        let Ok(stream) = TcpStream::connect(address).await else {
            // It was killed; a caller that finds nobody comes again.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut client = Client::on(stream, address, &key).await;
        while !stop.load(Ordering::SeqCst) {
            let begun = Instant::now();
            let answer = client.try_send(Call::chat("load", &asking("fixed"))).await;
            if told.lock().unwrap().note(answer.ok().as_ref(), begun.elapsed()) {
                break;
            }
            if !hurry.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
    }
}
