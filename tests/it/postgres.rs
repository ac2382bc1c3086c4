//! PostgreSQL as the store: it goes away under load and comes back, and no caller notices.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::postgres_server::PostgresServer;
use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup};
use crate::support::upstream::Upstream;
use crate::support::{soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgres_is_away_every_call_is_served_and_recorded_once_afterwards() {
    let mut server = PostgresServer::start();
    let upstream = Upstream::http1().await;
    let database = json!({"url": format!("plain:{}", server.database()), "connect_timeout_ms": 500});
    let quiet = json!({"level": "warn"});
    let setup = Setup::with_default(&upstream).set("database", database).set("log", quiet);
    let marg = setup.set("ledger", json!({"journal_segment_bytes": 65_536})).start().await;
    let (gone, _) = deleted_key(&marg).await;

    let (answered, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> =
        (0..4).map(|_| tokio::spawn(call(marg.address, marg.key.clone(), answered.clone(), stop.clone()))).collect();
    let more = async |count: usize| {
        let goal = answered.lock().unwrap().len() + count;
        until("callers are answered", || async { (answered.lock().unwrap().len() >= goal).then_some(()) }).await;
    };
    for _ in 0..2 {
        more(100).await;
        server.stop();
        until("an unknown key is told to come again", || async { (ask(&marg, &gone).await == 503).then_some(()) })
            .await;
        more(300).await;
        assert_eq!(ask(&marg, &gone).await, 503);
        assert_eq!(ask(&marg, "marg_live_mistyped").await, 401);
        let ready = Client::http1(marg.address, "").await.send(Call::new("GET", "/ready").without_key()).await;
        assert_eq!((ready.status, ready.json()["status"].as_str()), (200, Some("degraded")), "{}", ready.text());
        server.resume();
        until("an unknown key is unknown", || async { (ask(&marg, &gone).await == 401).then_some(()) }).await;
    }
    more(100).await;
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        soon("a caller ends", caller).await.unwrap();
    }
    let answered = answered.lock().unwrap().clone();
    let rows = until("the ledger holds everything", || async {
        let rows = rows(&marg).await;
        answered.iter().all(|id| rows.contains_key(id)).then_some(rows)
    })
    .await;
    assert!(rows.values().all(|count| *count == 1), "a record is there twice");
    assert_eq!(rows.len(), answered.len(), "a record is there that nobody was answered for");
    assert!(!marg.logged().contains("never-shown"), "the password is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_at_rest_says_that_postgres_is_away_and_that_it_is_back() {
    let mut server = PostgresServer::start();
    let upstream = Upstream::http1().await;
    let database = json!({"url": format!("plain:{}", server.database()), "connect_timeout_ms": 500});
    let marg = Setup::with_default(&upstream).set("database", database).start().await;
    let database = async || {
        let ready = Client::http1(marg.address, "").await.send(Call::new("GET", "/ready").without_key()).await.json();
        let parts = ready["parts"].as_array().unwrap().clone();
        (ready["status"].clone(), parts.into_iter().find(|part| part["name"] == "database").unwrap())
    };
    until("the database is there", || async { (database().await.0 == "ready").then_some(()) }).await;
    server.stop();
    // Nobody calls, so there is nothing to store.
    let part = until("the database is said to be away", || async {
        let (status, part) = database().await;
        (status == "degraded" && part["ok"] == false).then_some(part)
    })
    .await;
    assert!(part["detail"].as_str().unwrap().starts_with("away since 2"), "{part}");
    assert_eq!(database().await.1["detail"], part["detail"], "it is away since the first failure");
    server.resume();
    until("the database is back", || async { (database().await.0 == "ready").then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_instance_writes_the_other_knows_within_a_second() {
    let server = PostgresServer::start();
    let upstream = Upstream::http1().await;
    let database = json!({"url": format!("plain:{}", server.database())});
    let keys = json!({"hash_key": format!("plain:{}", "5a".repeat(32))});
    let start = async || {
        Setup::with_default(&upstream).set("database", database.clone()).set("keys", keys.clone()).start().await
    };
    let (one, other) = (start().await, start().await);
    let (token, id) = one.make_key(&[]).await;
    until("the other knows the key", || async { (ask(&other, &token).await == 200).then_some(()) }).await;
    let revoked = one.ask_admin("POST", &format!("/admin/keys/{id}/revoke"), None).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    until("the other knows the revocation", || async { (ask(&other, &token).await == 401).then_some(()) }).await;
}

/// A token that is well-formed and that the gateway does not know, with the id that its key had.
async fn deleted_key(marg: &Marg) -> (String, String) {
    let (token, id) = marg.make_key(&[]).await;
    let deleted = marg.ask_admin("DELETE", &format!("/admin/keys/{id}"), None).await;
    assert!(deleted.status < 300, "{}", deleted.text());
    assert_eq!(ask(marg, &token).await, 401);
    (token, id)
}

async fn ask(marg: &Marg, token: &str) -> u16 {
    Client::http1(marg.address, token).await.send(Call::new("GET", "/v1/models")).await.status
}

/// Asks until it is told to stop; every call must be answered. Notes the answers.
async fn call(address: std::net::SocketAddr, key: String, answered: Arc<Mutex<Vec<String>>>, stop: Arc<AtomicBool>) {
    let mut client = Client::http1(address, &key).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    while !stop.load(Ordering::SeqCst) {
        let answer = client.send(Call::chat("postgres", &body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answered.lock().unwrap().push(answer.id());
    }
}

async fn rows(marg: &Marg) -> HashMap<String, usize> {
    let export = marg.ask_admin("GET", "/admin/requests/export?format=jsonl&operation=chat", None).await;
    assert_eq!(export.status, 200, "{}", export.text());
    let mut rows: HashMap<String, usize> = HashMap::new();
    for line in export.text().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        *rows.entry(record["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    rows
}
