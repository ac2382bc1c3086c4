//! Answers that are made after they were given out (`background` of the Responses API): what they are charged, and when that is put
//! right.

use serde_json::{Value, json};

use crate::support::client::Call;
use crate::support::marg::{Marg, Setup};
use crate::support::money::{self, spent_is};
use crate::support::reply::{Answer, Body, End, Reply};
use crate::support::until;
use crate::support::upstream::Upstream;

const PRICES: &str = "prices:\n  - {model: writer, usd_per_million_tokens: {input: 1, output: 10}}\n";

fn setup(upstream: &Upstream, limits: Value) -> Setup {
    let setup = Setup::with_default(upstream);
    let path = setup.path("prices.yaml");
    std::fs::write(&path, PRICES).unwrap();
    setup.set("prices", json!({"overlay": path})).set("limits", limits)
}

/// A cent for each key, and many tokens.
fn limits() -> Value {
    json!([
        {"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": "0.015"},
        {"name": "tokens", "scope": "key", "unit": "tokens", "window": "day", "amount": 1_000_000},
        {"name": "requests", "scope": "key", "unit": "requests", "window": "total", "amount": 100},
    ])
}

fn response(id: &str, status: &str, usage: Option<(u64, u64)>) -> Value {
    let usage = usage
        .map(|(input, output)| json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output}));
    json!({"id": id, "object": "response", "status": status, "background": true, "model": "writer-1", "output": [],
        "incomplete_details": null, "error": null, "usage": usage})
}

fn order(more: Value) -> Call {
    let mut body = json!({"model": "writer", "input": "Write.", "background": true, "max_output_tokens": 1_000});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Call::post("/v1/responses", "order", body.to_string())
}

/// Reads a stored answer, which is so and so by now.
async fn read(marg: &Marg, upstream: &Upstream, path: &str, answer: impl Into<Reply>) {
    upstream.answer("read", answer.into());
    let read = marg.send(Call::new("GET", path).header("x-case", "read")).await;
    assert_eq!(read.status, 200, "{}", read.text());
    let record = marg.record(&read.id()).await;
    assert!(record["usage"].is_null() && record["cost_nano_usd"] == 0, "{record}");
}

fn json(body: &Value) -> Reply {
    Answer::json(200, body).into()
}

fn event(kind: &str, response: &Value) -> bytes::Bytes {
    format!("event: {kind}\ndata: {}\n\n", json!({"type": kind, "response": response})).into()
}

#[tokio::test]
async fn an_answer_that_is_made_later_is_charged_in_full_and_corrected_once_by_the_first_reading_that_counts() {
    let upstream = Upstream::http1().await;
    let marg = setup(&upstream, limits()).start().await;
    upstream.answer("order", json(&response("resp_1", "queued", None)));
    let answer = marg.send(order(json!({}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let first = marg.record(&answer.id()).await;
    assert_eq!((&first["usage_source"], &first["usage"]["output"]), (&json!("estimated"), &json!(1_000)), "{first}");
    let most = first["cost_nano_usd"].as_i64().unwrap();
    assert!((10_000_000..10_500_000).contains(&most), "{first}");
    spent_is(&marg, "dollars", None, most).await;
    // A second one does not fit beside it.
    assert_eq!(marg.send(order(json!({}))).await.status, 429);

    // What is not ready, another one's, or not the answer itself, changes nothing.
    let stored = "/v1/responses/resp_1";
    let ready = response("resp_1", "completed", Some((10, 100)));
    read(&marg, &upstream, stored, json(&response("resp_1", "in_progress", None))).await;
    read(&marg, &upstream, stored, json(&response("resp_1", "in_progress", Some((0, 0))))).await;
    read(&marg, &upstream, stored, json(&response("resp_2", "completed", Some((1, 1))))).await;
    read(&marg, &upstream, "/v1/responses/resp_2", json(&response("resp_2", "completed", Some((1, 1))))).await;
    read(&marg, &upstream, "/v1/responses/resp_1/input_items", json(&ready)).await;
    read(&marg, &upstream, "/v1/files/resp_1/content", json(&ready)).await;
    let large = json!({"id": "resp_1", "status": "completed", "text": "x".repeat(2 << 20), "usage": {"input_tokens": 0,
        "output_tokens": 0}});
    read(&marg, &upstream, stored, json(&large)).await;
    assert_eq!(money::spent(&marg, "dollars", None).await, most);

    read(&marg, &upstream, stored, json(&ready)).await;
    until("the counter is put right", || async {
        (money::spent(&marg, "dollars", None).await == 1_010_000).then_some(())
    })
    .await;
    until("that of tokens, too", || async { (money::spent(&marg, "tokens", None).await == 110).then_some(()) }).await;
    let corrected = marg.record_when(&answer.id(), |record| record["usage_source"] == "reported").await;
    assert_eq!(corrected["cost_nano_usd"], 1_010_000, "{corrected}");
    // Once.
    read(&marg, &upstream, stored, json(&response("resp_1", "completed", Some((0, 0))))).await;
    assert_eq!(marg.record(&answer.id()).await["cost_nano_usd"], 1_010_000);
    // What came back can be spent.
    upstream.answer("order", json(&response("resp_3", "queued", None)));
    until("another one fits", || async { (marg.send(order(json!({}))).await.status == 200).then_some(()) }).await;
    spent_is(&marg, "dollars", None, 1_010_000 + most).await;
    let report = json!({"since": "2026-01-01T00:00:00Z"});
    let report = marg.ask_admin("POST", "/admin/prices/reprice", Some(&report)).await.json();
    assert_eq!(report["changed"], 0, "{report}");
}

#[tokio::test]
async fn the_stream_of_such_an_answer_may_break_but_its_making_goes_on() {
    let upstream = Upstream::http1().await;
    let marg = setup(&upstream, limits()).start().await;
    let queued = event("response.queued", &response("resp_1", "queued", None));
    let pieces = vec![queued, event("response.in_progress", &response("resp_1", "in_progress", None))];
    upstream.answer("order", Answer::event_stream(Body::Pieces(pieces, End::Cut)).into());
    let answer = marg.send(order(json!({"stream": true}))).await;
    let first = marg.record(&answer.id()).await;
    assert_eq!((&first["usage_source"], &first["usage"]["output"]), (&json!("estimated"), &json!(1_000)), "{first}");
    let most = first["cost_nano_usd"].as_i64().unwrap();
    spent_is(&marg, "dollars", None, most).await;
    // Read on from where it broke.
    let done = event("response.completed", &response("resp_1", "completed", Some((10, 100))));
    let rest = Answer::event_stream(Body::Pieces(vec![done], End::Clean));
    read(&marg, &upstream, "/v1/responses/resp_1?stream=true&starting_after=2", rest).await;
    until("the counter is put right", || async {
        (money::spent(&marg, "dollars", None).await == 1_010_000).then_some(())
    })
    .await;
    // One that was not cut tells for itself.
    let done = event("response.completed", &response("resp_2", "completed", Some((10, 100))));
    upstream.answer("order", Answer::event_stream(Body::Pieces(vec![done], End::Clean)).into());
    let whole = marg.send(order(json!({"stream": true}))).await;
    let record = marg.record(&whole.id()).await;
    assert_eq!(
        (&record["usage_source"], &record["cost_nano_usd"]),
        (&json!("reported"), &json!(1_010_000)),
        "{record}"
    );
    spent_is(&marg, "dollars", None, 2_020_000).await;
}

#[tokio::test]
async fn what_nobody_remembers_stays_charged_in_full() {
    let upstream = Upstream::http1().await;
    let mut marg = setup(&upstream, limits()).start().await;
    upstream.answer("order", json(&response("resp_1", "queued", None)));
    let answer = marg.send(order(json!({}))).await;
    let most = marg.record(&answer.id()).await["cost_nano_usd"].as_i64().unwrap();
    marg.kill9();
    marg.restart().await;
    read(&marg, &upstream, "/v1/responses/resp_1", json(&response("resp_1", "completed", Some((10, 100))))).await;
    spent_is(&marg, "requests", None, 2).await;
    assert_eq!(money::spent(&marg, "dollars", None).await, most);
    assert_eq!(marg.record(&answer.id()).await["usage_source"], "estimated");
}

#[tokio::test]
async fn without_a_limit_the_ledger_says_what_one_would_have_reserved_until_it_is_known() {
    let upstream = Upstream::http1().await;
    let marg = setup(&upstream, json!([])).start().await;
    upstream.answer("order", json(&response("resp_1", "in_progress", None)));
    let answer = marg.send(order(json!({"max_output_tokens": null}))).await;
    let record = marg.record(&answer.id()).await;
    assert_eq!((&record["usage_source"], &record["usage"]["output"]), (&json!("estimated"), &json!(4_096)), "{record}");
    read(&marg, &upstream, "/v1/responses/resp_1", json(&response("resp_1", "completed", Some((10, 100))))).await;
    let corrected = marg.record_when(&answer.id(), |record| record["usage_source"] == "reported").await;
    assert_eq!(corrected["cost_nano_usd"], 1_010_000, "{corrected}");
}
