//! What a call is charged, whatever becomes of it, and what a refusal tells programs.

use serde_json::{Value, json};

use crate::support::answers;
use crate::support::client::Call;
use crate::support::marg::{Marg, Setup};
use crate::support::money::{self, COST_NANO_USD, asking, fixed, priced, spent_is};
use crate::support::reply::{Answer, Reply};
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
