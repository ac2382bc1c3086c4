//! Stops, reloads, a database that is away, keys that change: what runs is not disturbed, what was done is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Connection, Executor};

use crate::support::answers::{self, said};
use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup, merge};
use crate::support::reply::{Feed, Reply};
use crate::support::upstream::Upstream;
use crate::support::{CREDENTIAL, soon, until};

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "x"}]})
}

fn streamed() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true})
}

/// A stream that has begun.
async fn begin(marg: &Marg, upstream: &Upstream, case: &str) -> (crate::support::client::Opened, Feed) {
    let (reply, feed) = Reply::fed();
    upstream.answer(case, reply);
    let mut client = marg.http1().await;
    let call = Call::chat(case, &streamed());
    let (mut answer, ()) = tokio::join!(client.open(call), feed.send(answers::text("m", "One ")));
    answer.read_until(b"\n\n").await;
    (answer, feed)
}

#[tokio::test]
async fn at_the_drain_deadline_what_still_runs_is_cut_and_recorded() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).set("server", json!({"drain_timeout_ms": 300})).start().await;
    let (answer, feed) = begin(&marg, &upstream, "endless").await;
    let id = answer.id();
    marg.signal(Signal::TERM);
    let status = marg.ended().await;
    assert_eq!(status.code(), Some(0), "{}", marg.logged());
    feed.abandoned().await;
    if let Ok(answer) = answer.try_finish().await {
        assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
    }
    marg.restart().await;
    let record = marg.record(&id).await;
    assert_eq!(record["outcome"], "interrupted", "{record}");
}

#[tokio::test]
async fn a_stop_lets_running_streams_finish_and_takes_nothing_new() {
    for signal in [Signal::TERM, Signal::INT] {
        let upstream = Upstream::http1().await;
        let mut marg = Setup::with_default(&upstream).start().await;
        let mut kept = marg.http1().await;
        assert_eq!(kept.send(Call::chat("before", &chat("m"))).await.status, 200);
        let (answer, feed) = begin(&marg, &upstream, "running").await;
        marg.signal(signal);
        marg.logs("draining").await;
        let refused = kept.send(Call::chat("late", &chat("m"))).await;
        refused.assert_error(503, "shutting_down");
        assert!(!refused.header("retry-after").is_empty());
        if let Ok(stream) = tokio::net::TcpStream::connect(marg.address).await {
            drop(stream);
            let ready = marg.send(Call::new("GET", "/ready").without_key()).await;
            assert_eq!(ready.status, 503, "{}", ready.text());
        }
        for word in ["two ", "three ", "four"] {
            feed.send(answers::text("m", word)).await;
        }
        feed.send(answers::usage_chunk("m", answers::usage(9, 4))).await;
        feed.send("data: [DONE]\n\n").await;
        drop(feed);
        let answer = answer.finish().await;
        assert_eq!(said(&answer.body), "One two three four");
        assert!(answer.text().ends_with("data: [DONE]\n\n"));
        assert_eq!(marg.ended().await.code(), Some(0), "{}", marg.logged());
        assert_eq!(upstream.seen("late").len(), 0);
        marg.restart().await;
        let record = marg.record(&answer.id()).await;
        assert_eq!((record["outcome"].as_str(), record["usage"]["output"].as_u64()), (Some("answered"), Some(4)));
        assert_eq!(marg.record(&refused.id()).await["reason"], "shutting_down");
    }
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    let _idle = Client::http1(marg.address, "").await;
    marg.signal(Signal::TERM);
    assert_eq!(marg.ended().await.code(), Some(0), "{}", marg.logged());
}

#[tokio::test]
async fn a_broken_configuration_changes_nothing_when_reloaded() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let mut unknown_key = marg.config.clone();
    unknown_key["server"]["unheard_of"] = json!(1);
    let mut no_provider = marg.config.clone();
    no_provider["default_provider"] = json!("nobody");
    let mut no_secret = marg.config.clone();
    no_secret["providers"]["main"]["credentials"] = json!(["env:NOT_THERE"]);
    let texts = [
        "providers: [".to_owned(),
        String::new() + "\u{0}\u{1}",
        unknown_key.to_string(),
        no_provider.to_string(),
        no_secret.to_string(),
        // What is left of a file while it is being rewritten.
        String::new(),
        "# The gateway of the third floor\n".to_owned(),
        "---\n# nothing\n...\n".to_owned(),
        "null\n".to_owned(),
    ];
    for text in &texts {
        let refusals = || marg.logged().matches("was not reloaded").count();
        let before = refusals();
        marg.rewrite_text(text);
        marg.signal(Signal::HUP);
        until("the reload is refused", || async { (refusals() > before).then_some(()) }).await;
        let answer = marg.chat("after", &chat("m")).await;
        assert_eq!(answer.status, 200, "{text}: {}", answer.text());
        let answer = marg.ask_admin("POST", "/admin/reload", None).await;
        assert!(!answer.text().contains(CREDENTIAL), "{}", answer.text());
        assert_eq!(answer.status, 409, "{}", answer.text());
        let problems = answer.json()["error"]["problems"].as_array().map_or(0, Vec::len);
        assert!(problems > 0, "{}", answer.text());
        until("that refusal is logged", || async { (refusals() > before + 1).then_some(()) }).await;
    }
    // SIGHUP has no answer, so the log says what is wrong, and where.
    let lines =
        |text: &str| marg.logged().lines().filter(|line| line.contains(text)).map(str::to_owned).collect::<Vec<_>>();
    let unknown = lines("server.unheard_of: ");
    let place: Vec<&str> = unknown[0].split("\"error\":\"").nth(1).unwrap().splitn(3, ':').collect();
    assert!(place[..2].iter().all(|number| number.parse::<u32>().is_ok()), "{unknown:?}");
    assert!(lines("providers.main.credentials[0]: ")[0].contains("NOT_THERE"));
    let seen = upstream.seen("after");
    assert!(seen.iter().all(|seen| seen.header("authorization") == Some(&format!("Bearer {CREDENTIAL}main"))));
}

#[tokio::test]
async fn a_reload_puts_credentials_and_routes_in_force_together() {
    let (one, two) = (Upstream::http1().await, Upstream::http1().await);
    let marg =
        Setup::new().provider("one", &one, json!({})).provider("two", &two, json!({})).start_with_route("one").await;
    let version = |number: usize| {
        let target = if number.is_multiple_of(2) { "one" } else { "two" };
        let mut config = marg.config.clone();
        for name in ["one", "two"] {
            let credential = format!("plain:{CREDENTIAL}{target}-{number}");
            merge(&mut config["providers"][name], json!({"credentials": [credential]}));
        }
        config["routes"] = json!([{"to": target}]);
        config
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = Vec::new();
    for _ in 0..4 {
        let (mut client, stop) = (marg.http1().await, stop.clone());
        callers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = client.send(Call::chat("load", &chat("m"))).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        }));
    }
    for number in 1..=6 {
        marg.rewrite(&version(number));
        marg.signal(Signal::HUP);
        let upstream = if number.is_multiple_of(2) { &one } else { &two };
        let ending = format!("-{number}");
        until("the new configuration is in force", || async {
            let last = upstream.seen("load").pop()?;
            last.header("authorization")?.ends_with(&ending).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        soon("a caller ends", caller).await.unwrap();
    }
    // The credential says for which target its configuration was made: none ever came with the other's route.
    for (name, upstream) in [("one", &one), ("two", &two)] {
        for seen in upstream.seen("load") {
            let credential = seen.header("authorization").unwrap().trim_start_matches("Bearer ").to_owned();
            let expected = format!("{CREDENTIAL}{name}");
            assert!(credential.starts_with(&expected), "{credential} at {name}");
        }
    }
}

#[tokio::test]
async fn a_credential_in_a_file_is_read_again_on_reload() {
    let upstream = Upstream::http1().await;
    let setup = Setup::new();
    let path = setup.path("credential");
    std::fs::write(&path, format!("{CREDENTIAL}before\n")).unwrap();
    let credentials = json!({"credentials": [format!("file:{}", path.display())]});
    let marg = setup.provider("main", &upstream, credentials).set("default_provider", json!("main")).start().await;
    assert_eq!(marg.chat("file", &chat("m")).await.status, 200);
    std::fs::write(&path, format!("{CREDENTIAL}after\n")).unwrap();
    let answer = marg.ask_admin("POST", "/admin/reload", None).await;
    assert_eq!(answer.json()["applied"], true, "{}", answer.text());
    assert_eq!(marg.chat("file", &chat("m")).await.status, 200);
    let seen = upstream.seen("file");
    assert_eq!(seen[0].header("authorization"), Some(format!("Bearer {CREDENTIAL}before").as_str()));
    assert_eq!(seen[1].header("authorization"), Some(format!("Bearer {CREDENTIAL}after").as_str()));
}

#[tokio::test]
async fn a_reload_names_a_secret_that_waits_for_a_restart_and_logs_its_warnings() {
    let upstream = Upstream::http1().await;
    let setup = Setup::with_default(&upstream);
    let path = setup.path("hash.hex");
    std::fs::write(&path, "0f".repeat(32)).unwrap();
    let marg = setup.set("keys", json!({"hash_key": format!("file:{}", path.display())})).start().await;
    std::fs::write(&path, "f0".repeat(32)).unwrap();
    let mut config = marg.config.clone();
    config["server"]["body_idle_timeout_ms"] = json!(200_000);
    marg.rewrite(&config);
    let report = marg.ask_admin("POST", "/admin/reload", None).await.json();
    assert_eq!(
        (&report["changed"], &report["needs_restart"]),
        (&json!(["server", "keys.hash_key"]), &json!(["keys.hash_key"]))
    );
    assert_eq!(report["warnings"][0]["path"], "server.body_idle_timeout_ms", "{report}");
    marg.logs("server.body_idle_timeout_ms: longer than server.body_timeout_ms").await;
    assert_eq!(marg.chat("kept", &chat("m")).await.status, 200, "the key's hash is still the old one");
}

#[tokio::test]
async fn while_the_database_is_locked_requests_are_served_and_recorded_later() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let before = marg.chat("before", &chat("m")).await;
    marg.record(&before.id()).await;
    let address = format!("sqlite://{}", marg.path("data/marg.db").display());
    let mut lock = sqlx::SqliteConnection::connect(&address).await.unwrap();
    lock.execute("BEGIN EXCLUSIVE").await.unwrap();
    let mut ids = Vec::new();
    let mut client = marg.http1().await;
    for _ in 0..50 {
        let answer = client.send(Call::chat("locked", &chat("m"))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        ids.push(answer.id());
    }
    let page = || marg.send_unchecked(Call::new("GET", "/ready").without_key());
    until("the database is said to be away", || async {
        let ready = page().await;
        assert_eq!(ready.status, 200, "{}", ready.text());
        (ready.json()["status"] == "degraded").then_some(())
    })
    .await;
    assert_eq!(marg.ask_admin("GET", &format!("/admin/requests/{}", ids[0]), None).await.status, 404);
    lock.execute("ROLLBACK").await.unwrap();
    drop(lock);
    for id in &ids {
        assert_eq!(marg.record(id).await["outcome"], "answered");
    }
    until("the database is back", || async { (page().await.json()["status"] == "ready").then_some(()) }).await;
}

#[tokio::test]
async fn records_wait_while_the_database_file_is_gone_and_a_start_without_it_takes_them() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    let before = marg.chat("before", &chat("m")).await;
    marg.record(&before.id()).await;
    let (file, aside) = (marg.path("data/marg.db"), marg.path("data/aside.db"));
    std::fs::rename(&file, &aside).unwrap();
    let moved = marg.chat("moved", &chat("m")).await;
    let status = async |marg: &Marg| {
        let ready = marg.send_unchecked(Call::new("GET", "/ready").without_key()).await;
        ready.json()["status"].as_str().unwrap_or_default().to_owned()
    };
    until("the database is said to be away", || async { (status(&marg).await == "degraded").then_some(()) }).await;
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(marg.record(&moved.id()).await["outcome"], "answered");
    until("the database is back", || async { (status(&marg).await == "ready").then_some(()) }).await;
    for file in ["data/marg.db", "data/marg.db-wal", "data/marg.db-shm"] {
        std::fs::remove_file(marg.path(file)).unwrap();
    }
    let deleted = marg.chat("deleted", &chat("m")).await;
    marg.signal(Signal::TERM);
    marg.ended().await;
    // Not before it is ready: a command that reads the journal meanwhile would keep it from taking it over.
    marg.restart().await;
    let id = deleted.id();
    until("what was in the journal is in the new database", || async {
        let (code, list, _) = marg.try_command(&["requests", "list", "--output", "json"]).await;
        (code == 0 && list.contains(&id)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn keys_that_the_command_line_changes_change_in_the_running_gateway() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let status = async |token: &str| {
        let mut client = Client::http1(marg.address, token).await;
        client.send(Call::chat("keys", &chat("m"))).await.status
    };
    let becomes = async |token: &str, wanted: u16| {
        until(&format!("the key is answered with {wanted}"), || async {
            (status(token).await == wanted).then_some(())
        })
        .await;
    };
    let (token, id) = marg.make_key(&[]).await;
    assert_eq!(status(&token).await, 200);
    marg.command(&["keys", "disable", &id, "--output", "json"]).await;
    becomes(&token, 401).await;
    marg.command(&["keys", "enable", &id, "--output", "json"]).await;
    becomes(&token, 200).await;
    let rotated = marg.command(&["keys", "rotate", &id, "--output", "json"]).await;
    let newer = rotated["token"].as_str().unwrap().to_owned();
    becomes(&newer, 200).await;
    assert_eq!(status(&token).await, 401, "the token from before the rotation still works");
    marg.command(&["keys", "revoke", &id, "--output", "json"]).await;
    becomes(&newer, 401).await;
    assert_eq!(status(&marg.key).await, 200);

    // The admin API's changes hold in the very next request.
    let made = marg.ask_admin("POST", "/admin/keys", Some(&json!({"name": "api"}))).await.json();
    let (token, id) = (made["token"].as_str().unwrap().to_owned(), made["key"]["id"].as_str().unwrap().to_owned());
    assert_eq!(status(&token).await, 200);
    let revoked = marg.ask_admin("POST", &format!("/admin/keys/{id}/revoke"), None).await;
    assert!(revoked.status < 300, "{}", revoked.text());
    assert_eq!(status(&token).await, 401);
}
