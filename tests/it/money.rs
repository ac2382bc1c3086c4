//! Limits: never exceeded, nobody refused wrongly, through races, crashes and disconnects.

use serde_json::{Value, json};

use crate::support::answers;
use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup};
use crate::support::money::{self, COST_NANO_USD, fixed, priced, spent_is};
use crate::support::reply::Reply;
use crate::support::until;
use crate::support::upstream::Upstream;

/// A gateway with these limits, where the model `fixed` has a price.
async fn gateway(upstream: &Upstream, limits: Value) -> Marg {
    priced(Setup::with_default(upstream)).set("limits", limits).start().await
}

/// A call that leaves the length of its answer open.
fn open_ended(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Say hello."}]})
}

/// Sends so many calls at once to one gateway.
async fn storm(marg: &Marg, calls: usize, body: &Value) -> Vec<(u16, usize)> {
    money::storm(&[marg.address], &marg.key, calls, &Call::chat("storm", body)).await
}

#[tokio::test]
async fn a_call_beyond_a_limit_is_refused_in_words_that_say_what_to_do() {
    let upstream = Upstream::http1().await;
    let limits =
        json!([{"name": "pocket money", "scope": "key", "unit": "usd", "window": "day", "amount_usd": "0.00005"}]);
    let marg = gateway(&upstream, limits).await;
    let first = marg.chat("first", &fixed()).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let refused = marg.chat("second", &fixed()).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    let error = &refused.json()["error"];
    assert_eq!(error["code"], "limit_exceeded", "{error}");
    let words = error["message"].as_str().unwrap();
    for part in ["pocket money", "0.00005", "0.00003", "reset"] {
        assert!(words.contains(part), "{words} does not say {part}");
    }
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(upstream.seen("second").len(), 0, "the provider was asked");
    let record = marg.record(&refused.id()).await;
    assert_eq!((record["outcome"].as_str(), record["reason"].as_str()), (Some("refused"), Some("limit_exceeded")));
}

#[tokio::test]
async fn a_model_without_a_price_is_refused_under_a_limit_in_dollars() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"scope": "key", "unit": "usd", "window": "day", "amount_usd": "10"}]);
    let marg = gateway(&upstream, limits).await;
    let refused = marg.chat("unpriced", &open_ended("of-my-own")).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(refused.text().contains("price"), "{}", refused.text());
}

#[tokio::test]
async fn a_thousand_racing_calls_get_exactly_what_the_cap_pays_for() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": "0.003"}]);
    let marg = gateway(&upstream, limits).await;
    assert_eq!(storm(&marg, 1_000, &fixed()).await, [(200, 100), (429, 900)]);
    spent_is(&marg, "dollars", None, 100 * COST_NANO_USD).await;
}

#[tokio::test]
async fn five_levels_at_once_let_through_what_the_narrowest_allows() {
    let upstream = Upstream::http1().await;
    let limits = json!([
        {"scope": "gateway", "unit": "requests", "window": "day", "amount": 90},
        {"name": "requests", "scope": "key", "unit": "requests", "window": "minute", "amount": 60},
        {"scope": "model", "subject": "fix*", "unit": "tokens", "window": "hour", "amount": 1_000_000},
        {"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": "0.003"},
        {"scope": "tag", "subject": "it", "unit": "output_tokens", "window": "day", "amount": 3_000},
    ]);
    let marg = gateway(&upstream, limits).await;
    assert_eq!(storm(&marg, 300, &fixed()).await, [(200, 60), (429, 240)]);
    spent_is(&marg, "requests", None, 60).await;
    spent_is(&marg, "dollars", None, 60 * COST_NANO_USD).await;
}

#[tokio::test]
async fn no_more_run_at_one_time_than_a_limit_allows() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"scope": "key", "unit": "concurrent", "window": "now", "amount": 1}]);
    let marg = gateway(&upstream, limits).await;
    let (reply, feed) = Reply::fed();
    upstream.answer("held", reply);
    let mut stream = fixed();
    stream["stream"] = json!(true);
    let mut client = marg.http1().await;
    let open = client.open(Call::chat("held", &stream)).await;
    assert_eq!(marg.chat("beside", &fixed()).await.status, 429);
    feed.send(answers::text("fixed", "Hello")).await;
    feed.send("data: [DONE]\n\n").await;
    drop(feed);
    assert_eq!(open.finish().await.status, 200);
    assert_eq!(marg.chat("after", &fixed()).await.status, 200);
}

#[tokio::test]
async fn what_a_failed_or_abandoned_call_reserved_can_be_spent_again() {
    let upstream = Upstream::http1().await;
    let limits =
        json!([{"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": "0.00003"}]);
    let marg = gateway(&upstream, limits).await;
    upstream.answer("broken", Reply::error(400));
    assert_eq!(marg.chat("broken", &fixed()).await.status, 400);
    let (reply, feed) = Reply::fed();
    upstream.answer("abandoned", reply);
    let mut stream = fixed();
    stream["stream"] = json!(true);
    let mut client = marg.http1().await;
    let open = client.open(Call::chat("abandoned", &stream)).await;
    drop((open, client));
    feed.abandoned().await;
    assert_eq!(marg.chat("whole", &fixed()).await.status, 200);
    spent_is(&marg, "dollars", None, COST_NANO_USD).await;
    assert_eq!(marg.chat("too much", &fixed()).await.status, 429);
}

#[tokio::test]
async fn a_caller_that_names_no_ceiling_gets_one_that_its_budget_pays_for() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": "0.003"}]);
    let marg = gateway(&upstream, limits).await;
    let answer = marg.chat("open", &open_ended("fixed")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent = upstream.only("open").await.json();
    let ceiling = sent["max_tokens"].as_i64().unwrap();
    assert!((256..=300).contains(&ceiling), "{sent}: 0.003 dollars pay for 300 tokens");
}

#[tokio::test]
async fn a_limit_holds_through_a_kill_and_a_restart() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": "0.003"}]);
    let mut marg = gateway(&upstream, limits).await;
    let before = storm(&marg, 40, &fixed()).await;
    assert_eq!(before, [(200, 40)]);
    marg.kill9();
    marg.restart().await;
    assert_eq!(storm(&marg, 200, &fixed()).await, [(200, 60), (429, 140)]);
    spent_is(&marg, "dollars", None, 100 * COST_NANO_USD).await;
}

#[tokio::test]
async fn an_answer_says_what_is_left_of_its_limits() {
    let upstream = Upstream::http1().await;
    let limits = json!([
        {"scope": "key", "unit": "requests", "window": "minute", "amount": 10},
        {"scope": "key", "unit": "tokens", "window": "minute", "amount": 10_000},
    ]);
    let marg = gateway(&upstream, limits).await;
    let answer = marg.chat("first", &fixed()).await;
    let header = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("x-ratelimit-limit-requests").as_deref(), Some("10"));
    assert_eq!(header("x-ratelimit-remaining-requests").as_deref(), Some("9"));
    assert_eq!(header("x-ratelimit-limit-tokens").as_deref(), Some("10000"));
    assert!(header("x-ratelimit-reset-requests").is_some());
}

#[tokio::test]
async fn below_its_share_a_model_gives_way_to_a_cheaper_one() {
    let upstream = Upstream::http1().await;
    let limits = json!([{
        "scope": "key", "unit": "requests", "window": "day", "amount": 4,
        "action": "downgrade", "downgrade_to": "cheap", "downgrade_below_percent": 50,
    }]);
    let marg = gateway(&upstream, limits).await;
    let mut asked = Vec::new();
    for number in 0..4 {
        let case = format!("call {number}");
        assert_eq!(marg.chat(&case, &fixed()).await.status, 200);
        let sent = upstream.only(&case).await.json();
        asked.push(sent["model"].as_str().unwrap().to_owned());
    }
    assert_eq!(asked, ["fixed", "fixed", "fixed", "cheap"]);
    assert_eq!(marg.chat("too many", &fixed()).await.status, 429);
}

#[tokio::test]
async fn a_key_is_held_to_its_caps_on_single_requests() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let (key, _) = marg.make_key(&["--max-input-tokens", "100", "--max-output-tokens", "50"]).await;
    let mut client = Client::http1(marg.address, &key).await;
    let mut ask = async |case: &str, more: Value| {
        let mut body = open_ended("m");
        crate::support::marg::merge(&mut body, more);
        client.send(Call::chat(case, &body)).await
    };
    // However it is asked for.
    for (case, more, param) in [
        ("too long an answer", json!({"max_tokens": 51}), "max_tokens"),
        ("by another name", json!({"max_completion_tokens": 51}), "max_tokens"),
        ("by both names", json!({"max_tokens": 10, "max_completion_tokens": 51}), "max_tokens"),
        ("two answers", json!({"max_tokens": 26, "n": 2}), "max_tokens"),
        ("too many answers", json!({"n": 51}), "n"),
    ] {
        let answer = ask(case, more).await;
        answer.assert_error(400, "invalid_request");
        assert_eq!(answer.json()["error"]["param"], param, "{case}");
        assert_eq!(upstream.seen(case).len(), 0, "{case}: the provider was asked");
    }
    let long = json!({"messages": [{"role": "user", "content": "word ".repeat(200)}]});
    ask("too long a question", long).await.assert_error(400, "invalid_request");
    // Text that has many bytes and few tokens is no reason to refuse.
    let dense = json!({"messages": [{"role": "user", "content": "internationalization ".repeat(20)}]});
    assert_eq!(ask("long words", dense).await.status, 200);
    assert_eq!(ask("within", json!({"max_tokens": 50})).await.status, 200);
    assert_eq!(ask("open", json!({"n": 2})).await.status, 200);
    assert_eq!(upstream.only("open").await.json()["max_tokens"], 25);
    assert_eq!(upstream.only("within").await.json()["max_tokens"], 50);
}

#[tokio::test]
async fn without_limits_and_caps_nothing_is_put_into_a_body() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"scope": "key", "unit": "requests", "window": "minute", "amount": 10}]);
    let marg = gateway(&upstream, limits).await;
    assert_eq!(marg.chat("plain", &open_ended("fixed")).await.status, 200);
    assert_eq!(upstream.only("plain").await.json(), open_ended("fixed"));
}

#[tokio::test]
async fn a_limit_made_while_the_gateway_runs_holds_at_once_and_its_correction_too() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, json!([])).await;
    let limit = json!({"name": "two", "scope": "key", "unit": "requests", "window": "day", "amount": 2});
    let made = marg.ask_admin("POST", "/admin/limits", Some(&limit)).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["limit"]["id"].as_str().or(made.json()["id"].as_str()).unwrap().to_owned();
    assert_eq!(marg.chat("first", &fixed()).await.status, 200);
    assert_eq!(marg.chat("second", &fixed()).await.status, 200);
    assert_eq!(marg.chat("third", &fixed()).await.status, 429);
    let more = marg.ask_admin("PATCH", &format!("/admin/limits/{id}"), Some(&json!({"amount": 3}))).await;
    assert_eq!(more.status, 200, "{}", more.text());
    assert_eq!(marg.chat("third again", &fixed()).await.status, 200);
    assert_eq!(marg.chat("fourth", &fixed()).await.status, 429);
    let reset = marg.ask_admin("POST", &format!("/admin/limits/{id}/reset"), Some(&json!({}))).await;
    assert_eq!(reset.status, 200, "{}", reset.text());
    until("what was spent is forgotten", || async {
        (marg.chat("after the reset", &fixed()).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_amount_that_is_lowered_while_calls_run_is_not_exceeded_when_they_end() {
    let upstream = Upstream::http1().await;
    let marg = priced(Setup::with_default(&upstream)).set("budget", json!({"wait_ms": 0})).start().await;
    let limit = json!({"name": "busy", "scope": "key", "unit": "concurrent", "window": "now", "amount": 3});
    let made = marg.ask_admin("POST", "/admin/limits", Some(&limit)).await.json();
    let id = made["id"].as_str().unwrap().to_owned();
    let mut running = Vec::new();
    for number in 0..3 {
        let (reply, feed) = Reply::fed();
        upstream.answer(&format!("long {number}"), reply);
        let mut client = marg.http1().await;
        running.push((client.open(Call::chat(&format!("long {number}"), &fixed())).await, feed, client));
    }
    let lower = marg.ask_admin("PATCH", &format!("/admin/limits/{id}"), Some(&json!({"amount": 1}))).await;
    assert_eq!(lower.status, 200, "{}", lower.text());
    drop(running);
    until("the three have ended and one may run", || async {
        (marg.chat("after", &fixed()).await.status == 200).then_some(())
    })
    .await;
    let (reply, feed) = Reply::fed();
    upstream.answer("one", reply);
    let mut client = marg.http1().await;
    let one = client.open(Call::chat("one", &fixed())).await;
    let two = marg.chat("two", &fixed()).await;
    assert_eq!(two.status, 429, "{}", two.text());
    drop((one, feed));
}
