//! The gateway's process: a configuration, a key, a start, signals, what it wrote down.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Answer, Call, Client};
use crate::support::upstream::Upstream;
use crate::support::{CREDENTIAL, until};

/// A configuration in the making.
pub struct Setup {
    folder: TempDir,
    config: Value,
    variables: Vec<(String, String)>,
}

/// A running gateway. It is killed when dropped; if its test failed, what it logged is printed.
pub struct Marg {
    /// Where applications connect.
    pub address: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// An application key that may do everything.
    pub key: String,
    /// The id of that key.
    pub key_id: String,
    /// An admin token.
    pub admin_token: String,
    /// The configuration as it was started.
    pub config: Value,
    folder: TempDir,
    variables: Vec<(String, String)>,
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Setup {
    /// Defaults of a test: free ports, an own folder, records written at once.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "data_dir": folder.path().join("data"),
            "server": {"listen": format!("127.0.0.1:{}", free_port()), "threads": 2},
            "admin": {"listen": format!("127.0.0.1:{}", free_port())},
            "log": {"level": "info", "format": "json"},
            "ledger": {"batch_delay_ms": 5},
            "providers": {},
            "routes": [],
        });
        Self { folder, config, variables: Vec::new() }
    }

    /// One provider as the default.
    pub fn with_default(upstream: &Upstream) -> Self {
        Self::new().provider("main", upstream, json!({})).set("default_provider", json!("main"))
    }

    /// A provider with one credential; `more` is merged into its settings.
    pub fn provider(mut self, name: &str, upstream: &Upstream, more: Value) -> Self {
        let mut provider = json!({
            "base_url": format!("http://{}/v1", upstream.address),
            "credentials": [format!("plain:{CREDENTIAL}{name}")],
        });
        merge(&mut provider, more);
        self.config["providers"][name] = provider;
        self
    }

    /// One more route.
    pub fn route(mut self, route: Value) -> Self {
        self.config["routes"].as_array_mut().unwrap().push(route);
        self
    }

    /// A setting; objects are merged into what is there.
    pub fn set(mut self, name: &str, value: Value) -> Self {
        merge(&mut self.config[name], value);
        self
    }

    /// An environment variable of the gateway.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where applications will connect.
    pub fn listen(&self) -> &str {
        self.config["server"]["listen"].as_str().unwrap()
    }

    /// Where operators will connect.
    pub fn admin(&self) -> &str {
        self.config["admin"]["listen"].as_str().unwrap()
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts with one route for everything.
    pub async fn start_with_route(self, to: &str) -> Marg {
        self.route(json!({"to": to})).start().await
    }

    /// Makes a key and an admin token, starts the gateway and waits until it is ready.
    pub async fn start(self) -> Marg {
        write_config(self.folder.path(), &self.config);
        let (folder, variables) = (self.folder, self.variables);
        let key = command(folder.path(), &variables, &["keys", "create", "--name", "it", "--output", "json"]).await;
        let admin = ["admin", "token", "create", "--label", "it", "--role", "admin", "--output", "json"];
        let admin = command(folder.path(), &variables, &admin).await;
        let log = Arc::default();
        let child = launch(folder.path(), &variables, &log);
        let marg = Marg {
            address: self.config["server"]["listen"].as_str().unwrap().parse().unwrap(),
            admin: self.config["admin"]["listen"].as_str().unwrap().parse().unwrap(),
            key: text(&key, "token"),
            key_id: text(&key["key"], "id"),
            admin_token: text(&admin, "token"),
            config: self.config,
            folder,
            variables,
            child,
            log,
        };
        marg.ready().await;
        marg
    }
}

impl Marg {
    /// An HTTP/1.1 connection with the key.
    pub async fn http1(&self) -> Client {
        Client::http1(self.address, &self.key).await
    }

    /// An HTTP/2 connection with the key; only if `server.h2c` is set.
    pub async fn http2(&self) -> Client {
        Client::http2(self.address, &self.key).await
    }

    /// Sends one request on a connection of its own.
    pub async fn send(&self, call: Call) -> Answer {
        self.http1().await.send(call).await
    }

    /// Sends one chat completion on a connection of its own.
    pub async fn chat(&self, case: &str, body: &Value) -> Answer {
        self.send(Call::chat(case, body)).await
    }

    /// Sends one request whose answer may name addresses.
    pub async fn send_unchecked(&self, call: Call) -> Answer {
        self.http1().await.open(call).await.finish_unchecked().await
    }

    /// Asks the admin side.
    pub async fn ask_admin(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut call = Call::new(method, path);
        if let Some(body) = body {
            call = call.header("content-type", "application/json").body(body.to_string());
        }
        let mut client = Client::http1(self.admin, &self.admin_token).await;
        client.open(call).await.finish_unchecked().await
    }

    /// The ledger's record of an exchange, once it is there.
    pub async fn record(&self, id: &str) -> Value {
        self.record_when(id, |_| true).await
    }

    /// The ledger's record of an exchange, once it is as wanted.
    pub async fn record_when(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("the record of {id}"), || async {
            let answer = self.ask_admin("GET", &format!("/admin/requests/{id}"), None).await;
            assert!(matches!(answer.status, 200 | 404), "{}: {}", answer.status, answer.text());
            let record = (answer.status == 200).then(|| answer.json())?;
            wanted(&record).then_some(record)
        })
        .await
    }

    /// Runs a command against the same configuration and gives what it printed, as JSON.
    pub async fn command(&self, arguments: &[&str]) -> Value {
        command(self.folder.path(), &self.variables, arguments).await
    }

    /// Runs a command in the gateway's folder and gives its exit code, its output and what it complained of.
    pub async fn try_command(&self, arguments: &[&str]) -> (i32, String, String) {
        run(self.folder.path(), &self.variables, arguments).await
    }

    /// Makes another key and waits until the gateway has heard of it; gives its token and its id.
    pub async fn make_key(&self, arguments: &[&str]) -> (String, String) {
        let all = [&["keys", "create", "--name", "other", "--output", "json"], arguments].concat();
        let key = self.command(&all).await;
        let token = text(&key, "token");
        until("the gateway knows the new key", || async {
            let answer = Client::http1(self.address, &token).await.send(Call::new("GET", "/v1/models")).await;
            (!answer.text().contains("does not know")).then_some(())
        })
        .await;
        (token, text(&key["key"], "id"))
    }

    /// Replaces the configuration file.
    pub fn rewrite(&self, config: &Value) {
        write_config(self.folder.path(), config);
    }

    /// Replaces the configuration file by any text.
    pub fn rewrite_text(&self, text: &str) {
        write_whole(&self.folder.path().join("marg.yaml"), text);
    }

    /// A path inside the gateway's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until both of its doors are open.
    pub async fn ready(&self) {
        until("the gateway is ready", || async {
            assert!(!self.has_ended(), "the gateway ended at once: {}", self.logged());
            let mut client = connect(self.address).await?;
            let answer = client.try_send(Call::new("GET", "/ready").without_key()).await.ok()?;
            let operators = connect(self.admin).await.is_some();
            (answer.status == 200 && operators).then_some(())
        })
        .await;
    }

    /// Everything that it has logged.
    pub fn logged(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Waits until it has logged a text.
    pub async fn logs(&self, text: &str) {
        until(&format!("the log says {text:?}"), || async { self.logged().contains(text).then_some(()) }).await;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the process has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        until("the process ends", || async { child.lock().unwrap().try_wait().unwrap() }).await
    }

    /// Kills it as a power cut would, and waits until it is gone.
    pub fn kill9(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Starts it again after its end, on the same folder and ports.
    pub async fn restart(&mut self) {
        self.relaunch();
        self.ready().await;
    }

    /// The same, without waiting for it.
    pub fn relaunch(&mut self) {
        let old = self.child.try_wait().unwrap();
        assert!(old.is_some(), "the process that is to be started again is still running");
        self.child = launch(self.folder.path(), &self.variables, &self.log);
    }

    /// Starts it again after its end under such limits of descriptors, the soft one and the hard one, and waits until it is ready.
    pub async fn restart_with_descriptors(&mut self, (soft, hard): (u64, u64)) {
        let marg = binary(self.folder.path(), &self.variables);
        let mut shell = Command::new("/bin/sh");
        let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(marg.get_program()).env_clear().current_dir(self.folder.path());
        for (name, value) in marg.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        self.child = watched(shell, &self.log);
        self.ready().await;
    }

    /// Starts it again where it may refuse calls, and waits until it listens.
    pub async fn restart_degraded(&mut self) {
        self.child = launch(self.folder.path(), &self.variables, &self.log);
        until("the gateway listens", || async {
            assert!(!self.has_ended(), "the gateway ended at once: {}", self.logged());
            (connect(self.address).await.is_some() && connect(self.admin).await.is_some()).then_some(())
        })
        .await;
    }

    /// The memory that the process occupies, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells the memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    fn has_ended(&self) -> bool {
        // A child that has ended but was not waited for has no memory any more.
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        status.map_or(true, |status| !status.contains("VmRSS:"))
    }
}

impl Drop for Marg {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- what the gateway logged ---\n{}", self.logged());
        }
    }
}

async fn connect(address: SocketAddr) -> Option<Client> {
    tokio::net::TcpStream::connect(address).await.ok()?;
    Some(Client::http1(address, "").await)
}

/// A port of this machine that nobody uses. They are below those that the system gives to outgoing connections, and a test
/// process gives each only once, so nobody else takes it between here and the gateway's start.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 90) as u16 * 200;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 4_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// JSON is YAML, so the configuration is written as that.
fn write_config(folder: &Path, config: &Value) {
    write_whole(&folder.join("marg.yaml"), &serde_json::to_string_pretty(config).unwrap());
}

/// Replaces a file at once, so that nobody reads half of it.
fn write_whole(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

fn binary(folder: &Path, variables: &[(String, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marg"));
    command.env_clear().env("HOME", folder).current_dir(folder).stdin(Stdio::null());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command
}

fn launch(folder: &Path, variables: &[(String, String)], log: &Arc<Mutex<Vec<u8>>>) -> Child {
    watched(binary(folder, variables), log)
}

/// Starts a gateway and reads its log.
fn watched(mut command: Command, log: &Arc<Mutex<Vec<u8>>>) -> Child {
    command.args(["start", "--config", "marg.yaml"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut pipe, log) = (child.stderr.take().unwrap(), log.clone());
    std::thread::spawn(move || {
        let mut piece = [0; 8192];
        while let Ok(count @ 1..) = pipe.read(&mut piece) {
            log.lock().unwrap().extend_from_slice(&piece[..count]);
        }
    });
    child
}

async fn command(folder: &Path, variables: &[(String, String)], arguments: &[&str]) -> Value {
    let (code, output, errors) = run(folder, variables, arguments).await;
    assert_eq!(code, 0, "marg {arguments:?}: {errors}");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("marg {arguments:?}: {error}: {output}"))
}

async fn run(folder: &Path, variables: &[(String, String)], arguments: &[&str]) -> (i32, String, String) {
    let mut command = binary(folder, variables);
    command.args(arguments).args(["--config", "marg.yaml"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn text(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap_or_else(|| panic!("no {name} in {object}")).to_owned()
}

/// Puts the members of an object into another, objects into objects.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
