//! A key that is withdrawn: what runs with it goes on or is cut, as the operator says, and every instance knows soon.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::postgres_server::PostgresServer;
use crate::redis_server::RedisServer;
use crate::support::answers::{self, events, said};
use crate::support::client::{Call, Client, Opened, assert_openai_error};
use crate::support::cluster::{ask, nodes, shared};
use crate::support::marg::{Marg, Setup, merge};
use crate::support::reply::{Feed, Reply, What};
use crate::support::upstream::Upstream;
use crate::support::{soon, until};

fn chat(stream: bool) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Say hello."}], "stream": stream})
}

async fn gateway(upstream: &Upstream, running: &str) -> Marg {
    let setup = Setup::with_default(upstream).set("keys", json!({"running_calls": running}));
    setup.set("server", json!({"h2c": true})).start().await
}

/// A stream of that key whose first word has come.
async fn begun(upstream: &Upstream, client: &mut Client) -> (Opened, Feed) {
    let (reply, feed) = Reply::fed();
    upstream.answer("stream", reply);
    let feeding = async {
        feed.send(answers::text("m", "Hello")).await;
        feed
    };
    let (mut opened, feed) = tokio::join!(client.open(Call::chat("stream", &chat(true))), feeding);
    opened.read_until(b"\n\n").await;
    (opened, feed)
}

/// Does something to a key, or to its team.
async fn withdraw(marg: &Marg, how: &str, id: &str) {
    let (method, path, body) = match how {
        "delete" => ("DELETE", format!("/admin/keys/{id}"), None),
        "team" => ("POST", "/admin/teams".to_owned(), Some(json!({"name": "web"}))),
        verb => ("POST", format!("/admin/keys/{id}/{verb}"), None),
    };
    let answer = marg.ask_admin(method, &path, body.as_ref()).await;
    assert!(answer.status < 300, "{how}: {}", answer.text());
    if how == "team" {
        let answer = marg.ask_admin("POST", "/admin/teams/web/disable", None).await;
        assert!(answer.status < 300, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_stream_of_a_key_that_is_withdrawn_is_cut() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "cut").await;
    for (how, code, says) in [
        ("revoke", "invalid_api_key", "revoked"),
        ("disable", "invalid_api_key", "disabled"),
        ("delete", "invalid_api_key", "deleted"),
        ("team", "invalid_api_key", "team"),
    ] {
        let (token, id) = marg.make_key(&["--team", "web"]).await;
        let http2 = how == "disable";
        let mut client =
            if http2 { Client::http2(marg.address, &token).await } else { Client::http1(marg.address, &token).await };
        let (opened, feed) = begun(&upstream, &mut client).await;
        withdraw(&marg, how, &id).await;
        soon("the provider's connection is closed", feed.abandoned()).await;
        let answer = opened.finish().await;
        assert_eq!(said(&answer.body), "Hello", "{how}");
        let last = events(&answer.body).pop().unwrap();
        assert_openai_error(&last);
        assert!(last["error"]["message"].as_str().unwrap().contains(says), "{how}: {last}");
        assert!(!answer.text().contains("[DONE]"), "{how}: the stream looks whole");
        let record = marg.record_when(&answer.id(), |record| record["usage"].is_object()).await;
        assert_eq!((&record["outcome"], &record["reason"]), (&json!("withdrawn"), &json!(code)), "{how}: {record}");
        assert_eq!(record["usage_source"], "estimated", "{how}: {record}");
        assert!(record["usage"]["output"].as_u64().unwrap() >= 1, "what was delivered is paid for: {record}");
        assert_eq!(record["attempts"][0]["end"], "abandoned", "{how}: {record}");
    }
}

#[tokio::test]
async fn a_stream_that_flows_is_cut_between_two_pieces() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "cut").await;
    let (token, id) = marg.make_key(&[]).await;
    let (reply, feed) = Reply::fed();
    upstream.answer("stream", reply);
    let flowing = tokio::spawn(async move { while feed.try_send(answers::text("m", "word ")).await.is_ok() {} });
    let mut client = Client::http1(marg.address, &token).await;
    let mut opened = client.open(Call::chat("stream", &chat(true))).await;
    opened.read_until(b"\n\n").await;
    withdraw(&marg, "revoke", &id).await;
    soon("the provider is left", flowing).await.unwrap();
    let answer = opened.finish().await;
    assert_openai_error(&events(&answer.body).pop().unwrap());
    assert_eq!(marg.record(&answer.id()).await["outcome"], "withdrawn");
}

#[tokio::test]
async fn an_answer_that_has_not_begun_is_refused() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "cut").await;
    for stream in [false, true] {
        upstream.answer("late", Reply::afterwards(What::Hang));
        let (token, id) = marg.make_key(&[]).await;
        let asked = upstream.seen("late").len();
        let address = marg.address;
        let call =
            tokio::spawn(
                async move { Client::http1(address, &token).await.send(Call::chat("late", &chat(stream))).await },
            );
        upstream.wait_for("late", asked + 1).await;
        withdraw(&marg, "revoke", &id).await;
        let refused = soon("the call is answered", call).await.unwrap();
        refused.assert_error(401, "invalid_api_key");
        let record = marg.record(&refused.id()).await;
        assert_eq!((&record["outcome"], &record["status"]), (&json!("withdrawn"), &json!(401)), "{record}");
        assert_eq!(record["attempts"][0]["end"], "abandoned", "{record}");
        assert_eq!(record["cost_nano_usd"], Value::Null, "{record}");
    }
    let providers = marg.ask_admin("GET", "/admin/providers", None).await.json();
    assert_eq!(providers["providers"][0]["failures"], 0, "the provider is blamed: {providers}");
}

#[tokio::test]
async fn a_plain_answer_that_is_cut_by_a_revocation_is_not_taken_for_whole() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "cut").await;
    let (token, id) = marg.make_key(&[]).await;
    let (mut reply, feed) = Reply::fed();
    if let What::Answer(answer) = &mut reply.what {
        answer.headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    }
    upstream.answer("half", reply);
    let feeding = async {
        feed.send("{\"id\":\"half").await;
        feed
    };
    let mut client = Client::http1(marg.address, &token).await;
    let (mut opened, _feed) = tokio::join!(client.open(Call::chat("half", &chat(false))), feeding);
    opened.read_until(b"half").await;
    let exchange = opened.id();
    withdraw(&marg, "revoke", &id).await;
    opened.try_finish().await.expect_err("the answer looks whole");
    assert_eq!(marg.record(&exchange).await["outcome"], "withdrawn");
}

#[tokio::test]
async fn a_running_call_finishes_where_the_operator_says_so() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "finish").await;
    let (token, id) = marg.make_key(&[]).await;
    let mut client = Client::http1(marg.address, &token).await;
    let (opened, feed) = begun(&upstream, &mut client).await;
    withdraw(&marg, "revoke", &id).await;
    assert_eq!(ask(&marg, &token).await, 401);
    feed.send(answers::text("m", ", world")).await;
    feed.send("data: [DONE]\n\n").await;
    drop(feed);
    let answer = opened.finish().await;
    assert_eq!(said(&answer.body), "Hello, world");
    assert_eq!(marg.record(&answer.id()).await["outcome"], "answered");
}

#[tokio::test]
async fn a_new_token_or_an_expiry_does_not_cut_what_runs() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "cut").await;
    let (token, id) = marg.make_key(&[]).await;
    let mut client = Client::http1(marg.address, &token).await;
    let (opened, feed) = begun(&upstream, &mut client).await;
    withdraw(&marg, "rotate", &id).await;
    assert_eq!(ask(&marg, &token).await, 401);
    feed.send(answers::text("m", ", world")).await;
    feed.send("data: [DONE]\n\n").await;
    drop(feed);
    assert_eq!(said(&opened.finish().await.body), "Hello, world");
}

/// How instances hear of each other.
const WAYS: [(&str, bool, bool); 4] = [
    ("PostgreSQL, notified", true, false),
    ("PostgreSQL, the notification is lost", false, false),
    ("PostgreSQL without and Redis with news", false, true),
    ("PostgreSQL and Redis, both notifications are lost", false, true),
];

const TRIP: &str = "// begin\n@id(\"all\") permit(principal, action, resource);\n\
    @id(\"trip\") @reason(\"tripped\") @then(\"suspend 1h\") \
    forbid(principal, action, resource) when { context.requested_model == \"trip\" };\n// end\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_instance_knows_a_revocation_a_suspension_and_a_release_within_a_second() {
    let upstream = Upstream::http1().await;
    for (way, hears, redis) in WAYS {
        let postgres = PostgresServer::start();
        // Behind a pooler nobody can listen: all that is left is the look at the generation.
        let database = json!({"url": format!("plain:{}", postgres.database()), "pooler": !hears});
        let mut server = redis.then(RedisServer::start);
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.cedar");
        std::fs::write(&policy, TRIP).unwrap();
        let mut settings = shared(&database);
        merge(&mut settings, json!({"kavach": {"mode": "enforce", "policy": policy}}));
        merge(&mut settings, json!({"keys": {"running_calls": "cut"}}));
        if let Some(server) = &server {
            merge(&mut settings, json!({"redis": {"urls": [format!("plain:{}", server.url())]}}));
        }
        let nodes = nodes(&upstream, &settings, 2).await;
        if way.contains("both") {
            server.take();
        }
        let mut times: [Vec<Duration>; 4] = Default::default();
        for _ in 0..10 {
            let round = round(&upstream, &nodes[0], &nodes[1]).await;
            times.iter_mut().zip(round).for_each(|(all, one)| all.push(one));
        }
        for (what, mut times) in ["suspended", "released", "revoked", "stream cut"].into_iter().zip(times) {
            times.sort();
            let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
            println!("{way}: {what} elsewhere after {median:.0?} (median), {worst:.0?} (worst of {})", times.len());
        }
    }
}

/// Suspends, releases and revokes a key on one instance; after how long the other knows each, and cuts a stream.
async fn round(upstream: &Upstream, one: &Marg, other: &Marg) -> [Duration; 4] {
    let (token, id) = one.make_key(&[]).await;
    until("the other knows the key", || async { (ask(other, &token).await == 200).then_some(()) }).await;
    let knows = async |status: u16, since: Instant| {
        until(&format!("the other says {status}"), || async { (ask(other, &token).await == status).then_some(()) })
            .await;
        since.elapsed()
    };
    let mut trip = chat(false);
    trip["model"] = json!("trip");
    let since = Instant::now();
    let tripped = Client::http1(one.address, &token).await.send(Call::chat("trip", &trip)).await;
    assert_eq!(tripped.status, 403, "{}", tripped.text());
    let suspended = knows(403, since).await;
    let since = Instant::now();
    assert_eq!(one.ask_admin("POST", &format!("/admin/keys/{id}/release"), None).await.status, 200);
    let released = knows(200, since).await;

    let mut client = Client::http1(other.address, &token).await;
    let (opened, feed) = begun(upstream, &mut client).await;
    let since = Instant::now();
    let cut = async {
        soon("the stream is cut elsewhere", feed.abandoned()).await;
        since.elapsed()
    };
    let revoke = async {
        assert_eq!(one.ask_admin("POST", &format!("/admin/keys/{id}/revoke"), None).await.status, 200);
        knows(401, since).await
    };
    let (cut, revoked) = tokio::join!(cut, revoke);
    assert_openai_error(&events(&opened.finish().await.body).pop().unwrap());
    [suspended, released, revoked, cut]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_word_about_a_session_reaches_every_instance_within_a_second() {
    let upstream = Upstream::http1().await;
    let postgres = PostgresServer::start();
    let database = json!({"url": format!("plain:{}", postgres.database()), "pooler": true});
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.cedar");
    std::fs::write(&policy, TRIP).unwrap();
    let mut settings = shared(&database);
    merge(&mut settings, json!({"kavach": {"mode": "enforce", "policy": policy}}));
    let nodes = nodes(&upstream, &settings, 2).await;
    let (one, other) = (&nodes[0], &nodes[1]);
    let ask = async |marg: &Marg| {
        let call = Call::chat("s", &chat(false)).header("x-marg-session", "s");
        Client::http1(marg.address, &one.key).await.send(call).await.status
    };
    for marg in [one, other, other] {
        assert_eq!(ask(marg).await, 200);
    }
    let which = json!({"key_id": one.key_id, "id": "s"});
    until("one knows what both counted", || async {
        let sessions = one.ask_admin("GET", "/admin/sessions", None).await.json();
        (sessions["sessions"][0]["requests"] == 3).then_some(())
    })
    .await;
    let mut times = Vec::new();
    for (verb, status) in [("end", 403), ("reset", 200)].into_iter().cycle().take(10) {
        let since = Instant::now();
        let done = one.ask_admin("POST", &format!("/admin/sessions/{verb}"), Some(&which)).await;
        assert_eq!(done.status, 204, "{}", done.text());
        until(&format!("the other knows {verb}"), || async { (ask(other).await == status).then_some(()) }).await;
        times.push(since.elapsed());
    }
    times.sort();
    println!(
        "a session ended or reset elsewhere, no notification: {:.0?} (median), {:.0?} (worst)",
        times[5], times[9]
    );
}
