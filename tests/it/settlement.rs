//! What a call is charged, whatever becomes of it, and what a refusal tells programs.

use serde_json::{Value, json};

use crate::support::answers;
use crate::support::client::Call;
use crate::support::marg::{Marg, Setup};
use crate::support::money::{self, COST_NANO_USD, asking, fixed, priced, spent_is};
use crate::support::reply::{Answer, Body, End, Reply, What};
use crate::support::until;
use crate::support::upstream::Upstream;

/// A provider whose models have prices of the operator's own, or of OpenAI's list, under these limits.
async fn gateway(upstream: &Upstream, rows: &str, limits: Value) -> Marg {
    let setup = Setup::with_default(upstream);
    let path = setup.path("prices.yaml");
    std::fs::write(&path, format!("prices:\n{rows}")).unwrap();
    setup.set("prices", json!({"overlay": path})).set("limits", limits).start().await
}

/// A limit in dollars for each key.
fn dollars(amount: &str) -> Value {
    json!([{"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": amount}])
}

#[tokio::test]
async fn a_stream_that_broke_off_is_charged_for_what_came_and_not_for_what_was_reserved() {
    let upstream = Upstream::http1().await;
    let marg = priced(Setup::with_default(&upstream)).set("limits", dollars("10")).start().await;
    let (reply, feed) = Reply::fed();
    upstream.answer("cut", reply);
    let mut body = asking("fixed");
    body["stream"] = json!(true);
    body["max_tokens"] = json!(4_000);
    let mut client = marg.http1().await;
    let open = client.open(Call::chat("cut", &body)).await;
    feed.send(answers::text("fixed", "one")).await;
    feed.cut().await;
    let answer = open.finish().await;
    let record = marg.record_when(&answer.id(), |record| record["usage"].is_object()).await;
    assert_eq!(
        (record["outcome"].as_str(), record["usage_source"].as_str()),
        (Some("upstream_cut"), Some("estimated"))
    );
    assert_eq!(record["usage"]["output"], 1, "{record}");
    assert_eq!(record["cost_nano_usd"], 10_000, "{record}");
    assert_eq!(record["attempts"].as_array().unwrap().len(), 1, "{record}");
    spent_is(&marg, "dollars", None, 10_000).await;
}

/// Sends a call and leaves it when the provider, or whoever is in its place, is at it; gives the record that is as wanted.
async fn left(
    marg: &Marg,
    call: Call,
    has_arrived: impl Future<Output = ()>,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let before = records(marg).await.len();
    let mut client = marg.http1().await;
    let waiting = tokio::spawn(async move { client.try_open(call).await.map(|_| ()) });
    has_arrived.await;
    waiting.abort();
    until("the call that was left is recorded", || async {
        let all = records(marg).await;
        all.first().filter(|record| all.len() > before && wanted(record)).cloned()
    })
    .await
}

/// The latest first.
async fn records(marg: &Marg) -> Vec<Value> {
    let list = marg.ask_admin("GET", "/admin/requests?limit=1000", None).await.json();
    list["requests"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_call_that_is_left_before_its_first_byte_is_charged_for_what_was_sent() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, READER, dollars("1")).await;
    let words = "word ".repeat(10_000);
    let chat = |stream: bool| {
        let messages = json!([{"role": "user", "content": words}]);
        json!({"model": "reader", "messages": messages, "max_tokens": 1_000, "stream": stream}).to_string()
    };
    let mut spent = 0;
    for (case, path, body) in [
        ("plain", "/v1/chat/completions", chat(false)),
        ("stream", "/v1/chat/completions", chat(true)),
        ("fim", "/v1/fim/completions", json!({"model": "reader", "prompt": words}).to_string()),
        ("odd", "/v1/anything", json!({"model": "reader", "question": words}).to_string()),
    ] {
        upstream.answer(case, Reply::afterwards(What::Hang));
        let has_arrived = async {
            until("all of it is there", || async { upstream.seen(case).first().filter(|seen| seen.whole).map(drop) })
                .await;
        };
        let record = left(&marg, Call::post(path, case, body), has_arrived, |record| record["usage"].is_object()).await;
        assert_eq!(
            (&record["outcome"], &record["usage_source"]),
            (&json!("client_gone"), &json!("estimated")),
            "{record}"
        );
        assert_eq!((&record["provider"], &record["usage"]["output"]), (&json!("main"), &json!(0)), "{record}");
        assert_eq!(
            (&record["attempts"][0]["end"], &record["attempts"][0]["status"]),
            (&json!("abandoned"), &json!(null))
        );
        let cost = record["cost_nano_usd"].as_i64().unwrap();
        assert!((9_000_000..15_000_000).contains(&cost), "a dollar a million for some 10,000 tokens: {record}");
        spent += cost;
        spent_is(&marg, "dollars", None, spent).await;
    }
    // What is made whether anybody waits for it or not is charged the most that it can use.
    let later =
        json!({"model": "reader", "input": "Hello", "background": true, "max_output_tokens": 1_000}).to_string();
    upstream.answer("later", Reply::afterwards(What::Hang));
    let has_arrived = async { drop(upstream.wait_for("later", 1).await) };
    let call = Call::post("/v1/responses", "later", later);
    let record = left(&marg, call, has_arrived, |record| record["outcome"] == "client_gone").await;
    assert_eq!(record["usage"]["output"], 1_000, "{record}");
    spent += record["cost_nano_usd"].as_i64().unwrap();
    spent_is(&marg, "dollars", None, spent).await;
    // What the provider itself broke off, and what names no model that runs, stays free.
    upstream.answer("broken", Reply::afterwards(What::Close));
    assert_eq!(marg.send(Call::post("/v1/chat/completions", "broken", chat(false))).await.status, 502);
    upstream.answer("stored", Reply::afterwards(What::Hang));
    let has_arrived = async { drop(upstream.wait_for("stored", 1).await) };
    let stored = Call::post("/v1/conversations", "stored", json!({"items": []}).to_string());
    let record = left(&marg, stored, has_arrived, |record| record["outcome"] == "client_gone").await;
    assert_eq!((&record["usage"], &record["cost_nano_usd"]), (&Value::Null, &Value::Null), "{record}");
    spent_is(&marg, "dollars", None, spent).await;
}

#[tokio::test]
async fn a_call_that_is_left_before_its_provider_had_it_costs_nothing() {
    let upstream = Upstream::http1().await;
    // It takes the connection and never speaks TLS.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("https://{}/v1", silent.local_addr().unwrap());
    let settings = json!({"base_url": base_url, "models": ["fixed"], "connect_timeout_ms": 500});
    let setup = Setup::new().provider("main", &upstream, settings);
    let marg = priced(setup).set("default_provider", json!("main")).set("limits", dollars("1")).start().await;
    let mut connection = None;
    let has_arrived = async { connection = Some(silent.accept().await.unwrap()) };
    let body = asking("fixed").to_string();
    let call = Call::post("/v1/chat/completions", "unsent", body);
    let record = left(&marg, call, has_arrived, |_| true).await;
    assert_eq!((&record["usage"], &record["provider"]), (&Value::Null, &Value::Null), "{record}");
    assert_eq!((&record["cost_nano_usd"], record["attempts"].as_array().unwrap().len()), (&Value::Null, 1), "{record}");
    assert_eq!(money::spent(&marg, "dollars", None).await, 0);
    assert_eq!(money::figure(&money::counters(&marg, "dollars").await[0]["reserved_here"]), 0);
}

#[tokio::test]
async fn a_model_billed_by_the_request_has_a_cost_even_if_nobody_counts_tokens() {
    let upstream = Upstream::http1().await;
    let rows = "  - {model: painter, per_request_usd: 0.04}\n";
    let marg = gateway(&upstream, rows, dollars("10")).await;
    upstream.answer("drawn", Answer::json(200, &json!({"created": 1, "data": [{"b64_json": "AA=="}]})).into());
    let call =
        Call::post("/v1/images/generations", "drawn", json!({"model": "painter", "prompt": "a cat"}).to_string());
    let answer = marg.http1().await.send(call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(marg.record(&answer.id()).await["cost_nano_usd"], 40_000_000);
    spent_is(&marg, "dollars", None, 40_000_000).await;
}

/// What DALL·E 3 costs (https://platform.openai.com/docs/pricing#image-generation).
const PAINTER: &str = "  - {model: painter, per_image_usd: 0.04, image_prices: [{size: 1024x1792, quality: hd, \
                       per_image_usd: 0.12}, {quality: hd, per_image_usd: 0.08}, {size: 1024x1792, per_image_usd: 0.08}]}\n";

/// A request for images.
fn images(case: &str, more: Value) -> Call {
    let mut body = json!({"model": "painter", "prompt": "a cat"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Call::post("/v1/images/generations", case, body.to_string())
}

#[tokio::test]
async fn images_are_reserved_charged_told_and_priced_again_by_the_piece() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, PAINTER, dollars("0.50")).await;
    let picture = json!({"b64_json": "AA=="});
    // Two of three come: what came is charged, not what was asked for.
    let two = json!({"created": 1, "data": [picture, picture]});
    upstream.answer("two", Answer::json(200, &two).into());
    let kind = json!({"n": 3, "size": "1024x1792", "quality": "hd"});
    let answer = marg.send(images("two", kind.clone())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    spent_is(&marg, "dollars", None, 240_000_000).await;
    let record = marg.record(&answer.id()).await;
    assert_eq!(record["images"], json!({"count": 2, "size": "1024x1792", "quality": "hd"}), "{record}");
    assert_eq!(record["cost_nano_usd"], 240_000_000, "{record}");
    // 0.26 is left: not enough for three of that kind, and for three whose kind the provider chooses.
    assert_eq!(marg.send(images("dear", kind)).await.status, 429);
    let open = marg.send(images("open", json!({"n": 3}))).await;
    assert_eq!(open.status, 429, "{}", open.text());
    // Enough for three plain ones; an answer that does not say how many it holds has as many as were asked for.
    upstream.answer("plain", Answer::json(200, &json!({"created": 1})).into());
    let plain = marg.send(images("plain", json!({"n": 3, "size": "1024x1024", "quality": "standard"}))).await;
    assert_eq!(plain.status, 200, "{}", plain.text());
    spent_is(&marg, "dollars", None, 360_000_000).await;
    // What failed drew nothing.
    upstream.answer("failed", Reply::error(400));
    assert_eq!(marg.send(images("failed", json!({"n": 1}))).await.status, 400);
    spent_is(&marg, "dollars", None, 360_000_000).await;

    let csv = marg.ask_admin("GET", "/admin/requests/export?format=csv", None).await.text();
    assert!(csv.lines().next().unwrap().contains(",images,image_size,image_quality,"), "{csv}");
    assert!(csv.contains(",2,1024x1792,hd,,240000000,"), "{csv}");
    let set = ["prices", "set", "painter", "--per-image", "0.05", "--image-price", "quality=hd,usd=0.10"];
    let set = [&set[..], &["--output", "json"]].concat();
    let stored = marg.command(&set).await;
    assert_eq!(stored["prices"][0]["price"]["image_prices"][0]["per_image_usd"], 0.10, "{stored}");
    until("the gateway has heard of the price", || async {
        let shown = marg.ask_admin("GET", "/admin/prices/lookup?model=painter&provider=main", None).await.json();
        (shown["prices"][0]["price"]["per_image_usd"] == 0.05).then_some(())
    })
    .await;
    // Twice 0.10 for 0.24, and thrice 0.05 for 0.12: 0.01 less.
    let order = json!({"since": "2026-01-01T00:00:00Z", "dry_run": false});
    let report = marg.ask_admin("POST", "/admin/prices/reprice", Some(&order)).await.json();
    assert_eq!((&report["changed"], &report["difference_nano_usd"]), (&json!(2), &json!(-10_000_000)), "{report}");
    assert_eq!(marg.record(&answer.id()).await["cost_nano_usd"], 200_000_000);
    until("the counter follows", || async {
        (money::spent(&marg, "dollars", None).await == 350_000_000).then_some(())
    })
    .await;
}

#[tokio::test]
async fn speech_without_a_count_is_estimated_by_its_text() {
    let upstream = Upstream::http1().await;
    let rows = "  - {model: voice, usd_per_million_tokens: {input: 0, output: 0, output_audio: 12}}\n";
    let marg = gateway(&upstream, rows, dollars("10")).await;
    upstream.answer("spoken", Answer::json(200, &json!({})).into());
    let body = json!({"model": "voice", "voice": "alloy", "input": "x".repeat(150)});
    let answer = marg.http1().await.send(Call::post("/v1/audio/speech", "spoken", body.to_string())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record = marg.record_when(&answer.id(), |record| record["usage"].is_object()).await;
    assert_eq!(record["usage"]["output_audio"], 200, "{record}");
    spent_is(&marg, "dollars", None, 200 * 12_000).await;
}

#[tokio::test]
async fn moderation_is_free_under_a_limit_in_dollars_even_without_a_model() {
    let upstream = Upstream::http1().await;
    let marg = Setup::new()
        .provider("main", &upstream, json!({"price_provider": "openai"}))
        .set("default_provider", json!("main"))
        .set("limits", dollars("0.000001"))
        .start()
        .await;
    upstream.answer("moderated", Answer::json(200, &json!({"model": "omni-moderation-latest", "results": []})).into());
    let call = Call::post("/v1/moderations", "moderated", json!({"input": "word ".repeat(100)}).to_string());
    let answer = marg.http1().await.send(call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record = marg.record_when(&answer.id(), |record| record["usage"].is_object()).await;
    assert_eq!(record["cost_nano_usd"], 0, "{record}");
}

#[tokio::test]
async fn a_refusal_tells_programs_what_it_tells_people_and_sdks_when_not_to_come_back() {
    let upstream = Upstream::http1().await;
    let marg = priced(Setup::with_default(&upstream)).set("limits", dollars("0.00005")).start().await;
    assert_eq!(marg.chat("first", &fixed()).await.status, 200);
    let refused = marg.chat("second", &fixed()).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.headers["x-should-retry"], "false", "what is spent for good does not come back");
    let limit = &refused.json()["error"]["limit"];
    for (field, value) in [
        ("name", json!("dollars")),
        ("scope", json!("key")),
        ("unit", json!("usd")),
        ("window", json!("total")),
        ("amount_usd", json!("0.000050000")),
        ("spent", json!(COST_NANO_USD)),
        ("reserved", json!(0)),
        ("remaining_usd", json!("0.000020000")),
        ("needed", json!(COST_NANO_USD)),
        ("resets_at", json!(null)),
    ] {
        assert_eq!(limit[field], value, "{field} of {limit}");
    }
    assert!(limit["id"].as_str().unwrap().starts_with("config-"), "{limit}");
}

#[tokio::test]
async fn sdks_are_told_to_come_back_where_a_wait_is_short() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"scope": "key", "unit": "requests", "window": "minute", "amount": 60, "burst": 1}]);
    let marg = priced(Setup::with_default(&upstream)).set("limits", limits).start().await;
    let mut client = marg.http1().await;
    let refused = loop {
        let answer = client.send(Call::chat("paced", &fixed())).await;
        if answer.status == 429 {
            break answer;
        }
        let reset = answer.headers["x-ratelimit-reset-requests"].to_str().unwrap();
        assert_eq!(reset, "1s", "one of sixty a minute is back in a second");
    };
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(!refused.headers.contains_key("x-should-retry"));
}

#[tokio::test]
async fn a_cheaper_model_without_a_price_is_the_one_that_the_refusal_names() {
    let upstream = Upstream::http1().await;
    let limits = json!([{
        "name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": "0.00007",
        "action": "downgrade", "downgrade_to": "of-my-own", "downgrade_below_percent": 90,
    }]);
    let marg = priced(Setup::with_default(&upstream)).set("limits", limits).start().await;
    assert_eq!(marg.chat("first", &fixed()).await.status, 200);
    let refused = marg.chat("second", &fixed()).await;
    refused.assert_error(403, "permission_denied");
    assert!(refused.text().contains("of-my-own"), "{}", refused.text());
    assert_eq!(money::counters(&marg, "dollars").await.len(), 1);
}

#[tokio::test]
async fn a_mistyped_price_blocks_nobody_for_good() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "  - {model: fixed, per_request_usd: 0.00003}\n", dollars("1")).await;
    let price = |usd: f64| json!({"prices": [{"model": "fixed", "per_request_usd": usd}]});
    assert_eq!(marg.ask_admin("PUT", "/admin/prices", Some(&price(0.6))).await.status, 200);
    assert_eq!(marg.chat("dear", &fixed()).await.status, 200);
    assert_eq!(marg.chat("blocked", &fixed()).await.status, 429);
    assert_eq!(marg.ask_admin("PUT", "/admin/prices", Some(&price(0.000_03))).await.status, 200);
    // At once: what still waits in the journal is priced again, too.
    let order = json!({"since": "2020-01-01T00:00:00Z", "dry_run": false});
    let report = marg.ask_admin("POST", "/admin/prices/reprice", Some(&order)).await;
    assert_eq!(report.json()["changed"], 1, "{}", report.text());
    assert_eq!(marg.chat("free again", &fixed()).await.status, 200);
    spent_is(&marg, "dollars", None, 2 * COST_NANO_USD).await;
}

#[tokio::test]
async fn the_state_of_a_limit_shows_its_amount_as_it_is_now_and_a_passed_threshold_is_in_the_log() {
    let upstream = Upstream::http1().await;
    let marg = priced(Setup::with_default(&upstream)).start().await;
    let body = json!({"name": "few", "scope": "key", "unit": "requests", "window": "day", "amount": 2, "warn_at_percent": [50]});
    let made = marg.ask_admin("POST", "/admin/limits", Some(&body)).await.json();
    assert_eq!(marg.chat("one", &fixed()).await.status, 200);
    crate::support::until("the log tells it", || async {
        marg.logged().contains("a limit passed a threshold").then_some(())
    })
    .await;
    let path = format!("/admin/limits/{}", made["id"].as_str().unwrap());
    assert_eq!(marg.ask_admin("PATCH", &path, Some(&json!({"amount": 50}))).await.status, 200);
    let counters = money::counters(&marg, "few").await;
    assert_eq!((&counters[0]["cap"]["amount"], &counters[0]["unit"]), (&json!(50), &json!("requests")), "{counters:?}");
}

#[tokio::test]
async fn a_record_says_under_which_tags_and_in_which_session_a_call_was_made() {
    let upstream = Upstream::http1().await;
    let marg = priced(Setup::with_default(&upstream)).start().await;
    let call = Call::chat("tagged", &fixed()).header("x-marg-tags", "b, a").header("x-marg-session", "s-1");
    let answer = marg.http1().await.send(call).await;
    let record = marg.record(&answer.id()).await;
    assert_eq!((&record["tags"], &record["session"]), (&json!(["a", "b"]), &json!("s-1")), "{record}");
    let csv = marg.ask_admin("GET", "/admin/requests/export?format=csv", None).await.text();
    assert!(csv.lines().next().unwrap().ends_with("attempts,tags,session,verdict"), "{csv}");
    assert!(csv.lines().nth(1).unwrap().ends_with("1,a b,s-1,"), "{csv}");
}

#[tokio::test]
async fn a_call_that_goes_on_from_a_stored_answer_reserves_what_the_model_reads_again() {
    let upstream = Upstream::http1().await;
    let rows = "  - {model: chain, usd_per_million_tokens: {input: 1, output: 0}}\n";
    let marg = gateway(&upstream, rows, dollars("0.5")).await;
    let ask = |case: &str, before: Option<&str>| {
        let body = json!({
            "model": "chain", "input": "Go on.", "max_output_tokens": 5, "stream": before.is_some(),
            "previous_response_id": before,
        });
        Call::post("/v1/responses", case, body.to_string())
    };
    let usage = json!({"input_tokens": 900, "output_tokens": 100, "total_tokens": 1_000});
    let response = json!({"id": "resp_1", "object": "response", "model": "chain", "output": [], "usage": usage});
    upstream.answer("first", Answer::json(200, &response).into());
    assert_eq!(marg.http1().await.send(ask("first", None)).await.status, 200);
    // One that this gateway has seen counts as it was counted; of another one all that the model can read is reserved.
    for (case, before, least, most) in
        [("seen", "resp_1", 1_000_000, 2_000_000), ("unseen", "resp_2", 128_000_000, 131_000_000)]
    {
        let (reply, feed) = Reply::fed();
        upstream.answer(case, reply);
        let mut client = marg.http1().await;
        let open = client.open(ask(case, Some(before))).await;
        let counters = money::counters(&marg, "dollars").await;
        let reserved = money::figure(&counters[0]["reserved_here"]);
        assert!((least..most).contains(&reserved), "{case}: {reserved} is reserved");
        drop(feed);
        drop((open, client));
    }
    // A limit below that does not refuse such calls for ever.
    let small = gateway(&upstream, rows, dollars("0.01")).await;
    upstream.answer("small", Answer::json(200, &response).into());
    let mut body = json!({"model": "chain", "input": "Go on.", "max_output_tokens": 5, "conversation": "conv_1"});
    body["tools"] = json!([{"type": "web_search"}]);
    let answer = small.http1().await.send(Call::post("/v1/responses", "small", body.to_string())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// A stored response with usage: 1,000 tokens each way.
fn stored(id: &str, status: &str) -> Value {
    let usage = json!({"input_tokens": 1_000, "output_tokens": 1_000, "total_tokens": 2_000});
    json!({"id": id, "object": "response", "status": status, "model": "reader", "output": [], "usage": usage})
}

const READER: &str = "  - {model: reader, usd_per_million_tokens: {input: 1, output: 1}}\n  \
                      - {model: '*', per_request_usd: 0.01}\n";

#[tokio::test]
async fn what_is_stored_is_paid_for_when_it_is_made_and_not_when_it_is_read() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, READER, dollars("1")).await;
    let completed = json!({"type": "response.completed", "response": stored("resp_1", "completed")});
    let stream = Body::Pieces(vec![format!("event: response.completed\ndata: {completed}\n\n").into()], End::Clean);
    let chat = answers::completion("reader", Some(answers::usage(1_000, 500)));
    let list = json!({"object": "list", "data": [chat], "usage": answers::usage(5, 5), "model": "reader"});
    // Whoever may upload a file can write any figures into it.
    let forged = Answer::new(200, "application/octet-stream", Body::Whole(list.to_string().into()));
    let json = |body: &Value| Answer::json(200, body);
    for (number, (method, path, body, answer)) in [
        ("GET", "/v1/responses/resp_1", "", json(&stored("resp_1", "completed"))),
        ("GET", "/v1/responses/resp_1?stream=true", "", Answer::event_stream(stream)),
        ("GET", "/v1/chat/completions/c", "", json(&chat)),
        ("GET", "/v1/chat/completions", "", json(&list)),
        ("GET", "/v1/threads/t/runs/r", "", json(&list)),
        ("GET", "/v1/batches/b", "", json(&stored("batch_1", "completed"))),
        ("GET", "/v1/files/f/content", "", forged),
        ("DELETE", "/v1/responses/resp_1", "", json(&stored("resp_1", "completed"))),
        ("POST", "/v1/responses/resp_1/cancel", "", json(&stored("resp_1", "cancelled"))),
        ("POST", "/v1/chat/completions/c", r#"{"metadata":{"a":"b"}}"#, json(&chat)),
    ]
    .into_iter()
    .enumerate()
    {
        let case = number.to_string();
        upstream.answer(&case, answer.into());
        let call = Call::new(method, path).header("x-case", &case).header("content-type", "application/json");
        let answer = marg.send(call.body(body)).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        let record = marg.record(&answer.id()).await;
        assert!(record["usage"].is_null() && record["usage_source"].is_null(), "{record}");
        assert_eq!(record["cost_nano_usd"], 0, "{record}");
    }
    let order = json!({"since": "2026-01-01T00:00:00Z"});
    let report = marg.ask_admin("POST", "/admin/prices/reprice", Some(&order)).await.json();
    assert_eq!((&report["records"], &report["changed"]), (&json!(10), &json!(0)), "{report}");
    // What makes the answer pays for it, once.
    upstream.answer("made", json(&stored("resp_1", "completed")).into());
    let made =
        marg.send(Call::post("/v1/responses", "made", json!({"model": "reader", "input": "x"}).to_string())).await;
    assert_eq!(made.status, 200, "{}", made.text());
    spent_is(&marg, "dollars", None, 2_000_000).await;
}

#[tokio::test]
async fn what_runs_no_model_takes_nothing_of_a_limit_in_dollars_or_tokens() {
    let upstream = Upstream::http1().await;
    let tokens = json!({"name": "tokens", "scope": "key", "unit": "tokens", "window": "day", "amount": 10});
    let requests = json!({"name": "requests", "scope": "key", "unit": "requests", "window": "total", "amount": 100});
    let mut limits = dollars("0.000001");
    limits.as_array_mut().unwrap().extend([tokens, requests]);
    let marg = gateway(&upstream, READER, limits).await;
    let long = "x".repeat(60_000);
    let counted = json!({"model": "nobody-prices-it", "input": long}).to_string();
    let calls = [
        ("/v1/files", "text/plain", long.as_str()),
        ("/v1/uploads", "application/json", r#"{"bytes":10,"filename":"a","purpose":"batch"}"#),
        ("/v1/vector_stores", "application/json", r#"{"name":"a"}"#),
        ("/v1/conversations", "application/json", "{}"),
        ("/v1/conversations/c/items", "application/json", r#"{"items":[{"role":"user","content":"hi"}]}"#),
        ("/v1/threads", "application/json", "{}"),
        ("/v1/threads/t/messages", "application/json", r#"{"role":"user","content":"hi"}"#),
        ("/v1/responses/input_tokens", "application/json", &counted),
    ];
    for (path, kind, body) in calls {
        let call = Call::new("POST", path).header("x-case", path).header("content-type", kind).body(body.to_owned());
        upstream.answer(path, Answer::json(200, &json!({"id": "x", "input_tokens": 15_000})).into());
        let answer = marg.send(call).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(marg.record(&answer.id()).await["cost_nano_usd"], 0, "{path}");
    }
    spent_is(&marg, "requests", None, i64::try_from(calls.len()).unwrap()).await;
    assert_eq!(money::spent(&marg, "tokens", None).await, 0);
    assert_eq!(money::spent(&marg, "dollars", None).await, 0);
    // A conversation that is more than its items runs something.
    let runs = Call::post("/v1/conversations", "runs", r#"{"inputs":"hi","agent_id":"a"}"#);
    assert!(matches!(marg.send(runs).await.status, 403 | 429));
}

#[tokio::test]
async fn what_runs_models_that_nobody_sees_passes_no_limit_in_dollars_or_tokens() {
    let upstream = Upstream::http1().await;
    let row = |name: &str, unit: &str, amount: &str| {
        let amount_name = if unit == "usd" { "amount_usd" } else { "amount" };
        let amount: Value = serde_json::from_str(amount).unwrap();
        json!([{"name": name, "scope": "key", "unit": unit, "window": "day", amount_name: amount}])
    };
    let batch = r#"{"input_file_id":"f","endpoint":"/v1/chat/completions","completion_window":"24h"}"#;
    let calls = [
        ("/v1/batches?model=reader", batch),
        ("/v1/batches", r#"{"input_file_id":"f","model":"reader"}"#),
        ("/v1/fine_tuning/jobs", r#"{"training_file":"f","model":"reader"}"#),
        ("/v1/evals/e/runs", r#"{"name":"x","model":"reader","data_source":{"type":"completions"}}"#),
        ("/v1/async/chat/completions", r#"{"model":"reader","request":{"model":"other","messages":[]}}"#),
        ("/v1/other/invocations", r#"{"model":"reader","messages":[]}"#),
    ];
    for (name, unit, counts) in [("dollars", "usd", "counts dollars"), ("tokens", "tokens", "counts tokens")] {
        let marg = gateway(&upstream, READER, row(name, unit, "1000")).await;
        for (path, body) in calls {
            let answer = marg.send(Call::post(path, "unseen", body)).await;
            assert_eq!(answer.status, 403, "{path}: {}", answer.text());
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "permission_denied", "{error}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(&format!("the limit \"{name}\"")) && message.contains(counts), "{message}");
        }
        // What goes on from there is no new run.
        let cancel = Call::new("POST", "/v1/batches/b/cancel").header("x-case", "cancel");
        upstream.answer("cancel", Answer::json(200, &json!({"id": "b"})).into());
        assert_eq!(marg.send(cancel).await.status, 200);
    }
    let marg = gateway(&upstream, READER, row("requests", "requests", "100")).await;
    for (path, body) in calls {
        upstream.answer("counted", Answer::json(200, &json!({"id": "b", "status": "validating"})).into());
        let answer = marg.send(Call::post(path, "counted", body)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
}
