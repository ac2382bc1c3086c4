//! What the audit log can show of prompts and answers: the text that passed and no other, until its salt is erased.

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::audit::{body, elsewhere, entries, known_policy, receipt, verified};
use crate::support::answers;
use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup};
use crate::support::reply::Reply;
use crate::support::until;
use crate::support::upstream::Upstream;

/// The receipt with its salt, once it is there.
async fn salted(marg: &Marg, id: &str) -> Value {
    let answer = marg.ask_admin("GET", &format!("/admin/audit/receipts/{id}?salt=true"), None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn entry_of(receipt: &Value) -> Value {
    serde_json::from_str(receipt["entry"].as_str().unwrap()).unwrap()
}

/// Whether these texts are shown to be those of the receipt, by somebody who has nothing else but the public keys.
async fn shown(marg: &Marg, receipt: &Value, prompt: &[u8], answer: &[u8]) -> (bool, String) {
    let away = tempfile::tempdir().unwrap();
    let files = [("r.json", receipt.to_string().into_bytes()), ("p", prompt.to_vec()), ("a", answer.to_vec())];
    files.iter().for_each(|(name, bytes)| std::fs::write(away.path().join(name), bytes).unwrap());
    std::fs::write(away.path().join("log.policy"), known_policy(marg)).unwrap();
    let mut arguments = vec!["audit", "verify", "--receipt", "r.json", "--policy", "log.policy"];
    arguments.extend(if prompt.is_empty() { &[][..] } else { &["--prompt", "p"] });
    arguments.extend(if answer.is_empty() { &[][..] } else { &["--answer", "a"] });
    elsewhere(away.path(), &arguments).await
}

/// The files below a folder that hold some bytes.
fn holding(folder: &Path, bytes: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(here) = folders.pop() {
        for file in std::fs::read_dir(here).into_iter().flatten().flatten() {
            match file.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(file.path()),
                _ => {
                    let text = std::fs::read(file.path()).unwrap_or_default();
                    let there = text.windows(bytes.len()).any(|part| part == bytes);
                    found.extend(there.then(|| file.path()));
                }
            }
        }
    }
    found
}

#[tokio::test]
async fn every_prompt_and_answer_can_be_shown_whatever_the_end_of_its_exchange() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"scope": "tag", "subject": "tight", "unit": "requests", "window": "total", "amount": 0}]);
    let marg = Setup::with_default(&upstream).set("limits", limits).start().await;
    let streamed = json!({"model": "m", "messages": [{"role": "user", "content": "Say it."}], "stream": true});
    upstream.answer("fails", Reply::error(400));
    let (reply, feed) = Reply::fed();
    upstream.answer("cut", reply);
    let mut client = marg.http1().await;
    let feeding = async {
        feed.send(answers::text("m", "Hello")).await;
        feed
    };
    let (mut cut, feed) = tokio::join!(client.open(Call::chat("cut", &streamed)), feeding);
    cut.read_until(b"\n\n").await;
    feed.cut().await;
    let all = [
        (body().to_string(), marg.chat("plain", &body()).await),
        (streamed.to_string(), marg.chat("stream", &streamed).await),
        (streamed.to_string(), cut.finish().await),
        (body().to_string(), marg.chat("fails", &body()).await),
        (body().to_string(), marg.send(Call::chat("tight", &body()).header("x-marg-tags", "tight")).await),
        ("{".to_owned(), marg.send(Call::post("/v1/chat/completions", "malformed", "{")).await),
    ];
    for (prompt, answer) in &all {
        let receipt = salted(&marg, &answer.id()).await;
        let (good, said) = shown(&marg, &receipt, prompt.as_bytes(), &answer.body).await;
        assert!(good && said.contains("prompt") && said.contains("answer"), "{said}");
        let changed = answer.text().replacen(['e', 'o'], "u", 1);
        let (good, said) = shown(&marg, &receipt, &[], changed.as_bytes()).await;
        assert!(!good && said.contains("NOT VERIFIED") && said.contains("answer"), "{said}");
        let entry = entry_of(&receipt);
        assert_eq!(entry["bytes_out"], json!(answer.body.len()), "{entry}");
        assert!(!entry.to_string().contains(receipt["salt"].as_str().unwrap()));
        assert!(receipt["entry"].as_str().unwrap().len() <= 1024);
    }
    // Where nothing was read there is no prompt, and a receipt without a salt shows nothing.
    let stranger = Client::http1(marg.address, "wrong").await.send(Call::chat("stranger", &body())).await;
    let entry = entry_of(&salted(&marg, &stranger.id()).await);
    assert!(entry.get("prompt").is_none() && entry["answer"].is_string(), "{entry}");
    let plain: Value = serde_json::from_str(&receipt(&marg, &all[0].1.id()).await).unwrap();
    assert!(plain.get("salt").is_none());
    let (good, said) = shown(&marg, &plain, body().to_string().as_bytes(), &[]).await;
    assert!(!good && said.contains("--salt"), "{said}");
}

#[tokio::test]
async fn what_a_caller_that_left_was_given_is_committed_to() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let (reply, feed) = Reply::fed();
    upstream.answer("leaves", reply);
    let mut client = marg.http1().await;
    let call = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true});
    let piece = answers::text("m", "One");
    let feeding = async {
        feed.send(piece.clone()).await;
        feed
    };
    let (mut opened, feed) = tokio::join!(client.open(Call::chat("leaves", &call)), feeding);
    opened.read_until(b"\n\n").await;
    let id = opened.id();
    drop((opened, client));
    feed.abandoned().await;
    let receipt = salted(&marg, &id).await;
    assert_eq!(entry_of(&receipt)["outcome"], "client_gone");
    let (good, said) = shown(&marg, &receipt, call.to_string().as_bytes(), &piece).await;
    assert!(good, "{said}");
}

#[tokio::test]
async fn an_erased_salt_is_nowhere_and_every_proof_stays() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    let (erased, kept) = (marg.chat("plain", &body()).await.id(), marg.chat("plain", &body()).await.id());
    let (other, other_id) = marg.make_key(&[]).await;
    let others = Client::http1(marg.address, &other).await.send(Call::chat("plain", &body())).await.id();
    let before = salted(&marg, &erased).await;
    salted(&marg, &others).await;
    let salt = before["salt"].as_str().unwrap().to_owned();
    let bytes = data_encoding::BASE64.decode(salt.as_bytes()).unwrap();
    assert_eq!(holding(&marg.path("data/audit/salts"), &bytes).len(), 1);
    let nothing = marg.ask_admin("POST", "/admin/audit/erase", Some(&json!({}))).await;
    assert_eq!(nothing.status, 400, "{}", nothing.text());
    let server = format!("http://{}", marg.admin);
    let erase = ["audit", "erase", "--exchange", &erased, "--server", &server, "--token", &marg.admin_token];
    let (code, said, errors) = marg.try_command(&[&erase[..], &["--output", "json"]].concat()).await;
    assert_eq!(code, 0, "{errors}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said, json!({"exchanges": 1, "salts": 1, "texts": 0}));
    until("the salt is gone from every file", || async {
        let found = [holding(&marg.path("data"), &bytes), holding(&marg.path("data"), salt.as_bytes())].concat();
        found.is_empty().then_some(())
    })
    .await;
    let gone = marg.ask_admin("GET", &format!("/admin/audit/receipts/{erased}?salt=true"), None).await;
    assert!(gone.status == 404 && gone.text().contains("salt"), "{}", gone.text());
    let done = marg.ask_admin("POST", "/admin/audit/erase", Some(&json!({"key": other_id}))).await.json();
    // Making the key asked for the models, at least once.
    assert!(done["exchanges"].as_u64() >= Some(2) && done["exchanges"] == done["salts"], "{done}");
    // Each order has one when it begins and one when it is done, that which was refused, too.
    let events = until("the erasures are entries", || async {
        let found = entries(&marg, "kind=erasure").await;
        (found.len() == 6).then_some(found)
    })
    .await;
    assert_eq!(events[0]["entry"]["actor"]["kind"], "admin_token");
    assert_eq!(events[0]["entry"]["detail"]["detail"], done);
    assert_eq!(events[3]["entry"]["detail"]["detail"], json!({"exchange": erased}));
    for (id, there) in [(&erased, 404), (&kept, 200), (&others, 404)] {
        receipt(&marg, id).await;
        let answer = marg.ask_admin("GET", &format!("/admin/audit/receipts/{id}?salt=true"), None).await;
        assert_eq!(answer.status, there);
    }
    verified(&marg).await;
    marg.signal(Signal::TERM);
    marg.ended().await;
    let erase = ["audit", "erase", "--exchange", &kept, "--output", "json"];
    let (code, said, errors) = marg.try_command(&erase).await;
    assert!(code == 0 && said.contains("\"salts\": 1"), "{said}{errors}");
    marg.restart().await;
    let answer = marg.ask_admin("GET", &format!("/admin/audit/receipts/{kept}?salt=true"), None).await;
    assert_eq!(answer.status, 404);
    verified(&marg).await;
}

#[tokio::test]
async fn an_erasure_waits_for_what_was_answered_before_it() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).set("ledger", json!({"batch_delay_ms": 60_000})).start().await;
    let (first, second) = (marg.chat("plain", &body()).await.id(), marg.chat("plain", &body()).await.id());
    let done = marg.ask_admin("POST", "/admin/audit/erase", Some(&json!({"exchange": first}))).await;
    assert_eq!(done.json(), json!({"exchanges": 1, "salts": 1, "texts": 0}));
    let third = marg.chat("plain", &body()).await.id();
    let server = format!("http://{}", marg.admin);
    let key = marg.key_id.clone();
    let command = ["audit", "erase", "--key", &key, "--output", "json"];
    let asked = [&command[..], &["--server", &server, "--token", &marg.admin_token]].concat();
    let (code, said, errors) = marg.try_command(&asked).await;
    assert_eq!(code, 0, "{errors}");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["salts"], 2, "{second} and {third}: {said}");
    // What nobody carried into the log cannot be found there, and whoever erases must know.
    marg.chat("plain", &body()).await;
    marg.kill9();
    let (code, said, errors) = marg.try_command(&command).await;
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("journal") && errors.contains("--server"), "{said}{errors}");
}

#[tokio::test]
async fn a_salt_outlives_a_kill_right_after_the_answer() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).set("audit", json!({"interval_ms": 60_000})).start().await;
    let answer = marg.chat("plain", &body()).await;
    marg.kill9();
    let mut config = marg.config.clone();
    config["audit"] = json!({"interval_ms": 50});
    marg.rewrite(&config);
    marg.restart().await;
    let receipt = salted(&marg, &answer.id()).await;
    let (good, said) = shown(&marg, &receipt, body().to_string().as_bytes(), &answer.body).await;
    assert!(good, "{said}");
}

#[tokio::test]
async fn texts_are_kept_by_choice_only_up_to_a_bound_and_can_be_erased() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    let secret = json!({"model": "m", "messages": [{"role": "user", "content": "a very private question"}]});
    let plain = marg.chat("plain", &secret).await.id();
    receipt(&marg, &plain).await;
    assert_eq!(holding(&marg.path("data"), b"a very private question"), Vec::<std::path::PathBuf>::new());
    let path = |id: &str| format!("/admin/audit/texts/{id}");
    assert_eq!(marg.ask_admin("GET", &path(&plain), None).await.status, 404);
    let mut config = marg.config.clone();
    config["audit"] = json!({"content": "full_text", "text_limit_bytes": 1024});
    marg.rewrite(&config);
    assert_eq!(marg.ask_admin("POST", "/admin/reload", None).await.status, 200);
    let answer = marg.chat("plain", &secret).await;
    let found = marg.ask_admin("GET", &path(&answer.id()), None).await.json();
    assert_eq!(found, json!({"prompt": secret.to_string(), "answer": answer.text(), "encoding": "utf-8"}));
    let printed = marg.try_command(&["audit", "text", &answer.id(), "--answer"]).await;
    assert_eq!((printed.0, printed.1), (0, answer.text()));
    receipt(&marg, &answer.id()).await;
    assert!(holding(&marg.path("data/audit/log"), b"a very private question").is_empty());
    let long = json!({"model": "m", "messages": [{"role": "user", "content": "x".repeat(5_000)}]});
    let cut = marg.ask_admin("GET", &path(&marg.chat("plain", &long).await.id()), None).await.json();
    assert_eq!(cut["prompt"].as_str().unwrap(), &long.to_string()[..1024]);
    let order = json!({"exchange": answer.id()});
    assert_eq!(marg.ask_admin("POST", "/admin/audit/erase", Some(&order)).await.json()["texts"], 1);
    assert_eq!(marg.ask_admin("GET", &path(&answer.id()), None).await.status, 404);
    assert!(holding(&marg.path("data/audit/texts"), b"a very private question").is_empty());
    marg.signal(Signal::TERM);
    marg.ended().await;
    marg.restart().await;
    marg.logs("full_text keeps every prompt and answer").await;
    config["audit"] = json!({"content": "none"});
    marg.rewrite(&config);
    assert_eq!(marg.ask_admin("POST", "/admin/reload", None).await.status, 200);
    let id = marg.chat("plain", &secret).await.id();
    let entry = entry_of(&serde_json::from_str(&receipt(&marg, &id).await).unwrap());
    assert!(entry.get("prompt").is_none() && entry.get("answer").is_none(), "{entry}");
}
