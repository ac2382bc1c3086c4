//! Whatever arrives: a 4xx in OpenAI's shape or the end of the connection, within a bounded time, and the next request is
//! served as if nothing had been.

use std::time::Duration;

use serde_json::json;

use crate::support::client::{Call, Client, assert_openai_error};
use crate::support::marg::{Marg, Setup};
use crate::support::raw::{Raw, assert_refused};
use crate::support::reply::{Answer, Body};
use crate::support::until;
use crate::support::upstream::Upstream;

/// How long a refusal may take: far above the limits that are set here, far below "for ever".
const BOUND: Duration = Duration::from_secs(10);

/// A gateway with small limits.
async fn gateway() -> (Upstream, Marg) {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream)
        .set(
            "server",
            json!({
                "h2c": true,
                "max_body_bytes": 1_000_000,
                "max_header_bytes": 16_384,
                "header_timeout_ms": 700,
                "body_idle_timeout_ms": 700,
                "body_timeout_ms": 2_000,
                "keepalive_ms": 3_000,
            }),
        )
        .start()
        .await;
    (upstream, marg)
}

/// A good request gets a good answer.
async fn assert_serves(marg: &Marg, after: &str) {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let answer = marg.chat("next", &body).await;
    assert_eq!(answer.status, 200, "after {after}: {}", answer.text());
}

/// A head up to its last header, with the key.
fn head(marg: &Marg) -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", marg.key)
}

#[tokio::test]
async fn bodies_that_cannot_be_understood_are_refused_with_the_field_at_fault() {
    let (upstream, marg) = gateway().await;
    let deep = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":{}1{}}}]}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let deep_objects =
        format!(r#"{{"model":"m","messages":[{}1{}]}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let good = br#""messages":[{"role":"user","content":"x"}]"#;
    let with = |start: &[u8], end: &[u8]| [start, good, end].concat();
    let cases: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
        ("nothing", Vec::new(), None),
        ("only spaces", b"   \n".to_vec(), None),
        ("half an object", b"{\"model\":\"m\",".to_vec(), None),
        ("an array", b"[]".to_vec(), None),
        ("a number", b"1".to_vec(), None),
        ("two objects", with(b"{\"model\":\"m\",", b"}{}"), None),
        ("a comma too many", with(b"{\"model\":\"m\",", b",}"), None),
        ("a comment", with(b"{/* x */\"model\":\"m\",", b"}"), None),
        ("single quotes", b"{'model':'m'}".to_vec(), None),
        ("a byte order mark", with(b"\xef\xbb\xbf{\"model\":\"m\",", b"}"), None),
        ("a raw line end in a string", with(b"{\"model\":\"m\",\"x\":\"a\nb\",", b"}"), None),
        ("a lone escape", with(b"{\"model\":\"m\",\"x\":\"\\q\",", b"}"), None),
        ("not a number", with(b"{\"model\":\"m\",\"x\":NaN,", b"}"), None),
        ("invalid UTF-8 in a value", with(b"{\"model\":\"m\",\"x\":\"\xff\xfe\",", b"}"), None),
        ("invalid UTF-8 in a key", with(b"{\"model\":\"m\",\"\xc3\x28\":1,", b"}"), None),
        ("a surrogate in UTF-8", with(b"{\"model\":\"m\",\"x\":\"\xed\xa0\x80\",", b"}"), None),
        ("a NUL", with(b"{\"model\":\"m\",\"x\":\"\0\",", b"}"), None),
        ("the model twice", with(b"{\"model\":\"m\",\"model\":\"n\",", b"}"), Some("model")),
        ("the model twice in disguise", with(b"{\"model\":\"m\",\"mod\\u0065l\":\"n\",", b"}"), None),
        ("100,000 arrays deep", deep.into_bytes(), None),
        ("100,000 objects deep", deep_objects.into_bytes(), None),
        ("no model", with(b"{", b"}"), Some("model")),
        ("a null model", with(b"{\"model\":null,", b"}"), Some("model")),
        ("a number as model", with(b"{\"model\":1,", b"}"), Some("model")),
        ("an empty model", with(b"{\"model\":\"\",", b"}"), Some("model")),
        ("a very long model", with(format!("{{\"model\":\"{}\",", "m".repeat(5_000)).as_bytes(), b"}"), Some("model")),
        ("a header in the model", with(b"{\"model\":\"m\\r\\nx-injected: 1\",", b"}"), Some("model")),
        ("a NUL in the model", with(b"{\"model\":\"m\\u0000\",", b"}"), Some("model")),
        ("no messages", b"{\"model\":\"m\"}".to_vec(), Some("messages")),
        ("text as messages", b"{\"model\":\"m\",\"messages\":\"x\"}".to_vec(), Some("messages")),
        ("no message in messages", b"{\"model\":\"m\",\"messages\":[]}".to_vec(), Some("messages")),
        ("a number as message", b"{\"model\":\"m\",\"messages\":[1]}".to_vec(), Some("messages")),
        ("text as stream", with(b"{\"model\":\"m\",\"stream\":\"yes\",", b"}"), Some("stream")),
        ("text as max_tokens", with(b"{\"model\":\"m\",\"max_tokens\":\"many\",", b"}"), Some("max_tokens")),
        ("a negative n", with(b"{\"model\":\"m\",\"n\":-1,", b"}"), Some("n")),
        ("text as stream_options", with(b"{\"model\":\"m\",\"stream_options\":1,", b"}"), Some("stream_options")),
    ];
    let mut client = marg.http1().await;
    for (name, body, param) in cases {
        let answer = client.send(Call::post("/v1/chat/completions", "bad", body)).await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        answer.assert_error(400, "invalid_request");
        if let Some(param) = param {
            assert_eq!(answer.json()["error"]["param"], param, "{name}: {}", answer.text());
        }
        assert!(!answer.headers.contains_key("x-injected"), "{name}");
    }
    // All of it on one connection, which still serves; nothing of it reached the provider.
    assert_eq!(client.send(Call::new("GET", "/v1/models")).await.status, 200);
    assert_eq!(upstream.seen("bad").len(), 0);
    assert_serves(&marg, "broken bodies").await;
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused_however_they_come() {
    let (upstream, marg) = gateway().await;
    let most = 1_000_000;
    let body = |size: usize| {
        let frame = r#"{"model":"m","messages":[{"role":"user","content":""}]}"#;
        frame.replace(r#""""#, &format!(r#""{}""#, "x".repeat(size - frame.len())))
    };
    for http2 in [false, true] {
        for announced in [true, false] {
            let call = |size| {
                let call = Call::post("/v1/chat/completions", "large", body(size));
                if announced { call } else { call.without_length() }
            };
            let mut client = if http2 { marg.http2().await } else { marg.http1().await };
            let answer = client.send(call(most)).await;
            assert_eq!(answer.status, 200, "http2 {http2}, announced {announced}: {}", answer.text());
            let answer = client.send(call(most + 1)).await;
            answer.assert_error(413, "request_too_large");
        }
    }
    assert_eq!(upstream.seen("large").len(), 4);
    // A length beyond any number, and one that is announced but never comes.
    let absurd = format!("{}content-length: 99999999999999999999999\r\n\r\n", head(&marg));
    assert_refused(marg.address, "an absurd length", absurd).await;
    let announced = format!("{}content-length: 1000001\r\n\r\n", head(&marg));
    assert_eq!(assert_refused(marg.address, "a length beyond the limit", announced).await, 413);
    let waits = format!("{}content-length: 1000001\r\nexpect: 100-continue\r\n\r\n", head(&marg));
    assert_eq!(assert_refused(marg.address, "a caller that waits", waits).await, 413);
    assert_serves(&marg, "large bodies").await;
}

#[tokio::test]
async fn bodies_that_stop_or_drip_are_given_up() {
    let (upstream, marg) = gateway().await;
    let stalled = format!("{}content-length: 100\r\n\r\n{{\"model\":", head(&marg));
    assert_eq!(assert_refused(marg.address, "a stalled body", stalled).await, 408);
    let stalled = format!("{}transfer-encoding: chunked\r\n\r\n5\r\n{{\"mod\r\n", head(&marg));
    assert_eq!(assert_refused(marg.address, "a stalled chunked body", stalled).await, 408);
    let silent = format!("{}content-length: 100\r\n\r\n", head(&marg));
    assert_eq!(assert_refused(marg.address, "a body that never begins", silent).await, 408);

    let mut raw = Raw::connect(marg.address).await;
    raw.write(format!("{}content-length: 100000\r\n\r\n", head(&marg))).await;
    let dripping = async {
        // Each byte is in time; the whole would take hours.
        while raw.write("x").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Ok(Some(answer)) = tokio::time::timeout(Duration::from_millis(1), raw.answer(BOUND)).await {
                return answer.status;
            }
        }
        0
    };
    let status = tokio::time::timeout(BOUND, dripping).await.expect("a dripped body is given up");
    assert!(matches!(status, 408 | 0), "{status}");

    let mut raw = Raw::connect(marg.address).await;
    raw.write(format!("{}content-length: 100\r\n\r\n{{\"model\":", head(&marg))).await;
    raw.finish().await;
    if let Some(answer) = raw.answer(BOUND).await {
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    assert_eq!(upstream.asked(), 0, "half a body reached the provider");
    assert_serves(&marg, "stalled bodies").await;
}

#[tokio::test]
async fn heads_that_stop_or_drip_end_the_connection() {
    let (_upstream, marg) = gateway().await;
    for (what, begun) in [
        ("half a request line", "POST /v1/chat"),
        ("half a header", "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nautho"),
        ("half a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM"),
    ] {
        assert_refused(marg.address, what, begun).await;
    }
    // A byte at a time, each far within any limit between two bytes.
    let head = head(&marg) + "x-long: " + &"x".repeat(1_000);
    let mut raw = Raw::connect(marg.address).await;
    let dripping = async {
        for byte in head.as_bytes() {
            if !raw.write([*byte]).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the whole head was taken");
    };
    tokio::time::timeout(BOUND, dripping).await.expect("a dripped head is given up");
    // Silence before the first byte lasts no longer than a kept connection may be silent.
    Raw::connect(marg.address).await.rest(BOUND).await;
    assert_serves(&marg, "dripped heads").await;
}

#[tokio::test]
async fn requests_that_two_readers_could_read_differently_are_refused() {
    let (upstream, marg) = gateway().await;
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let length = body.len();
    for (what, framing) in [
        ("length and chunks", format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n{chunked}")),
        ("chunks and length", format!("transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n{chunked}")),
        ("two lengths", format!("content-length: {length}\r\ncontent-length: 3\r\n\r\n{body}")),
        ("a list of lengths", format!("content-length: {length}, 3\r\n\r\n{body}")),
        ("a signed length", format!("content-length: +{length}\r\n\r\n{body}")),
        ("a negative length", format!("content-length: -1\r\n\r\n{body}")),
        ("a hexadecimal length", format!("content-length: 0x10\r\n\r\n{body}")),
        ("a length that is text", format!("content-length: many\r\n\r\n{body}")),
        ("an unknown coding", format!("transfer-encoding: gzip\r\n\r\n{chunked}")),
        ("chunks in disguise", format!("transfer-encoding: xchunked\r\n\r\n{chunked}")),
        ("two codings", format!("transfer-encoding: gzip, chunked\r\n\r\n{chunked}")),
        ("chunks, then something", format!("transfer-encoding: chunked, identity\r\n\r\n{chunked}")),
        ("chunks twice", format!("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n{chunked}")),
        ("identity", format!("transfer-encoding: identity\r\ncontent-length: {length}\r\n\r\n{body}")),
        ("a space before the colon", format!("transfer-encoding : chunked\r\ncontent-length: {length}\r\n\r\n{body}")),
        ("a tab in the coding", format!("transfer-encoding:\tchunked\u{b}\r\ncontent-length: {length}\r\n\r\n{body}")),
        ("a folded header", format!("transfer-encoding:\r\n chunked\r\ncontent-length: {length}\r\n\r\n{body}")),
        ("a chunk's length that is text", "transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n".to_owned()),
        ("a chunk's length beyond any number", "transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_owned()),
        ("a chunk without its end", "transfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n".to_owned()),
        ("a header without a colon", format!("no-colon\r\ncontent-length: {length}\r\n\r\n{body}")),
        ("a header without a name", format!(": value\r\ncontent-length: {length}\r\n\r\n{body}")),
        ("a NUL in a header", format!("x: a\0b\r\ncontent-length: {length}\r\n\r\n{body}")),
        ("a bare carriage return", format!("x: a\rx-injected: b\r\ncontent-length: {length}\r\n\r\n{body}")),
    ] {
        let smuggled = "GET /v1/smuggled HTTP/1.1\r\nhost: x\r\nx-case: smuggled\r\n\r\n";
        assert_refused(marg.address, what, format!("{}x-case: odd\r\n{framing}{smuggled}", head(&marg))).await;
    }
    assert_eq!(upstream.seen("smuggled").len(), 0, "a smuggled request was served");
    assert_eq!(upstream.seen("odd").len(), 0, "an ambiguous request reached the provider");
    assert_serves(&marg, "smuggling").await;
}

#[tokio::test]
async fn what_is_not_a_request_of_http_is_refused() {
    let (upstream, marg) = gateway().await;
    let key = format!("authorization: Bearer {}\r\n", marg.key);
    let many: String = (0..2_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    for (what, bytes) in [
        ("noise", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("zeros", vec![0; 4_096]),
        ("an unknown version", b"GET /v1/models HTTP/3.0\r\nhost: x\r\n\r\n".to_vec()),
        ("no version", b"GET /v1/models\r\n\r\n".to_vec()),
        ("an unknown method", format!("BREW /v1/models HTTP/1.1\r\nhost: x\r\n{key}\r\n").into_bytes()),
        ("a method of odd letters", format!("G(T /v1/models HTTP/1.1\r\nhost: x\r\n{key}\r\n").into_bytes()),
        ("CONNECT", format!("CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n{key}\r\n").into_bytes()),
        ("TRACE", format!("TRACE /v1/models HTTP/1.1\r\nhost: x\r\n{key}\r\n").into_bytes()),
        ("OPTIONS for all", format!("OPTIONS * HTTP/1.1\r\nhost: x\r\n{key}\r\n").into_bytes()),
        ("a long path", format!("GET /v1/{} HTTP/1.1\r\nhost: x\r\n{key}\r\n", "x".repeat(10_000)).into_bytes()),
        (
            "a long header",
            format!("GET /v1/models HTTP/1.1\r\nhost: x\r\n{key}x: {}\r\n\r\n", "x".repeat(20_000)).into_bytes(),
        ),
        (
            "an endless header",
            format!("GET /v1/models HTTP/1.1\r\nhost: x\r\n{key}x: {}", "x".repeat(4_000_000)).into_bytes(),
        ),
        ("many headers", format!("GET /v1/models HTTP/1.1\r\nhost: x\r\n{key}{many}\r\n").into_bytes()),
        ("a path of odd bytes", b"GET /v1/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("a broken preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all, not at all".to_vec()),
    ] {
        if what == "a broken preface" {
            // HTTP/2 answers in frames of its own; that it ends is what counts.
            let mut raw = Raw::connect(marg.address).await;
            raw.write(bytes).await;
            raw.rest(BOUND).await;
            continue;
        }
        assert_refused(marg.address, what, bytes).await;
    }
    assert_eq!(upstream.asked(), 0);
    assert_serves(&marg, "noise").await;
}

#[tokio::test]
async fn a_caller_without_a_usable_key_is_told_why_before_its_body_is_read() {
    let (upstream, marg) = gateway().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let mistyped = format!("{}x", &marg.key[..marg.key.len() - 1]);
    let unknown = {
        let (other, id) = marg.make_key(&[]).await;
        marg.command(&["keys", "delete", &id, "--output", "json"]).await;
        other
    };
    let (revoked, revoked_id) = marg.make_key(&[]).await;
    marg.command(&["keys", "revoke", &revoked_id, "--output", "json"]).await;
    let (disabled, disabled_id) = marg.make_key(&[]).await;
    marg.command(&["keys", "disable", &disabled_id, "--output", "json"]).await;
    let (expired, _) = marg.make_key(&["--expires-in", "1s"]).await;
    for (what, token, words) in [
        ("mistyped", mistyped.as_str(), "mistyped"),
        ("unknown", &unknown, ""),
        ("revoked", &revoked, "revoked"),
        ("disabled", &disabled, "disabled"),
        ("expired", &expired, "expired"),
        ("a provider's", "sk-proj-abc", ""),
        ("empty", "", ""),
        ("very long", &"k".repeat(8_000), ""),
    ] {
        let answer = until(&format!("a key that is {what} is refused"), || async {
            let mut client = Client::http1(marg.address, token).await;
            let answer = client.send(Call::chat("key", &body)).await;
            (answer.status != 200).then_some(answer)
        })
        .await;
        let sentence = answer.assert_error(401, "invalid_api_key");
        assert!(sentence.contains(words), "{what}: {sentence}");
        assert!(!sentence.contains(token) || token.is_empty(), "{what}: {sentence}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let reached = upstream.seen("key").len();
    marg.send(Call::chat("key", &body).without_key()).await.assert_error(401, "invalid_api_key");
    assert_eq!(upstream.seen("key").len(), reached);
    // The body is announced but never sent: the refusal does not wait for it.
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\ncontent-length: 900000\r\n\r\n";
    assert_eq!(assert_refused(marg.address, "no key", head).await, 401);
    assert_serves(&marg, "wrong keys").await;
}

#[tokio::test]
async fn a_key_is_held_to_its_models_and_addresses() {
    let (upstream, marg) = gateway().await;
    let body = json!({"model": "gpt-4", "messages": [{"role": "user", "content": "x"}]});
    let (elsewhere, _) = marg.make_key(&["--address", "203.0.113.0/24"]).await;
    let (here, _) = marg.make_key(&["--address", "127.0.0.0/8", "--address", "::1/128"]).await;
    let (other, _) = marg.make_key(&["--model", "llama*"]).await;
    let (same, _) = marg.make_key(&["--model", "gpt-*"]).await;
    for (token, status, code) in
        [(elsewhere, 403, "permission_denied"), (here, 200, ""), (other, 403, "permission_denied"), (same, 200, "")]
    {
        let answer = until("the key is known", || async {
            let mut client = Client::http1(marg.address, &token).await;
            let answer = client.send(Call::chat("held", &body)).await;
            (answer.status != 401).then_some(answer)
        })
        .await;
        if status == 200 {
            assert_eq!(answer.status, 200, "{}", answer.text());
        } else {
            answer.assert_error(status, code);
        }
    }
    assert_eq!(upstream.seen("held").len(), 2);
}

#[tokio::test]
async fn a_forwarded_address_is_believed_only_from_a_trusted_proxy() {
    let upstream = Upstream::http1().await;
    let trusting =
        Setup::with_default(&upstream).set("server", json!({"trusted_proxies": ["127.0.0.0/8"]})).start().await;
    let wary = Setup::with_default(&upstream).start().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    for (marg, address) in [(&trusting, "198.51.100.7"), (&wary, "127.0.0.1")] {
        let call = Call::chat("address", &body).header("x-forwarded-for", "203.0.113.1, 198.51.100.7, 127.0.0.9");
        let answer = marg.send(call).await;
        assert_eq!(marg.record(&answer.id()).await["address"], address);
    }
}

#[tokio::test]
async fn every_refusal_is_in_the_ledger_and_nothing_of_the_body_is() {
    let (_upstream, marg) = gateway().await;
    let answer = marg.send(Call::post("/v1/chat/completions", "x", r#"{"model":"m","secret-prompt":"#)).await;
    let record = marg.record(&answer.id()).await;
    assert_eq!(record["outcome"], "refused", "{record}");
    assert_eq!(record["reason"], "invalid_request", "{record}");
    assert_eq!(record["status"], 400, "{record}");
    assert_eq!(record["key_id"], marg.key_id, "{record}");
    assert!(record["attempts"].as_array().is_none_or(Vec::is_empty), "{record}");
    assert!(!record.to_string().contains("secret-prompt"), "{record}");
    assert!(!marg.logged().contains("secret-prompt"));
    let answer = marg.send(Call::new("GET", "/v1/models").without_key()).await;
    assert_eq!(marg.record(&answer.id()).await["reason"], "invalid_api_key");
}

#[tokio::test]
async fn above_its_bounds_the_gateway_refuses_with_503_and_recovers() {
    let upstream = Upstream::http1().await;
    let bounds = json!({"max_exchanges": 4, "max_body_bytes": 300_000, "max_buffered_bytes": 300_000});
    let marg = Setup::with_default(&upstream).set("server", bounds).start().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    upstream.answer("hold", crate::support::reply::Reply::afterwards(crate::support::reply::What::Hang));
    let mut held = Vec::new();
    for number in 1..=4 {
        let mut client = marg.http1().await;
        let call = Call::chat("hold", &body);
        held.push(tokio::spawn(async move { client.try_open(call).await.is_ok() }));
        upstream.wait_for("hold", number).await;
    }
    let answer = marg.chat("one more", &body).await;
    answer.assert_error(503, "overloaded");
    assert!(!answer.header("retry-after").is_empty());
    for task in held {
        task.abort();
    }
    until("room again", || async { (marg.chat("room", &body).await.status == 200).then_some(()) }).await;
    // Two bodies that fit one by one do not fit together.
    let large = json!({"model": "m", "messages": [{"role": "user", "content": "x".repeat(200_000)}]});
    let mut client = marg.http1().await;
    let call = Call::chat("hold", &large);
    let holding = tokio::spawn(async move { client.try_open(call).await.is_ok() });
    upstream.wait_for("hold", 5).await;
    marg.chat("large", &large).await.assert_error(503, "overloaded");
    holding.abort();
    until("room again", || async { (marg.chat("large", &large).await.status == 200).then_some(()) }).await;
    assert_serves(&marg, "a crowd").await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (upstream, marg) = gateway().await;
    upstream.answer("first", Answer::new(200, "text/plain", Body::Whole("first".into())).into());
    upstream.answer("second", Answer::new(200, "text/plain", Body::Whole("second".into())).into());
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    let request = |case: &str| format!("{}x-case: {case}\r\ncontent-length: {}\r\n\r\n{body}", head(&marg), body.len());
    let mut raw = Raw::connect(marg.address).await;
    raw.write(format!("{}\r\n{}", request("first"), request("second"))).await;
    assert_eq!(raw.answer(BOUND).await.expect("the first answer").text(), "first");
    // A gateway may close the connection instead of reading on; it may not mix answers up.
    if let Some(answer) = raw.answer(BOUND).await {
        match answer.status {
            200 => assert_eq!(answer.text(), "second"),
            _ => drop(assert_openai_error(&answer.json())),
        }
    }
}

#[tokio::test]
async fn a_connection_whose_framing_is_lost_ends_with_the_answer() {
    let (_upstream, marg) = gateway().await;
    for chunk in ["zz\r\n", "5\r\nabcdeXX", "ffffffffffffffff1\r\nabc", "-1\r\n"] {
        let mut raw = Raw::connect(marg.address).await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
            marg.key
        );
        raw.write(format!("{head}{chunk}GET /health HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        let answer = raw.answer(Duration::from_secs(15)).await.unwrap();
        answer.assert_error(400, "invalid_request");
        assert_eq!(answer.header("connection"), "close", "{chunk:?}");
        assert!(raw.rest(Duration::from_secs(15)).await.is_empty(), "{chunk:?}: what followed was taken for a request");
    }
}

#[tokio::test]
async fn a_request_that_names_no_host_is_refused() {
    let (_upstream, marg) = gateway().await;
    let key = format!("authorization: Bearer {}\r\n", marg.key);
    let ask = |version: &str| format!("GET /v1/models HTTP/{version}\r\n{key}\r\n");
    assert_eq!(assert_refused(marg.address, "no host", ask("1.1")).await, 400);
    // HTTP/1.0 knew no hosts.
    let mut raw = Raw::connect(marg.address).await;
    raw.write(ask("1.0")).await;
    assert_eq!(raw.interim(Duration::from_secs(15)).await, 200);
}
