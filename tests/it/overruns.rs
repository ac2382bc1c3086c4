//! Calls that are larger than what is left, and providers that count what cannot be.

use serde_json::{Value, json};

use crate::support::answers;
use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup};
use crate::support::money::{self, fixed, priced, spent_is};
use crate::support::reply::{Answer, Reply};
use crate::support::upstream::Upstream;

/// A gateway with one limit for each key, and these settings of the section `budget`.
async fn gateway(upstream: &Upstream, unit: &str, amount: i64, budget: Value) -> Marg {
    let limit = json!([{"name": "tokens", "scope": "key", "unit": unit, "window": "total", "amount": amount}]);
    priced(Setup::with_default(upstream)).set("limits", limit).set("budget", budget).start().await
}

fn open_ended() -> Value {
    json!({"model": "fixed", "messages": [{"role": "user", "content": "Say hello."}]})
}

/// An answer for which a provider reports that many tokens.
fn counted(input: u64, output: u64) -> Reply {
    let usage = json!({
        "prompt_tokens": input, "completion_tokens": output, "total_tokens": input.saturating_add(output),
    });
    Reply::json(200, &answers::completion("fixed", Some(usage)))
}

#[tokio::test]
async fn a_limit_smaller_than_a_usual_answer_gives_the_ceiling_that_is_left() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "output_tokens", 100, json!({})).await;
    upstream.answer("first", counted(9, 40));
    let answer = marg.chat("first", &open_ended()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.only("first").await.json()["max_tokens"], 100);
    spent_is(&marg, "tokens", None, 40).await;
    upstream.answer("second", counted(9, 50));
    assert_eq!(marg.chat("second", &open_ended()).await.status, 200);
    assert_eq!(upstream.only("second").await.json()["max_tokens"], 60);
    spent_is(&marg, "tokens", None, 90).await;
    let refused = marg.chat("third", &open_ended()).await;
    assert_eq!(refused.status, 429, "ten tokens are no answer of a limit that had more: {}", refused.text());
}

#[tokio::test]
async fn a_limit_that_never_had_more_gives_the_few_tokens_that_it_has() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "output_tokens", 5, json!({})).await;
    assert_eq!(marg.chat("few", &open_ended()).await.status, 200);
    assert_eq!(upstream.only("few").await.json()["max_tokens"], 5);
}

#[tokio::test]
async fn a_count_that_cannot_be_true_is_not_charged_and_blocks_nobody() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "output_tokens", 1_000, json!({})).await;
    for (case, input, output) in
        [("output", 9, 9_000_000_000_000_000_000), ("input", u64::MAX, 3), ("both", u64::MAX, u64::MAX)]
    {
        upstream.answer(case, counted(input, output));
        let answer = marg.chat(case, &fixed()).await;
        assert_eq!(answer.status, 200, "{case}: {}", answer.text());
        let record = marg.record_when(&answer.id(), |record| record["usage"].is_object()).await;
        assert_eq!(record["usage_source"], "estimated", "{record}");
        let counted = (record["usage"]["input"].as_u64().unwrap(), record["usage"]["output"].as_u64().unwrap());
        assert!(counted.0 < 100 && counted.1 < 100, "{record}");
    }
    assert!(money::spent(&marg, "tokens", None).await < 100);
}

#[tokio::test]
async fn a_count_beyond_the_reservation_that_can_be_true_is_charged_in_full() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "output_tokens", 1_000, json!({})).await;
    upstream.answer("more", counted(9, 5_000));
    let answer = marg.chat("more", &fixed()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(marg.record(&answer.id()).await["usage_source"], "reported");
    spent_is(&marg, "tokens", None, 5_000).await;
    assert_eq!(marg.chat("after", &fixed()).await.status, 429);
}

/// A call whose model reads a conversation that is not in the body.
fn unseen(case: &str) -> Call {
    let body = json!({"model": "fixed", "input": "Go on.", "max_output_tokens": 5, "conversation": "conv_1"});
    Call::post("/v1/responses", case, body.to_string())
}

fn response(input: u64) -> Reply {
    let usage = json!({"input_tokens": input, "output_tokens": 3, "total_tokens": input + 3});
    Answer::json(200, &json!({"id": "resp_1", "object": "response", "model": "fixed", "output": [], "usage": usage}))
        .into()
}

#[tokio::test]
async fn a_call_that_may_read_more_than_a_whole_limit_takes_all_that_is_left_of_it() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "input_tokens", 10_000, json!({"wait_ms": 0})).await;
    let (reply, feed) = Reply::fed();
    upstream.answer("held", reply);
    let mut client = marg.http1().await;
    let held = client.open(unseen("held")).await;
    let counters = money::counters(&marg, "tokens").await;
    assert_eq!(money::figure(&counters[0]["reserved_here"]), 10_000, "one such call at a time");
    let refused = marg.http1().await.send(unseen("beside")).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    drop(feed);
    drop((held, client));
    upstream.answer("long", response(25_000));
    let answer = crate::support::until("what was held is free again", || async {
        let answer = marg.http1().await.send(unseen("long")).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(marg.record(&answer.id()).await["usage"]["input"], 25_000);
    crate::support::until("all that was read is charged", || async {
        (money::spent(&marg, "tokens", None).await >= 25_000).then_some(())
    })
    .await;
    assert_eq!(marg.http1().await.send(unseen("after")).await.status, 429);
    assert!(
        marg.ask_admin("GET", "/metrics", None)
            .await
            .text()
            .contains("marg_limit_overruns_total{unit=\"input_tokens\"} 1")
    );
}

#[tokio::test]
async fn a_call_that_takes_the_rest_of_a_small_limit_reserves_all_that_it_may_use_of_a_large_one() {
    let upstream = Upstream::http1().await;
    // The model reads 128,000 tokens at most; the large limit has room for one such call and a half.
    let limits = json!([
        {"name": "small", "scope": "key", "unit": "input_tokens", "window": "total", "amount": 10_000},
        {"name": "large", "scope": "team", "unit": "input_tokens", "window": "total", "amount": 200_000},
    ]);
    let marg =
        priced(Setup::with_default(&upstream)).set("limits", limits).set("budget", json!({"wait_ms": 0})).start().await;
    let (one, _) = marg.make_key(&["--team", "shared"]).await;
    let (two, _) = marg.make_key(&["--team", "shared"]).await;
    let (reply, feed) = Reply::fed();
    upstream.answer("held", reply);
    let mut first = Client::http1(marg.address, &one).await;
    let held = first.open(unseen("held")).await;
    let reserved = |name: &'static str| {
        let marg = &marg;
        async move { money::figure(&money::counters(marg, name).await[0]["reserved_here"]) }
    };
    assert_eq!((reserved("small").await, reserved("large").await), (10_000, 128_000));
    // The other key's small limit is whole, but the large one has no room for all that a second such call may read: with the rest
    // of the small one alone, both could exceed it.
    let beside = Client::http1(marg.address, &two).await.send(unseen("beside")).await;
    assert_eq!(beside.status, 429, "{}", beside.text());
    assert_eq!(beside.json()["error"]["limit"]["name"], "large", "{}", beside.text());
    drop((feed, held));
}

#[tokio::test]
async fn where_the_operator_says_so_a_call_that_may_exceed_a_limit_is_refused() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "input_tokens", 10_000, json!({"unseen_input": "refuse"})).await;
    let refused = marg.http1().await.send(unseen("unseen")).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(upstream.seen("unseen").len(), 0, "the provider was asked");
}

#[tokio::test]
async fn a_model_that_the_provider_may_turn_to_is_reserved_at_its_own_price() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": "0.001"}]);
    let setup = priced(Setup::with_default(&upstream)).set("limits", limits);
    let dear = "  - provider: main\n    model: dear\n    usd_per_million_tokens: {input: 0.0, output: 1000.0}\n";
    let prices = setup.path("prices.yaml");
    std::fs::write(&prices, std::fs::read_to_string(&prices).unwrap() + dear).unwrap();
    let marg = setup.start().await;
    let naming = |list: &str, models: &[&str]| {
        let mut body = fixed();
        body[list] = json!(models);
        body
    };
    // Three tokens of the dear model cost three times the limit; a model without a price may cost anything.
    for (list, models, status) in [
        ("models", ["fixed", "dear"], 429),
        ("fallbacks", ["dear", "fixed"], 429),
        ("models", ["fixed", "nobody"], 403),
    ] {
        let refused = marg.chat("refused", &naming(list, &models)).await;
        assert_eq!(refused.status, status, "{models:?}: {}", refused.text());
    }
    assert_eq!(upstream.asked(), 0);
    let taken = marg.chat("taken", &naming("models", &["fixed", "levels"])).await;
    assert_eq!(taken.status, 200, "{}", taken.text());
    spent_is(&marg, "dollars", None, money::COST_NANO_USD).await;
}

#[tokio::test]
async fn what_passes_through_and_writes_holds_a_limit_however_many_calls_race() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"name": "dollars", "scope": "key", "unit": "usd", "window": "total", "amount_usd": "0.09"}]);
    let marg = priced(Setup::with_default(&upstream)).set("limits", limits).start().await;
    upstream.answer("racing", counted(9, 4_000));
    // What names no ceiling reserves 4,096 tokens at 10 dollars a million; that much fits twice, and is 0.04 dollars in truth.
    for (path, body) in [
        ("/v1/fim/completions", json!({"model": "fixed", "prompt": "Say hello."})),
        ("/v1/responses/compact", json!({"model": "fixed", "input": "Say hello."})),
        ("/v1/anything", json!({"model": "fixed", "prompt": "Say hello."})),
    ] {
        let (key, id) = marg.make_key(&[]).await;
        let call = Call::post(path, "racing", body.to_string());
        let counts = money::storm(&[marg.address], &key, 12, &call).await;
        assert_eq!(counts, [(200, 2), (429, 10)], "{path}");
        spent_is(&marg, "dollars", Some(&id), 80_000_000).await;
    }
    // What names its ceiling reserves that much, and what writes no text nothing of the kind.
    let (key, _) = marg.make_key(&[]).await;
    let mut client = Client::http1(marg.address, &key).await;
    for (path, body) in [
        ("/v1/fim/completions", json!({"model": "fixed", "prompt": "x", "max_tokens": 9_000})),
        ("/v1/chat/moderations", json!({"model": "fixed", "input": "x", "n": 128})),
    ] {
        upstream.answer(path, counted(9, 3));
        let answer = client.send(Call::post(path, path, body.to_string())).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let long = json!({"model": "fixed", "prompt": "x", "max_tokens": 9_001});
    let refused = client.send(Call::post("/v1/fim/completions", "too long", long.to_string())).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
}
