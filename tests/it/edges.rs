//! Corners of HTTP that clients and providers really visit.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::answers::{self, said};
use crate::support::client::{Call, assert_openai_error};
use crate::support::marg::{Marg, Setup};
use crate::support::raw::Raw;
use crate::support::reply::{Answer, Body, Reply, What, When};
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, until};

async fn gateway(http2: bool) -> (Upstream, Marg) {
    let upstream = if http2 { Upstream::http2().await } else { Upstream::http1().await };
    let http = json!({"http": if http2 { "2" } else { "1.1" }});
    let setup = Setup::new().provider("main", &upstream, http).set("default_provider", json!("main"));
    let marg = setup.set("server", json!({"h2c": true})).start().await;
    (upstream, marg)
}

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "x"}]})
}

fn raw(text: impl Into<Bytes>) -> Reply {
    Reply::afterwards(What::Raw(text.into()))
}

#[tokio::test]
async fn an_error_without_a_body_gets_one_of_openais_shape() {
    for http2 in [false, true] {
        let (upstream, marg) = gateway(http2).await;
        for status in [400, 404, 500, 503] {
            let case = format!("empty-{status}");
            upstream.answer(&case, Answer::new(status, "text/plain", Body::Whole(Bytes::new())).into());
            let answer = marg.chat(&case, &chat()).await;
            assert_eq!(answer.status, status, "HTTP/2 {http2}");
            // Over HTTP/2 it is known too late that there will be no body.
            if !http2 || !answer.body.is_empty() {
                assert_openai_error(&answer.json());
            }
            let record = marg.record(&answer.id()).await;
            assert_eq!(record["outcome"], "upstream_failed", "{record}");
        }
    }
}

#[tokio::test]
async fn an_empty_answer_is_whole_and_keeps_the_connection() {
    for http2 in [false, true] {
        let (upstream, marg) = gateway(http2).await;
        let mut client = marg.http1().await;
        for status in [200, 202, 204] {
            let case = format!("empty-{status}");
            upstream.answer(&case, Answer::new(status, "text/plain", Body::Whole(Bytes::new())).into());
            let answer = client.send(Call::chat(&case, &chat())).await;
            assert_eq!((answer.status, answer.body.len()), (status, 0), "HTTP/2 {http2}");
            assert_eq!(marg.record(&answer.id()).await["outcome"], "answered", "HTTP/2 {http2}, {status}");
        }
        assert!(client.stays_open().await);
    }
}

#[tokio::test]
async fn interim_answers_of_a_provider_are_not_taken_for_the_answer() {
    let (upstream, marg) = gateway(false).await;
    let body = answers::completion("m", Some(answers::usage(9, 3))).to_string();
    let text = format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    upstream.answer("interim", raw(text));
    let answer = marg.chat("interim", &chat()).await;
    assert_eq!((answer.status, answer.text()), (200, body));
    assert_eq!(marg.record(&answer.id()).await["usage"]["output"], 3);
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_passed_on_whole() {
    let (upstream, marg) = gateway(false).await;
    let body = answers::completion("m", Some(answers::usage(9, 3))).to_string();
    for version in ["1.0", "1.1"] {
        let case = format!("until closed {version}");
        let text =
            format!("HTTP/{version} 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{body}");
        upstream.answer(&case, raw(text));
        let mut client = marg.http1().await;
        let answer = client.send(Call::chat(&case, &chat())).await;
        assert_eq!((answer.status, answer.text()), (200, body.clone()));
        let record = marg.record(&answer.id()).await;
        assert_eq!((record["outcome"].as_str(), record["usage"]["output"].as_u64()), (Some("answered"), Some(3)));
        assert!(client.stays_open().await, "the provider's way to end a body is not the caller's");
    }
}

#[tokio::test]
async fn a_caller_of_http_1_0_gets_a_body_without_chunks() {
    for (http2, stream) in [(false, false), (false, true), (true, false), (true, true)] {
        let (_upstream, marg) = gateway(http2).await;
        let mut body = chat();
        body["stream"] = json!(stream);
        let body = body.to_string();
        let mut caller = Raw::connect(marg.address).await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.0\r\nauthorization: Bearer {}\r\nx-case: old-{stream}\r\n\
             content-length: {}\r\n\r\n{body}",
            marg.key,
            body.len()
        );
        assert!(caller.write(head).await);
        let text = String::from_utf8(caller.rest(PATIENCE).await).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.0 200"), "{head}");
        assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
        if stream {
            assert_eq!(said(body.as_bytes()), answers::TEXT);
        } else {
            assert_eq!(serde_json::from_str::<Value>(body).unwrap()["model"], "m");
        }
    }
}

#[tokio::test]
async fn a_body_with_trailers_reaches_the_provider_whole() {
    for http2 in [false, true] {
        let (upstream, marg) = gateway(http2).await;
        for (case, call) in [
            ("announced", Call::chat("announced", &chat()).with_trailers()),
            ("unannounced", Call::chat("unannounced", &chat()).without_length().with_trailers()),
        ] {
            assert_eq!(marg.http2().await.send(call).await.status, 200, "HTTP/2 {http2} {case}");
            let seen = &upstream.seen(case)[0];
            assert!(seen.whole && serde_json::from_slice::<Value>(&seen.body).unwrap() == chat(), "{case}");
        }
    }
}

#[tokio::test]
async fn a_body_that_stops_over_http2_is_not_waited_for() {
    let upstream = Upstream::http1().await;
    let server = json!({"h2c": true, "body_idle_timeout_ms": 300, "body_timeout_ms": 600_000});
    let marg = Setup::with_default(&upstream).set("server", server).start().await;
    let call = Call::chat("stalled", &chat()).without_length().without_end();
    marg.http2().await.send(call).await.assert_error(408, "request_timeout");
}

#[tokio::test]
async fn a_large_head_over_http2_is_taken_as_the_operator_says() {
    let upstream = Upstream::http1().await;
    let with = |bytes: usize| Call::chat("head", &chat()).header("x-filler", &"x".repeat(bytes));
    let server = json!({"h2c": true, "max_header_bytes": 262_144});
    let marg = Setup::with_default(&upstream).set("server", server).start().await;
    assert_eq!(marg.http2().await.send(with(100_000)).await.status, 200);
    let marg = Setup::with_default(&upstream).set("server", json!({"h2c": true})).start().await;
    marg.http2().await.send(with(100_000)).await.assert_error(413, "request_too_large");
}

#[tokio::test]
async fn a_caller_that_asks_for_the_end_of_the_connection_gets_its_answer_first() {
    let (_upstream, marg) = gateway(false).await;
    let body = chat().to_string();
    let mut caller = Raw::connect(marg.address).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-case: half\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        marg.key,
        body.len()
    );
    assert!(caller.write(head).await);
    let answer = caller.answer(PATIENCE).await.expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert!(caller.rest(PATIENCE).await.is_empty());
}

#[tokio::test]
async fn a_head_request_has_no_body_whatever_the_provider_says() {
    let (upstream, marg) = gateway(false).await;
    let mut client = marg.http1().await;
    for status in [200, 404] {
        let case = format!("head-{status}");
        upstream.answer(&case, Reply::json(status, &json!({"id": "file-1"})));
        let answer = client.send(Call::new("HEAD", "/v1/files/file-1").header("x-case", &case)).await;
        assert_eq!((answer.status, answer.body.len()), (status, 0));
        let outcome = if status == 200 { "answered" } else { "upstream_failed" };
        assert_eq!(marg.record(&answer.id()).await["outcome"], outcome, "{status}");
    }
    let answer = client.send(Call::new("HEAD", "/v1/models")).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(client.stays_open().await);
}

#[tokio::test]
async fn a_compressed_answer_that_nobody_asked_for_passes_unread() {
    let (upstream, marg) = gateway(false).await;
    // What it holds does not matter: it is not read, and it is not broken.
    let noise: Vec<u8> = (0..10_000_u32).map(|number| (number * 7 % 251) as u8).collect();
    let answer = Answer::new(200, "application/json", Body::Whole(noise.clone().into()));
    upstream.answer("packed", Reply::from(answer).header("content-encoding", "br"));
    let answer = marg.send(Call::chat("packed", &chat()).header("accept-encoding", "gzip, br")).await;
    assert_eq!(upstream.only("packed").await.header("accept-encoding"), Some("identity"));
    assert_eq!(answer.header("content-encoding"), "br");
    assert_eq!(blake3::hash(&answer.body), blake3::hash(&noise));
}

#[tokio::test]
async fn large_answers_pass_whole() {
    for http2 in [false, true] {
        let (upstream, marg) = gateway(http2).await;
        let large: Vec<u8> = (0..20_000_000_u32).map(|number| (number % 253) as u8).collect();
        let reply = Answer::new(200, "application/octet-stream", Body::Whole(large.clone().into()));
        upstream.answer("large", reply.into());
        let answer = marg.send(Call::new("GET", "/v1/files/large/content").header("x-case", "large")).await;
        assert_eq!(blake3::hash(&answer.body), blake3::hash(&large));
        assert_eq!(marg.record(&answer.id()).await["bytes_out"], large.len());
    }
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_and_those_below_are_served() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).set("server", json!({"max_connections": 3})).start().await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut client = marg.http1().await;
        // The connection that asked whether the gateway is ready may just be ending.
        while client.try_send(Call::chat("kept", &chat())).await.is_err() {
            client = marg.http1().await;
        }
        kept.push(client);
    }
    assert!(Raw::connect(marg.address).await.rest(Duration::from_secs(5)).await.is_empty());
    for client in &mut kept {
        assert_eq!(client.send(Call::chat("kept", &chat())).await.status, 200);
    }
    kept.pop();
    until("room for another", || async {
        let answer = marg.http1().await.try_send(Call::chat("kept", &chat())).await;
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_caller_chooses_its_provider_only_where_the_operator_lets_it() {
    let (one, two) = (Upstream::http1().await, Upstream::http1().await);
    for allowed in [false, true] {
        let marg = Setup::new()
            .provider("one", &one, json!({}))
            .provider("two", &two, json!({}))
            .set("default_provider", json!("one"))
            .set("server", json!({"provider_header": allowed}))
            .start()
            .await;
        let answer = marg.send(Call::chat("choice", &chat()).header("x-marg-provider", "two")).await;
        if allowed {
            assert_eq!((answer.status, answer.header("x-marg-provider")), (200, "two"));
            let answer = marg.send(Call::chat("choice", &chat()).header("x-marg-provider", "nobody")).await;
            answer.assert_error(400, "invalid_request");
        } else {
            answer.assert_error(403, "permission_denied");
        }
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_after_every_kind_of_answer() {
    let upstream = Upstream::http1().await;
    let times = json!({"header_timeout_ms": 300, "keepalive_ms": 20_000});
    let marg = Setup::with_default(&upstream).set("server", times).start().await;
    upstream.answer("wrong", Reply::error(400));
    let mut client = marg.http1().await;
    for call in [
        Call::new("GET", "/v1/models"),
        Call::new("GET", "/health"),
        Call::chat("good", &chat()),
        Call::chat("wrong", &chat()),
        Call::post("/v1/chat/completions", "bad", "{"),
    ] {
        client.send(call).await;
        // Longer than a head may take: the next head has not begun, so its time does not run.
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(client.stays_open().await);
    }
}

#[tokio::test]
async fn pooled_connections_are_used_again_and_dead_ones_do_no_harm() {
    for http2 in [false, true] {
        let (upstream, marg) = gateway(http2).await;
        let mut client = marg.http1().await;
        for _ in 0..20 {
            assert_eq!(client.send(Call::chat("pool", &chat())).await.status, 200);
        }
        // A connection may still be on its way back to the pool when the next request comes.
        let used: HashSet<usize> = upstream.seen("pool").iter().map(|seen| seen.connection).collect();
        assert!(used.len() <= 3, "{} connections for 20 requests", used.len());
        upstream.hang_up().await;
        for number in 0..10 {
            // Over HTTP/2 a body that cannot be written may as well mean that the provider reset this one stream, after it
            // began to work, so such a request is not sent again; only one can come before the dead connection is known.
            if http2 && number == 0 {
                until("the dead connection is known", || async {
                    (marg.chat("after", &chat()).await.status == 200).then_some(())
                })
                .await;
            }
            let answer = client.send(Call::chat("again", &chat())).await;
            assert_eq!(answer.status, 200, "HTTP/2 {http2}: {}", marg.record(&answer.id()).await);
        }
        assert_eq!(upstream.seen("again").len(), 10, "each arrived once");
    }
}

#[tokio::test]
async fn when_many_pooled_connections_die_together_a_fresh_one_serves() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let mut opened = Vec::new();
    for number in 1..=5 {
        let (reply, feed) = Reply::fed();
        upstream.answer("pooled", reply);
        let mut client = marg.http1().await;
        let call = Call::chat("pooled", &chat());
        let (answer, ()) = tokio::join!(client.open(call), feed.send(answers::text("m", "x")));
        opened.push((answer, feed, client));
        upstream.wait_for("pooled", number).await;
    }
    for (answer, feed, _client) in opened {
        drop(feed);
        answer.finish().await;
    }
    // Each of them dies only when it is used, as if its end were still on the way.
    let old = upstream.connections();
    upstream.script("dead", move |_, seen| match seen.connection < old {
        true => Reply::afterwards(What::Close).when(When::AtOnce),
        false => answers::by_request(),
    });
    let answer = marg.chat("dead", &chat()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(upstream.seen("dead").len() <= 2, "more than one dead connection, then a fresh one");
    // What was sent on the dead one may have been seen, so it is written down.
    let record = marg.record(&answer.id()).await;
    let ends: Vec<_> = record["attempts"].as_array().unwrap().iter().filter_map(|one| one["end"].as_str()).collect();
    assert_eq!((ends, answer.header("x-marg-attempts")), (vec!["broken", "served"], "2"));
}

#[tokio::test]
async fn an_answer_that_may_have_no_body_is_no_answer_to_a_call_but_an_error_in_words() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let raw = What::Raw("HTTP/1.1 304 Nothing New\r\ncontent-length: 20\r\netag: x\r\n\r\n".into());
    upstream.answer("unchanged", Reply::afterwards(raw));
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    let answer = marg.chat("unchanged", &body).await;
    answer.assert_error(502, "upstream_error");
}

#[tokio::test]
async fn an_error_that_has_no_end_reaches_its_caller_and_is_not_read_on() {
    for http2 in [false, true] {
        let (upstream, marg) = gateway(http2).await;
        let (reply, feed) = Reply::fed();
        let What::Answer(answer) = reply.what else { unreachable!("a fed reply is an answer") };
        let endless =
            Answer { status: 400, headers: vec![("content-type".to_owned(), "text/plain".to_owned())], ..answer };
        upstream.answer("endless", endless.into());
        let asked = marg.http1().await;
        let answer = tokio::spawn(async move { { asked }.send(Call::chat("endless", &chat())).await });
        while feed.try_send("word ".repeat(2_000)).await.is_ok() {}
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 400, "HTTP/2 {http2}");
        assert_openai_error(&answer.json());
        assert!(answer.text().contains("word word"), "{}", answer.text());
        assert_eq!(marg.record(&answer.id()).await["outcome"], "upstream_failed", "HTTP/2 {http2}");
    }
}

#[tokio::test]
async fn a_body_that_is_encoded_is_refused_with_a_word_of_it() {
    let (upstream, marg) = gateway(false).await;
    for path in ["/v1/chat/completions", "/v1/files"] {
        for coding in ["gzip", "identity, br", "zstd"] {
            let call = Call::post(path, "packed", chat().to_string()).header("content-encoding", coding);
            let sentence = marg.send(call).await.assert_error(400, "invalid_request");
            assert!(sentence.contains("content-encoding"), "{sentence}");
        }
    }
    assert_eq!(marg.send(Call::chat("plain", &chat()).header("content-encoding", "identity")).await.status, 200);
    assert!(upstream.seen("packed").is_empty());
}
