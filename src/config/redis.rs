//! The section `redis`: how to reach Redis, and what it must keep to.

use std::path::PathBuf;

use crate::config::budget::AuthorityConfig;
use crate::config::decode::Table;
use crate::config::problem::Report;
use crate::config::shape::{path, word};
use crate::config::{Config, suggest};
use crate::unit::secret::{Secret, SecretRef};

/// How to reach Redis. Everything needs a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisConfig {
    /// The server, the sentinels, or some nodes of the cluster; empty is no Redis.
    pub urls: Vec<SecretRef>,
    /// What is there.
    pub mode: RedisModeConfig,
    /// The name by which sentinels know the master.
    pub sentinel_master: Option<String>,
    /// Who logs in to the servers behind sentinels.
    pub username: Option<String>,
    /// The password for the servers behind sentinels.
    pub password: Option<SecretRef>,
    /// The certificate authorities to believe instead of the system's, for `rediss://`.
    pub ca_file: Option<PathBuf>,
    /// What every key begins with.
    pub key_prefix: String,
    /// The longest that a call waits for Redis.
    pub request_timeout_ms: u64,
    /// The longest that work in the background waits for Redis, and a connection takes.
    pub background_timeout_ms: u64,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            mode: RedisModeConfig::default(),
            sentinel_master: None,
            username: None,
            password: None,
            ca_file: None,
            key_prefix: "marg".to_owned(),
            request_timeout_ms: 5,
            background_timeout_ms: 1_000,
        }
    }
}

/// What is at the addresses of Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisModeConfig {
    /// One server.
    #[default]
    Standalone,
    /// Sentinels, which lead to the master.
    Sentinel,
    /// Nodes of a cluster.
    Cluster,
}

/// What `redis` refers to, looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisSecrets {
    /// The addresses; at least one. They may hold passwords, so none is shown.
    pub urls: Vec<Secret>,
    /// The password for the servers behind sentinels.
    pub password: Option<Secret>,
}

/// The section `redis`.
pub(super) fn redis(table: &mut Table<'_, '_>) -> RedisConfig {
    const MODES: &[(&str, RedisModeConfig)] = &[
        ("standalone", RedisModeConfig::Standalone),
        ("sentinel", RedisModeConfig::Sentinel),
        ("cluster", RedisModeConfig::Cluster),
    ];
    let default = RedisConfig::default();
    RedisConfig {
        urls: table.texts("urls", SecretRef::parse),
        mode: table.text_or("mode", default.mode, |text| word(text, MODES)),
        sentinel_master: table.text("sentinel_master", |text| Ok(text.to_owned())),
        username: table.text("username", |text| Ok(text.to_owned())),
        password: table.text("password", SecretRef::parse),
        ca_file: table.text("ca_file", path),
        key_prefix: table.text_or("key_prefix", default.key_prefix, prefix),
        request_timeout_ms: table.number("request_timeout_ms", default.request_timeout_ms),
        background_timeout_ms: table.number("background_timeout_ms", default.background_timeout_ms),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
        let shown = suggest::shorten(text);
        return Err(format!("{shown:?} is not a prefix of keys; it has 1 to 64 of the characters a-z A-Z 0-9 . _ - :"));
    }
    Ok(text.to_owned())
}

/// Notes what contradicts.
pub(super) fn check(config: &Config, report: &mut Report) {
    let redis = &config.redis;
    let is_sentinel = redis.mode == RedisModeConfig::Sentinel;
    if config.budget.authority == AuthorityConfig::Redis && redis.urls.is_empty() {
        report.error("budget.authority", "Redis has no address; set redis.urls");
    }
    if is_sentinel && redis.sentinel_master.is_none() {
        report.error("redis.mode", "sentinels are asked for a master by its name; set redis.sentinel_master");
    }
    if redis.mode == RedisModeConfig::Standalone && redis.urls.len() > 1 {
        report.warn(
            "redis.urls",
            "a single server has one address, the first; set redis.mode for sentinels or a cluster",
        );
    }
    let unused = [
        ("redis.sentinel_master", redis.sentinel_master.is_some()),
        ("redis.username", redis.username.is_some()),
        ("redis.password", redis.password.is_some()),
    ];
    for (key, is_set) in unused {
        if is_set && !is_sentinel {
            report.warn(key, "this is for redis.mode: sentinel only; elsewhere the address holds user and password");
        }
    }
    if redis.request_timeout_ms > redis.background_timeout_ms {
        report.warn("redis.request_timeout_ms", "longer than redis.background_timeout_ms, which was hardly meant");
    }
}

/// Whether a text can be the address of a Redis.
pub(super) fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("redis://").or_else(|| text.strip_prefix("rediss://"));
    rest.is_some_and(|rest| {
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let server = authority.rsplit('@').next().unwrap_or_default();
        let port = server.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
        let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
        !server.is_empty() && is_port && !rest.bytes().any(|byte| byte.is_ascii_whitespace())
    })
}

#[cfg(test)]
mod tests {
    use super::is_url;

    #[test]
    fn an_address_has_a_host_and_a_port_that_there_can_be() {
        for good in ["redis://h", "rediss://h:1/0", "redis://u:p@h:6379", "redis://[::1]", "redis://[::1]:1"] {
            assert!(is_url(good), "{good}");
        }
        for bad in [
            "redis://",
            "redis://h:99999",
            "redis://h:",
            "redis://h:0",
            "redis://h:x",
            "http://h",
            "redis://u@",
            "redis://a b",
        ] {
            assert!(!is_url(bad), "{bad}");
        }
    }
}
