//! What the ledger says an exchange consumed and cost.

use serde_json::{Value, json};

use crate::support::answers;
use crate::support::client::Call;
use crate::support::marg::{Marg, Setup};
use crate::support::reply::{Answer, Body, End, Reply};
use crate::support::upstream::Upstream;

/// A provider whose model `priced` has a price of the operator's own.
async fn gateway() -> (Upstream, Marg) {
    let upstream = Upstream::http1().await;
    let setup = Setup::with_default(&upstream);
    let overlay = "prices:\n  - provider: main\n    model: priced\n    \
                   usd_per_million_tokens: {input: 2.0, output: 10.0, cache_read: 0.5}\n";
    std::fs::write(setup.path("prices.yaml"), overlay).unwrap();
    let path = setup.path("prices.yaml");
    let marg = setup.set("prices", json!({"overlay": path})).start().await;
    (upstream, marg)
}

fn body(model: &str, stream: bool) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Say hello."}], "stream": stream})
}

async fn record(marg: &Marg, case: &str, body: &Value) -> Value {
    let answer = marg.chat(case, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    marg.record_when(&answer.id(), |record| record["usage"].is_object()).await
}

#[tokio::test]
async fn a_model_without_a_price_has_tokens_but_no_cost() {
    let (_upstream, marg) = gateway().await;
    let record = record(&marg, "unpriced", &body("of-my-own", false)).await;
    assert_eq!((record["usage"]["input"].as_u64(), record["usage"]["output"].as_u64()), (Some(9), Some(3)), "{record}");
    assert!(record["cost_nano_usd"].is_null(), "{record}");
    assert!(record["price"].is_null(), "{record}");
}

#[tokio::test]
async fn tokens_that_no_provider_counted_are_counted_from_the_text_and_marked() {
    let (upstream, marg) = gateway().await;
    let text = "The quick brown fox jumps over the lazy dog.";
    for stream in [false, true] {
        let case = format!("uncounted {stream}");
        let answer = if stream {
            let pieces = vec![answers::text("priced", text), "data: [DONE]\n\n".into()];
            Answer::event_stream(Body::Pieces(pieces, End::Clean))
        } else {
            let mut completion = answers::completion("priced", None);
            completion["choices"][0]["message"]["content"] = json!(text);
            Answer::json(200, &completion)
        };
        upstream.answer(&case, answer.into());
        let record = record(&marg, &case, &body("priced", stream)).await;
        assert_eq!(record["usage_source"], "estimated", "{record}");
        // Ten words in the usual encodings; three words and a frame in the request.
        let (input, output) = (record["usage"]["input"].as_u64().unwrap(), record["usage"]["output"].as_u64().unwrap());
        assert!((9..=13).contains(&output), "{record}");
        assert!((3..=20).contains(&input), "{record}");
        assert_eq!(record["cost_nano_usd"].as_u64(), Some(input * 2_000 + output * 10_000), "{record}");
    }
}

#[tokio::test]
async fn an_error_of_the_provider_consumes_nothing() {
    let (upstream, marg) = gateway().await;
    upstream.answer("wrong", Reply::error(400));
    let answer = marg.chat("wrong", &body("priced", false)).await;
    let record = marg.record(&answer.id()).await;
    assert!(record["usage"].is_null() && record["cost_nano_usd"].is_null(), "{record}");
}

#[tokio::test]
async fn reported_tokens_are_split_into_classes_and_priced_once() {
    let (upstream, marg) = gateway().await;
    let usage = json!({
        "prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500,
        "prompt_tokens_details": {"cached_tokens": 600}, "completion_tokens_details": {"reasoning_tokens": 200},
    });
    for stream in [false, true] {
        let case = format!("counted {stream}");
        let answer = if stream {
            answers::stream("priced", Some(usage.clone()))
        } else {
            Answer::json(200, &answers::completion("priced", Some(usage.clone())))
        };
        upstream.answer(&case, answer.into());
        let record = record(&marg, &case, &body("priced", stream)).await;
        let class = |name: &str| record["usage"][name].as_u64().unwrap_or(0);
        assert_eq!((class("input"), class("cache_read")), (400, 600), "{record}");
        assert_eq!((class("output"), class("reasoning")), (300, 200), "{record}");
        assert_eq!(record["usage_source"], "reported", "{record}");
        // 400 × 2 $ + 600 × 0.5 $ + 500 × 10 $ for a million each, in nano-dollars.
        assert_eq!(record["cost_nano_usd"], 400 * 2_000 + 600 * 500 + 500 * 10_000, "{record}");
        assert!(record["price"]["name"].as_str().unwrap().contains("priced"), "{record}");
    }
}

#[tokio::test]
async fn the_model_that_the_provider_names_is_what_was_served() {
    let (upstream, marg) = gateway().await;
    let reply = Reply::json(200, &answers::completion("priced-2024-08-06", Some(answers::usage(9, 3))));
    upstream.answer("served", reply);
    let record = record(&marg, "served", &body("priced", false)).await;
    assert_eq!(record["model_requested"], "priced", "{record}");
    assert_eq!(record["model_served"], "priced-2024-08-06", "{record}");
    // That name has no price of its own; the one that was asked for has.
    assert_eq!(record["cost_nano_usd"], 9 * 2_000 + 3 * 10_000, "{record}");
}

#[tokio::test]
async fn built_in_prices_apply_by_the_providers_price_list() {
    let upstream = Upstream::http1().await;
    let list = json!({"price_provider": "openai"});
    let marg = Setup::new().provider("main", &upstream, list).set("default_provider", json!("main")).start().await;
    let record = record(&marg, "openai", &body("gpt-4o-mini", false)).await;
    assert!(record["cost_nano_usd"].as_u64().unwrap() > 0, "{record}");
    assert!(record["price"]["source"].as_str().unwrap().contains("genai-prices"), "{record}");
}

#[tokio::test]
async fn embeddings_consume_input_only() {
    let (upstream, marg) = gateway().await;
    let embedding = json!({
        "object": "list", "model": "priced", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    });
    upstream.answer("embed", Reply::json(200, &embedding));
    let call = Call::post("/v1/embeddings", "embed", json!({"model": "priced", "input": "x"}).to_string());
    let answer = marg.send(call).await;
    let record = marg.record(&answer.id()).await;
    assert_eq!(record["operation"], "embeddings", "{record}");
    assert_eq!((record["usage"]["input"].as_u64(), record["usage"]["output"].as_u64()), (Some(7), Some(0)), "{record}");
    assert_eq!(record["cost_nano_usd"], 7 * 2_000, "{record}");
}

#[tokio::test]
async fn a_stream_of_messages_counts_what_its_first_event_says_of_the_input() {
    let (upstream, marg) = gateway().await;
    let opening = json!({"type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "priced",
        "usage": {"input_tokens": 5000, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 0, "output_tokens": 1},
    }});
    let events = [
        opening,
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}}),
        json!({"type": "message_stop"}),
    ];
    let events: Vec<bytes::Bytes> = events
        .iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()).into())
        .collect();
    let ask =
        json!({"model": "priced", "max_tokens": 100, "stream": true, "messages": [{"role": "user", "content": "x"}]});
    upstream.answer("whole", Answer::event_stream(Body::Pieces(events.clone(), End::Clean)).into());
    let answer = marg.send(Call::post("/v1/messages", "whole", ask.to_string())).await;
    let record = marg.record(&answer.id()).await;
    let class = |name: &str| record["usage"][name].as_u64().unwrap_or(0);
    assert_eq!((class("input"), class("cache_read"), class("output")), (5000, 2000, 15), "{record}");
    assert_eq!(record["cost_nano_usd"], 5000 * 2_000 + 2000 * 500 + 15 * 10_000, "{record}");
    // One that breaks off has said nothing yet of what it wrote: what is not known is not nearly nothing.
    upstream.answer("cut", Answer::event_stream(Body::Pieces(events[..2].to_vec(), End::Cut)).into());
    let answer = marg.send(Call::post("/v1/messages", "cut", ask.to_string())).await;
    let record = marg.record(&answer.id()).await;
    assert!(record["usage"].is_null(), "{record}");
}

#[tokio::test]
async fn a_report_that_comes_early_or_leaves_a_side_out_does_not_make_the_rest_free() {
    let (upstream, marg) = gateway().await;
    let early = answers::chunk("priced", &json!({"role": "assistant", "content": ""}), None);
    let early = String::from_utf8(early.to_vec()).unwrap();
    let early = early.replace("\"choices\"", "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":0},\"choices\"");
    let words = answers::text("priced", "The quick brown fox jumps over the lazy dog. ");
    for (case, end) in [("ended", End::Clean), ("cut", End::Cut)] {
        let mut pieces = vec![early.clone().into(), words.clone(), words.clone(), words.clone()];
        pieces.extend((end == End::Clean).then(|| "data: [DONE]\n\n".into()));
        upstream.answer(case, Answer::event_stream(Body::Pieces(pieces, end)).into());
        let record = record(&marg, case, &body("priced", true)).await;
        assert_eq!((&record["usage"]["input"], &record["usage_source"]), (&json!(10), &json!("estimated")), "{record}");
        let output = record["usage"]["output"].as_u64().unwrap();
        assert!((25..=45).contains(&output), "{record}");
        assert_eq!(record["cost_nano_usd"].as_u64(), Some(10 * 2_000 + output * 10_000), "{record}");
    }
    for (case, usage) in [
        ("input only", json!({"prompt_tokens": 10})),
        ("no output", json!({"prompt_tokens": 10, "completion_tokens": 0})),
    ] {
        upstream.answer(case, Reply::json(200, &answers::completion("priced", Some(usage))));
        let record = record(&marg, case, &body("priced", false)).await;
        assert_eq!((&record["usage"]["input"], &record["usage_source"]), (&json!(10), &json!("estimated")), "{record}");
        assert!((2..=5).contains(&record["usage"]["output"].as_u64().unwrap()), "{record}");
    }
    let total = json!({"completion_tokens": 5, "total_tokens": 105});
    upstream.answer("total", Reply::json(200, &answers::completion("priced", Some(total))));
    let record = record(&marg, "total", &body("priced", false)).await;
    assert_eq!((&record["usage"]["input"], &record["usage_source"]), (&json!(100), &json!("reported")), "{record}");
}

#[tokio::test]
async fn an_estimate_costs_what_the_model_costs_that_was_served_and_is_in_the_figures() {
    let (upstream, marg) = gateway().await;
    upstream.answer("other", Reply::json(200, &answers::completion("priced", None)));
    let record = record(&marg, "other", &body("of-my-own", false)).await;
    assert_eq!((&record["model_served"], &record["usage_source"]), (&json!("priced"), &json!("estimated")), "{record}");
    let (input, output) = (record["usage"]["input"].as_u64().unwrap(), record["usage"]["output"].as_u64().unwrap());
    let cost = input * 2_000 + output * 10_000;
    assert_eq!(record["cost_nano_usd"].as_u64(), Some(cost), "{record}");
    upstream.answer("free", Reply::json(200, &answers::completion("of-my-own", None)));
    self::record(&marg, "free", &body("of-my-own", false)).await;
    let figures = marg.ask_admin("GET", "/metrics", None).await.text();
    let figure = |name: &str| {
        let lines = figures.lines().filter(|line| line.starts_with(name) && line.contains("\"main\""));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    assert_eq!(figure("marg_cost_nano_usd_total"), cost as f64, "{figures}");
    assert_eq!(figure("marg_unpriced_total"), 1.0, "{figures}");
}

#[tokio::test]
async fn speech_is_sound_however_it_comes() {
    let (upstream, marg) = gateway().await;
    let events = [
        json!({"type": "speech.audio.delta", "audio": "AAAA"}),
        json!({"type": "speech.audio.done", "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}}),
    ];
    let events = events.iter().map(|event| format!("data: {event}\n\n").into()).collect();
    upstream.answer("events", Answer::event_stream(Body::Pieces(events, End::Clean)).into());
    upstream.answer("sound", Answer::new(200, "audio/mpeg", Body::Whole("sound".into())).into());
    for (case, format) in [("events", "sse"), ("sound", "audio")] {
        let ask = json!({"model": "priced", "voice": "alloy", "input": "Fifteen letters", "stream_format": format});
        let answer = marg.send(Call::post("/v1/audio/speech", case, ask.to_string())).await;
        let record = marg.record_when(&answer.id(), |record| record["usage"].is_object()).await;
        assert_eq!(record["usage"]["output"].as_u64().unwrap_or(0), 0, "{record}");
        assert!(record["usage"]["output_audio"].as_u64().unwrap() > 0, "{record}");
    }
}
