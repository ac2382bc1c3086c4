//! The audit log through the real binary: everything is in it, it proves itself to somebody who has only public keys, and it
//! survives what happens to processes and disks.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup};
use crate::support::upstream::Upstream;
use crate::support::{soon, until};

pub(crate) fn body() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "x"}]})
}

pub(crate) async fn entries(marg: &Marg, query: &str) -> Vec<Value> {
    let answer = marg.ask_admin("GET", &format!("/admin/audit/entries?limit=1000&{query}"), None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["entries"].as_array().unwrap().clone()
}

/// The ids of every exchange in the log, each with how often it is there.
pub(crate) async fn exchanges(marg: &Marg) -> HashMap<String, usize> {
    let (code, output, errors) = marg.try_command(&["audit", "export", "--folder", "data/audit"]).await;
    assert_eq!(code, 0, "{errors}");
    let mut found = HashMap::new();
    for line in output.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        if entry["kind"] == "exchange" || entry["kind"] == "refusal" {
            *found.entry(entry["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    found
}

pub(crate) async fn receipt(marg: &Marg, id: &str) -> String {
    let answer = marg.ask_admin("GET", &format!("/admin/audit/receipts/{id}"), None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

pub(crate) async fn policy(marg: &Marg) -> String {
    let answer = marg.ask_admin("GET", "/admin/audit", None).await;
    answer.json()["policy"].as_str().unwrap().to_owned()
}

/// Runs `marg` where nothing of the gateway is.
pub(crate) async fn elsewhere(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_marg"));
    command.env_clear().current_dir(folder).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

pub(crate) async fn verified(marg: &Marg) {
    std::fs::write(marg.path("log.policy"), known_policy(marg)).unwrap();
    let arguments = ["audit", "verify", "--log", "data/audit/log", "--policy", "log.policy"];
    let (code, output, errors) = marg.try_command(&arguments).await;
    assert_eq!(code, 0, "{output}{errors}");
}

/// The public keys, from the key file.
pub(crate) fn known_policy(marg: &Marg) -> String {
    let key: Value = serde_json::from_slice(&std::fs::read(marg.path("data/audit.key")).unwrap()).unwrap();
    let lines: Vec<String> =
        key["public"].as_array().unwrap().iter().map(|key| format!("log {}", key.as_str().unwrap())).collect();
    format!("{}\nquorum none\n", lines.join("\n"))
}

#[tokio::test]
async fn every_answered_exchange_is_an_entry_whatever_its_end() {
    let upstream = Upstream::http1().await;
    let limits = json!([{"scope": "tag", "subject": "tight", "unit": "requests", "window": "total", "amount": 0}]);
    let marg = Setup::with_default(&upstream).set("limits", limits).start().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let answer = marg.chat("plain", &body()).await;
        assert_eq!((answer.status, answer.header("x-marg-receipt")), (200, &*answer.id()));
        ids.push((answer.id(), 200));
    }
    let malformed = Call::post("/v1/chat/completions", "malformed", "{").header("content-type", "application/json");
    let refused = [
        (401, Client::http1(marg.address, "wrong").await.send(Call::chat("wrong key", &body())).await),
        (400, marg.send(malformed).await),
        (404, marg.send(Call::new("GET", "/nothing/here")).await),
        (429, marg.send(Call::chat("tight", &body()).header("x-marg-tags", "tight")).await),
    ];
    for (status, answer) in refused {
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("x-marg-receipt"), answer.id());
        ids.push((answer.id(), status));
    }
    for (id, status) in &ids {
        let text = receipt(&marg, id).await;
        let whole: Value = serde_json::from_str(&text).unwrap();
        let entry: Value = serde_json::from_str(whole["entry"].as_str().unwrap()).unwrap();
        assert_eq!((entry["id"].as_str().unwrap(), &entry["status"]), (&**id, &json!(status)));
        assert_eq!(entry["kind"], if *status == 200 { "exchange" } else { "refusal" });
        assert!(whole["entry"].as_str().unwrap().len() <= 1024, "a plain entry has at most 1 KiB");
    }
    let found = exchanges(&marg).await;
    assert_eq!(found.len(), ids.len(), "{found:?}");
    assert!(found.values().all(|times| *times == 1));
    let key = format!("key={}&kind=exchange", marg.key_id);
    assert_eq!(entries(&marg, &key).await.len(), 5);
}

#[tokio::test]
async fn a_receipt_verifies_where_only_the_public_key_is_and_an_edited_tile_is_named() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    let answer = marg.chat("plain", &body()).await;
    let text = receipt(&marg, &answer.id()).await;
    let away = tempfile::tempdir().unwrap();
    std::fs::write(away.path().join("r.json"), &text).unwrap();
    std::fs::write(away.path().join("log.policy"), policy(&marg).await).unwrap();
    let arguments = ["audit", "verify", "--receipt", "r.json", "--policy", "log.policy"];
    let (good, said) = elsewhere(away.path(), &arguments).await;
    assert!(good, "{said}");
    std::fs::write(away.path().join("r.json"), text.replace("\\\"status\\\":200", "\\\"status\\\":201")).unwrap();
    let (good, said) = elsewhere(away.path(), &arguments).await;
    assert!(!good && said.contains("NOT VERIFIED"), "{said}");
    let server = format!("http://{}", marg.admin);
    let asked =
        marg.command(&["audit", "receipt", &answer.id(), "--server", &server, "--token", &marg.admin_token]).await;
    assert_eq!(asked["type"], "marg-audit-receipt/v1");
    for path in ["checkpoint", "rotations", "tile/../state"] {
        let got = marg.ask_admin("GET", &format!("/admin/audit/{path}"), None).await;
        assert_eq!(got.status, if path.contains("..") { 404 } else { 200 }, "{path}");
    }
    marg.signal(Signal::TERM);
    marg.ended().await;
    verified(&marg).await;
    let bundle = newest(&marg.path("data/audit/log/tile/entries/000.p"));
    let mut bytes = std::fs::read(&bundle).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&bundle, bytes).unwrap();
    let arguments = ["audit", "verify", "--log", "data/audit/log", "--policy", "log.policy"];
    let (code, output, errors) = marg.try_command(&arguments).await;
    assert!(code != 0 && errors.contains("tile/"), "{output}{errors}");
}

/// The partial file of the greatest width.
fn newest(folder: &Path) -> std::path::PathBuf {
    let names = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    names.max_by_key(|path| path.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap()).unwrap()
}

#[tokio::test]
async fn a_kept_checkpoint_is_continued_and_the_proof_needs_no_log() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let away = tempfile::tempdir().unwrap();
    let checkpoint = || async { marg.ask_admin("GET", "/admin/audit/checkpoint", None).await.text() };
    let mut kept = Vec::new();
    for number in 0..3 {
        receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
        kept.push(checkpoint().await);
        std::fs::write(away.path().join(format!("{number}.txt")), &kept[number]).unwrap();
    }
    std::fs::write(away.path().join("log.policy"), policy(&marg).await).unwrap();
    let size = kept[0].lines().nth(1).unwrap();
    let served = marg.ask_admin("GET", &format!("/admin/audit/consistency?since={size}"), None).await;
    assert_eq!(served.status, 200, "{}", served.text());
    let since = away.path().join("0.txt");
    let (since, to) = (since.to_str().unwrap().to_owned(), away.path().join("1.txt").to_str().unwrap().to_owned());
    let (code, made, errors) = marg.try_command(&["audit", "proof", "--since", &since, "--to", &to]).await;
    assert_eq!(code, 0, "{errors}");
    let (_, newest, _) = marg.try_command(&["audit", "proof", "--since", &since]).await;
    let verify = ["audit", "verify", "--proof", "proof.txt", "--since", "0.txt", "--policy", "log.policy"];
    for proof in [&served.text(), &made, &newest] {
        std::fs::write(away.path().join("proof.txt"), proof).unwrap();
        let (good, said) = elsewhere(away.path(), &verify).await;
        assert!(good, "{said}");
    }
    let other = [&verify[..5], &["1.txt"], &verify[6..]].concat();
    let (good, said) = elsewhere(away.path(), &other).await;
    assert!(!good && said.contains("it begins at size"), "{said}");
    let beyond = marg.ask_admin("GET", "/admin/audit/consistency?since=9999999", None).await;
    assert_eq!(beyond.status, 404);
    let backwards = ["audit", "proof", "--since", &to, "--to", &since];
    assert_ne!(marg.try_command(&backwards).await.0, 0);
}

#[tokio::test]
async fn what_operators_and_the_gateway_do_is_in_the_log_with_its_actor() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    let made = marg.ask_admin("POST", "/admin/keys", Some(&json!({"name": "watched"}))).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["key"]["id"].as_str().unwrap().to_owned();
    let changes = until("the change is in the log", || async {
        let found = entries(&marg, &format!("kind=key&subject={id}")).await;
        (!found.is_empty()).then_some(found)
    })
    .await;
    let entry = &changes[0]["entry"];
    assert_eq!(entry["actor"]["kind"], "admin_token", "{entry}");
    assert_eq!((&entry["verb"], &entry["detail"]["status"]), (&json!("create"), &json!(201)));
    assert!(!changes[0].to_string().contains(made.json()["token"].as_str().unwrap()));
    let mut config = marg.config.clone();
    config["audit"] = json!({"mode": "enforce"});
    marg.rewrite(&config);
    assert_eq!(marg.ask_admin("POST", "/admin/reload", None).await.status, 200);
    until("the mode is in the log", || async {
        let found = entries(&marg, "kind=mode&subject=audit").await;
        found.first().map(|one| assert_eq!(one["entry"]["detail"]["detail"]["to"], "enforce"))
    })
    .await;
    assert_eq!(entries(&marg, "kind=config").await.len(), 3, "begun, in force, and done");
    marg.signal(Signal::TERM);
    marg.ended().await;
    marg.restart().await;
    until("both lives are in the log", || async {
        let (starts, stops) = (entries(&marg, "kind=start").await, entries(&marg, "kind=stop").await);
        ((starts.len(), stops.len()) == (2, 1)).then_some(())
    })
    .await;
    verified(&marg).await;
}

#[tokio::test]
async fn what_a_reload_finds_behind_unchanged_references_is_named_and_in_the_log() {
    let upstream = Upstream::http1().await;
    let setup = Setup::with_default(&upstream);
    let write = |name: &str, text: &str| {
        std::fs::write(setup.path(name), text).unwrap();
        setup.path(name).display().to_string()
    };
    let price = |dollars: u32| {
        format!("prices:\n  - {{model: \"m*\", usd_per_million_tokens: {{input: {dollars}, output: 4}}}}\n")
    };
    let policy = "@id(\"all\") permit(principal, action, resource);\n";
    let places = setup.path("places.mmdb");
    let database = include_bytes!("../golden/kavach/places.mmdb");
    std::fs::write(&places, database).unwrap();
    let other = json!({
        "base_url": format!("file:{}", write("url", "http://127.0.0.1:9/v1")),
        "credentials": [format!("file:{}", write("credential", "sk-before"))],
        "headers": {"x-tenant": format!("file:{}", write("tenant", "one"))},
    });
    let mut kavach = json!({"mode": "observe", "policy": write("policy.cedar", policy)});
    kavach["drift"] = json!({"geo": true, "geo_database": places});
    let overlay = write("prices.yaml", &price(3));
    let setup = setup.set("prices", json!({ "overlay": overlay })).set("kavach", kavach);
    let marg = setup.set("providers", json!({ "other": other })).start().await;
    let reload = async || marg.ask_admin("POST", "/admin/reload", None).await.json();
    assert_eq!(reload().await["changed"], json!([]));
    let write = |name: &str, text: &str| std::fs::write(marg.path(name), text).unwrap();

    write("prices.yaml", &price(3000));
    assert_eq!(reload().await["changed"], json!(["prices.overlay"]));
    write("policy.cedar", &policy.replace("all", "every"));
    std::fs::write(marg.path("places.mmdb"), [&database[..], b"\0"].concat()).unwrap();
    let report = reload().await;
    assert_eq!(report["changed"], json!(["kavach.policy", "kavach.drift.geo_database"]), "{report}");
    write("url", "http://127.0.0.1:10/v1");
    write("credential", "sk-after");
    write("tenant", "two");
    let named = json!(["providers.other.base_url", "providers.other.credentials", "providers.other.headers"]);
    assert_eq!(reload().await["changed"], named);
    assert_eq!(reload().await["changed"], json!([]));

    let provider = until("the provider is in the log", || async {
        entries(&marg, "kind=provider&subject=other").await.into_iter().next()
    })
    .await;
    let detail = &provider["entry"]["detail"]["detail"];
    assert_eq!(detail["changed"], json!(["base_url", "credentials", "headers"]), "{provider}");
    let prices = entries(&marg, "kind=price&subject=prices").await;
    assert_eq!((prices.len(), &prices[0]["entry"]["verb"]), (1, &json!("update")));
    assert!(prices[0]["entry"]["detail"]["detail"]["overlay_sha256"].is_string(), "{}", prices[0]);
    assert_eq!(entries(&marg, "kind=policy").await.len(), 1);
    let all = json!(entries(&marg, "").await).to_string();
    assert!(all.contains("kavach.drift.geo_database") && all.contains(r#""changed":["prices.overlay"]"#), "{all}");
    for secret in ["sk-after", "127.0.0.1:10", "sk-before"] {
        assert!(!all.contains(secret) && !marg.logged().contains(secret), "{secret} is told");
    }
}

#[tokio::test]
async fn a_gateway_goes_over_to_the_next_key_at_its_start() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    let early = receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
    let old = known_policy(&marg);
    let (code, _, errors) = marg.try_command(&["audit", "key", "rotate", "--file", "data/audit.key"]).await;
    assert_eq!(code, 0, "{errors}");
    marg.signal(Signal::TERM);
    marg.ended().await;
    marg.restart().await;
    let late = receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
    assert_ne!(known_policy(&marg), old, "the next key took the place of the present one");
    assert!(!marg.path("data/audit.key.next").exists());
    let away = tempfile::tempdir().unwrap();
    std::fs::write(away.path().join("log.policy"), old).unwrap();
    for text in [early, late] {
        std::fs::write(away.path().join("r.json"), text).unwrap();
        let arguments = ["audit", "verify", "--receipt", "r.json", "--policy", "log.policy"];
        let (good, said) = elsewhere(away.path(), &arguments).await;
        assert!(good, "{said}");
    }
    marg.kill9();
    marg.restart().await;
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_calls_until_it_can() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).set("audit", json!({"mode": "enforce"})).start().await;
    let first = marg.chat("plain", &body()).await;
    receipt(&marg, &first.id()).await;
    let scratch = marg.path("data/audit/tmp");
    std::fs::remove_dir_all(&scratch).unwrap();
    std::fs::write(&scratch, b"in the way").unwrap();
    let refused = until("calls are refused", || async {
        let answer = marg.chat("plain", &body()).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    refused.assert_error(503, "unavailable");
    assert!(refused.text().contains("audit log"), "{}", refused.text());
    let ready = marg.ask_admin("GET", "/ready", None).await;
    assert!(ready.status == 503 && ready.text().contains("\"audit\""), "{}", ready.text());
    let metrics = marg.ask_admin("GET", "/metrics", None).await.text();
    assert!(metrics.contains("marg_audit_working 0"), "{metrics}");
    marg.logs("ALARM").await;
    std::fs::remove_file(&scratch).unwrap();
    std::fs::create_dir(&scratch).unwrap();
    let taken = until("calls are taken again", || async {
        let answer = marg.chat("plain", &body()).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    for id in [refused.id(), taken.id()] {
        receipt(&marg, &id).await;
    }
    verified(&marg).await;
}

#[tokio::test]
async fn kill_9_under_load_loses_and_doubles_no_entry() {
    kills(8).await;
}

#[tokio::test]
#[ignore = "takes minutes; run it with --ignored"]
async fn two_hundred_kills_lose_and_double_no_entry() {
    kills(200).await;
}

async fn kills(count: usize) {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).set("log", json!({"level": "warn"})).start().await;
    let answered: Arc<Mutex<Vec<String>>> = Arc::default();
    for _ in 0..count {
        let before = answered.lock().unwrap().len();
        let callers: Vec<_> =
            (0..3).map(|_| tokio::spawn(call(marg.address, marg.key.clone(), answered.clone()))).collect();
        until("callers are answered", || async { (answered.lock().unwrap().len() >= before + 3).then_some(()) }).await;
        tokio::time::sleep(Duration::from_millis(u64::from(getrandom::u32().unwrap() % 400))).await;
        marg.kill9();
        for caller in callers {
            soon("a caller ends", caller).await.unwrap();
        }
        if marg.path("data/audit/log/checkpoint").exists() {
            verified(&marg).await;
        }
        marg.restart().await;
    }
    let answered = answered.lock().unwrap().clone();
    receipt(&marg, answered.last().unwrap()).await;
    let found = until("the log holds everything", || async {
        let found = exchanges(&marg).await;
        answered.iter().all(|id| found.contains_key(id)).then_some(found)
    })
    .await;
    assert!(found.values().all(|times| *times == 1), "{found:?}");
    verified(&marg).await;
}

pub async fn call(address: std::net::SocketAddr, key: String, answered: Arc<Mutex<Vec<String>>>) {
    let mut client = Client::http1(address, &key).await;
    loop {
        let Ok(answer) = client.try_send(Call::chat("crash", &body())).await else { return };
        assert_eq!(answer.status, 200, "{}", answer.text());
        answered.lock().unwrap().push(answer.id());
    }
}

/// A witness's process, killed when dropped.
pub struct Witness(std::process::Child);

impl Drop for Witness {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// Starts a witness in a folder with `w.key` and `known.policy`; gives where it listens.
pub fn witness(folder: &Path) -> (Witness, String) {
    use std::io::BufRead;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_marg"));
    command.env_clear().current_dir(folder).stderr(std::process::Stdio::piped());
    command.args(["witness", "--listen", "127.0.0.1:0", "--key", "w.key", "--logs", "known.policy", "--dir", "seen"]);
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap().to_owned();
    (Witness(child), url)
}

#[tokio::test]
async fn a_witness_cosigns_and_a_rolled_back_log_is_seen() {
    let upstream = Upstream::http1().await;
    let setup = Setup::with_default(&upstream);
    let folder = setup.path("");
    std::fs::create_dir(setup.path("data")).unwrap();
    let key = |origin: &'static str, file: &'static str| ["audit", "key", "create", "--origin", origin, "--file", file];
    let made = elsewhere(&folder, &key("marg.test/1", "data/audit.key")).await;
    assert!(made.0, "{}", made.1);
    let made = elsewhere(&folder, &[&key("w.test", "w.key")[..], &["--witness"]].concat()).await;
    assert!(made.0, "{}", made.1);
    let (_, known) = elsewhere(&folder, &["audit", "key", "export-public", "--file", "data/audit.key"]).await;
    std::fs::write(folder.join("known.policy"), known).unwrap();
    let (_witness, url) = witness(&folder);
    let (_, public) = elsewhere(&folder, &["audit", "key", "export-public", "--file", "w.key"]).await;
    let lines = public.lines().filter_map(|line| line.strip_prefix("witness "));
    let witnesses: Vec<String> = lines.map(|line| format!("{line} {url}")).collect();
    assert_eq!(witnesses.len(), 2);
    let mut marg = setup.set("audit", json!({"witnesses": witnesses, "quorum": 1})).start().await;
    let answer = marg.chat("plain", &body()).await;
    receipt(&marg, &answer.id()).await;
    let witnessed = |at_least: u64| {
        let marg = &marg;
        async move {
            let status = marg.ask_admin("GET", "/admin/audit", None).await.json();
            (status["witnessed"].as_u64().unwrap() >= at_least).then_some(status)
        }
    };
    let signed = marg.ask_admin("GET", "/admin/audit", None).await.json()["signed"].as_u64().unwrap();
    let status = until("the entry is witnessed", || witnessed(signed)).await;
    std::fs::write(folder.join("trust.policy"), status["policy"].as_str().unwrap()).unwrap();
    std::fs::write(folder.join("r.json"), receipt(&marg, &answer.id()).await).unwrap();
    let arguments = ["audit", "verify", "--receipt", "r.json", "--policy", "trust.policy"];
    let (good, said) = elsewhere(&folder, &arguments).await;
    assert!(good && said.contains("w.test-ml-dsa-44"), "{said}");
    // The standing outlives a restart.
    marg.signal(Signal::TERM);
    marg.ended().await;
    let old = copied(&folder.join("data"), &folder.join("old"));
    marg.restart().await;
    let status = marg.ask_admin("GET", "/admin/audit", None).await.json();
    assert!(status["witnessed"].as_u64().unwrap() >= 2, "{status}");
    let more = marg.chat("plain", &body()).await;
    receipt(&marg, &more.id()).await;
    let size = marg.ask_admin("GET", "/admin/audit", None).await.json()["signed"].as_u64().unwrap();
    until("the rest is witnessed", || async {
        let status = marg.ask_admin("GET", "/admin/audit", None).await.json();
        (status["witnessed"].as_u64().unwrap() >= size).then_some(())
    })
    .await;
    // Everything is put back to an older copy, which is consistent in itself.
    marg.kill9();
    std::fs::remove_dir_all(folder.join("data")).unwrap();
    std::fs::rename(old, folder.join("data")).unwrap();
    marg.restart().await;
    marg.logs("ALARM: a witness has seen another copy").await;
}

/// A copy of a folder.
pub fn copied(from: &Path, to: &Path) -> std::path::PathBuf {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
    to.to_owned()
}
