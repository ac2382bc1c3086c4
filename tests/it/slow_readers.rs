//! Callers that ask for much and read nothing: the provider is held back, memory stays flat, others are served.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::answers;
use crate::support::client::Call;
use crate::support::marg::{Marg, Setup};
use crate::support::raw::Raw;
use crate::support::reply::{Answer, Body};
use crate::support::until;
use crate::support::upstream::Upstream;

const PIECE: usize = 4 * 1024;
const STREAM: u64 = 100 * 1024 * 1024;
const GROWTH: u64 = 60 * 1024 * 1024;

#[tokio::test]
async fn a_hundred_callers_that_do_not_read_cost_no_memory_and_no_service() {
    check(100, &Upstream::http1().await, json!({})).await;
}

/// A connection over HTTP/2 carries a hundred calls, so those that read share it with those that do not.
#[tokio::test]
async fn callers_that_do_not_read_hold_up_no_other_over_http2() {
    check(90, &Upstream::http2().await, json!({"http": "2"})).await;
}

async fn check(count: usize, upstream: &Upstream, settings: Value) {
    let setup = Setup::new().provider("main", upstream, settings).set("default_provider", json!("main"));
    let marg = setup.set("log", json!({"level": "warn"})).start().await;
    let event = answers::text("m", &"x".repeat(PIECE));
    upstream.answer("flood", Answer::event_stream(Body::Repeated(event, STREAM / PIECE as u64)).into());
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    for _ in 0..20 {
        assert_eq!(marg.chat("warm", &chat).await.status, 200);
    }
    let before = marg.resident_bytes();
    let mut readers = Vec::new();
    for _ in 0..count {
        readers.push(ask_for_flood(&marg).await);
    }
    upstream.wait_for("flood", count).await;
    // Until the provider can send nothing more: every buffer on the way is full.
    let sent = stalled(upstream).await;
    let growth = marg.resident_bytes().saturating_sub(before);
    assert!(growth < GROWTH, "{} MiB more for {count} readers", growth >> 20);
    assert!(sent < STREAM * count as u64 / 2, "{} MiB were taken without a reader", sent >> 20);
    let mut client = marg.http1().await;
    for _ in 0..50 {
        let answer = client.send(Call::chat("others", &chat)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let growth = marg.resident_bytes().saturating_sub(before);
    assert!(growth < GROWTH, "{} MiB more after a while", growth >> 20);
    drop(readers);
    until("every flood is recorded as left", || async {
        let list = marg.ask_admin("GET", "/admin/requests?limit=1000", None).await.json();
        let left = list["requests"].as_array().unwrap().iter().filter(|one| one["outcome"] == "client_gone").count();
        (left == count).then_some(())
    })
    .await;
    // Connections over HTTP/2 stay, as others may use them.
    if !upstream.speaks_http2() {
        until("the provider is let go", || async { (upstream.open() <= 2).then_some(()) }).await;
    }
}

async fn ask_for_flood(marg: &Marg) -> Raw {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true}).to_string();
    let mut raw = Raw::connect(marg.address).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-case: flood\r\n\
         content-length: {}\r\n\r\n{body}",
        marg.key,
        body.len()
    );
    assert!(raw.write(Bytes::from(head)).await);
    raw
}

/// Waits until the provider's counter of sent bytes stands still; gives it.
async fn stalled(upstream: &Upstream) -> u64 {
    let last = std::sync::Mutex::new((0_u64, 0_u32));
    until("the provider is held back", || async {
        let sent = upstream.sent_bytes();
        let mut last = last.lock().unwrap();
        *last = if sent == last.0 && sent > 0 { (sent, last.1 + 1) } else { (sent, 0) };
        // A hundred looks in a row, that is a second.
        (last.1 >= 100).then_some(sent)
    })
    .await
}
