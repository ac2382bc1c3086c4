//! What becomes of a caller's connection when an answer is not the end of a plain exchange.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::PATIENCE;
use crate::support::answers;
use crate::support::client::{Call, assert_openai_error};
use crate::support::marg::{Marg, Setup};
use crate::support::raw::Raw;
use crate::support::reply::{Reply, What, When};
use crate::support::upstream::Upstream;

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "x"}]})
}

async fn gateway() -> (Upstream, Marg) {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    (upstream, marg)
}

/// A head, and a body of so many bytes behind it.
fn upload(marg: &Marg, key: &str, bytes: usize) -> (String, Vec<u8>) {
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {bytes}\r\n\r\n",
        marg.address
    );
    (head, vec![b'x'; bytes])
}

#[tokio::test]
async fn a_refusal_reaches_a_caller_that_first_sends_all_of_its_body() {
    let (_upstream, marg) = gateway().await;
    let cases = [("marg_live_wrong", 20 * 1024 * 1024, 401), (marg.key.as_str(), 40 * 1024 * 1024, 413)];
    for (key, bytes, status) in cases {
        let mut raw = Raw::connect(marg.address).await;
        let (head, body) = upload(&marg, key, bytes);
        assert!(raw.write(head).await);
        // Most clients read nothing before all is sent.
        assert!(raw.write(body).await, "{status}: the connection was closed while the caller was sending");
        let answer = raw.answer(PATIENCE).await.expect("an answer");
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("connection"), "close");
        assert_openai_error(&answer.json());
        assert!(raw.rest(PATIENCE).await.is_empty());
    }
}

#[tokio::test]
async fn interim_answers_of_a_provider_stay_between_it_and_marg() {
    let (upstream, marg) = gateway().await;
    let body = answers::completion("m", Some(answers::usage(9, 3))).to_string();
    let text = format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlocation: http://10.0.0.7/internal\r\n\r\nHTTP/1.1 200 OK\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    upstream.answer("interim", Reply::afterwards(What::Raw(text.into())));
    let ask = chat().to_string();
    let head = |version: &str, more: &str| {
        format!(
            "POST /v1/chat/completions HTTP/{version}\r\nhost: {}\r\nauthorization: Bearer {}\r\nx-case: interim\r\n{more}\
             content-length: {}\r\n\r\n",
            marg.address,
            marg.key,
            ask.len()
        )
    };
    // Only a caller of HTTP/1.1 that waits with its body is told to go on, once, by Marg.
    let cases =
        [("1.1", "", false), ("1.1", "expect: 100-continue\r\n", true), ("1.0", "expect: 100-continue\r\n", false)];
    for (version, more, waits) in cases {
        let mut raw = Raw::connect(marg.address).await;
        raw.write(head(version, more)).await;
        if waits {
            assert_eq!(raw.interim(PATIENCE).await, 100);
        }
        raw.write(&ask).await;
        assert_eq!(raw.interim(PATIENCE).await, 200, "HTTP/{version} {more}");
    }
}

#[tokio::test]
async fn a_provider_that_switches_protocols_unasked_has_not_answered() {
    let (first, second) = (Upstream::http1().await, Upstream::http1().await);
    let marg = Setup::new()
        .provider("first", &first, json!({}))
        .provider("second", &second, json!({}))
        .route(json!({"match": {"model": "m"}, "to": "first", "fallback": ["second"]}))
        .route(json!({"match": {"model": "alone"}, "to": "first"}))
        .start()
        .await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: odd\r\nconnection: upgrade\r\n\r\nodd bytes";
    first.answer("switch", Reply::afterwards(What::Raw(switch.into())));
    let answer = marg.chat("switch", &chat()).await;
    assert_eq!((answer.status, answer.header("x-marg-provider")), (200, "second"));
    let answer = marg.chat("switch", &json!({"model": "alone", "messages": chat()["messages"]})).await;
    answer.assert_error(502, "upstream_error");
    assert_eq!(marg.record(&answer.id()).await["outcome"], "upstream_failed");
}

#[tokio::test]
async fn a_provider_that_only_ever_says_wait_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
    });
    let provider = json!({
        "base_url": format!("http://{address}/v1"), "credentials": ["plain:c"], "models": ["m"],
        "first_byte_timeout_ms": 400, "idle_timeout_ms": 400,
    });
    let setup = Setup::new().set("providers", json!({"main": provider})).set("default_provider", json!("main"));
    let marg = setup.start().await;
    marg.chat("waits", &chat()).await.assert_error(504, "upstream_timeout");
}

#[tokio::test]
async fn an_answer_is_seen_although_its_provider_reads_no_further() {
    let holds = |status: u16, body: String| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = format!(
                    "HTTP/1.1 {status} Early\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.read_u8().await.unwrap();
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
                kept.push(stream);
            }
        });
        json!({"base_url": format!("http://{address}/v1"), "credentials": ["plain:c"]})
    };
    let refusal = json!({"error": {"message": "too much", "type": "t", "param": null, "code": "c"}}).to_string();
    let second = Upstream::http1().await;
    let setup = Setup::new()
        .provider("second", &second, json!({}))
        .set("server", json!({"h2c": true}))
        .set("providers", json!({"full": holds(413, refusal.clone()).await, "away": holds(503, refusal).await}))
        .route(json!({"match": {"model": "full"}, "to": "full", "fallback": ["second"]}))
        .route(json!({"match": {"model": "away"}, "to": "away", "fallback": ["second"]}));
    let marg = setup.start().await;
    let ask = |model: &str| {
        let content = "x".repeat(8 * 1024 * 1024);
        json!({"model": model, "messages": [{"role": "user", "content": content}]}).to_string()
    };
    for http2 in [false, true] {
        let mut client = if http2 { marg.http2().await } else { marg.http1().await };
        let answer = client.send(Call::post("/v1/chat/completions", "early", ask("full"))).await;
        assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (413, Some("too much")));
        let record = marg.record(&answer.id()).await;
        assert_eq!(
            (&record["outcome"], record["attempts"].as_array().unwrap().len()),
            (&json!("upstream_failed"), 1),
            "{record}"
        );
        let mut client = if http2 { marg.http2().await } else { marg.http1().await };
        let answer = client.send(Call::post("/v1/chat/completions", "early", ask("away"))).await;
        assert_eq!((answer.status, answer.header("x-marg-provider")), (200, "second"));
    }
    assert_eq!(second.seen("early").len(), 2);
}

#[tokio::test]
async fn a_web_socket_is_refused_in_words() {
    let (upstream, marg) = gateway().await;
    let socket = Call::new("GET", "/v1/realtime?model=m")
        .header("upgrade", "WebSocket")
        .header("connection", "upgrade")
        .header("x-case", "socket");
    let answer = marg.send(socket).await;
    assert!(answer.assert_error(400, "invalid_request").contains("WebSockets"));
    assert!(upstream.seen("socket").is_empty());
}

#[tokio::test]
async fn an_error_of_margs_own_says_whether_the_connection_ends() {
    let upstream = Upstream::http1().await;
    for patience in [json!({}), json!({"first_byte_timeout_ms": 20_000, "idle_timeout_ms": 10_000})] {
        let setup = Setup::new().provider("main", &upstream, patience.clone()).set("default_provider", json!("main"));
        let marg = setup.start().await;
        upstream.answer("broken", Reply::afterwards(What::Close));
        let mut client = marg.http1().await;
        let answer = client.send(Call::chat("broken", &chat())).await;
        assert_eq!(answer.status, 502, "{patience}");
        assert_eq!(answer.header("connection") == "close", !client.stays_open().await, "{patience}");
    }
}

#[tokio::test]
async fn a_connection_over_http2_on_which_a_provider_is_silent_is_used_no_more() {
    // Marg's own watch ends the wait; a body finds no room on the connection.
    for (first_byte, idle, bytes) in [(300, 20_000, 10), (2_000, 300, 200_000)] {
        let upstream = Upstream::http2().await;
        let limits = json!({"http": "2", "first_byte_timeout_ms": first_byte, "idle_timeout_ms": idle});
        let setup = Setup::new().provider("main", &upstream, limits).set("default_provider", json!("main"));
        let marg = setup.start().await;
        assert_eq!(marg.chat("before", &chat()).await.status, 200);
        upstream.answer("silent", Reply::afterwards(What::Hang).when(When::AtOnce));
        let large = json!({"model": "m", "messages": [{"role": "user", "content": "x".repeat(bytes)}]});
        marg.chat("silent", &large).await.assert_error(504, "upstream_timeout");
        let silent = upstream.only("silent").await.connection;
        assert_eq!(upstream.only("before").await.connection, silent);
        for _ in 0..3 {
            assert_eq!(marg.chat("after", &chat()).await.status, 200);
        }
        let used: Vec<usize> = upstream.seen("after").iter().map(|seen| seen.connection).collect();
        assert!(!used.contains(&silent), "{used:?}");
        assert!(upstream.connections() <= silent + 3, "{} connections", upstream.connections());
    }
}

#[tokio::test]
async fn a_request_that_its_provider_worked_on_is_not_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = counted.clone();
            tokio::spawn(async move {
                let mut read = BytesMut::new();
                while stream.read_buf(&mut read).await.is_ok_and(|bytes| bytes > 0) {
                    if !read.ends_with(b"}") {
                        continue;
                    }
                    read.clear();
                    if asked.fetch_add(1, Ordering::SeqCst) > 0 {
                        // It works, then breaks off.
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        return;
                    }
                    let body = answers::completion("m", None).to_string();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let marg = only_provider(address, json!({})).await;
    assert_eq!(marg.chat("first", &chat()).await.status, 200);
    let answer = marg.chat("second", &chat()).await;
    answer.assert_error(502, "upstream_error");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(marg.record(&answer.id()).await["attempts"].as_array().unwrap().len(), 1);
}

/// A gateway with one provider, which need not be a scripted one.
async fn only_provider(address: SocketAddr, more: Value) -> Marg {
    let mut provider = json!({"base_url": format!("http://{address}/v1"), "credentials": ["plain:c"], "models": ["m"]});
    provider.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Setup::new().set("providers", json!({"main": provider})).set("default_provider", json!("main")).start().await
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of an answer with status 200 (RFC 7541 appendix A: 8 is the status, 31 the type).
fn head_frame(stream: u32, content_type: &str) -> Vec<u8> {
    let length = u8::try_from(content_type.len()).unwrap();
    frame(1, 4, stream, &[&[0x88, 0x0f, 0x10, length], content_type.as_bytes()].concat())
}

/// Speaks HTTP/2 just well enough: answers each request on its connection with what `reply` makes of its stream.
async fn speak_http2(mut stream: TcpStream, reply: impl Fn(u32) -> Vec<u8>) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 24]).await?;
    stream.write_all(&frame(4, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        match kind {
            0 | 1 if flags & 1 == 1 => stream.write_all(&reply(u32::from_be_bytes(id))).await?,
            4 if flags & 1 == 0 => stream.write_all(&frame(4, 1, 0, &[])).await?,
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_connection_that_its_provider_is_about_to_end_costs_no_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut first = true;
        while let Ok((stream, _)) = listener.accept().await {
            let goes = std::mem::take(&mut first);
            tokio::spawn(speak_http2(stream, move |id| {
                if !goes {
                    let body = answers::completion("m", None).to_string();
                    return [head_frame(id, "application/json"), frame(0, 1, id, body.as_bytes())].concat();
                }
                // The stream goes on, and GOAWAY says that no other may begin: ENHANCE_YOUR_CALM.
                let event = frame(0, 0, id, answers::text("m", "x").as_ref());
                let away = frame(7, 0, 0, &[id.to_be_bytes(), 11_u32.to_be_bytes()].concat());
                [head_frame(id, "text/event-stream"), event, away].concat()
            }));
        }
    });
    let marg = only_provider(address, json!({"http": "2"})).await;
    let mut client = marg.http1().await;
    let mut stream = chat();
    stream["stream"] = json!(true);
    let _running = client.open(Call::chat("running", &stream)).await;
    for _ in 0..3 {
        let answer = marg.chat("beside", &chat()).await;
        assert_eq!(answer.status, 200, "{}", marg.record(&answer.id()).await);
        assert_eq!(answer.header("x-marg-attempts"), "1");
    }
}

#[tokio::test]
async fn an_early_answer_of_a_provider_over_http2_is_heard() {
    let (upstream, second) = (Upstream::http2().await, Upstream::http1().await);
    upstream.answer("full", Reply::error(413).when(When::AtOnce));
    upstream.answer("away", Reply::error(503).when(When::AtOnce));
    let setup = Setup::new().provider("main", &upstream, json!({"http": "2"})).provider("second", &second, json!({}));
    let marg = setup.route(json!({"to": "main", "fallback": ["second"]})).start().await;
    for bytes in [10_000, 70_000, 200_000, 900_000, 3_000_000] {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x".repeat(bytes)}]});
        let answer = marg.chat("full", &body).await;
        assert_eq!((answer.status, answer.header("x-marg-provider")), (413, "main"), "{bytes} bytes");
        let answer = marg.chat("away", &body).await;
        assert_eq!((answer.status, answer.header("x-marg-provider")), (200, "second"), "{bytes} bytes");
    }
    assert_eq!((second.seen("full").len(), second.seen("away").len()), (0, 5));
}
