//! When a provider fails, the next target gets the request whole, as its own, and the caller notices nothing.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::answers;
use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup};
use crate::support::raw::Raw;
use crate::support::reply::{Feed, Reply, What, When};
use crate::support::upstream::Upstream;
use crate::support::{CREDENTIAL, PATIENCE};

/// The ways in which the first target fails, and how the ledger may call them. An answer that comes before the request is
/// whole may be overtaken by the end of the stream or connection, so it has two names.
const FAULTS: &[(&str, &[&str])] = &[
    ("early", &["bad_status", "broken"]),
    ("midway", &["bad_status", "broken"]),
    ("late", &["bad_status"]),
    ("limited", &["rate_limited"]),
    ("refused", &["connect_failed"]),
    ("hang", &["timed_out"]),
    ("stuck", &["timed_out"]),
    ("cut", &["broken"]),
];

const SIZES: &[usize] = &[200, 64 * 1024 + 1, 5 * 1024 * 1024];
const SECOND_MODEL: &str = "second-model-with-a-longer-name";

/// A chat body of exactly this size.
fn body(model: &str, size: usize) -> Bytes {
    let frame = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":""}}]}}"#);
    let text: String = ('a'..='z').cycle().take(size - frame.len()).collect();
    frame.replace(r#""content":"""#, &format!(r#""content":"{text}""#)).into()
}

fn small(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "x"}]})
}

async fn upstream(http2: bool) -> Upstream {
    if http2 { Upstream::http2().await } else { Upstream::http1().await }
}

/// Two targets for each kind of fault: `first`, `hasty` (300 ms to the first byte) or `away` (nobody listens), then `second`.
struct Pair {
    marg: Marg,
    first: Upstream,
    second: Upstream,
    _away: Upstream,
}

impl Pair {
    async fn new(http2: bool) -> Self {
        let (first, second, away) = (upstream(http2).await, upstream(http2).await, Upstream::refusing());
        let http = json!({"http": if http2 { "2" } else { "1.1" }});
        let mut hasty = http.clone();
        crate::support::marg::merge(&mut hasty, json!({"first_byte_timeout_ms": 300, "idle_timeout_ms": 1_000}));
        let mut setup = Setup::new()
            .provider("first", &first, http.clone())
            .provider("hasty", &first, hasty)
            .provider("away", &away, http.clone())
            .provider("second", &second, http)
            .set("server", json!({"h2c": true}));
        for (fault, _) in FAULTS {
            let to = match *fault {
                "refused" => "away:first-model",
                "hang" | "stuck" => "hasty:first-model",
                // A rest is for one model, so the model stays the caller's, and each case has one of its own.
                "limited" => "first",
                _ => "first:first-model",
            };
            let route = json!({
                "match": {"model": format!("{fault}-*")}, "to": to, "fallback": [format!("second:{SECOND_MODEL}")],
            });
            setup = setup.route(route);
        }
        Self { marg: setup.start().await, first, second, _away: away }
    }

    async fn client(&self, http2: bool) -> Client {
        if http2 { self.marg.http2().await } else { self.marg.http1().await }
    }

    fn script(&self, case: &str, fault: &str) {
        let reply = match fault {
            "early" => Reply::error(503).when(When::AtOnce),
            "midway" => Reply::error(503).when(When::Midway),
            "late" => Reply::error(503),
            "limited" => Reply::error(429).header("retry-after", "30"),
            "hang" => Reply::afterwards(What::Hang),
            "stuck" => Reply::afterwards(What::Hang).when(When::AtOnce),
            "cut" => Reply::afterwards(What::Close),
            _ => return,
        };
        self.first.answer(case, reply);
    }
}

/// Every fault, size and framing over one connection of the caller's, which must survive all of it.
async fn matrix(downstream_http2: bool, upstream_http2: bool) {
    let pair = Pair::new(upstream_http2).await;
    let mut client = pair.client(downstream_http2).await;
    for (fault, ends) in FAULTS {
        for size in SIZES {
            for announced in [true, false] {
                let case = format!("{fault}-{size}-{announced}");
                pair.script(&case, fault);
                let call = Call::post("/v1/chat/completions", &case, body(&case, *size));
                let call = if announced { call } else { call.without_length() };
                let answer = client.try_send(call).await.unwrap_or_else(|error| panic!("{case}: {error:?}"));
                assert_eq!(answer.status, 200, "{case}: {}", answer.text());
                assert_eq!(answer.header("x-marg-provider"), "second", "{case}");
                assert_eq!(answer.header("x-marg-attempts"), "2", "{case}");
                check(&pair, &case, *size, ends, &answer.id()).await;
            }
        }
    }
    assert!(client.stays_open().await);
}

async fn check(pair: &Pair, case: &str, size: usize, ends: &[&str], id: &str) {
    let second = pair.second.only(case).await;
    // The target's name is longer than the caller's by a known length, so the whole body is known.
    let expected = body(SECOND_MODEL, size + SECOND_MODEL.len() - case.len());
    assert!(second.whole, "{case}");
    assert_eq!(second.body.len(), expected.len(), "{case}");
    assert_eq!(second.hash(), blake3::hash(&expected), "{case}");
    assert_eq!(second.header("authorization"), Some(format!("Bearer {CREDENTIAL}second").as_str()), "{case}");
    let asked = pair.first.seen(case);
    assert!(asked.len() <= 1, "{case}: the first target was asked {} times", asked.len());
    for first in asked.iter().filter(|first| first.whole) {
        let model = if case.starts_with("limited") { case } else { "first-model" };
        assert_eq!(first.hash(), blake3::hash(&body(model, size + model.len() - case.len())), "{case}");
    }
    let record = pair.marg.record(id).await;
    let attempts = record["attempts"].as_array().unwrap_or_else(|| panic!("{case}: {record}"));
    assert_eq!(attempts.len(), 2, "{case}: {record}");
    assert!(ends.contains(&attempts[0]["end"].as_str().unwrap()), "{case}: {record}");
    assert_eq!(attempts[1]["end"], "served", "{case}: {record}");
    assert_eq!(attempts[1]["provider"], "second", "{case}: {record}");
    assert_eq!(attempts[1]["model"], SECOND_MODEL, "{case}: {record}");
    assert_eq!(record["bytes_in"], size, "{case}: {record}");
    assert_eq!(record["outcome"], "answered", "{case}: {record}");
}

#[tokio::test]
async fn the_second_target_gets_its_own_whole_body_from_http1_to_http1() {
    matrix(false, false).await;
}

#[tokio::test]
async fn the_second_target_gets_its_own_whole_body_from_http1_to_http2() {
    matrix(false, true).await;
}

#[tokio::test]
async fn the_second_target_gets_its_own_whole_body_from_http2_to_http1() {
    matrix(true, false).await;
}

#[tokio::test]
async fn the_second_target_gets_its_own_whole_body_from_http2_to_http2() {
    matrix(true, true).await;
}

#[tokio::test]
async fn a_request_that_one_provider_calls_wrong_is_not_sent_to_the_next() {
    let pair = Pair::new(false).await;
    for status in [400, 402, 403, 404, 409, 413, 422] {
        let case = format!("wrong-{status}");
        pair.first.answer(&case, Reply::error(status));
        let answer = pair.marg.chat(&case, &small("late-x")).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.json()["error"]["message"], format!("scripted {status}"));
        assert_eq!(answer.header("x-marg-provider"), "first");
        assert_eq!(pair.first.seen(&case).len(), 1, "{status}");
        assert_eq!(pair.second.seen(&case).len(), 0, "{status}");
        let record = pair.marg.record(&answer.id()).await;
        assert_eq!(record["outcome"], "upstream_failed", "{record}");
        assert_eq!(record["attempts"].as_array().unwrap().len(), 1, "{record}");
    }
}

#[tokio::test]
async fn nothing_is_sent_again_once_the_caller_has_a_byte() {
    let pair = Pair::new(false).await;
    let (reply, feed): (Reply, Feed) = Reply::fed();
    pair.first.answer("begun", reply);
    let mut body = small("late-x");
    body["stream"] = json!(true);
    let mut client = pair.marg.http1().await;
    let call = Call::chat("begun", &body);
    let (mut answer, ()) = tokio::join!(client.open(call), feed.send(answers::text("m", "Hello")));
    answer.read_until(b"\n\n").await;
    feed.cut().await;
    let answer = answer.finish().await;
    assert_eq!(pair.second.seen("begun").len(), 0);
    assert_eq!(pair.first.seen("begun").len(), 1);
    assert_eq!(pair.marg.record(&answer.id()).await["attempts"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn each_target_is_asked_once_and_the_last_answer_is_told() {
    let pair = Pair::new(false).await;
    pair.first.answer("both", Reply::error(500));
    pair.second.answer("both", Reply::error(503));
    let answer = pair.marg.chat("both", &small("late-x")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["error"]["message"], "scripted 503");
    assert_eq!((pair.first.seen("both").len(), pair.second.seen("both").len()), (1, 1));
    let record = pair.marg.record(&answer.id()).await;
    assert_eq!(record["outcome"], "upstream_failed", "{record}");
    assert_eq!(record["attempts"][0]["status"], 500, "{record}");
    assert_eq!(record["attempts"][1]["status"], 503, "{record}");
}

#[tokio::test]
async fn when_nobody_can_be_reached_or_answers_in_time_the_error_says_so() {
    let (away, silent) = (Upstream::refusing(), Upstream::http1().await);
    let marg = Setup::new()
        .provider("away", &away, json!({}))
        .provider("silent", &silent, json!({"first_byte_timeout_ms": 300}))
        .route(json!({"match": {"model": "away"}, "to": "away"}))
        .route(json!({"match": {"model": "silent"}, "to": "away", "fallback": ["silent"]}))
        .start()
        .await;
    silent.answer("silent", Reply::afterwards(What::Hang));
    let mut client = marg.http1().await;
    let answer = client.send(Call::chat("away", &small("away"))).await;
    let sentence = answer.assert_error(502, "upstream_unreachable");
    assert!(sentence.contains("away"), "{sentence}");
    assert_eq!(marg.record(&answer.id()).await["attempts"][0]["end"], "connect_failed");
    let answer = marg.chat("silent", &small("silent")).await;
    answer.assert_error(504, "upstream_timeout");
    assert_eq!(answer.header("x-marg-attempts"), "2");
    let record = marg.record(&answer.id()).await;
    assert_eq!((record["outcome"].as_str(), record["status"].as_u64()), (Some("upstream_failed"), Some(504)));
    marg.chat("none", &small("unrouted")).await.assert_error(404, "model_not_found");
}

#[tokio::test]
async fn a_rate_limited_target_rests_for_as_long_as_it_asked() {
    let pair = Pair::new(false).await;
    pair.script("rest", "limited");
    for call in 0..3 {
        let answer = pair.marg.chat("rest", &small("limited-rest")).await;
        assert_eq!((answer.status, answer.header("x-marg-provider")), (200, "second"));
        let record = pair.marg.record(&answer.id()).await;
        let end = if call == 0 { "rate_limited" } else { "no_credential" };
        assert_eq!(record["attempts"][0]["end"], end, "{record}");
    }
    assert_eq!(pair.first.seen("rest").len(), 1, "the resting target was asked");
    // The rest is for one model only.
    assert_eq!(pair.marg.chat("other", &small("limited-other")).await.header("x-marg-provider"), "first");
}

#[tokio::test]
async fn with_no_other_target_a_rate_limit_is_told_and_kept() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    upstream.answer("limit", Reply::error(429).header("retry-after", "30"));
    let answer = marg.chat("limit", &small("m")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "30"));
    assert_eq!(answer.json()["error"]["message"], "scripted 429");
    let answer = marg.chat("limit", &small("m")).await;
    answer.assert_error(429, "limit_exceeded");
    let left: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=31).contains(&left), "{left}");
    assert_eq!(upstream.seen("limit").len(), 1, "the resting provider was asked");
}

#[tokio::test]
async fn callers_are_told_that_every_credential_was_refused_and_of_no_rate_limit() {
    let upstream = Upstream::http1().await;
    let credentials = json!([format!("plain:{CREDENTIAL}0"), format!("plain:{CREDENTIAL}1")]);
    let setup = Setup::new().provider("main", &upstream, json!({"credentials": credentials}));
    let marg = setup.set("default_provider", json!("main")).start().await;
    upstream.answer("refused", Reply::error(401));
    assert_eq!(marg.chat("refused", &small("m")).await.status, 401);
    let answer = marg.chat("refused", &small("m")).await;
    let sentence = answer.assert_error(502, "upstream_error");
    assert!(sentence.contains("refused") && !sentence.contains("limit"), "{sentence}");
    assert_eq!((answer.header("retry-after"), answer.header("x-marg-attempts")), ("", "0"));
    assert_eq!(upstream.seen("refused").len(), 2, "a resting credential was used");
}

#[tokio::test]
async fn a_target_that_is_written_in_two_ways_is_asked_once() {
    let upstream = Upstream::http1().await;
    let route = json!({"match": {"model": "fb"}, "to": "up", "fallback": ["up:fb", "up:other"]});
    let marg = Setup::new().provider("up", &upstream, json!({})).route(route).start().await;
    upstream.answer("twice", Reply::error(503));
    assert_eq!(marg.chat("twice", &small("fb")).await.header("x-marg-attempts"), "2");
    let models: Vec<Value> = upstream.seen("twice").iter().map(|seen| seen.json()["model"].clone()).collect();
    assert_eq!(models, ["fb", "other"]);
}

#[tokio::test]
async fn credentials_take_turns_and_rest_one_by_one() {
    let upstream = Upstream::http1().await;
    let credentials: Vec<String> = (0..3).map(|number| format!("plain:{CREDENTIAL}{number}")).collect();
    let marg = Setup::new()
        .provider("main", &upstream, json!({"credentials": credentials, "models": ["m"]}))
        .set("default_provider", json!("main"))
        .start()
        .await;
    // A provider whose models are known is not asked for them; that question would take its turn, too.
    let tally = |case: &str| {
        let mut tally: HashMap<String, usize> = HashMap::new();
        for seen in upstream.seen(case) {
            let credential = seen.header("authorization").unwrap().trim_start_matches("Bearer ").to_owned();
            *tally.entry(credential.trim_start_matches(CREDENTIAL).to_owned()).or_default() += 1;
        }
        tally
    };
    for _ in 0..6 {
        assert_eq!(marg.chat("turns", &small("m")).await.status, 200);
    }
    assert_eq!(tally("turns"), HashMap::from([("0".to_owned(), 2), ("1".to_owned(), 2), ("2".to_owned(), 2)]));

    upstream.script("limited", |_, seen| match seen.header("authorization") {
        Some(value) if value.ends_with('1') => Reply::error(429).header("retry-after", "60"),
        Some(value) if value.ends_with('2') => Reply::error(401),
        _ => answers::by_request(),
    });
    for _ in 0..6 {
        let answer = marg.chat("limited", &small("m")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let record = marg.record(&answer.id()).await;
        let last = record["attempts"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((last["end"].as_str(), last["credential"].as_u64()), (Some("served"), Some(0)), "{record}");
    }
    assert_eq!(tally("limited"), HashMap::from([("0".to_owned(), 6), ("1".to_owned(), 1), ("2".to_owned(), 1)]));
}

#[tokio::test]
async fn a_call_tries_each_credential_once_however_soon_a_throttled_one_may_be_asked_again() {
    let upstream = Upstream::http1().await;
    let credentials = json!([format!("plain:{CREDENTIAL}good"), format!("plain:{CREDENTIAL}throttled")]);
    let setup = Setup::new().provider("main", &upstream, json!({"credentials": credentials, "models": ["m"]}));
    let marg = setup.set("default_provider", json!("main")).start().await;
    upstream.script("throttled", |_, seen| match seen.header("authorization") {
        Some(value) if value.ends_with("throttled") => Reply::error(429).header("retry-after-ms", "0"),
        _ => answers::by_request(),
    });
    let body = small("m");
    let call = async || {
        let mut client = marg.http1().await;
        for _ in 0..25 {
            let answer = client.send(Call::chat("throttled", &body)).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(["1", "2"].contains(&answer.header("x-marg-attempts")), "{}", answer.header("x-marg-attempts"));
        }
    };
    tokio::join!(call(), call(), call(), call());
}

#[tokio::test]
async fn an_answer_that_speaks_against_its_provider_is_counted_as_that_also_where_the_caller_gets_it() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    for (status, times) in [(200_u16, 1), (503, 2), (429, 3), (401, 4), (400, 5)] {
        for _ in 0..times {
            let case = status.to_string();
            if status != 200 {
                upstream.answer(&case, Reply::error(status));
            }
            let answer = marg.chat(&case, &small("m")).await;
            assert_eq!(answer.status, status, "{}", answer.text());
            let attempt = marg.record(&answer.id()).await["attempts"][0].clone();
            assert_eq!((&attempt["end"], &attempt["status"]), (&json!("served"), &json!(status)), "{attempt}");
        }
    }
    let metrics = marg.ask_admin("GET", "/metrics", None).await.text();
    let count = |end: &str| {
        let line = format!("marg_attempts_total{{end=\"{end}\",gen_ai_provider_name=\"main\"}} ");
        metrics.lines().find_map(|found| found.strip_prefix(&line)).map(str::to_owned).unwrap_or_default()
    };
    assert_eq!((count("served"), count("bad_status"), count("rate_limited")), ("6".into(), "6".into(), "3".into()));
}

#[tokio::test]
async fn a_split_draws_by_weight_and_falls_back_like_any_route() {
    let (one, two, none, last) =
        (Upstream::http1().await, Upstream::http1().await, Upstream::http1().await, Upstream::http1().await);
    let marg = Setup::new()
        .provider("one", &one, json!({}))
        .provider("two", &two, json!({}))
        .provider("none", &none, json!({}))
        .provider("last", &last, json!({}))
        .route(json!({
            "split": [{"to": "one", "weight": 3}, {"to": "two", "weight": 1}, {"to": "none", "weight": 0}],
            "fallback": ["last"],
        }))
        .start()
        .await;
    let mut client = marg.http1().await;
    for _ in 0..200 {
        assert_eq!(client.send(Call::chat("split", &small("m"))).await.status, 200);
    }
    let (ones, twos) = (one.seen("split").len(), two.seen("split").len());
    assert_eq!(ones + twos, 200);
    // Six standard deviations around 150.
    assert!((113..=187).contains(&ones), "{ones} of 200 with a weight of 3 in 4");
    assert_eq!(none.seen("split").len(), 0);
    one.answer("fails", Reply::error(503));
    two.answer("fails", Reply::error(503));
    let answer = client.send(Call::chat("fails", &small("m"))).await;
    assert_eq!(answer.header("x-marg-provider"), "last");
    assert_eq!(one.seen("fails").len() + two.seen("fails").len(), 1);
}

#[tokio::test]
async fn routes_choose_by_model_and_team_and_the_first_match_wins() {
    let (red, blue, rest) = (Upstream::http1().await, Upstream::http1().await, Upstream::http1().await);
    let marg = Setup::new()
        .provider("red", &red, json!({}))
        .provider("blue", &blue, json!({}))
        .provider("rest", &rest, json!({}))
        .route(json!({"name": "reds", "match": {"model": "gpt-*", "team": "red*"}, "to": "red"}))
        .route(json!({"name": "blues", "match": {"model": "gpt-*"}, "to": "blue"}))
        .route(json!({"name": "narrower", "match": {"model": "*-4"}, "to": "rest"}))
        .set("default_provider", json!("rest"))
        .start()
        .await;
    let (token, _) = marg.make_key(&["--team", "reddish"]).await;
    for (key, model, provider, route) in [
        (&token, "gpt-4", "red", "reds"),
        (&marg.key, "gpt-4", "blue", "blues"),
        (&token, "llama", "rest", "default"),
        (&marg.key, "GPT-5", "rest", "default"),
    ] {
        let mut client = Client::http1(marg.address, key).await;
        let answer = client.send(Call::chat("routes", &small(model))).await;
        assert_eq!(answer.header("x-marg-provider"), provider, "{model}");
        let record = marg.record(&answer.id()).await;
        assert_eq!(record["route"], route, "{record}");
    }
}

#[tokio::test]
async fn a_caller_that_waits_with_its_body_is_told_to_send_it_and_keeps_its_connection() {
    let pair = Pair::new(false).await;
    let mut raw = Raw::connect(pair.marg.address).await;
    for (number, fault) in ["late", "early", "cut"].into_iter().enumerate() {
        let case = format!("{fault}-expect-{number}");
        pair.script(&case, fault);
        let body = body(&case, 200_000);
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-case: {case}\r\n\
             expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            pair.marg.key,
            body.len()
        );
        assert!(raw.write(head).await);
        assert_eq!(raw.interim(PATIENCE).await, 100, "{case}");
        assert!(raw.write(&body).await);
        let answer = raw.answer(PATIENCE).await.unwrap_or_else(|| panic!("{case}: the connection was closed"));
        assert_eq!((answer.status, answer.header("x-marg-provider")), (200, "second"), "{case}");
        assert_eq!(pair.first.seen(&case)[0].header("expect"), None);
        let expected = self::body(SECOND_MODEL, 200_000 + SECOND_MODEL.len() - case.len());
        assert_eq!(pair.second.only(&case).await.hash(), blake3::hash(&expected), "{case}");
    }
}
