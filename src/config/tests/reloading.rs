//! Which keys take effect at a reload.

use super::*;
use crate::unit::secret::Secret;

/// A value for a key that differs from its default.
fn other_value(path: &str) -> &'static str {
    match path {
        "data_dir" => "/elsewhere",
        "database.url" | "database.listen_url" => "postgres://other@host/name",
        "database.pooler" => "true",
        "database.connections" => "7",
        "server.listen" | "admin.listen" => "127.0.0.1:1",
        "server.tls.certificate" | "server.tls.key" | "prices.overlay" => "/file.pem",
        "server.h2c" | "server.provider_header" | "admin.open_metrics" | "ledger.strict_sync" => "true",
        "admin.enabled" => "false",
        "server.trusted_proxies" => "[10.0.0.0/8]",
        "server.max_buffered_bytes" | "ledger.journal_max_bytes" => "5000000000",
        "ledger.batch_rows" | "server.max_exchanges" | "server.max_connections" | "server.threads" => "7",
        "log.level" => "debug",
        "log.format" => "json",
        "prices.default.input" | "prices.default.output" => "2.5",
        "keys.prefix_style" => "openai",
        "keys.hash_key" | "budget.webhook_secret" => "env:HEX",
        "keys.defaults.expires_in" => "90d",
        "keys.defaults.labels" => "{env: dev}",
        "keys.defaults.models" => "[gpt-*]",
        "keys.running_calls" => "cut",
        "budget.authority" => "redis",
        "redis.urls" => "['env:REDIS']",
        "redis.mode" => "cluster",
        "redis.sentinel_master" | "redis.username" | "redis.key_prefix" => "other",
        "redis.password" => "env:HEX",
        "redis.ca_file" => "/etc/ssl/certs/other.pem",
        "redis.request_timeout_ms" | "redis.background_timeout_ms" => "77",
        "budget.when_away" => "admit",
        "budget.unseen_input" => "refuse",
        "budget.dead_node" => "release",
        "database.away_at_start" => "wait",
        "budget.dead_node_after_ms" => "20000",
        "budget.webhook_url" => "https://hooks.example/x?y=z",
        "kavach.mode" => "observe, policy: x",
        "kavach.policy" | "kavach.drift.geo_database" => "/policy",
        "kavach.reveal" => "nothing",
        "kavach.time_zone" => "Asia/Kolkata",
        "kavach.cache_entries"
        | "kavach.session.max_sessions"
        | "kavach.drift.geo_speed_km_h"
        | "kavach.drift.max_keys" => "7",
        "kavach.drift.geo" | "kavach.drift.device" | "kavach.drift.session_age" | "kavach.drift.behaviour" => "true",
        "kavach.permits.send_to" => "caller",
        "kavach.permits.header" | "kavach.permits.audience" | "kavach.permits.caller_audience" => "x-other",
        "kavach.permits.algorithms" => "[ml-dsa-65]",
        "kavach.permits.key" => "env:KEY",
        "kavach.permits.extra_keys" => "/keys.json",
        "audit.enabled" => "false",
        "audit.mode" => "enforce",
        "audit.content" => "full_text",
        "audit.origin" => "marg.example.com/1",
        "audit.folder" => "/audit",
        "audit.key" | "audit.next_key" | "audit.passphrase" | "audit.witness_key" => "env:KEY",
        "audit.witness_peers" => "['PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW']",
        "audit.witnesses" => "['w witness.example.com+94947cf1+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea']",
        "audit.quorum" => {
            "1, witnesses: ['w witness.example.com+94947cf1+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea']"
        }
        "audit.open_tiles" => "true",
        "default_provider" => "a",
        path if path.ends_with("_tokens") => "77",
        path if path.ends_with("_ms") || path.ends_with("_bytes") || path.ends_with("_days") => "5000",
        _ => "",
    }
}

#[test]
fn a_reload_reports_exactly_the_keys_that_need_a_restart() {
    let parse = |yaml: &str| load::parse(yaml, "x").unwrap();
    for key in KEYS {
        let (value, path) = (other_value(key.path), key.path);
        if value.is_empty() {
            assert!(
                !key.restart && ["providers", "routes", "limits"].iter().any(|part| path.starts_with(part)),
                "{path}"
            );
            continue;
        }
        let (old, new) = match path {
            "server.tls.certificate" => (
                "server: {tls: {certificate: a, key: b}}".to_owned(),
                "server: {tls: {certificate: c, key: b}}".to_owned(),
            ),
            "server.tls.key" => (
                "server: {tls: {certificate: a, key: b}}".to_owned(),
                "server: {tls: {certificate: a, key: c}}".to_owned(),
            ),
            "prices.default.input" => (
                "prices: {default: {input: 1, output: 1}}".to_owned(),
                "prices: {default: {input: 2.5, output: 1}}".to_owned(),
            ),
            "prices.default.output" => (
                "prices: {default: {input: 1, output: 1}}".to_owned(),
                "prices: {default: {input: 1, output: 2.5}}".to_owned(),
            ),
            "audit.quorum" => {
                let one = other_value(path);
                (with(path, &format!("0{}", &one[1..])), with(path, one))
            }
            "budget.authority" => {
                let urls = "redis: {urls: ['env:A']}\n";
                (urls.to_owned(), format!("{urls}budget: {{authority: redis}}"))
            }
            "default_provider" => (A.to_owned(), format!("{A}default_provider: a")),
            _ => ("{}".to_owned(), with(path, value)),
        };
        let (old, new) = (parse(&old), parse(&new));
        assert_ne!(old, new, "{path}");
        let expected: &[&str] = if key.restart { &[path] } else { &[] };
        assert_eq!(reload::restart_needed(&old, &new), expected, "{path}");
        assert_eq!(reload::restart_needed(&new, &new), Vec::<&str>::new());
    }
    assert_eq!(reload::restart_needed(&parse("{}"), &parse(A)), Vec::<&str>::new());
}

#[test]
fn a_secret_that_changed_behind_its_reference_waits_for_a_restart() {
    let first = load(A).unwrap();
    assert_eq!(reload::waiting(&first, &first.clone()), Vec::<&str>::new());
    let secret = |text: &str| Some(Secret::new(text));
    let redis = |url: &str, password| Some(RedisSecrets { urls: vec![Secret::new(url)], password });
    let mut before = first.clone();
    before.redis = redis("redis://a", secret("a"));
    let mut now = before.clone();
    (now.database_url, now.listen_url, now.hash_key) = (secret("a"), secret("b"), secret("c"));
    now.redis = redis("redis://b", secret("b"));
    now.audit =
        AuditSecrets { key: secret("a"), next_key: secret("b"), passphrase: secret("c"), witness_key: secret("d") };
    let expected = [
        "database.url",
        "database.listen_url",
        "keys.hash_key",
        "redis.urls",
        "redis.password",
        "audit.key",
        "audit.next_key",
        "audit.passphrase",
        "audit.witness_key",
    ];
    assert_eq!(reload::waiting(&before, &now), expected);
    assert!(expected.iter().all(|path| KEYS.iter().any(|key| key.path == *path && key.restart)));
    // One that was changed in the file as well is named once.
    now.config.keys.hash_key = Some(SecretRef::Env("OTHER".to_owned()));
    assert_eq!(reload::waiting(&before, &now), expected);
}

#[test]
fn a_certificate_that_was_renewed_in_its_file_waits_for_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("chain.pem"), include_str!("../../../tests/tls/localhost.pem")).unwrap();
    std::fs::write(at("key.pem"), include_str!("../../../tests/tls/localhost.key")).unwrap();
    let tls = format!("{A}server: {{tls: {{certificate: {0}/chain.pem, key: {0}/key.pem}}}}", folder.path().display());
    let first = load(&tls).unwrap();
    assert_eq!(reload::waiting(&first, &load(&tls).unwrap()), Vec::<&str>::new());
    std::fs::write(at("chain.pem"), include_str!("../../../tests/tls/localhost.pem").repeat(2)).unwrap();
    assert_eq!(reload::waiting(&first, &load(&tls).unwrap()), ["server.tls.certificate"]);
    std::fs::write(at("key.pem"), include_str!("../../../tests/tls/other.key")).unwrap();
    let faults = load(&tls).unwrap_err();
    assert_eq!((faults.len(), faults[0].path.as_str()), (1, "server.tls.key"), "{faults:?}");
    assert!(faults[0].text.contains("not the private key"), "{faults:?}");
}
