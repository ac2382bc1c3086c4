//! What a provider says of its credentials, its address and its proxies, and that no caller hears it.

use serde_json::{Value, json};

use crate::support::CREDENTIAL;
use crate::support::answers;
use crate::support::client::Call;
use crate::support::marg::{Marg, Setup};
use crate::support::reply::Reply;
use crate::support::upstream::Upstream;

const SECRET: &str = "HDRSECRET9876543210zyx";

/// A gateway whose provider takes a secret in a header of its own.
async fn gateway() -> (Upstream, Marg) {
    let upstream = Upstream::http1().await;
    let headers = json!({"x-extra": format!("plain:Token {SECRET}"), "x-team": "application-team"});
    let setup = Setup::new().provider("main", &upstream, json!({"headers": headers}));
    let marg = setup.set("default_provider", json!("main")).start().await;
    (upstream, marg)
}

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "x"}]})
}

#[tokio::test]
async fn a_secret_header_is_taken_out_of_a_providers_error_and_an_ordinary_one_is_not() {
    let (upstream, marg) = gateway().await;
    let words = format!("invalid token {SECRET} of application-team");
    for (case, status, body) in [
        ("shape", 400, json!({"error": {"message": words, "type": "t", "param": null, "code": null}})),
        ("other", 401, json!({"detail": words})),
        ("server", 500, json!({"error": words})),
        ("late", 200, json!({"error": {"message": words}})),
    ] {
        upstream.answer(case, Reply::json(status, &body));
        let answer = marg.chat(case, &chat()).await;
        let text = answer.text();
        assert!(!text.contains(SECRET), "{case}: {text}");
        assert!(text.contains("[redacted] of application-team"), "{case}: {text}");
    }
    assert_eq!(upstream.only("shape").await.header("x-extra"), Some(&*format!("Token {SECRET}")));
}

#[tokio::test]
async fn headers_that_give_away_a_credential_or_the_address_do_not_reach_the_caller() {
    let (upstream, marg) = gateway().await;
    let credential = format!("{CREDENTIAL}main");
    let address = upstream.address.to_string();
    let reply = |status: u16| {
        Reply::json(status, &answers::completion("m", None))
            .header("x-echo-1", &credential)
            .header("x-echo-2", &format!("Bearer {credential}"))
            .header("x-echo-3", &format!("key={SECRET}"))
            .header("x-litellm-model-api-base", &format!("http://{address}/v1"))
            .header("x-many", "one")
            .header("x-many", &format!("two {credential}"))
            .header("x-request-id", &format!("{address}-7"))
            .header("openai-processing-ms", "12")
    };
    for (case, status) in [("fine", 200), ("error", 400)] {
        upstream.answer(case, reply(status));
        let answer = marg.chat(case, &chat()).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("openai-processing-ms"), "12");
        for gone in
            ["x-echo-1", "x-echo-2", "x-echo-3", "x-litellm-model-api-base", "x-many", "x-marg-upstream-request-id"]
        {
            assert_eq!(answer.header(gone), "", "{case}: {gone} came back");
        }
    }
}

#[tokio::test]
async fn headers_that_a_proxy_in_front_or_a_browser_would_obey_do_not_reach_the_caller() {
    let (upstream, marg) = gateway().await;
    let orders = [
        "x-accel-redirect",
        "x-accel-expires",
        "x-accel-limit-rate",
        "x-sendfile",
        "x-lighttpd-send-file",
        "x-reproxy-url",
        "x-litespeed-location",
        "x-envoy-immediate-health-check-fail",
        "surrogate-control",
        "clear-site-data",
        "service-worker-allowed",
        "access-control-allow-methods",
    ];
    let plain = Reply::json(200, &answers::completion("m", None)).header("x-plain", "1");
    upstream.answer("orders", orders.iter().fold(plain, |reply, name| reply.header(name, "/internal")));
    let answer = marg.chat("orders", &chat()).await;
    assert_eq!((answer.status, answer.header("x-plain")), (200, "1"));
    for gone in orders {
        assert_eq!(answer.header(gone), "", "{gone} came back");
    }
}

#[tokio::test]
async fn a_key_in_the_query_does_not_reach_the_provider() {
    let (upstream, marg) = gateway().await;
    let path = format!("/v1/files?key={}", marg.key);
    let sentence =
        marg.send(Call::new("GET", &path).header("x-case", "query")).await.assert_error(400, "invalid_request");
    assert!(sentence.contains("header"), "{sentence}");
    assert!(upstream.seen("query").is_empty());
}
