//! What a reload cannot apply.

use rustls::sign::CertifiedKey;

use crate::config::keys::KEYS;
use crate::config::load::Loaded;
use crate::config::{
    AdminConfig, AuditConfig, AuditSecrets, Config, DatabaseConfig, KeysConfig, LogConfig, RedisConfig, RedisSecrets,
    ServerConfig,
};

/// The keys whose new values wait for a restart, in the order of the file: those that differ, and those of which only what they
/// refer to differs.
pub fn waiting(first: &Loaded, now: &Loaded) -> Vec<&'static str> {
    let mut waiting = restart_needed(&first.config, &now.config);
    waiting.extend(looked_up(first, now));
    waiting.sort_by_key(|path| KEYS.iter().position(|key| key.path == *path));
    waiting.dedup();
    waiting
}

/// The keys that refer to something else than before and need a restart to go over to it, whether or not the references differ:
/// a secret in the environment or in a file, the certificate.
pub fn looked_up(old: &Loaded, new: &Loaded) -> Vec<&'static str> {
    let mut changed = Vec::new();
    note(&mut changed, "database.url", new.database_url != old.database_url);
    note(&mut changed, "database.listen_url", new.listen_url != old.listen_url);
    let (tls, old_tls) = (new.tls.as_deref(), old.tls.as_deref());
    note(&mut changed, "server.tls.certificate", tls.map(|tls| &tls.cert) != old_tls.map(|tls| &tls.cert));
    let public = |tls: Option<&CertifiedKey>| tls.and_then(|tls| tls.key.public_key()).map(|key| key.to_vec());
    note(&mut changed, "server.tls.key", public(tls) != public(old_tls));
    note(&mut changed, "keys.hash_key", new.hash_key != old.hash_key);
    let (redis, old_redis) = (new.redis.as_ref(), old.redis.as_ref());
    note(&mut changed, "redis.urls", redis.map(|redis| &redis.urls) != old_redis.map(|redis| &redis.urls));
    let password = |redis: Option<&RedisSecrets>| redis.and_then(|redis| redis.password.clone());
    note(&mut changed, "redis.password", password(redis) != password(old_redis));
    let AuditSecrets { key, next_key, passphrase, witness_key } = &new.audit;
    note(&mut changed, "audit.key", *key != old.audit.key);
    note(&mut changed, "audit.next_key", *next_key != old.audit.next_key);
    note(&mut changed, "audit.passphrase", *passphrase != old.audit.passphrase);
    note(&mut changed, "audit.witness_key", *witness_key != old.audit.witness_key);
    changed
}

/// The keys that differ and whose new values need a restart, in the order of the file. They are those that
/// [`keys::KEYS`](crate::config::keys::KEYS) says so of; a test holds the two together.
///
/// References are compared as written; [`waiting`] looks behind them.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
    let Config {
        data_dir,
        database,
        server,
        admin,
        log,
        keys,
        budget,
        redis,
        audit,
        // All of these are applied by a reload.
        ledger: _,
        prices: _,
        kavach: _,
        limits: _,
        providers: _,
        default_provider: _,
        routes: _,
    } = new;
    let mut changed = Vec::new();
    note(&mut changed, "data_dir", *data_dir != old.data_dir);
    in_database(&mut changed, &old.database, database);
    in_server(&mut changed, &old.server, server);
    let AdminConfig { enabled, listen, open_metrics: _ } = admin;
    note(&mut changed, "admin.enabled", *enabled != old.admin.enabled);
    note(&mut changed, "admin.listen", *listen != old.admin.listen);
    let LogConfig { level: _, format } = log;
    note(&mut changed, "log.format", *format != old.log.format);
    let KeysConfig { prefix_style, hash_key, defaults: _, running_calls: _ } = keys;
    note(&mut changed, "keys.prefix_style", *prefix_style != old.keys.prefix_style);
    note(&mut changed, "keys.hash_key", *hash_key != old.keys.hash_key);
    note(&mut changed, "budget.authority", budget.authority != old.budget.authority);
    in_redis(&mut changed, &old.redis, redis);
    in_audit(&mut changed, &old.audit, audit);
    changed
}

fn in_redis(changed: &mut Vec<&'static str>, old: &RedisConfig, new: &RedisConfig) {
    let RedisConfig {
        urls,
        mode,
        sentinel_master,
        username,
        password,
        ca_file,
        key_prefix,
        request_timeout_ms,
        background_timeout_ms,
    } = new;
    note(changed, "redis.urls", *urls != old.urls);
    note(changed, "redis.mode", *mode != old.mode);
    note(changed, "redis.sentinel_master", *sentinel_master != old.sentinel_master);
    note(changed, "redis.username", *username != old.username);
    note(changed, "redis.password", *password != old.password);
    note(changed, "redis.ca_file", *ca_file != old.ca_file);
    note(changed, "redis.key_prefix", *key_prefix != old.key_prefix);
    note(changed, "redis.request_timeout_ms", *request_timeout_ms != old.request_timeout_ms);
    note(changed, "redis.background_timeout_ms", *background_timeout_ms != old.background_timeout_ms);
}

fn in_audit(changed: &mut Vec<&'static str>, old: &AuditConfig, new: &AuditConfig) {
    let AuditConfig {
        enabled,
        mode: _,
        interval_ms,
        origin,
        folder,
        key,
        next_key,
        passphrase,
        retention_days: _,
        content: _,
        text_limit_bytes: _,
        text_retention_days: _,
        salt_retention_days: _,
        witnesses,
        quorum,
        open_tiles: _,
        witness_peers: _,
        witness_key,
    } = new;
    note(changed, "audit.enabled", *enabled != old.enabled);
    note(changed, "audit.interval_ms", *interval_ms != old.interval_ms);
    note(changed, "audit.origin", *origin != old.origin);
    note(changed, "audit.folder", *folder != old.folder);
    note(changed, "audit.key", *key != old.key);
    note(changed, "audit.next_key", *next_key != old.next_key);
    note(changed, "audit.passphrase", *passphrase != old.passphrase);
    note(changed, "audit.witnesses", *witnesses != old.witnesses);
    note(changed, "audit.quorum", *quorum != old.quorum);
    note(changed, "audit.witness_key", *witness_key != old.witness_key);
}

/// The parts of the configuration that differ, as key paths: whole sections, and single providers.
pub fn changed(old: &Config, new: &Config) -> Vec<String> {
    let Config {
        data_dir,
        database,
        server,
        admin,
        log,
        keys,
        ledger,
        prices,
        budget,
        kavach,
        audit,
        limits,
        redis,
        providers,
        default_provider,
        routes,
    } = new;
    let sections = [
        ("data_dir", *data_dir != old.data_dir),
        ("database", *database != old.database),
        ("server", *server != old.server),
        ("admin", *admin != old.admin),
        ("log", *log != old.log),
        ("keys", *keys != old.keys),
        ("ledger", *ledger != old.ledger),
        ("prices", *prices != old.prices),
        ("budget", *budget != old.budget),
        ("kavach", *kavach != old.kavach),
        ("audit", *audit != old.audit),
        ("limits", *limits != old.limits),
        ("redis", *redis != old.redis),
        ("default_provider", *default_provider != old.default_provider),
        ("routes", *routes != old.routes),
    ];
    let gone = old.providers.keys().filter(|name| !providers.contains_key(*name));
    let other =
        providers.iter().filter(|(name, provider)| old.providers.get(*name) != Some(*provider)).map(|(name, _)| name);
    let sections = sections.into_iter().filter(|(_, differs)| *differs).map(|(path, _)| path.to_owned());
    sections.chain(gone.chain(other).map(|name| format!("providers.{name}"))).collect()
}

fn in_database(changed: &mut Vec<&'static str>, old: &DatabaseConfig, new: &DatabaseConfig) {
    let DatabaseConfig { url, listen_url, pooler, connections, connect_timeout_ms, call_timeout_ms, away_at_start } =
        new;
    note(changed, "database.url", *url != old.url);
    note(changed, "database.listen_url", *listen_url != old.listen_url);
    note(changed, "database.pooler", *pooler != old.pooler);
    note(changed, "database.connections", *connections != old.connections);
    note(changed, "database.connect_timeout_ms", *connect_timeout_ms != old.connect_timeout_ms);
    note(changed, "database.call_timeout_ms", *call_timeout_ms != old.call_timeout_ms);
    note(changed, "database.away_at_start", *away_at_start != old.away_at_start);
}

fn in_server(changed: &mut Vec<&'static str>, old: &ServerConfig, new: &ServerConfig) {
    let ServerConfig {
        listen,
        tls,
        h2c,
        threads,
        trusted_proxies: _,
        max_body_bytes: _,
        max_header_bytes: _,
        max_exchanges: _,
        max_buffered_bytes: _,
        max_connections,
        header_timeout_ms,
        body_idle_timeout_ms: _,
        body_timeout_ms: _,
        keepalive_ms,
        write_timeout_ms: _,
        drain_timeout_ms: _,
        provider_header: _,
    } = new;
    let (tls, old_tls) = (tls.as_ref(), old.tls.as_ref());
    note(changed, "server.listen", *listen != old.listen);
    note(changed, "server.tls.certificate", tls.map(|tls| &tls.certificate) != old_tls.map(|tls| &tls.certificate));
    note(changed, "server.tls.key", tls.map(|tls| &tls.key) != old_tls.map(|tls| &tls.key));
    note(changed, "server.h2c", *h2c != old.h2c);
    note(changed, "server.threads", *threads != old.threads);
    note(changed, "server.max_connections", *max_connections != old.max_connections);
    note(changed, "server.header_timeout_ms", *header_timeout_ms != old.header_timeout_ms);
    note(changed, "server.keepalive_ms", *keepalive_ms != old.keepalive_ms);
}

fn note(changed: &mut Vec<&'static str>, key: &'static str, differs: bool) {
    if differs {
        changed.push(key);
    }
}
