//! A key that may use certain models only is held to them, wherever a request names its model, and where it names none.

use serde_json::json;

use crate::support::client::{Answer, Call};
use crate::support::marg::{Marg, Setup};
use crate::support::upstream::Upstream;

/// A gateway, and a key for `ok-*`; `ok-new` is asked for as `ok/other`.
async fn gateway() -> (Upstream, Marg, String) {
    let upstream = Upstream::http1().await;
    let route = json!({"match": {"model": "ok-new"}, "to": "main:ok/other"});
    let marg = Setup::with_default(&upstream).route(route).start().await;
    let (token, _) = marg.make_key(&["--model", "ok-*"]).await;
    (upstream, marg, token)
}

async fn send(marg: &Marg, token: &str, (method, path, kind, body): (&str, &str, &str, &str)) -> Answer {
    let call = Call::new(method, path).without_key().header("authorization", &format!("Bearer {token}"));
    let case = format!("{method} {path} [{body}]");
    let case: String = case.chars().filter(char::is_ascii).collect();
    marg.send(call.header("x-case", &case).header("content-type", kind).body(body.to_owned())).await
}

const JSON: &str = "application/json";
const WORDS: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn a_model_that_is_not_seen_is_refused_to_a_key_with_a_list() {
    let (upstream, marg, token) = gateway().await;
    for request in [
        ("POST", "/v1/images/generations", JSON, r#"{"prompt":"x"}"#),
        ("POST", "/v1/images/generations", JSON, r#"{"model":null,"prompt":"x"}"#),
        ("POST", "/v1/images/generations", JSON, r#"{"model":"evil","prompt":"x"}"#),
        ("POST", "/v1/images/generations?model=evil", JSON, r#"{"prompt":"x"}"#),
        ("POST", "/v1/images/generations", WORDS, "model=evil&prompt=x"),
        ("POST", "/v1/images/generations", "text/plain", "\u{feff}{\"model\":\"evil\",\"prompt\":\"x\"}"),
        ("POST", "/v1/audio/speech", WORDS, "m%6Fdel=evil&input=x"),
        ("POST", "/v1/audio/speech?model=ok-1", "text/plain", "\u{feff}{\"model\":\"evil\"}"),
        ("POST", "/v1/moderations", JSON, r#"{"input":"x"}"#),
        ("POST", "/v1/responses", JSON, r#"{"prompt":{"id":"pmpt_1"},"input":"x"}"#),
        ("POST", "/v1/batches", JSON, r#"{"model":"ok-1","input_file_id":"f","endpoint":"/v1/responses"}"#),
        ("POST", "/v1/engines/evil/completions", JSON, r#"{"model":"ok-1","prompt":"x"}"#),
        (
            "POST",
            "/v1/workflows/accounts/fireworks/models/evil/text_to_image",
            JSON,
            r#"{"model":"ok-1","prompt":"x"}"#,
        ),
        ("POST", "/v1/evil/invocations", JSON, r#"{"model":"ok-1","messages":[]}"#),
        ("POST", "/v1/async/chat/completions", JSON, r#"{"model":"ok-1","request":{"model":"evil"}}"#),
        ("POST", "/v1/threads/t/runs", JSON, r#"{"assistant_id":"a"}"#),
        ("POST", "/v1/conversations", JSON, r#"{"agent_id":"a","inputs":"x"}"#),
        ("POST", "/v1/anything", JSON, r#"{"Model":"evil","model":"ok-1"}"#),
        ("PUT", "/v1/anything", "application/octet-stream", "x"),
        ("DELETE", "/v1/models/evil", JSON, ""),
    ] {
        let answer = send(&marg, &token, request).await;
        answer.assert_error(403, "permission_denied");
        assert_eq!(answer.json()["error"]["param"], "model", "{request:?}");
    }
    assert_eq!(upstream.asked(), 0, "something reached the provider");
}

#[tokio::test]
async fn a_model_that_a_tool_runs_is_held_to_the_list_too() {
    let (upstream, marg, token) = gateway().await;
    let body = |model: &str| {
        json!({"model": "ok-1", "input": "x", "tools": [{"type": "image_generation", "model": model}]}).to_string()
    };
    let answer = send(&marg, &token, ("POST", "/v1/responses", JSON, &body("evil"))).await;
    answer.assert_error(403, "permission_denied");
    assert_eq!(answer.json()["error"]["param"], "tools");
    assert_eq!(upstream.asked(), 0, "something reached the provider");
    assert_eq!(send(&marg, &token, ("POST", "/v1/responses", JSON, &body("ok-image"))).await.status, 200);
    assert_eq!(send(&marg, &marg.key, ("POST", "/v1/responses", JSON, &body("evil"))).await.status, 200);
}

#[tokio::test]
async fn a_model_that_openrouters_tools_and_litellms_fallbacks_run_is_held_to_the_list_too() {
    let (upstream, marg, token) = gateway().await;
    let body = |more: serde_json::Value| {
        let mut body = json!({"model": "ok-1", "messages": [{"role": "user", "content": "x"}]});
        crate::support::marg::merge(&mut body, more);
        body.to_string()
    };
    for more in [
        json!({"tools": [{"type": "openrouter:advisor", "parameters": {"model": "evil"}}]}),
        json!({"tools": [{"type": "openrouter:advisor"}]}),
        json!({"tools": [{"type": "openrouter:fusion", "parameters": {"analysis_models": ["ok-2", "evil"]}}]}),
        json!({"plugins": [{"id": "fusion", "analysis_models": ["evil"], "model": "ok-2"}]}),
        json!({"fallbacks": [{"ok-1": ["evil"]}]}),
        json!({"context_window_fallbacks": [{"ok-1": ["evil"]}]}),
        json!({"content_policy_fallbacks": [{"ok-1": ["evil"]}]}),
    ] {
        let more = body(more);
        let answer = send(&marg, &token, ("POST", "/v1/chat/completions", JSON, &more)).await;
        answer.assert_error(403, "permission_denied");
    }
    assert_eq!(upstream.asked(), 0, "something reached the provider");
    let schema = json!({"type": "object", "properties": {"model": {"type": "string", "default": "evil"}}});
    let function = json!({"type": "function", "function": {"name": "f", "parameters": schema}});
    let advisor = json!({"type": "openrouter:advisor", "parameters": {"model": "ok-2"}});
    let fits = body(json!({"tools": [function, advisor], "fallbacks": [{"ok-1": ["ok-3"]}]}));
    let answer = send(&marg, &token, ("POST", "/v1/chat/completions", JSON, &fits)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_to_everybody() {
    let (_upstream, marg, token) = gateway().await;
    for request in [
        ("POST", "/v1/images/generations?model=evil", JSON, r#"{"model":"ok-1","prompt":"x"}"#),
        ("POST", "/v1/images/generations?model=ok-1&model=evil", JSON, r#"{"prompt":"x"}"#),
        ("POST", "/v1/images/generations", WORDS, "model=ok-1&model=evil"),
        ("POST", "/v1/images/generations", WORDS, r#"{"model":"ok-1","prompt":"&model=evil&"}"#),
    ] {
        send(&marg, &token, request).await.assert_error(400, "invalid_request");
        send(&marg, &marg.key, request).await.assert_error(400, "invalid_request");
    }
    let call = Call::new("POST", "/v1/anything").header("content-type", JSON).header("content-type", WORDS);
    marg.send(call.body(r#"{"model":"ok-1"}"#)).await.assert_error(400, "invalid_request");
}

#[tokio::test]
async fn what_leads_past_the_gateway_is_opened_for_nobody() {
    let (upstream, marg, _) = gateway().await;
    for path in [
        "/v1/realtime/client_secrets",
        "/v1/realtime/calls?model=ok-1",
        "/v1/realtime/sessions",
        "/v1/chatkit/sessions",
        "/v1/auth/keys/code",
        "/v1/auth/keys",
        "/v1/keys",
        "/v1/%6beys",
        "/v1/key/generate",
        "/v1/credentials",
        "/v1/organization/projects/p/api_keys",
        "/v1/load_lora_adapter",
    ] {
        send(&marg, &marg.key, ("POST", path, JSON, r#"{"model":"ok-1","session":{"model":"ok-1"}}"#))
            .await
            .assert_error(403, "permission_denied");
    }
    send(&marg, &marg.key, ("GET", "/v1/key", JSON, "")).await.assert_error(403, "permission_denied");
    assert_eq!(upstream.asked(), 0);
}

#[tokio::test]
async fn a_key_with_a_list_uses_its_models_however_they_are_named_and_reads_and_stores() {
    let (upstream, marg, token) = gateway().await;
    for (request, path, body) in [
        (("POST", "/v1/images/generations", JSON, r#"{"model":"ok-1","prompt":"x"}"#), "/v1/images/generations", None),
        (
            ("POST", "/v1/images/generations?model=ok-1", JSON, r#"{"prompt":"x"}"#),
            "/v1/images/generations?model=ok-1",
            None,
        ),
        (
            ("POST", "/v1/images/edits?model=ok-new&x=1", JSON, r#"{"prompt":"x"}"#),
            "/v1/images/edits?model=ok%2Fother&x=1",
            None,
        ),
        (
            ("POST", "/v1/audio/speech", WORDS, "input=x&model=ok-new&voice=a"),
            "/v1/audio/speech",
            Some("input=x&model=ok%2Fother&voice=a"),
        ),
        (("POST", "/v1/images/variations", WORDS, r#"{"model":"ok-1"}"#), "/v1/images/variations", None),
        (("POST", "/v1/files", "text/plain", "x"), "/v1/files", None),
        (("POST", "/v1/batches/b/cancel", JSON, ""), "/v1/batches/b/cancel", None),
        (("GET", "/v1/batches", JSON, ""), "/v1/batches", None),
        (("POST", "/v1/conversations", JSON, r#"{"items":[]}"#), "/v1/conversations", None),
        (("DELETE", "/v1/models/ok-1", JSON, ""), "/v1/models/ok-1", None),
    ] {
        let answer = send(&marg, &token, request).await;
        assert_eq!(answer.status, 200, "{request:?}: {}", answer.text());
        let (method, asked, _, sent) = request;
        let arrived = upstream.only(&format!("{method} {asked} [{sent}]")).await;
        assert_eq!(arrived.path, path, "{request:?}");
        assert_eq!(String::from_utf8_lossy(&arrived.body), body.unwrap_or(sent), "{request:?}");
    }
}
