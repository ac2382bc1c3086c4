//! Witnesses through the real binary: two gateways that witness each other, witnesses that are away, slow or lie, and a log that
//! was put back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::audit::{Witness, body, copied, elsewhere, policy, receipt, witness};
use crate::support::marg::{Marg, Setup};
use crate::support::until;
use crate::support::upstream::Upstream;

/// The public lines of a key file: `log …` or `witness …`, without that word.
async fn public(folder: &Path, file: &str) -> Vec<String> {
    let (good, said) = elsewhere(folder, &["audit", "key", "export-public", "--file", file]).await;
    assert!(good, "{said}");
    let lines = said.lines().filter_map(|line| line.strip_prefix("log ").or(line.strip_prefix("witness ")));
    lines.map(str::to_owned).collect()
}

async fn make_key(folder: &Path, name: &str, file: &str, witness: bool) {
    let arguments = ["audit", "key", "create", "--origin", name, "--file", file, "--witness"];
    let made = elsewhere(folder, &arguments[..if witness { 8 } else { 7 }]).await;
    assert!(made.0, "{}", made.1);
}

async fn status(marg: &Marg) -> Value {
    marg.ask_admin("GET", "/admin/audit", None).await.json()
}

/// Waits until everything that is signed now is witnessed, too.
async fn witnessed(marg: &Marg) -> Value {
    let size = status(marg).await["signed"].as_u64().unwrap();
    until("what is signed is witnessed", || async {
        let status = status(marg).await;
        (status["witnessed"].as_u64().unwrap() >= size).then_some(status)
    })
    .await
}

/// Makes an exchange and waits until it has a receipt.
async fn exchange(marg: &Marg) -> String {
    let answer = marg.chat("plain", &body()).await;
    receipt(marg, &answer.id()).await
}

/// What a witness says that is asked and does not cosign.
async fn trouble(marg: &Marg, name: &str, part: &str) {
    until(&format!("{name} is said to be in trouble: {part}"), || async {
        let status = status(marg).await;
        let mut states = status["witnesses"].as_array().unwrap().iter();
        states
            .any(|one| one["name"] == name && one["trouble"].as_str().is_some_and(|text| text.contains(part)))
            .then_some(())
    })
    .await;
}

/// Two gateways that know each other's keys, the first of them running.
async fn pair(upstream: &Upstream) -> (Marg, Setup) {
    let setups = [Setup::with_default(upstream), Setup::with_default(upstream)];
    let (mut logs, mut witnesses) = (Vec::new(), Vec::new());
    for (setup, name) in setups.iter().zip(["a.test", "b.test"]) {
        let folder = setup.path("");
        std::fs::create_dir(setup.path("data")).unwrap();
        make_key(&folder, name, "data/audit.key", false).await;
        make_key(&folder, &format!("{name}/witness"), "data/witness.key", true).await;
        logs.push(public(&folder, "data/audit.key").await);
        let url = format!("http://{}/audit/witness", setup.admin());
        let lines = public(&folder, "data/witness.key").await;
        witnesses.push(lines.iter().map(|line| format!("{line} {url}")).collect::<Vec<_>>());
    }
    let [a, b] = setups;
    let audit = |peer: usize| json!({"witness_peers": logs[peer], "witnesses": witnesses[peer], "quorum": 1});
    (a.set("audit", audit(1)).start().await, b.set("audit", audit(0)))
}

#[tokio::test]
async fn two_gateways_witness_each_other_over_every_restart() {
    let upstream = Upstream::http1().await;
    let (mut a, b) = pair(&upstream).await;
    exchange(&a).await;
    trouble(&a, "b.test/witness-ml-dsa-44", "connection").await;
    let mut b = b.start().await;
    let entry = exchange(&a).await;
    exchange(&b).await;
    for (marg, peer) in [(&a, "b.test"), (&b, "a.test")] {
        witnessed(marg).await;
        until("both keys of the peer are known to cosign", || async {
            let states = status(marg).await["witnesses"].as_array().unwrap().clone();
            let good = |one: &Value| one["trouble"].is_null() && one["cosigned"].as_u64().unwrap() > 0;
            (states.len() == 2 && states.iter().all(good)).then_some(())
        })
        .await;
        let own = marg.ask_admin("GET", "/admin/audit/witness", None).await.json();
        assert_eq!(own["logs"][0]["origin"], peer);
    }
    drop(entry);
    a.signal(Signal::TERM);
    b.kill9();
    a.ended().await;
    a.restart().await;
    b.restart().await;
    for marg in [&a, &b] {
        exchange(marg).await;
        witnessed(marg).await;
    }
    // Somebody who has only public keys sees it.
    let away = tempfile::tempdir().unwrap();
    std::fs::write(away.path().join("trust.policy"), policy(&a).await).unwrap();
    std::fs::write(away.path().join("r.json"), exchange_witnessed(&a).await).unwrap();
    let arguments = ["audit", "verify", "--receipt", "r.json", "--policy", "trust.policy"];
    let (good, said) = elsewhere(away.path(), &arguments).await;
    assert!(
        good && said.contains("b.test/witness-ed25519 at") && said.contains("b.test/witness-ml-dsa-44 at"),
        "{said}"
    );
    std::fs::write(a.path("trust.policy"), policy(&a).await).unwrap();
    let last = a.ask_admin("GET", "/admin/audit/witnessed", None).await;
    assert!(last.text().starts_with("a.test\n"), "{}", last.text());
    let arguments = ["audit", "verify", "--log", "data/audit/log", "--policy", "trust.policy", "--unwitnessed-end"];
    let (code, output, errors) = a.try_command(&[&arguments[..], &["--output", "json"]].concat()).await;
    assert_eq!(code, 0, "{output}{errors}");
    let said: Value = serde_json::from_str(&output).unwrap();
    assert!(said["witnessed_size"].as_u64().unwrap() > 0, "{said}");
}

/// The receipt of an exchange that is witnessed.
async fn exchange_witnessed(marg: &Marg) -> String {
    let answer = marg.chat("plain", &body()).await;
    receipt(marg, &answer.id()).await;
    witnessed(marg).await;
    receipt(marg, &answer.id()).await
}

#[tokio::test]
async fn a_peer_sees_that_a_log_was_put_back_and_cosigns_nothing_more() {
    let upstream = Upstream::http1().await;
    let (mut a, b) = pair(&upstream).await;
    let b = b.start().await;
    exchange(&a).await;
    witnessed(&a).await;
    a.signal(Signal::TERM);
    a.ended().await;
    let old = copied(&a.path("data"), &a.path("old"));
    a.restart().await;
    exchange(&a).await;
    let known = witnessed(&a).await["witnessed"].as_u64().unwrap();
    a.kill9();
    std::fs::remove_dir_all(a.path("data")).unwrap();
    std::fs::rename(old, a.path("data")).unwrap();
    a.restart().await;
    a.logs("ALARM: a witness has seen another copy of this audit log").await;
    trouble(&a, "b.test/witness-ed25519", "entries of this log, which has").await;
    // It may grow past what was cosigned: that does not continue it either.
    while status(&a).await["signed"].as_u64().unwrap() <= known {
        exchange(&a).await;
    }
    trouble(&a, "b.test/witness-ed25519", "does not continue").await;
    let own = b.ask_admin("GET", "/admin/audit/witness", None).await.json();
    assert_eq!(own["logs"][0]["size"], known, "{own}");
}

#[tokio::test]
async fn peers_come_and_go_by_a_reload() {
    let upstream = Upstream::http1().await;
    let other = Setup::with_default(&upstream);
    make_key(&other.path(""), "peer.test", "log.key", false).await;
    let peers = public(&other.path(""), "log.key").await;
    let marg = Setup::with_default(&upstream).start().await;
    let asked = || async { marg.ask_admin("GET", "/admin/audit/witness", None).await };
    assert_eq!(asked().await.status, 404);
    assert!(!marg.path("data/witness.key").exists(), "without peers it needs no key");
    let mut config = marg.config.clone();
    for (keys, status) in [(json!(peers), 200), (json!([]), 404), (json!(peers[..1]), 200)] {
        config["audit"] = json!({"witness_peers": keys});
        marg.rewrite(&config);
        let reloaded = marg.ask_admin("POST", "/admin/reload", None).await;
        assert_eq!(reloaded.json()["needs_restart"], json!([]), "{}", reloaded.text());
        assert_eq!(asked().await.status, status);
    }
    let shown = asked().await.json();
    assert_eq!(shown["logs"], json!([{"origin": "peer.test", "size": 0}]));
    let own = public(&marg.path(""), "data/audit.key").await;
    config["audit"] = json!({"witness_peers": own});
    marg.rewrite(&config);
    let refused = marg.ask_admin("POST", "/admin/reload", None).await;
    assert!(refused.text().contains("whoever witnesses himself proves nothing"), "{}", refused.text());
    assert_eq!(asked().await.json(), shown, "what was in force stays");
}

/// Somebody who pretends to be a witness.
#[derive(Clone)]
enum Pretender {
    /// Takes the question and never answers.
    Slow,
    /// Answers always the same.
    Says(u16, String),
    /// Begins like this and then sends the same piece without an end.
    Pours(&'static str, &'static str),
}

impl Pretender {
    fn start(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming().flatten() {
                match &self {
                    Self::Slow => kept.push(stream),
                    Self::Says(status, text) => {
                        let length = text.len();
                        let head =
                            format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                        answer(stream, &(head + text), "");
                    }
                    Self::Pours(head, piece) => {
                        let (head, piece) = (*head, *piece);
                        std::thread::spawn(move || answer(stream, head, piece));
                    }
                }
            }
        });
        format!("http://{address}")
    }
}

/// Reads a question and answers; `piece` is sent again and again, up to 10 GB, until whoever asked is gone.
fn answer(mut stream: TcpStream, text: &str, piece: &str) {
    let again = piece.repeat(64);
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    // The whole question, or a caller that reads no answer before it has sent it would be cut off.
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        request.extend_from_slice(&piece[..count]);
        let head = request.windows(4).position(|end| end == b"\r\n\r\n");
        let length = head.map(|head| (head + 4, String::from_utf8_lossy(&request[..head]).to_lowercase()));
        let whole = length.is_some_and(|(body, head)| {
            let announced = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            request.len() - body >= announced.unwrap_or(0)
        });
        if whole {
            break;
        }
    }
    // Whoever asked may be gone.
    let mut gone = stream.write_all(text.as_bytes());
    let mut left = 10_000_000_000_usize;
    while gone.is_ok() && !again.is_empty() && left > 0 {
        gone = stream.write_all(again.as_bytes());
        left = left.saturating_sub(again.len());
    }
}

/// A gateway with one honest witness, and pretenders under the given names; so many of all must cosign.
async fn among(upstream: &Upstream, pretenders: &[(&str, Pretender)], quorum: usize) -> (Marg, Witness) {
    let setup = Setup::with_default(upstream);
    let folder = setup.path("");
    std::fs::create_dir(setup.path("data")).unwrap();
    make_key(&folder, "log.test", "data/audit.key", false).await;
    make_key(&folder, "honest.test", "w.key", true).await;
    let (_, known) = elsewhere(&folder, &["audit", "key", "export-public", "--file", "data/audit.key"]).await;
    std::fs::write(folder.join("known.policy"), known).unwrap();
    let (process, url) = witness(&folder);
    let mut lines = vec![format!("{} {url}", public(&folder, "w.key").await[0])];
    for (name, pretender) in pretenders {
        let file = format!("{name}.key");
        make_key(&folder, name, &file, true).await;
        lines.push(format!("{} {}", public(&folder, &file).await[0], pretender.clone().start()));
    }
    (setup.set("audit", json!({"witnesses": lines, "quorum": quorum})).start().await, process)
}

#[tokio::test]
async fn a_slow_witness_holds_up_nobody() {
    let upstream = Upstream::http1().await;
    let (marg, _honest) = among(&upstream, &[("slow.test", Pretender::Slow)], 1).await;
    for _ in 0..3 {
        exchange(&marg).await;
        witnessed(&marg).await;
        let status = status(&marg).await;
        let slow = status["witnesses"].as_array().unwrap().iter().find(|one| one["name"] == "slow.test-ed25519");
        assert!(slow.is_none_or(|slow| slow["cosigned"] == 0), "{status}");
    }
    trouble(&marg, "slow.test-ed25519", "did not answer in time").await;
}

#[tokio::test]
async fn a_witness_that_lies_counts_for_nothing() {
    let upstream = Upstream::http1().await;
    let says = |status, text: &str| Pretender::Says(status, text.to_owned());
    let liars = [
        ("forger.test", says(200, "— forger.test AAAAAAAAAAAAAAAA\n")),
        ("mute.test", says(200, "")),
        ("ahead.test", says(409, "99999999\n")),
        ("fickle.test", says(409, "1\n")),
        ("broken.test", says(500, "later\n")),
        ("long.test", says(200, &"x".repeat(100_000))),
        ("moved.test", says(302, "elsewhere\n")),
        ("endless.test", Pretender::Pours("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n", "4\r\nabcd\r\n")),
        ("head.test", Pretender::Pours("HTTP/1.1 200 X\r\n", "a: b\r\n")),
    ];
    let (marg, _honest) = among(&upstream, &liars, 2).await;
    exchange(&marg).await;
    for (name, part) in [
        ("forger.test-ed25519", "no valid cosignature"),
        ("mute.test-ed25519", "no valid cosignature"),
        ("ahead.test-ed25519", "has cosigned 99999999 entries"),
        ("fickle.test-ed25519", "409"),
        ("broken.test-ed25519", "500: later"),
        ("long.test-ed25519", "too long"),
        ("moved.test-ed25519", "302"),
        ("endless.test-ed25519", "too long"),
        ("head.test-ed25519", "broke"),
    ] {
        trouble(&marg, name, part).await;
    }
    until("the honest one cosigns", || async {
        let now = status(&marg).await;
        let mut states = now["witnesses"].as_array().unwrap().iter();
        states.any(|one| one["name"] == "honest.test-ed25519" && one["trouble"].is_null()).then_some(())
    })
    .await;
    assert_eq!(status(&marg).await["witnessed"], 0, "one honest witness is not two");
    std::fs::write(marg.path("trust.policy"), policy(&marg).await).unwrap();
    let arguments = ["audit", "verify", "--log", "data/audit/log", "--policy", "trust.policy"];
    let (code, output, errors) = marg.try_command(&arguments).await;
    assert!(code != 0 && errors.contains("not witnessed as the policy asks"), "{output}{errors}");
}
