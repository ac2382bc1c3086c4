//! `kill -9` at any moment: whatever a caller got whole is in the ledger, once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Call;
use crate::support::marg::{Marg, Setup};
use crate::support::upstream::Upstream;
use crate::support::{soon, until};

const KILLS: usize = 50;
const CALLERS: usize = 4;

#[tokio::test]
async fn every_exchange_that_was_answered_is_in_the_ledger_once() {
    let upstream = Upstream::http1().await;
    let quiet = json!({"level": "warn"});
    let mut marg = Setup::with_default(&upstream).set("log", quiet).start().await;
    let answered = Arc::new(Mutex::new(Vec::new()));
    for kill in 0..KILLS {
        let callers: Vec<_> =
            (0..CALLERS).map(|_| tokio::spawn(call(marg.address, marg.key.clone(), answered.clone()))).collect();
        let before = answered.lock().unwrap().len();
        until("callers are answered", || async { (answered.lock().unwrap().len() >= before + CALLERS).then_some(()) })
            .await;
        tokio::time::sleep(Duration::from_millis(u64::from(getrandom::u32().unwrap() % 100))).await;
        marg.kill9();
        for caller in callers {
            soon("a caller ends", caller).await.unwrap();
        }
        marg.restart().await;
        // Now and then, and at the end, for all that was answered so far.
        if kill % 10 == 9 {
            check(&marg, &answered).await;
        }
    }
}

/// Asks, plain and streamed in turn, until the gateway is gone; notes what was answered whole.
async fn call(address: std::net::SocketAddr, key: String, answered: Arc<Mutex<Vec<String>>>) {
    let mut client = crate::support::client::Client::http1(address, &key).await;
    for number in 0_usize.. {
        let body = json!({
            "model": "m", "messages": [{"role": "user", "content": "x"}], "stream": number.is_multiple_of(2),
        });
        let Ok(answer) = client.try_send(Call::chat("crash", &body)).await else { return };
        assert_eq!(answer.status, 200, "{}", answer.text());
        answered.lock().unwrap().push(answer.id());
    }
}

async fn check(marg: &Marg, answered: &Mutex<Vec<String>>) {
    let answered = answered.lock().unwrap().clone();
    // The last of them may still be on their way from the journal.
    let rows = until("the ledger holds everything", || async {
        let rows = rows(marg).await;
        answered.iter().all(|id| rows.contains_key(id)).then_some(rows)
    })
    .await;
    for (id, records) in &rows {
        assert_eq!(records.len(), 1, "{id}: {records:?}");
    }
    for id in &answered {
        let record = &rows[id][0];
        assert_eq!(record["outcome"], "answered", "{record}");
        assert_eq!(record["usage"]["output"], 3, "{record}");
    }
}

async fn rows(marg: &Marg) -> HashMap<String, Vec<Value>> {
    let export = marg.ask_admin("GET", "/admin/requests/export?format=jsonl&operation=chat", None).await;
    assert_eq!(export.status, 200, "{}", export.text());
    let mut rows: HashMap<String, Vec<Value>> = HashMap::new();
    for line in export.text().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        rows.entry(record["id"].as_str().unwrap().to_owned()).or_default().push(record);
    }
    rows
}
