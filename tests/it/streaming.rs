//! Streams: piece by piece as they come, usage counted whether shown or not, and a good end whatever breaks.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::answers::{self, events, said};
use crate::support::client::{Call, Client, assert_openai_error};
use crate::support::marg::{Marg, Setup};
use crate::support::reply::{Answer, Body, End, Feed, Reply};
use crate::support::upstream::Upstream;
use crate::support::{CREDENTIAL, within};

async fn gateway() -> (Upstream, Marg) {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    (upstream, marg)
}

fn streamed() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Say hello."}], "stream": true})
}

#[tokio::test]
async fn a_stream_that_is_cut_ends_with_an_error_event() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let http = if upstream.speaks_http2() { "2" } else { "1.1" };
        let setup =
            Setup::new().provider("main", &upstream, json!({"http": http})).set("default_provider", json!("main"));
        let marg = setup.set("server", json!({"h2c": true})).start().await;
        for mut client in [marg.http1().await, marg.http2().await] {
            let (reply, feed) = Reply::fed();
            upstream.answer("cut", reply);
            let opening = client.open(Call::chat("cut", &streamed()));
            let feeding = async {
                feed.send(answers::text("m", "Hello")).await;
                feed
            };
            let (mut answer, feed) = tokio::join!(opening, feeding);
            answer.read_until(b"\n\n").await;
            feed.cut().await;
            // The end is a clean one: an SDK reads the event instead of a broken connection.
            let answer = answer.finish().await;
            let events = events(&answer.body);
            assert_eq!(said(&answer.body), "Hello");
            assert_openai_error(events.last().unwrap());
            assert!(!answer.text().contains("[DONE]"));
            let record = marg.record(&answer.id()).await;
            assert_eq!(record["outcome"], "upstream_cut", "{record}");
            assert_eq!(record["attempts"][0]["end"], "cut", "{record}");
            assert_eq!(record["attempts"].as_array().unwrap().len(), 1, "{record}");
        }
    }
}

#[tokio::test]
async fn a_plain_answer_that_is_cut_is_not_taken_for_whole() {
    let (upstream, marg) = gateway().await;
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"id\":\"half";
    upstream.answer("half", Reply::afterwards(crate::support::reply::What::Raw(half.into())));
    let mut body = streamed();
    body["stream"] = json!(false);
    let mut client = marg.http1().await;
    let opened = client.open(Call::chat("half", &body)).await;
    let id = opened.id();
    opened.try_finish().await.expect_err("the answer looks whole");
    let record = marg.record(&id).await;
    assert_eq!(record["outcome"], "upstream_cut", "{record}");
}

#[tokio::test]
async fn a_caller_that_leaves_stops_the_provider_and_pays_for_what_it_got() {
    let (upstream, marg) = gateway().await;
    let (reply, feed) = Reply::fed();
    upstream.answer("leaves", reply);
    let mut client = marg.http1().await;
    let opening = client.open(Call::chat("leaves", &streamed()));
    let feeding = async {
        for word in ["One ", "two ", "three ", "four"] {
            feed.send(answers::text("m", word)).await;
        }
    };
    let (mut answer, ()) = tokio::join!(opening, feeding);
    answer.read_until(&answers::text("m", "four")).await;
    let id = answer.id();
    drop((answer, client));
    within(Duration::from_secs(1), "the provider's connection is closed", feed.abandoned()).await;
    let record = marg.record_when(&id, |record| record["usage"].is_object()).await;
    assert_eq!(record["outcome"], "client_gone", "{record}");
    assert_eq!(record["usage_source"], "estimated", "{record}");
    let output = record["usage"]["output"].as_u64().unwrap();
    assert!((3..=8).contains(&output), "{record}");
    assert!(record["usage"]["input"].as_u64().unwrap() >= 3, "{record}");
    assert_eq!(record["attempts"][0]["end"], "abandoned", "{record}");
}

/// What the gateway logs when it goes on to hear a provider out.
const HEARS_OUT: &str = "the caller has left; its provider is heard out";

/// A gateway that tells when it hears a provider out, and callers of both kinds.
async fn listening(upstream: &Upstream) -> (Marg, [Client; 2]) {
    let http = if upstream.speaks_http2() { "2" } else { "1.1" };
    let setup = Setup::new().provider("main", upstream, json!({"http": http})).set("default_provider", json!("main"));
    let setup = setup.set("server", json!({"h2c": true})).set("log", json!({"level": "debug", "format": "json"}));
    let marg = setup.start().await;
    let clients = [marg.http1().await, marg.http2().await];
    (marg, clients)
}

/// Opens a stream, reads the pieces, and leaves.
async fn leave_after(mut client: Client, call: Call, feed: &Feed, pieces: &[Bytes]) -> String {
    let opening = client.open(call);
    let (mut answer, ()) = tokio::join!(opening, feed.send(pieces[0].clone()));
    answer.read_until(&pieces[0]).await;
    for piece in &pieces[1..] {
        feed.send(piece.clone()).await;
        answer.read_until(piece).await;
    }
    answer.id()
}

#[tokio::test]
async fn a_caller_that_leaves_at_the_end_of_the_text_pays_what_the_provider_reports() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        for which in [0, 1] {
            let (marg, clients) = listening(&upstream).await;
            let client = clients.into_iter().nth(which).unwrap();
            let case = format!("caller {which}");
            let (reply, feed) = Reply::fed();
            upstream.answer(&case, reply);
            let pieces = [answers::text("m", "Hi"), answers::chunk("m", &json!({}), Some("stop"))];
            let id = leave_after(client, Call::chat(&case, &streamed()), &feed, &pieces).await;
            // What was thought in secret is known to the provider alone, and it tells only now.
            marg.logs(HEARS_OUT).await;
            feed.send(answers::usage_chunk("m", answers::usage(9, 2010))).await;
            let record = marg.record(&id).await;
            assert_eq!((&record["outcome"], &record["usage_source"]), (&json!("client_gone"), &json!("reported")));
            assert_eq!(record["usage"]["output"], 2010, "{record}");
            within(Duration::from_secs(1), "the provider's connection is closed", feed.abandoned()).await;
        }
    }
}

#[tokio::test]
async fn a_caller_that_leaves_at_the_end_of_a_responses_text_pays_what_the_provider_reports() {
    let upstream = Upstream::http1().await;
    let (marg, [client, _]) = listening(&upstream).await;
    let (reply, feed) = Reply::fed();
    upstream.answer("responses", reply);
    let event = |event: Value| Bytes::from(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()));
    let pieces = [
        event(json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}})),
        event(json!({"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"})),
        event(json!({"type": "response.output_text.done", "output_index": 0, "text": "Hi"})),
    ];
    let ask = json!({"model": "m", "input": "Say hello.", "stream": true}).to_string();
    let id = leave_after(client, Call::post("/v1/responses", "responses", ask), &feed, &pieces).await;
    marg.logs(HEARS_OUT).await;
    let usage = json!({"input_tokens": 9, "output_tokens": 2010, "total_tokens": 2019});
    let response = json!({"id": "resp_it", "model": "m", "status": "completed", "usage": usage});
    feed.send(event(json!({"type": "response.completed", "response": response}))).await;
    let record = marg.record(&id).await;
    assert_eq!((&record["outcome"], &record["usage_source"]), (&json!("client_gone"), &json!("reported")), "{record}");
    assert_eq!(record["usage"]["output"], 2010, "{record}");
}

#[tokio::test]
async fn a_provider_that_says_no_more_is_not_heard_out_for_long() {
    let upstream = Upstream::http1().await;
    let (marg, [client, _]) = listening(&upstream).await;
    let (reply, feed) = Reply::fed();
    upstream.answer("silent", reply);
    let pieces = [answers::text("m", "One two three four"), answers::chunk("m", &json!({}), Some("stop"))];
    let id = leave_after(client, Call::chat("silent", &streamed()), &feed, &pieces).await;
    marg.logs(HEARS_OUT).await;
    within(Duration::from_secs(10), "the provider's connection is closed", feed.abandoned()).await;
    let record = marg.record_when(&id, |record| record["usage"].is_object()).await;
    assert_eq!((&record["outcome"], &record["usage_source"]), (&json!("client_gone"), &json!("estimated")), "{record}");
    assert!((3..=8).contains(&record["usage"]["output"].as_u64().unwrap()), "{record}");
}

#[tokio::test]
async fn a_caller_that_leaves_before_every_answer_has_ended_stops_the_provider() {
    let upstream = Upstream::http1().await;
    let (marg, [client, _]) = listening(&upstream).await;
    let (reply, feed) = Reply::fed();
    upstream.answer("two", reply);
    let second = String::from_utf8(answers::text("m", "B").to_vec()).unwrap().replace("\"index\":0", "\"index\":1");
    let pieces = [second.into(), answers::text("m", "A"), answers::chunk("m", &json!({}), Some("stop"))];
    let mut body = streamed();
    body["n"] = json!(2);
    let id = leave_after(client, Call::chat("two", &body), &feed, &pieces).await;
    within(Duration::from_secs(1), "the provider's connection is closed", feed.abandoned()).await;
    let record = marg.record_when(&id, |record| record["usage"].is_object()).await;
    assert_eq!((&record["outcome"], &record["usage_source"]), (&json!("client_gone"), &json!("estimated")), "{record}");
    assert!(!marg.logged().contains(HEARS_OUT));
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_first_byte_stops_the_provider() {
    let (upstream, marg) = gateway().await;
    let (reply, feed) = Reply::fed();
    upstream.answer("early", reply);
    let mut client = marg.http1().await;
    // The head has come, so the provider is at its answer; of the stream itself there is no byte yet.
    let opened = client.open(Call::chat("early", &streamed())).await;
    drop(opened);
    drop(client);
    within(Duration::from_secs(1), "the provider's connection is closed", feed.abandoned()).await;
    let records = marg.ask_admin("GET", "/admin/requests", None).await;
    assert_eq!(records.status, 200, "{}", records.text());
    marg.logs("client_gone").await;
}

#[tokio::test]
async fn a_stream_arrives_piece_by_piece() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let http = if upstream.speaks_http2() { "2" } else { "1.1" };
        let setup =
            Setup::new().provider("main", &upstream, json!({"http": http})).set("default_provider", json!("main"));
        let marg = setup.set("server", json!({"h2c": true})).start().await;
        for mut client in [marg.http1().await, marg.http2().await] {
            let (reply, feed) = Reply::fed();
            upstream.answer("paced", reply);
            let first = answers::text("m", "0");
            let (mut answer, ()) =
                tokio::join!(client.open(Call::chat("paced", &streamed())), feed.send(first.clone()));
            // Each piece is sent only when the one before it has arrived: nothing is held back for the next.
            answer.read_until(&first).await;
            for number in 1..50 {
                let piece = answers::text("m", &number.to_string());
                feed.send(piece.clone()).await;
                answer.read_until(&piece).await;
            }
            drop(feed);
            let answer = answer.finish().await;
            assert_eq!(said(&answer.body), (0..50).map(|number| number.to_string()).collect::<String>());
            assert_eq!(answer.header("content-type"), "text/event-stream");
            assert_eq!(answer.header("content-length"), "");
            assert_eq!(answer.header("x-accel-buffering"), "no");
        }
    }
}

#[tokio::test]
async fn no_piece_waits_for_the_one_before_to_be_acknowledged() {
    let (upstream, marg) = gateway().await;
    let (reply, feed) = Reply::fed();
    upstream.answer("quick", reply);
    let mut client = marg.http1().await;
    let first = answers::text("m", "0");
    let (mut answer, ()) = tokio::join!(client.open(Call::chat("quick", &streamed())), feed.send(first.clone()));
    answer.read_until(&first).await;
    // With Nagle's algorithm on either leg each piece would take the 40 ms of a delayed acknowledgement, 4 s in all; a
    // piece takes well below a millisecond here.
    let pieces = async {
        for number in 1..=100 {
            let piece = answers::text("m", &number.to_string());
            feed.send(piece.clone()).await;
            answer.read_until(&piece).await;
        }
    };
    within(Duration::from_secs(2), "a hundred pieces", pieces).await;
}

#[tokio::test]
async fn a_usage_chunk_is_shown_only_to_those_who_ask() {
    let (upstream, marg) = gateway().await;
    let silent = marg.chat("silent", &streamed()).await;
    assert!(!silent.text().contains("usage"), "{}", silent.text());
    assert!(silent.text().ends_with("data: [DONE]\n\n"), "{}", silent.text());
    assert_eq!(said(&silent.body), answers::TEXT);
    let mut body = streamed();
    body["stream_options"] = json!({"include_usage": true});
    let asked = marg.chat("asked", &body).await;
    assert_eq!(events(&asked.body).last().unwrap()["usage"], answers::usage(9, 3));
    for (case, answer) in [("silent", silent), ("asked", asked)] {
        assert_eq!(upstream.only(case).await.json()["stream_options"]["include_usage"], true);
        let record = marg.record(&answer.id()).await;
        assert_eq!(record["usage"]["input"], 9, "{case}: {record}");
        assert_eq!(record["usage"]["output"], 3, "{case}: {record}");
        assert_eq!(record["usage_source"], "reported", "{case}: {record}");
        assert_eq!(record["outcome"], "answered", "{case}: {record}");
        assert_eq!(record["stream"], true);
        assert!(record["ttft_us"].as_u64().unwrap() > 0, "{record}");
    }
}

#[tokio::test]
async fn usage_that_marg_did_not_ask_for_is_not_hidden() {
    let upstream = Upstream::http1().await;
    let setup = Setup::new()
        .provider("unasked", &upstream, json!({"stream_usage": false}))
        .provider("asked", &upstream, json!({}))
        .route(json!({"match": {"model": "unasked"}, "to": "unasked"}))
        .route(json!({"match": {"model": "asked"}, "to": "asked"}));
    let marg = setup.start().await;
    for (model, wish, shown) in [
        ("asked", json!({}), false),
        ("asked", json!({"usage": {"include": false}}), false),
        // OpenRouter's way to ask.
        ("asked", json!({"usage": {"include": true}}), true),
        ("unasked", json!({"usage": {"include": true}}), true),
        ("unasked", json!({}), true),
    ] {
        let case = format!("{model} {wish}");
        upstream.answer(&case, answers::stream(model, Some(answers::usage(9, 3))).into());
        let mut body = streamed();
        body["model"] = json!(model);
        body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        let answer = marg.chat(&case, &body).await;
        assert_eq!(answer.text().contains("prompt_tokens"), shown, "{case}: {}", answer.text());
        let sent = upstream.only(&case).await.json();
        assert_eq!(sent["stream_options"]["include_usage"] == true, model == "asked", "{case}: {sent}");
        assert_eq!(marg.record(&answer.id()).await["usage"]["output"], 3, "{case}");
    }
}

#[tokio::test]
async fn usage_is_hidden_however_the_stream_is_cut_into_pieces() {
    let (upstream, marg) = gateway().await;
    let whole = [
        answers::text("m", "Hi"),
        answers::usage_chunk("m", answers::usage(9, 3)),
        bytes::Bytes::from_static(b"data: [DONE]\n\n"),
    ]
    .concat();
    for size in [1, 7, 64, 1000] {
        let case = format!("pieces of {size}");
        let pieces = whole.chunks(size).map(bytes::Bytes::copy_from_slice).collect();
        upstream.answer(&case, Answer::event_stream(Body::Pieces(pieces, End::Clean)).into());
        let answer = marg.chat(&case, &streamed()).await;
        assert_eq!(said(&answer.body), "Hi");
        assert!(!answer.text().contains("usage"), "{case}: {}", answer.text());
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{case}: {}", answer.text());
        assert_eq!(marg.record(&answer.id()).await["usage"]["output"], 3, "{case}");
    }
}

#[tokio::test]
async fn a_silent_provider_in_the_middle_of_a_stream_is_given_up() {
    let upstream = Upstream::http1().await;
    let slow = json!({"first_byte_timeout_ms": 20_000, "idle_timeout_ms": 300});
    let marg = Setup::new().provider("main", &upstream, slow).set("default_provider", json!("main")).start().await;
    let (reply, feed) = Reply::fed();
    upstream.answer("silent", reply);
    let mut client = marg.http1().await;
    let call = Call::chat("silent", &streamed());
    let (answer, ()) = tokio::join!(client.open(call), feed.send(answers::text("m", "Hello")));
    let answer = within(Duration::from_secs(10), "the stream is given up", answer.finish()).await;
    assert_openai_error(events(&answer.body).last().unwrap());
    feed.abandoned().await;
    assert_eq!(marg.record(&answer.id()).await["outcome"], "upstream_cut");
}

#[tokio::test]
async fn an_error_inside_a_stream_reaches_the_caller() {
    let (upstream, marg) = gateway().await;
    let error = json!({"error": {"message": "too much", "type": "server_error", "param": null, "code": "overloaded"}});
    let pieces = vec![answers::text("m", "Hello"), format!("data: {error}\n\n").into()];
    upstream.answer("inside", Answer::event_stream(Body::Pieces(pieces, End::Clean)).into());
    let answer = marg.chat("inside", &streamed()).await;
    assert_eq!(events(&answer.body).last().unwrap()["error"]["message"], "too much");
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_error_with_status_200_names_neither_credential_nor_address() {
    let (upstream, marg) = gateway().await;
    let said = format!("http://{}/v1 rejected {CREDENTIAL}main", upstream.address);
    let error = json!({"error": {"message": said, "type": "server_error", "param": null, "code": "rejected"}});
    for (case, before) in [("at the beginning", vec![]), ("in the middle", vec![answers::text("m", "Hello")])] {
        let event = format!("data: {error}\n\n");
        let (one, other) = event.split_at(40);
        let pieces = [before, vec![one.to_owned().into(), other.to_owned().into()]].concat();
        upstream.answer(case, Answer::event_stream(Body::Pieces(pieces, End::Clean)).into());
        let answer = marg.chat(case, &streamed()).await;
        let told = assert_openai_error(events(&answer.body).last().unwrap());
        assert_eq!(told, "[redacted] rejected [redacted]");
    }
    // Each answer that a test gets is searched for credentials and addresses, so it must not even be in a member beside.
    upstream.answer("plain", Reply::json(200, &error));
    let mut body = streamed();
    body["stream"] = json!(false);
    let answer = marg.chat("plain", &body).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (200, Some("rejected")));
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
}

#[tokio::test]
async fn a_stream_with_a_length_that_is_cut_ends_with_an_error_event() {
    let (upstream, marg) = gateway().await;
    let piece = String::from_utf8(answers::text("m", "Hello").to_vec()).unwrap();
    for left in [5, 20, 5_000] {
        let case = format!("{left} bytes short");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length:";
        let raw = format!("{head} {}\r\n\r\n{piece}", piece.len() + left);
        upstream.answer(&case, Reply::afterwards(crate::support::reply::What::Raw(raw.into())));
        let mut body = streamed();
        body["stream_options"] = json!({"include_usage": true});
        let answer = marg.chat(&case, &body).await;
        assert_eq!(answer.header("content-length"), "", "{case}");
        assert_eq!(said(&answer.body), "Hello", "{case}");
        assert_openai_error(events(&answer.body).last().unwrap());
        assert_eq!(marg.record(&answer.id()).await["outcome"], "upstream_cut", "{case}");
    }
}

#[tokio::test]
async fn a_stream_is_one_whatever_its_type_is_called() {
    let (upstream, marg) = gateway().await;
    let stream = [
        answers::text("m", "Hi"),
        answers::usage_chunk("m", answers::usage(9, 3)),
        bytes::Bytes::from_static(b"data: [DONE]\n\n"),
    ];
    for kind in ["Text/Event-Stream; charset=utf-8", "TEXT/EVENT-STREAM", "text/plain", "application/json", ""] {
        let mut answer = Answer::new(200, kind, Body::Pieces(stream.to_vec(), End::Clean));
        if kind.is_empty() {
            answer.headers.clear();
        }
        upstream.answer(kind, answer.into());
        let answer = marg.chat(kind, &streamed()).await;
        assert_eq!(said(&answer.body), "Hi", "{kind}");
        assert!(!answer.text().contains("usage"), "{kind}: {}", answer.text());
        let record = marg.record(&answer.id()).await;
        assert_eq!((&record["usage"]["output"], &record["usage_source"]), (&json!(3), &json!("reported")), "{record}");
    }
}
