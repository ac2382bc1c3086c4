//! One strict YAML file → checked types; secret references; the defaults, written once.
//!
//! `load` reads and checks a file and reports every error at once, each with line, column and what to do. Unknown keys,
//! duplicate keys and missing files refuse to load. The structures below are the file's shape; nouns own their own part
//! (`provider::config`, `route::config`). `conf/marg.yaml` shows every key with its default; a test proves them equal.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use crate::budget::limit::Limit;
pub use crate::config::audit::{AuditConfig, AuditMode, AuditSecrets, ContentConfig, WitnessConfig};
pub use crate::config::budget::{AuthorityConfig, BudgetConfig, DeadNode};
pub use crate::config::permits::PermitFiles;
pub use crate::config::redis::{RedisConfig, RedisModeConfig, RedisSecrets};
use crate::kavach::config::KavachConfig;
use crate::key::draft::KeyDefaults;
use crate::provider::config::{ProviderConfig, UrlRef};
use crate::route::config::RouteConfig;
use crate::unit::secret::SecretRef;

mod audit;
mod budget;
mod check;
mod decode;
pub mod demo;
mod kavach;
pub mod keys;
pub mod load;
mod pem;
mod permits;
pub mod problem;
mod redis;
pub mod reload;
mod resolve;
mod routes;
mod shape;
mod suggest;
mod tree;
mod url;

#[cfg(test)]
mod tests;

/// The whole file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The folder that Marg owns: database, journal, hash key, tokens. Created with mode 0700.
    pub data_dir: PathBuf,
    /// Where keys, routes, limits and the request log are kept.
    pub database: DatabaseConfig,
    /// The data plane.
    pub server: ServerConfig,
    /// The admin side.
    pub admin: AdminConfig,
    /// What is logged and how.
    pub log: LogConfig,
    /// Application keys.
    pub keys: KeysConfig,
    /// The request log.
    pub ledger: LedgerConfig,
    /// Prices.
    pub prices: PricesConfig,
    /// How limits are held, and who is told.
    pub budget: BudgetConfig,
    /// The gate, sessions and drift.
    pub kavach: KavachConfig,
    /// The audit log.
    pub audit: AuditConfig,
    /// What may be spent; besides the limits in the store.
    pub limits: Vec<Limit>,
    /// How to reach Redis.
    pub redis: RedisConfig,
    /// Who serves, by name. Names are 1 to 64 of `a-z A-Z 0-9 . _ -`.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// The provider for models that no route matches; none means that such models are refused with 404.
    pub default_provider: Option<String>,
    /// Where models go; the first match wins.
    pub routes: Vec<RouteConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            database: DatabaseConfig::default(),
            server: ServerConfig::default(),
            admin: AdminConfig::default(),
            log: LogConfig::default(),
            keys: KeysConfig::default(),
            ledger: LedgerConfig::default(),
            prices: PricesConfig::default(),
            budget: BudgetConfig::default(),
            kavach: KavachConfig::default(),
            audit: AuditConfig::default(),
            limits: Vec::new(),
            redis: RedisConfig::default(),
            providers: BTreeMap::new(),
            default_provider: None,
            routes: Vec::new(),
        }
    }
}

/// Where keys, routes, limits and the request log are kept, and how it is reached. Every key needs a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseConfig {
    /// `sqlite:PATH` or `postgres://…`, or a reference to it; left out, `marg.db` in the data folder.
    pub url: Option<UrlRef>,
    /// Where to hear of other processes' writes, when `url` leads through a pooler.
    pub listen_url: Option<UrlRef>,
    /// `url` leads to a pooler in transaction mode, such as PgBouncer.
    pub pooler: bool,
    /// The most connections of this process.
    pub connections: u32,
    /// How long a call waits for a connection before the database counts as away.
    pub connect_timeout_ms: u64,
    /// How long a call may take in all.
    pub call_timeout_ms: u64,
    /// What a start does while the database cannot be reached.
    pub away_at_start: AwayAtStart,
}

/// What a start does while the database cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AwayAtStart {
    /// It lives on what this data folder knew last; without that it is refused.
    #[default]
    Snapshot,
    /// It lives on what this data folder knew last; without that it waits.
    Wait,
    /// It is refused.
    Refuse,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: None,
            listen_url: None,
            pooler: false,
            connections: 8,
            connect_timeout_ms: 2_000,
            call_timeout_ms: 10_000,
            away_at_start: AwayAtStart::default(),
        }
    }
}

/// The port for applications, and its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Where to listen: `address:port`. Needs a restart.
    pub listen: SocketAddr,
    /// Serve TLS (with HTTP/2 by ALPN). Needs a restart.
    pub tls: Option<TlsConfig>,
    /// Also accept HTTP/2 without TLS, by prior knowledge. Only behind a trusted proxy. Needs a restart.
    pub h2c: bool,
    /// Worker threads; 0 means one per core. Needs a restart.
    pub threads: usize,
    /// Networks whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The largest request body.
    pub max_body_bytes: usize,
    /// The largest request head (request line and headers).
    pub max_header_bytes: usize,
    /// The most exchanges at one time; more are refused with 503.
    pub max_exchanges: usize,
    /// The most request-body bytes held in memory by all exchanges together; more are refused with 503.
    pub max_buffered_bytes: usize,
    /// The most connections at one time; more are closed at once. Needs a restart.
    pub max_connections: usize,
    /// The time for a whole request head to arrive, from its first byte. Needs a restart.
    pub header_timeout_ms: u64,
    /// The time between two pieces of a request body.
    pub body_idle_timeout_ms: u64,
    /// The time for a whole request body.
    pub body_timeout_ms: u64,
    /// How long an idle connection is kept for its next request. Needs a restart.
    pub keepalive_ms: u64,
    /// How long one write to a caller that does not read may take.
    pub write_timeout_ms: u64,
    /// How long running exchanges may go on after SIGTERM or SIGINT.
    pub drain_timeout_ms: u64,
    /// Let a caller choose the provider with the header `x-marg-provider`, past the routes.
    pub provider_header: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: None,
            h2c: false,
            threads: 0,
            trusted_proxies: Vec::new(),
            max_body_bytes: 32 * 1024 * 1024,
            max_header_bytes: 64 * 1024,
            max_exchanges: 10_000,
            max_buffered_bytes: 1024 * 1024 * 1024,
            max_connections: 20_000,
            header_timeout_ms: 10_000,
            body_idle_timeout_ms: 15_000,
            body_timeout_ms: 120_000,
            keepalive_ms: 75_000,
            write_timeout_ms: 60_000,
            drain_timeout_ms: 30_000,
            provider_header: false,
        }
    }
}

/// A certificate and its key, both PEM files.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsConfig {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The port for operators.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    /// Whether it is served at all. Needs a restart.
    pub enabled: bool,
    /// Where to listen. Needs a restart.
    pub listen: SocketAddr,
    /// Serve `/metrics` without a token.
    pub open_metrics: bool,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { enabled: true, listen: SocketAddr::from(([127, 0, 0, 1], 8081)), open_metrics: false }
    }
}

/// What is logged and how. Goes to the standard error stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogConfig {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// The format. Needs a restart.
    pub format: LogFormat,
}

/// A log level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Only errors.
    Error,
    /// And warnings.
    Warn,
    /// And what an operator wants to see: one line for each exchange.
    #[default]
    Info,
    /// And what helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

/// A log format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text in a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// One line of text.
    Text,
}

/// How application keys look and are stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeysConfig {
    /// How new tokens begin. Needs a restart.
    pub prefix_style: PrefixStyle,
    /// The secret that token hashes are keyed with: 64 hexadecimal digits. Left out, it is made once and kept in
    /// `data_dir/hash.key`. Needs a restart; another value makes every stored key unknown.
    pub hash_key: Option<SecretRef>,
    /// What a new key is where nobody says otherwise.
    pub defaults: KeyDefaults,
    /// What becomes of calls that run when their key is revoked, deleted, disabled or suspended.
    pub running_calls: RunningCalls,
}

/// What becomes of calls that run when their key is withdrawn, or its org, team or user switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunningCalls {
    /// They end as they would have; no further call is let in.
    #[default]
    Finish,
    /// They are cut: a stream ends with an error event, an answer that has not begun is an error.
    Cut,
}

/// How a new token begins; existing ones keep working whatever is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrefixStyle {
    /// `marg_live_…`
    #[default]
    Marg,
    /// `sk-…`, for applications that check for OpenAI's form.
    OpenAi,
    /// `sk-ant-…`, for applications that check for Anthropic's form.
    Anthropic,
}

/// The request log.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerConfig {
    /// Records older than this are deleted; 0 keeps them for ever.
    pub retention_days: u32,
    /// A journal segment is closed at this size.
    pub journal_segment_bytes: u64,
    /// The most that the journal may hold while the database is away; beyond it exchanges are refused with 503.
    pub journal_max_bytes: u64,
    /// How often the journal is forced to the disk. Between two times a loss of power (not of the process) may lose records.
    pub sync_interval_ms: u64,
    /// Force each record to the disk before its caller has the last byte.
    pub strict_sync: bool,
    /// The most rows in one database transaction.
    pub batch_rows: usize,
    /// How long a row may wait for its batch.
    pub batch_delay_ms: u64,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            retention_days: 90,
            journal_segment_bytes: 16 * 1024 * 1024,
            journal_max_bytes: 4 * 1024 * 1024 * 1024,
            sync_interval_ms: 200,
            strict_sync: false,
            batch_rows: 1_024,
            batch_delay_ms: 50,
        }
    }
}

/// Where prices come from besides the built-in list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PricesConfig {
    /// A YAML file of prices that win over the built-in ones.
    pub overlay: Option<PathBuf>,
    /// The price of models that nothing else prices; without it they have none, and a limit in dollars refuses them.
    pub default: Option<DefaultPrice>,
}

/// A price in dollars per million tokens, of every class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DefaultPrice {
    /// Of input.
    pub input: f64,
    /// Of output.
    pub output: f64,
}
