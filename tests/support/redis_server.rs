//! Private Redis servers for tests: each on a free port of this machine, in a folder of its own, ended on drop. They keep nothing
//! on the disk, so a restart is a loss. `tools/need redis` installs the program.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// A running server, or one that a test has stopped.
pub struct RedisServer {
    port: u16,
    folder: TempDir,
    arguments: Vec<String>,
    process: Option<Child>,
    /// Where its certificates are.
    _certificates: Option<TempDir>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with further arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        // Between the look for a free port and its use, somebody else may take it.
        for _ in 0..20 {
            let mut server = Self {
                port: free_port(),
                folder: tempfile::tempdir().expect("a temporary folder"),
                arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
                process: None,
                _certificates: None,
            };
            if server.run() {
                return server;
            }
        }
        panic!("redis-server does not start; `tools/need redis` installs it");
    }

    /// Starts a sentinel for that master; it holds a server that is silent for half a second for dead.
    pub fn sentinel(master: &str, of: &RedisServer) -> Self {
        let watched = format!(
            "sentinel monitor {master} 127.0.0.1 {} 1\nsentinel down-after-milliseconds {master} 500\n\
             sentinel failover-timeout {master} 2000\n",
            of.port
        );
        Self::start_with(&["--sentinel", &watched])
    }

    /// Starts a replica of that master, and waits until it has what the master has.
    pub fn replica(of: &RedisServer) -> Self {
        let port = of.port.to_string();
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
        for _ in 0..3_000 {
            if replica.ask(&["INFO", "replication"]).contains("master_link_status:up") {
                return replica;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the replica does not follow its master");
    }

    /// Waits until a sentinel knows a replica of its master, so that it can be promoted.
    pub fn knows_a_replica(&self, master: &str) {
        for _ in 0..3_000 {
            if self.ask(&["SENTINEL", "MASTER", master]).contains("num-slaves\r\n$1\r\n1") {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the sentinel does not find the replica");
    }

    /// Starts a server that speaks TLS at a second port, with a certificate of a new authority; the URL there and the file of
    /// the authority. `openssl` makes both.
    pub fn with_tls() -> (Self, String, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [key, certificate, authority] =
            ["server.key", "server.pem", "authority.pem"].map(|name| folder.path().join(name));
        make_certificates(folder.path());
        let port = free_port().to_string();
        let path = |path: &PathBuf| path.display().to_string();
        let mut server = Self::start_with(&[
            "--tls-port",
            &port,
            "--tls-cert-file",
            &path(&certificate),
            "--tls-key-file",
            &path(&key),
            "--tls-ca-cert-file",
            &path(&authority),
            "--tls-auth-clients",
            "no",
        ]);
        server._certificates = Some(folder);
        (server, format!("rediss://127.0.0.1:{port}"), authority)
    }

    /// Joins servers that were started with `--cluster-enabled yes` to one cluster, and waits until it stands.
    pub fn join(servers: &[Self]) {
        let slots = 16_384 / servers.len();
        for (number, server) in servers.iter().enumerate() {
            let last = if number + 1 == servers.len() { 16_383 } else { (number + 1) * slots - 1 };
            server.ask(&["CLUSTER", "ADDSLOTSRANGE", &(number * slots).to_string(), &last.to_string()]);
            for other in servers {
                server.ask(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()]);
            }
        }
        for _ in 0..3_000 {
            let info = |server: &Self| server.ask(&["CLUSTER", "INFO"]);
            let stands = |info: String| {
                info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{}", servers.len()))
            };
            if servers.iter().all(|server| stands(info(server))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the cluster does not come to stand");
    }

    /// The address, as a configuration names it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends the server as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("the server can be killed");
            process.wait().expect("the server ends");
        }
    }

    /// Starts it again at the same port, with nothing in it.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.run(), "redis-server does not start again");
    }

    /// Sends a signal, such as `STOP` and `CONT`.
    pub fn signal(&self, signal: &str) {
        let id = self.process.as_ref().expect("the server runs").id();
        let sent = Command::new("kill").args([&format!("-{signal}"), &id.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    /// Runs a command and gives the raw answer.
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).expect("the server answers")
    }

    fn try_ask(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut frame = format!("*{}\r\n", words.len());
        for word in words {
            frame.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(frame.as_bytes())?;
        let mut answer = vec![0; 64 * 1024];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    fn run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        let configuration = self.folder.path().join("redis.conf");
        let mut text = format!("port {}\nbind 127.0.0.1\ndir {}\n", self.port, self.folder.path().display());
        let is_sentinel = self.arguments.first().is_some_and(|first| first == "--sentinel");
        if is_sentinel {
            text.push_str(&self.arguments[1]);
        } else {
            text.push_str("save \"\"\nappendonly no\n");
        }
        std::fs::write(&configuration, text).expect("a configuration");
        command.arg(&configuration);
        if is_sentinel {
            command.arg("--sentinel");
        } else {
            command.args(&self.arguments);
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = match spawned {
            Err(missing) if missing.kind() == ErrorKind::NotFound => {
                panic!("redis-server is missing; `tools/need redis` installs it")
            }
            spawned => spawned.expect("redis-server starts"),
        };
        self.process = Some(process);
        for _ in 0..1_000 {
            if self.try_ask(&["PING"]).is_ok_and(|answer| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"))
            {
                return true;
            }
            let ended = self.process.as_mut().is_some_and(|process| !matches!(process.try_wait(), Ok(None)));
            if ended {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// An authority, and a certificate of it for this machine.
fn make_certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
        let made = made.expect("openssl is there");
        assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
    };
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").expect("names");
    openssl(&format!("req -x509 {new_key} -keyout authority.key -out authority.pem -days 2 -subj /CN=authority"));
    openssl(&format!("req {new_key} -keyout server.key -out server.csr -subj /CN=redis"));
    openssl(
        "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
}

fn free_port() -> u16 {
    // The bus of a cluster is 10,000 above, so the port must be below 55,536.
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        if port < 55_536 {
            return port;
        }
    }
}
