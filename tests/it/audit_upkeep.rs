//! A log that grows: retention, old files on other storage, an index that can be lost, alarms, and what is noted of trouble.

use std::sync::Arc;
use std::time::Duration;

use marg::audit::disk::System;
use marg::audit::entry::{Actor, Entry, Event, Noun};
use marg::audit::key::{Purpose, SigningKeys};
use marg::audit::log::{Log, Settings};
use marg::audit::policy::Policy;
use marg::audit::tail::Taken;
use marg::unit::clock::Timestamp;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::audit::{body, entries, receipt, verified};
use crate::support::client::Call;
use crate::support::marg::{Marg, Setup};
use crate::support::upstream::Upstream;
use crate::support::{soon, until};

/// Gives a gateway that is not started yet a log with so many entries, all of them ten days old.
async fn aged(setup: &Setup, count: u64) {
    let (key, folder) = (setup.path("data/audit.key"), setup.path("data/audit"));
    tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder).unwrap();
        let now = Timestamp::now();
        let keys = SigningKeys::create(Purpose::Log, "marg.test/old", now).unwrap();
        keys.save(&key, None).unwrap();
        let settings = Settings { folder, interval: Duration::ZERO, policy: Policy::default() };
        let log = Log::open(settings, keys, None, Arc::new(System), now).unwrap();
        let old = now.minus(Duration::from_secs(10 * 86_400));
        let entry = |number: u64| {
            let actor = Actor { kind: "system".to_owned(), id: None, label: None, address: None };
            let (subject, detail) = (Some(format!("old-{number}")), serde_json::Map::new());
            let event = Event { at: old, actor, noun: Noun::Config, verb: "reload".to_owned(), subject, detail };
            Taken::new(&Entry::Event(event), None)
        };
        log.record(&(0..count).map(entry).collect::<Vec<_>>()).unwrap();
        log.finish(now).unwrap();
    })
    .await
    .unwrap();
}

async fn status(marg: &Marg) -> Value {
    marg.ask_admin("GET", "/admin/audit", None).await.json()
}

#[tokio::test]
async fn entries_past_their_retention_go_by_themselves_and_proofs_stay() {
    let upstream = Upstream::http1().await;
    let setup = Setup::with_default(&upstream).set("audit", json!({"retention_days": 7}));
    aged(&setup, 600).await;
    let marg = setup.start().await;
    until("old entries are deleted", || async { (status(&marg).await["pruned"] == 512).then_some(()) }).await;
    assert!(!marg.path("data/audit/log/tile/entries/000").exists());
    assert!(marg.path("data/audit/log/tile/0/000").exists());
    let gone = marg.ask_admin("GET", "/admin/audit/receipts/3", None).await;
    assert!(gone.status == 404 && gone.text().contains("deleted"), "{}", gone.text());
    receipt(&marg, "520").await;
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
    assert_eq!(entries(&marg, "kind=prune").await[0]["entry"]["detail"]["below"], 512);
    verified(&marg).await;
    let arguments = ["audit", "verify", "--log", "data/audit/log", "--policy", "log.policy", "--output", "json"];
    let (code, said, errors) = marg.try_command(&arguments).await;
    assert!(code == 0 && said.contains("\"pruned\": 512"), "{said}{errors}");
}

#[tokio::test]
async fn old_files_lie_elsewhere_while_the_gateway_goes_on() {
    let upstream = Upstream::http1().await;
    let setup = Setup::with_default(&upstream);
    aged(&setup, 700).await;
    let mut marg = setup.start().await;
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
    let (code, said, errors) = marg.try_command(&["audit", "archive", "--to", "bucket", "--keep", "100"]).await;
    assert!(code == 0 && said.contains("below 512"), "{said}{errors}");
    assert!(!marg.path("data/audit/log/tile/entries/000").exists());
    for index in ["3", "511", "512"] {
        receipt(&marg, index).await;
    }
    let tile = marg.ask_admin("GET", "/admin/audit/tile/entries/001", None).await;
    assert_eq!((tile.status, tile.body.len() > 1_000), (200, true));
    assert_eq!(entries(&marg, "subject=old-5").await.len(), 1);
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
    marg.signal(Signal::TERM);
    marg.ended().await;
    marg.restart().await;
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
    receipt(&marg, "3").await;
    verified(&marg).await;
    // What a static file server would give of both places is one log.
    let mirror = marg.path("mirror");
    for from in ["data/audit/log/.", "bucket/."] {
        let done = std::process::Command::new("cp").arg("-r").arg(marg.path(from)).arg(&mirror).status().unwrap();
        assert!(done.success());
    }
    std::fs::remove_file(mirror.join("archive")).unwrap();
    let (code, _, errors) = marg.try_command(&["audit", "verify", "--log", "mirror", "--policy", "log.policy"]).await;
    assert_eq!(code, 0, "{errors}");
    // While the other place is away, what is not there is not passed over in silence.
    std::fs::rename(marg.path("bucket"), marg.path("away")).unwrap();
    for (command, part) in [
        (&["audit", "export"][..], "The entries from 0 to 511 are missing, and the log did not delete them."),
        (&["audit", "search", "--limit", "1"], "the log did not delete them"),
        (&["audit", "verify", "--log", "data/audit/log", "--policy", "log.policy"], "it is missing, also from"),
    ] {
        let (code, said, errors) = marg.try_command(command).await;
        assert!(code == 1 && said.is_empty() && errors.contains(part) && errors.contains("bucket"), "{said}{errors}");
    }
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
}

#[tokio::test]
async fn a_lost_index_is_made_again_from_the_log() {
    let upstream = Upstream::http1().await;
    let setup = Setup::with_default(&upstream);
    aged(&setup, 600).await;
    let mut marg = setup.start().await;
    let index = marg.path("data/audit/index");
    // 64 bundles share a file.
    let rows = || std::fs::metadata(index.join("64/000")).unwrap().len();
    assert_eq!(rows(), 2 * 256 * 64);
    std::fs::remove_dir_all(&index).unwrap();
    assert_eq!(entries(&marg, "subject=old-5").await.len(), 1, "a search makes what it needs");
    std::fs::remove_dir_all(&index).unwrap();
    let (code, said, errors) = marg.try_command(&["audit", "index", "rebuild"]).await;
    assert!(code == 0 && said.contains("2 bundles"), "{said}{errors}");
    assert_eq!(rows(), 2 * 256 * 64);
    marg.signal(Signal::TERM);
    marg.ended().await;
    let mut bytes = std::fs::read(index.join("64/000")).unwrap();
    bytes[300 * 64..310 * 64].fill(7);
    std::fs::write(index.join("64/000"), bytes).unwrap();
    let (code, said, errors) = marg.try_command(&["audit", "search", "--subject", "old-300"]).await;
    assert!(code == 0 && said.contains("old-300"), "{said}{errors}");
    std::fs::remove_dir_all(&index).unwrap();
    marg.restart().await;
    assert_eq!(entries(&marg, "subject=old-300").await.len(), 1);
}

#[tokio::test]
async fn a_damaged_line_of_the_journal_is_a_gap_in_the_log_and_an_alarm() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
    marg.signal(Signal::TERM);
    marg.ended().await;
    let torn = marg.path("data/journal/0000000000000001-00000007-00000000.journal");
    std::fs::write(torn, "\n00000000 r {\"damaged\":true}\n").unwrap();
    marg.restart().await;
    let gaps = until("the gap is in the log", || async {
        let found = entries(&marg, "kind=gap").await;
        (!found.is_empty()).then_some(found)
    })
    .await;
    assert_eq!(gaps.len(), 1);
    let entry = &gaps[0]["entry"];
    assert_eq!(entry["reason"], "journal_damaged");
    assert!(entry["detail"].as_str().unwrap().contains("0000000000000001-00000007-00000000"), "{entry}");
    marg.logs("ALARM: something is missing in the audit log").await;
    let metrics = marg.ask_admin("GET", "/metrics", None).await.text();
    assert!(metrics.contains("marg_audit_gaps_total 1"), "{metrics}");
    verified(&marg).await;
}

#[tokio::test]
async fn a_journal_file_that_somebody_took_away_is_a_gap_in_the_log() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
    // The commands that made the keys left journals, too; those go.
    let full = until("one journal is left", || async {
        let journal = std::fs::read_dir(marg.path("data/journal")).unwrap().map(|file| file.unwrap().path());
        let full = journal.filter(|file| file.metadata().is_ok_and(|file| file.len() > 0)).collect::<Vec<_>>();
        (full.len() == 1).then_some(full)
    })
    .await;
    marg.kill9();
    std::fs::remove_file(&full[0]).unwrap();
    marg.restart().await;
    let gaps = until("the gap is in the log", || async {
        let found = entries(&marg, "kind=gap").await;
        (!found.is_empty()).then_some(found)
    })
    .await;
    let detail = gaps[0]["entry"]["detail"].as_str().unwrap();
    assert!(detail.contains(full[0].file_name().unwrap().to_str().unwrap()), "{detail}");
    for clean in [false, true] {
        if clean {
            marg.signal(Signal::TERM);
            marg.ended().await;
        } else {
            marg.kill9();
        }
        marg.restart().await;
        receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
        assert_eq!(entries(&marg, "kind=gap").await.len(), 1, "clean: {clean}");
    }
    verified(&marg).await;
}

#[tokio::test]
async fn an_alarm_is_told_in_four_ways_and_ends() {
    let (upstream, receiver) = (Upstream::http1().await, Upstream::http1().await);
    let hook = format!("http://{}/hook", receiver.address);
    let setup = Setup::with_default(&upstream).set("budget", json!({"webhook_url": hook}));
    let marg = setup.start().await;
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
    let scratch = marg.path("data/audit/tmp");
    std::fs::remove_dir_all(&scratch).unwrap();
    std::fs::write(&scratch, b"in the way").unwrap();
    marg.chat("plain", &body()).await;
    let ready = until("the state says so", || async {
        let ready = marg.ask_admin("GET", "/ready", None).await;
        ready.text().contains("cannot be written").then_some(ready)
    })
    .await;
    assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("degraded")), "calls go on");
    let metric = |value: u8| format!("marg_audit_alarm{{what=\"writing\"}} {value}");
    assert!(marg.ask_admin("GET", "/metrics", None).await.text().contains(&metric(1)));
    marg.logs("ALARM: the audit log cannot be written").await;
    let told = receiver.wait_for("", 1).await[0].json();
    assert_eq!(
        (&told["event"], &told["what"], &told["raised"]),
        (&json!("audit_alarm"), &json!("writing"), &json!(true))
    );
    std::fs::remove_file(&scratch).unwrap();
    std::fs::create_dir(&scratch).unwrap();
    marg.logs("the alarm of the audit log is over").await;
    let told = receiver.wait_for("", 2).await[1].json();
    assert_eq!((&told["what"], &told["raised"]), (&json!("writing"), &json!(false)));
    assert!(marg.ask_admin("GET", "/metrics", None).await.text().contains(&metric(0)));
    until("the state is good again", || async {
        (marg.ask_admin("GET", "/ready", None).await.json()["status"] == "ready").then_some(())
    })
    .await;
}

/// A `marg audit tail`, killed when dropped.
struct Tail(std::process::Child, tokio::sync::mpsc::Receiver<String>);

impl Tail {
    fn start(marg: &Marg, arguments: &[&str]) -> Self {
        use std::io::BufRead;
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_marg"));
        command.env_clear().current_dir(marg.path("")).args(arguments);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let (sender, lines) = tokio::sync::mpsc::channel(1_000);
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().try_for_each(|line| sender.blocking_send(line.unwrap())));
        Self(child, lines)
    }

    async fn next(&mut self) -> String {
        soon("a line of the tail", self.1.recv()).await.expect("the tail goes on")
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.0.kill();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_running_instance_is_searched_as_its_folder_is() {
    let setup = Setup::new();
    aged(&setup, 1_500).await;
    let marg = setup.start().await;
    let id = marg.send(Call::new("GET", "/nothing/here")).await.id();
    receipt(&marg, &id).await;
    let server = format!("http://{}", marg.admin);
    let server = ["--server", &server, "--token", &marg.admin_token];
    let cases: [&[&str]; 7] = [
        &["search", "--limit", "1200"],
        &["search", "--subject", "old-300"],
        &["search", "--kind", "refusal", "--until", "2100-01-01T00:00:00Z"],
        &["search", "--key", "nobody's"],
        &["search", "--limit", "3", "--output", "yaml"],
        &["export", "--since", "2100-01-01T00:00:00Z"],
        &["export"],
    ];
    for case in cases {
        let (code, here, errors) = marg.try_command(&[&["audit"], case].concat()).await;
        assert_eq!(code, 0, "{case:?}: {errors}");
        let (code, there, errors) = marg.try_command(&[&["audit"], case, &server[..]].concat()).await;
        assert_eq!(code, 0, "{case:?}: {errors}");
        let documents = here.lines().filter(|line| *line == "---").count();
        assert_eq!(documents, if case.contains(&"yaml") { 3 } else { 0 }, "{here}");
        // The gateway goes on writing; everything that the first saw the second must have seen.
        let whole = case[0] == "search" || there.starts_with(&here);
        assert!(whole && (here == there || case[0] == "export"), "{case:?}: {} and {}", here.len(), there.len());
    }
}

#[tokio::test]
async fn a_live_tail_follows_what_comes() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
    follows(&marg, &["audit", "tail", "--kind", "exchange"]).await;
    let server = format!("http://{}", marg.admin);
    follows(&marg, &["audit", "tail", "--kind", "exchange", "--server", &server, "--token", &marg.admin_token]).await;
}

#[tokio::test]
async fn a_live_tail_goes_on_when_its_instance_comes_back() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    let server = format!("http://{}", marg.admin);
    let server = ["--server", &server, "--token", &marg.admin_token];
    let tail =
        |group: &str, own: &[&str]| Tail::start(&marg, &[&[group, "tail", "--output", "json"], own, &server].concat());
    let mut requests = tail("requests", &["--lines", "0"]);
    let mut entries = tail("audit", &["--kind", "exchange"]);
    // Both begin where they are started, which may be a moment from now.
    for lines in [&mut requests, &mut entries] {
        tokio::select! {
            _ = lines.next() => {}
            () = async { loop { marg.chat("plain", &body()).await; } } => unreachable!("calls go on"),
        }
    }
    let last = marg.chat("plain", &body()).await.id();
    for lines in [&mut requests, &mut entries] {
        while !lines.next().await.contains(&last) {}
    }
    marg.signal(rustix::process::Signal::TERM);
    marg.ended().await;
    marg.restart().await;
    let first = marg.chat("plain", &body()).await.id();
    for lines in [&mut requests, &mut entries] {
        let line = lines.next().await;
        assert!(line.contains(&first), "nothing is missed, and nothing told twice: {line}");
    }
}

async fn follows(marg: &Marg, arguments: &[&str]) {
    let mut lines = Tail::start(marg, arguments);
    // It begins where it is started, which may be a moment from now.
    let line = tokio::select! {
        line = lines.next() => line,
        () = async { loop { marg.chat("plain", &body()).await; } } => unreachable!("calls go on"),
    };
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["kind"], "exchange");
    // Two in a row come in the order of the log.
    let refused = marg.send(Call::new("GET", "/nothing/here")).await.id();
    let asked = marg.chat("plain", &body()).await.id();
    let mut seen = Vec::new();
    while !seen.contains(&asked) {
        let line = lines.next().await;
        seen.push(serde_json::from_str::<Value>(&line).unwrap()["id"].as_str().unwrap().to_owned());
    }
    assert!(!seen.contains(&refused), "a filter counts for the tail, too");
}

#[tokio::test]
async fn live_streams_tell_nothing_more_once_their_token_is_revoked() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let before = marg.chat("plain", &body()).await.id();
    receipt(&marg, &before).await;
    marg.record(&before).await;
    let new = json!({"label": "reader", "role": "auditor"});
    let made = marg.ask_admin("POST", "/admin/tokens", Some(&new)).await.json();
    let mut streams = Vec::new();
    for path in ["/admin/requests/tail", "/admin/audit/tail"] {
        let mut stream = TcpStream::connect(marg.admin).await.unwrap();
        let token = made["token"].as_str().unwrap();
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        while !(text.windows(12).any(|piece| piece == b"retry: 2000\n") && text.ends_with(b"\n\n\r\n")) {
            text.push(soon("the beginning of the stream", stream.read_u8()).await.unwrap());
        }
        streams.push(stream);
    }
    let path = format!("/admin/tokens/{}/revoke", made["admin_token"]["id"].as_str().unwrap());
    assert_eq!(marg.ask_admin("POST", &path, None).await.status, 200);
    let after = marg.chat("plain", &body()).await.id();
    receipt(&marg, &after).await;
    for mut stream in streams {
        let mut rest = String::new();
        soon("the end of the stream", stream.read_to_string(&mut rest)).await.unwrap();
        // What came just before the stream may still have been on its way.
        assert!(rest.ends_with("0\r\n\r\n") && !rest.contains(&after), "{rest}");
    }
}
