//! The folder of the audit log: one writer at a time, what earlier builds wrote, disks that are full or fail.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::audit::{body, elsewhere, exchanges, receipt, verified};
use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup};
use crate::support::until;
use crate::support::upstream::Upstream;

/// A second gateway on the data folder of the first, on ports of its own. Killed when dropped.
struct Beside {
    child: Child,
    address: std::net::SocketAddr,
    admin: std::net::SocketAddr,
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Beside {
    async fn start(marg: &Marg, ports: &Setup) -> Self {
        let mut config = marg.config.clone();
        config["server"]["listen"] = ports.listen().into();
        config["admin"]["listen"] = ports.admin().into();
        std::fs::write(marg.path("beside.yaml"), config.to_string()).unwrap();
        let log = std::fs::File::create(marg.path("beside.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_marg"));
        command.env_clear().current_dir(marg.path("")).args(["start", "--config", "beside.yaml"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let (address, admin) = (ports.listen().parse().unwrap(), ports.admin().parse().unwrap());
        let beside = Self { child, address, admin };
        until("the second gateway listens", || async {
            let open = tokio::net::TcpStream::connect(address).await.is_ok();
            (open && tokio::net::TcpStream::connect(admin).await.is_ok()).then_some(())
        })
        .await;
        beside
    }

    async fn status(&self, token: &str) -> Value {
        let mut client = Client::http1(self.admin, token).await;
        client.open(Call::new("GET", "/admin/audit")).await.finish_unchecked().await.json()
    }
}

#[tokio::test]
async fn a_second_gateway_on_one_folder_waits_for_the_log_and_takes_it_over() {
    let upstream = Upstream::http1().await;
    for killed in [false, true] {
        let mut marg = Setup::with_default(&upstream).start().await;
        let mut ids = vec![marg.chat("plain", &body()).await.id()];
        receipt(&marg, &ids[0]).await;
        let ports = Setup::new();
        let beside = Beside::start(&marg, &ports).await;
        let status = beside.status(&marg.admin_token).await;
        assert_eq!(status["working"], false, "{status}");
        assert!(status["trouble"].as_str().unwrap().contains("another process writes the audit log"), "{status}");
        // Both take calls; what the second answers waits in its journal.
        for _ in 0..3 {
            ids.push(marg.chat("plain", &body()).await.id());
            let answer = Client::http1(beside.address, &marg.key).await.send(Call::chat("plain", &body())).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            ids.push(answer.id());
        }
        if killed {
            marg.kill9();
        } else {
            marg.signal(Signal::TERM);
            marg.ended().await;
        }
        until("the second takes the log over", || async {
            (beside.status(&marg.admin_token).await["working"] == true).then_some(())
        })
        .await;
        let found = until("every exchange of both is in the log", || async {
            let found = exchanges(&marg).await;
            ids.iter().all(|id| found.contains_key(id)).then_some(found)
        })
        .await;
        assert!(found.values().all(|times| *times == 1), "killed: {killed}, {found:?}");
        verified(&marg).await;
    }
}

#[tokio::test]
async fn an_upgrade_in_enforce_mode_refuses_nobody() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).set("audit", json!({"mode": "enforce"})).start().await;
    let mut ids = vec![marg.chat("plain", &body()).await.id()];
    let ports = Setup::new();
    let beside = Beside::start(&marg, &ports).await;
    let call = async || {
        let answer = Client::http1(beside.address, &marg.key).await.send(Call::chat("plain", &body())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.id()
    };
    ids.push(call().await);
    until("the second knows that the log is another's", || async {
        let status = beside.status(&marg.admin_token).await;
        status["trouble"].as_str().is_some_and(|text| text.contains("another process")).then_some(())
    })
    .await;
    ids.push(call().await);
    let ready = Client::http1(beside.admin, &marg.admin_token).await.open(Call::new("GET", "/ready")).await;
    assert_eq!(ready.finish_unchecked().await.status, 200);
    marg.signal(Signal::TERM);
    marg.ended().await;
    let found = until("every exchange of both is in the log", || async {
        let found = exchanges(&marg).await;
        ids.iter().all(|id| found.contains_key(id)).then_some(found)
    })
    .await;
    assert!(found.values().all(|times| *times == 1), "{found:?}");
    let scratch = marg.path("data/audit/tmp");
    std::fs::remove_dir_all(&scratch).unwrap();
    std::fs::write(&scratch, b"in the way").unwrap();
    until("a log that cannot be written for another reason stops calls", || async {
        let mut client = Client::http1(beside.address, &marg.key).await;
        (client.send(Call::chat("plain", &body())).await.status == 503).then_some(())
    })
    .await;
}

/// `tests/golden/audit/node` is the folder of a gateway that an earlier build wrote.
#[tokio::test]
async fn a_gateway_goes_on_with_the_log_of_an_earlier_build() {
    let upstream = Upstream::http1().await;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/audit/node");
    let setup = Setup::with_default(&upstream);
    let data = setup.path("data");
    let done = Command::new("cp").arg("-r").arg(&golden).arg(&data).status().unwrap();
    assert!(done.success());
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(data.join("audit.key"), owner_only).unwrap();
    let trust = setup.path("trust.policy");
    let text = std::fs::read_to_string(golden.join("policy.txt")).unwrap();
    let logs: Vec<&str> = text.lines().filter(|line| line.starts_with("log ")).collect();
    std::fs::write(&trust, format!("{}\nquorum none\n", logs.join("\n"))).unwrap();
    let mut marg = setup.start().await;
    let answer = marg.chat("plain", &body()).await;
    let proof = receipt(&marg, &answer.id()).await;
    let entry: Value = serde_json::from_str(&proof).unwrap();
    assert!(entry["proof"].as_str().unwrap().contains("\nmarg.example/golden\n"), "{entry}");
    std::fs::write(marg.path("r.json"), proof).unwrap();
    marg.kill9();
    let old = golden.join("audit/log/checkpoint");
    for what in [["--receipt", "r.json"], ["--log", "data/audit/log"]] {
        let arguments = [&["audit", "verify", "--policy", "trust.policy"][..], &what].concat();
        let since = ["--since", old.to_str().unwrap()];
        let arguments = if what[0] == "--log" { [&arguments[..], &since].concat() } else { arguments };
        let (good, said) = elsewhere(&marg.path(""), &arguments).await;
        assert!(good, "{said}");
    }
    marg.restart().await;
    receipt(&marg, &marg.chat("plain", &body()).await.id()).await;
}

/// A file system of one megabyte, where this machine lets a test make one.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(path: &Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), "tmpfs"]).arg(path);
        let done = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        done.is_ok_and(|done| done.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily, as a killed process may hold it a moment longer.
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[tokio::test]
#[ignore = "mounts a file system; needs root"]
async fn a_full_disk_stops_calls_and_they_go_on_when_there_is_room() {
    let upstream = Upstream::http1().await;
    for (mode, strict) in [("enforce", false), ("enforce", true), ("observe", false)] {
        let setup = Setup::with_default(&upstream);
        let folder = setup.path("small");
        let small = Small::mount(&folder, 1 << 20).expect("a test as root may mount a file system");
        let audit = json!({"mode": mode, "folder": folder.join("audit"), "interval_ms": if strict { 10 } else { 250 }});
        let mut marg = setup.set("audit", audit).start().await;
        let first = marg.chat("plain", &body()).await;
        receipt(&marg, &first.id()).await;
        let ballast = folder.join("ballast");
        // Whatever is left goes.
        let full = std::fs::write(&ballast, vec![0; 2 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        let mut ids = vec![first.id()];
        let stopped = until("the log cannot be written", || async {
            let answer = marg.chat("plain", &body()).await;
            let status = marg.ask_admin("GET", "/admin/audit", None).await.json();
            (answer.status == 503 || (mode == "observe" && status["working"] == false)).then_some(answer)
        })
        .await;
        if mode == "enforce" {
            assert!(stopped.text().contains("audit log"), "{}", stopped.text());
        }
        ids.push(stopped.id());
        // A restart on a full disk comes up and says so.
        marg.kill9();
        marg.restart_degraded().await;
        std::fs::remove_file(&ballast).unwrap();
        let taken = until("calls are taken again", || async {
            let answer = marg.chat("plain", &body()).await;
            (answer.status == 200).then_some(answer)
        })
        .await;
        ids.push(taken.id());
        until("the log is written again", || async {
            let status = marg.ask_admin("GET", "/admin/audit", None).await.json();
            (status["working"] == true).then_some(())
        })
        .await;
        for id in &ids {
            receipt(&marg, id).await;
        }
        marg.signal(Signal::TERM);
        marg.ended().await;
        let policy = marg.path("log.policy");
        std::fs::write(&policy, crate::audit::known_policy(&marg)).unwrap();
        let log = folder.join("audit/log");
        let arguments = ["audit", "verify", "--log", log.to_str().unwrap(), "--policy", "log.policy"];
        let (code, output, errors) = marg.try_command(&arguments).await;
        assert_eq!(code, 0, "{output}{errors}");
        drop(small);
    }
}
