//! Redis, or whatever speaks its protocol (Valkey): a connection that nobody waits for.
//!
//! One multiplexed connection carries all calls of a process; a task keeps it, so a call on the request path never connects: it
//! is answered within its time limit, or fails at once while there is no connection. All keys begin with `{PREFIX}` and so live
//! in one slot of a cluster: a call that concerns several counters stays one script, one round trip, all or nothing. The cost
//! is that one server carries all counters of an installation; a lease spares it nearly every admission, so it is far from busy.
//! Errors name what went wrong by a fixed word, never an address or a credential.

mod authority;
mod notify;
mod rebuild;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::cluster::{ClusterClient, ClusterClientBuilder};
use deadpool_redis::redis::cluster_async::ClusterConnection;
use deadpool_redis::redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline, RedisError,
    RedisFuture, RedisResult, Script, ServerErrorKind, TlsCertificates, TlsMode, Value,
};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

pub use authority::RedisCounters;
pub use notify::Changes;

use crate::error::StoreError;
use crate::telemetry::task;
use crate::unit::secret::Secret;

/// How to reach Redis.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `redis://[user:password@]host[:port][/database]`, or `rediss://` with TLS. One for a single server; the sentinels; or some
    /// nodes of the cluster.
    pub urls: Vec<Secret>,
    /// What is there.
    pub mode: RedisMode,
    /// Certificate authorities in PEM to believe instead of the system's.
    pub authorities: Option<Vec<u8>>,
    /// What all keys begin with, in braces.
    pub prefix: String,
    /// The longest that a call on the request path takes.
    pub request_timeout: Duration,
    /// The longest that any other call takes, and a connection to be made.
    pub background_timeout: Duration,
}

/// What is at the addresses.
#[derive(Clone, Debug, PartialEq)]
pub enum RedisMode {
    /// One server.
    Standalone,
    /// Sentinels, which know who the master is at present.
    Sentinel {
        /// The name that the sentinels know it by.
        master: String,
        /// Who logs in to the master; `None` without accounts.
        username: Option<String>,
        /// Its password.
        password: Option<Secret>,
    },
    /// A cluster.
    Cluster,
}

/// The pauses between attempts to connect: from the first, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// A connection to Redis that mends itself. Cheap to clone; its task ends with the last clone.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    settings: RedisSettings,
    link: ArcSwapOption<Link>,
    /// Counts the links.
    links: AtomicU64,
    /// The link may be broken: somebody has waited for its time limit.
    suspect: Notify,
    /// A link has come.
    linked: Notify,
}

/// One connection, and its number.
#[derive(Clone)]
struct Link {
    number: u64,
    wire: Wire,
}

#[derive(Clone)]
enum Wire {
    One(MultiplexedConnection),
    Many(ClusterConnection),
}

impl Redis {
    /// Checks the settings and begins to connect. Does not wait for it: a Redis that is away is one to come.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when an address is none.
    pub fn open(settings: RedisSettings) -> Result<Self, StoreError> {
        let connector = Connector::new(&settings)?;
        let inner = Arc::new(Inner {
            settings,
            link: ArcSwapOption::empty(),
            links: AtomicU64::new(0),
            suspect: Notify::new(),
            linked: Notify::new(),
        });
        drop(task::spawn("redis connection", keep(Arc::downgrade(&inner), connector)));
        Ok(Self { inner })
    }

    /// Returns when there is a connection; the caller bounds it.
    pub async fn connected(&self) {
        loop {
            let linked = self.inner.linked.notified();
            if self.inner.link.load().is_some() {
                return;
            }
            linked.await;
        }
    }

    fn request_limit(&self) -> Duration {
        self.inner.settings.request_timeout
    }

    fn background_limit(&self) -> Duration {
        self.inner.settings.background_timeout
    }

    fn key(&self, name: &str) -> String {
        format!("{{{}}}:{name}", self.inner.settings.prefix)
    }

    /// Runs a script on the key of the epoch, within that time.
    async fn run(&self, script: &Script, arguments: &[String], limit: Duration) -> Result<Vec<String>, StoreError> {
        let mut call = script.key(self.key("epoch"));
        for argument in arguments {
            call.arg(argument);
        }
        self.within(limit, async |wire| call.invoke_async(wire).await).await
    }

    /// Does something on the connection, within that time.
    async fn within<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Wire) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let Some(mut link) = self.inner.link.load().as_deref().cloned() else {
            return Err(StoreError::Away("Redis: no connection".into()));
        };
        match timeout(limit, work(&mut link.wire)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                if breaks(&error) {
                    self.inner.unlink(link.number);
                }
                Err(failed(&error))
            }
            Err(_) => {
                self.inner.suspect.notify_one();
                Err(StoreError::Away("Redis: no answer within the time limit".into()))
            }
        }
    }
}

/// Whether a connection is of no use after that.
fn breaks(error: &RedisError) -> bool {
    let is_no_master = matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading)
    );
    error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error() || is_no_master
}

/// What a failure means; by a fixed word, because texts may hold addresses.
fn failed(error: &RedisError) -> StoreError {
    let word = error.code().unwrap_or_else(|| error.category());
    StoreError::Away(format!("Redis: {word}").into())
}

impl Inner {
    /// Gives up a link, unless there is a newer one already.
    fn unlink(&self, number: u64) {
        let current = self.link.load();
        if current.as_ref().is_some_and(|link| link.number == number) {
            self.link.store(None);
            self.suspect.notify_one();
        }
    }
}

/// Keeps a connection for as long as somebody holds the [`Redis`].
async fn keep(inner: Weak<Inner>, mut connector: Connector) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let limit = strong.settings.background_timeout;
        if strong.link.load().is_none() {
            match timeout(limit, connector.connect()).await {
                Ok(Ok(wire)) => {
                    let number = strong.links.fetch_add(1, Ordering::Relaxed) + 1;
                    strong.link.store(Some(Arc::new(Link { number, wire })));
                    strong.linked.notify_waiters();
                    tracing::info!("connected to Redis");
                    pause = FIRST_PAUSE;
                }
                failure => {
                    let cause = failure.map_or_else(
                        |_| "no answer".to_owned(),
                        |failure| match failure {
                            Err(error) => error.category().to_owned(),
                            Ok(_) => String::new(),
                        },
                    );
                    tracing::warn!(%cause, "Redis cannot be reached; tried again");
                    drop(strong);
                    sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                    continue;
                }
            }
        }
        // A second is how long the task may outlive the last holder.
        drop(timeout(LAST_PAUSE, strong.suspect.notified()).await);
        probe(&strong, limit).await;
    }
}

/// Gives the connection up if it does not answer.
async fn probe(inner: &Inner, limit: Duration) {
    let Some(mut link) = inner.link.load().as_deref().cloned() else { return };
    let answer = timeout(limit, Cmd::new().arg("PING").to_owned().query_async::<Value>(&mut link.wire)).await;
    if !matches!(answer, Ok(Ok(_))) {
        inner.unlink(link.number);
    }
}

/// Makes connections.
enum Connector {
    One(Box<Client>),
    Sentinel(Box<SentinelClient>),
    Cluster(Box<ClusterClient>),
}

impl Connector {
    fn new(settings: &RedisSettings) -> Result<Self, StoreError> {
        let wrong = |_: RedisError| {
            StoreError::Conflict("an address of Redis is not one; write redis://HOST:PORT or rediss://HOST:PORT".into())
        };
        let urls: Vec<&str> = settings.urls.iter().map(Secret::expose).collect();
        let first = *urls.first().ok_or_else(|| StoreError::Conflict("there is no address of Redis".into()))?;
        Ok(match &settings.mode {
            RedisMode::Standalone => Self::One(Box::new(client(first, settings).map_err(wrong)?)),
            RedisMode::Cluster => {
                let builder =
                    ClusterClientBuilder::new(urls).retries(1).connection_timeout(settings.background_timeout);
                let builder = match believed(settings) {
                    Some(believed) => builder.certs(believed),
                    None => builder,
                };
                Self::Cluster(Box::new(builder.build().map_err(wrong)?))
            }
            RedisMode::Sentinel { master, username, password } => {
                let account = (username.as_deref(), password.as_ref());
                Self::Sentinel(Box::new(sentinel(&urls, master, account, settings).map_err(wrong)?))
            }
        })
    }

    async fn connect(&mut self) -> RedisResult<Wire> {
        // The limits of this program hold, not those of the library.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        Ok(match self {
            Self::One(client) => Wire::One(client.get_multiplexed_async_connection_with_config(&config).await?),
            Self::Sentinel(client) => Wire::One(client.get_async_connection_with_config(&config).await?),
            Self::Cluster(client) => Wire::Many(client.get_async_connection().await?),
        })
    }
}

/// Whom to believe, if not those whom the system believes.
fn believed(settings: &RedisSettings) -> Option<TlsCertificates> {
    let root_cert = settings.authorities.clone()?;
    Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert) })
}

/// A client of one server.
fn client(url: &str, settings: &RedisSettings) -> RedisResult<Client> {
    match believed(settings) {
        // Certificates for a connection without TLS are refused; they are for those with it.
        Some(believed) if url.starts_with("rediss:") => Client::build_with_tls(url, believed),
        _ => Client::open(url),
    }
}

/// The sentinels speak as their addresses say; the master takes TLS from them, and the account.
fn sentinel(
    urls: &[&str],
    master: &str,
    account: (Option<&str>, Option<&Secret>),
    settings: &RedisSettings,
) -> RedisResult<SentinelClient> {
    let mut addresses = Vec::with_capacity(urls.len());
    let mut first = None;
    for url in urls {
        let target = url.into_connection_info()?;
        addresses.push(target.addr().clone());
        first.get_or_insert(target);
    }
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?;
    if let Some(first) = first {
        if matches!(first.addr(), ConnectionAddr::TcpTls { .. }) {
            builder =
                builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
            if let Some(believed) = believed(settings) {
                builder = builder.set_client_to_redis_certificates(believed.clone());
                builder = builder.set_client_to_sentinel_certificates(believed);
            }
        }
        if let Some(username) = first.redis_settings().username() {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = first.redis_settings().password() {
            builder = builder.set_client_to_sentinel_password(password);
        }
        builder = builder.set_client_to_redis_db(first.redis_settings().db());
    }
    if let Some(username) = account.0 {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = account.1 {
        builder = builder.set_client_to_redis_password(password.expose());
    }
    builder.build()
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(wire) => wire.req_packed_command(command),
            Self::Many(wire) => wire.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(wire) => wire.req_packed_commands(commands, offset, count),
            Self::Many(wire) => wire.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(wire) => wire.get_db(),
            Self::Many(wire) => wire.get_db(),
        }
    }
}

#[cfg(test)]
mod tests;
