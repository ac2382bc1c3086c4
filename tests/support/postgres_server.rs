//! A PostgreSQL server of a test's own: in a temporary folder, on a free port, gone with the test.
//!
//! The programs are Debian's (`/usr/lib/postgresql/*/bin`), else those in the path; `tools/need postgresql` installs them. They
//! refuse to run as root, so then they run as `postgres` or `nobody`. A shell watches a pipe from this process and ends the
//! server and removes its folder when the pipe closes, so that nothing outlives a test that is killed. Nothing is forced to the disk: that costs most of
//! the time, and no test cuts the power.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

/// A server. It ends when this is dropped, or the process ends.
pub struct PostgresServer {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    child: Option<Child>,
    databases: AtomicU32,
}

/// A PgBouncer in transaction mode in front of a server.
pub struct Pooler {
    _folder: TempDir,
    port: u16,
    child: Child,
}

impl PostgresServer {
    /// Makes an empty server and waits until it answers.
    pub fn start() -> Self {
        let folder = own_folder();
        let programs = programs();
        let data = folder.path().join("data");
        let mut initdb = as_user(&programs.join("initdb"));
        initdb.args(["--auth=trust", "--username=marg", "--encoding=UTF8", "--no-locale", "--no-sync", "--pgdata"]);
        run(initdb.arg(&data));
        let mut server = Self { folder, programs, port: free_port(), child: None, databases: AtomicU32::new(0) };
        server.resume();
        server
    }

    /// A new, empty database; its URL.
    pub fn database(&self) -> String {
        let name = format!("marg_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.tool("createdb", &["--template=template0", &name]);
        // The password is not needed; tests look for it where it must not appear.
        format!("postgres://marg:never-shown@127.0.0.1:{}/{name}", self.port)
    }

    /// Ends it at once, as a crash would; connections break.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let mut pipe = child.stdin.take().expect("the pipe to the shell is open");
            pipe.write_all(b"keep\n").expect("the shell reads");
            child.wait().expect("the server's shell can be waited for");
        }
    }

    /// Starts it again on the same port with what was committed.
    pub fn resume(&mut self) {
        let script = "\"$@\" >/dev/null 2>&1 & server=$!; read -r word; kill -QUIT $server; wait $server; \
                      [ \"$word\" = keep ] || rm -rf \"$0\"";
        let data = self.folder.path().join("data");
        // In a folder that its user may enter, which need not be so of the current one.
        let mut shell = as_user(Path::new("/bin/sh"));
        shell.args(["-c", script]).arg(self.folder.path()).arg(self.programs.join("postgres")).arg("-D").arg(&data);
        shell.arg("-k").arg(self.folder.path()).args(["-p", &self.port.to_string(), "-h", "127.0.0.1"]);
        for setting in
            ["fsync=off", "full_page_writes=off", "max_connections=300", "shared_buffers=32MB", "autovacuum=off"]
        {
            shell.args(["-c", setting]);
        }
        self.child = Some(
            shell
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .current_dir("/")
                .spawn()
                .expect("a shell starts"),
        );
        wait_until("PostgreSQL answers", || self.answers());
    }

    fn answers(&self) -> bool {
        let mut ready = Command::new(self.programs.join("pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-d", "postgres", "-U", "marg", "-p", &self.port.to_string()]);
        ready.current_dir("/").status().is_ok_and(|status| status.success())
    }

    fn tool(&self, name: &str, arguments: &[&str]) {
        let mut tool = Command::new(self.programs.join(name));
        tool.args(["-h", "127.0.0.1", "-U", "marg", "-p", &self.port.to_string()]).args(arguments);
        run(tool.current_dir("/"));
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Pooler {
    /// Starts one in front of that server.
    pub fn start(server: &PostgresServer) -> Self {
        let folder = own_folder();
        let port = free_port();
        let users = folder.path().join("users.txt");
        fs::write(&users, "\"marg\" \"never-shown\"\n").expect("the list of users is written");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=marg\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 3\n\
             max_client_conn = 500\nserver_lifetime = 2\n",
            server.port,
            users.display()
        );
        let file = folder.path().join("pgbouncer.ini");
        fs::write(&file, settings).expect("the settings are written");
        let program =
            ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(Path::new).into_iter().find(|path| path.exists());
        let program = program.expect("pgbouncer is there: tools/need pgbouncer");
        let script = "\"$@\" >/dev/null 2>&1 & server=$!; read -r _; kill -TERM $server; wait $server; rm -rf \"$0\"";
        let mut shell = as_user(Path::new("/bin/sh"));
        shell.args(["-c", script]).arg(folder.path()).arg(program).arg("-q").arg(&file);
        let child = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .expect("a shell starts");
        let answers = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until("PgBouncer answers", answers);
        Self { _folder: folder, port, child }
    }

    /// The URL of a database by the way of this pooler.
    pub fn url(&self, direct: &str) -> String {
        let (before, after) = direct.rsplit_once(':').expect("a URL with a port");
        let name = after.split_once('/').expect("a URL with a database").1;
        format!("{before}:{}/{name}", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("the pooler's shell can be waited for");
    }
}

/// The newest PostgreSQL of this machine.
fn programs() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = installed.map(|entry| entry.path().join("bin")).collect();
    folders.retain(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    folders.sort();
    folders.pop().unwrap_or_default()
}

/// Who runs the programs when this process is root.
fn user() -> Option<&'static str> {
    let root = fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0);
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    root.then(|| if users.lines().any(|line| line.starts_with("postgres:")) { "postgres" } else { "nobody" })
}

fn own_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("marg-pg-").tempdir().expect("a temporary folder");
    if let Some(user) = user() {
        run(Command::new("chown").arg(user).arg(folder.path()));
    }
    folder
}

fn as_user(program: &Path) -> Command {
    match user() {
        None => Command::new(program),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={user}"), "--clear-groups", "--"]).arg(program);
            command
        }
    }
}

fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_500 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what}: not within 30 s");
}
