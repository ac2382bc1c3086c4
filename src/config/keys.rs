//! Every key of the configuration, with its bounds and whether a new value needs a restart, written once.
//!
//! The decoder takes bounds from here, `docs/configuration.md` is tested against it, and tests prove that the list holds
//! exactly the keys that the decoder reads (`every_key_that_is_read_is_in_the_list`) and that `reload` agrees with it.

/// A key of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where it is: names joined by dots, `*` for a name that the user chooses, `[]` for an item of a list.
    pub path: &'static str,
    /// What is allowed.
    pub bounds: Bounds,
    /// Whether a new value takes effect only after a restart.
    pub restart: bool,
}

/// What is allowed for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// Whatever its type allows.
    Free,
    /// A whole number from, to; both included.
    Number(u64, u64),
    /// A list or a table of at most so many items.
    Items(usize),
}

const DAY_MS: u64 = 86_400_000;
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// A cap on the tokens of one request.
const TOKENS: Bounds = Bounds::Number(1, crate::key::draft::MAX_CAP_TOKENS);

/// Every key, in the order of the annotated example. Parts that only hold other keys (`server`) are not listed.
pub const KEYS: &[Key] = &[
    restart("data_dir", Bounds::Free),
    restart("database.url", Bounds::Free),
    restart("database.listen_url", Bounds::Free),
    restart("database.pooler", Bounds::Free),
    restart("database.connections", Bounds::Number(1, 1000)),
    restart("database.connect_timeout_ms", Bounds::Number(1, 60_000)),
    restart("database.call_timeout_ms", Bounds::Number(10, 600_000)),
    restart("database.away_at_start", Bounds::Free),
    restart("server.listen", Bounds::Free),
    restart("server.tls.certificate", Bounds::Free),
    restart("server.tls.key", Bounds::Free),
    restart("server.h2c", Bounds::Free),
    restart("server.threads", Bounds::Number(0, 1024)),
    live("server.trusted_proxies", Bounds::Items(1000)),
    live("server.max_body_bytes", Bounds::Number(KIB, GIB)),
    live("server.max_header_bytes", Bounds::Number(KIB, 1 << 20)),
    live("server.max_exchanges", Bounds::Number(1, 1_000_000)),
    live("server.max_buffered_bytes", Bounds::Number(KIB, TIB)),
    restart("server.max_connections", Bounds::Number(1, 1_000_000)),
    restart("server.header_timeout_ms", Bounds::Number(1, DAY_MS)),
    live("server.body_idle_timeout_ms", Bounds::Number(1, DAY_MS)),
    live("server.body_timeout_ms", Bounds::Number(1, DAY_MS)),
    restart("server.keepalive_ms", Bounds::Number(1, DAY_MS)),
    live("server.write_timeout_ms", Bounds::Number(1, DAY_MS)),
    live("server.drain_timeout_ms", Bounds::Number(1, DAY_MS)),
    live("server.provider_header", Bounds::Free),
    restart("admin.enabled", Bounds::Free),
    restart("admin.listen", Bounds::Free),
    live("admin.open_metrics", Bounds::Free),
    live("log.level", Bounds::Free),
    restart("log.format", Bounds::Free),
    restart("keys.prefix_style", Bounds::Free),
    restart("keys.hash_key", Bounds::Free),
    live("keys.defaults.max_input_tokens", TOKENS),
    live("keys.defaults.max_output_tokens", TOKENS),
    live("keys.defaults.expires_in", Bounds::Free),
    live("keys.defaults.labels", Bounds::Items(32)),
    live("keys.defaults.models", Bounds::Items(64)),
    live("keys.running_calls", Bounds::Free),
    live("ledger.retention_days", Bounds::Number(0, 36_500)),
    live("ledger.journal_segment_bytes", Bounds::Number(4 * KIB, GIB)),
    live("ledger.journal_max_bytes", Bounds::Number(4 * KIB, 16 * TIB)),
    live("ledger.sync_interval_ms", Bounds::Number(1, 60_000)),
    live("ledger.strict_sync", Bounds::Free),
    live("ledger.batch_rows", Bounds::Number(1, 10_000)),
    live("ledger.batch_delay_ms", Bounds::Number(1, 60_000)),
    live("prices.overlay", Bounds::Free),
    restart("budget.authority", Bounds::Free),
    live("budget.wait_ms", Bounds::Number(0, 60_000)),
    live("budget.when_away", Bounds::Free),
    live("budget.dead_node", Bounds::Free),
    live("budget.dead_node_after_ms", Bounds::Number(10_000, 30 * DAY_MS)),
    live("budget.default_max_output_tokens", TOKENS),
    live("budget.unseen_input", Bounds::Free),
    live("budget.default_caps.max_input_tokens", TOKENS),
    live("budget.default_caps.max_output_tokens", TOKENS),
    live("budget.webhook_url", Bounds::Free),
    live("budget.webhook_secret", Bounds::Free),
    live("limits", Bounds::Items(1000)),
    live("limits[].name", Bounds::Free),
    live("limits[].scope", Bounds::Free),
    live("limits[].subject", Bounds::Free),
    live("limits[].models", Bounds::Items(64)),
    live("limits[].unit", Bounds::Free),
    live("limits[].window", Bounds::Free),
    live("limits[].timezone", Bounds::Free),
    live("limits[].burst", Bounds::Number(1, 1_000_000_000_000_000)),
    live("limits[].burst_usd", Bounds::Free),
    live("limits[].amount", Bounds::Number(0, 1_000_000_000_000_000)),
    live("limits[].amount_usd", Bounds::Free),
    live("limits[].action", Bounds::Free),
    live("limits[].downgrade_to", Bounds::Free),
    live("limits[].downgrade_below_percent", Bounds::Number(1, 99)),
    live("limits[].warn_at_percent", Bounds::Items(10)),
    live("limits[].enabled", Bounds::Free),
    live("prices.default.input", Bounds::Free),
    live("prices.default.output", Bounds::Free),
    restart("redis.urls", Bounds::Items(16)),
    restart("redis.mode", Bounds::Free),
    restart("redis.sentinel_master", Bounds::Free),
    restart("redis.username", Bounds::Free),
    restart("redis.password", Bounds::Free),
    restart("redis.ca_file", Bounds::Free),
    restart("redis.key_prefix", Bounds::Free),
    restart("redis.request_timeout_ms", Bounds::Number(1, 60_000)),
    restart("redis.background_timeout_ms", Bounds::Number(10, 60_000)),
    live("kavach.mode", Bounds::Free),
    live("kavach.policy", Bounds::Free),
    live("kavach.reveal", Bounds::Free),
    live("kavach.time_zone", Bounds::Free),
    live("kavach.cache_entries", Bounds::Number(4, 1_000_000)),
    live("kavach.session.idle_ms", Bounds::Number(1_000, 30 * DAY_MS)),
    live("kavach.session.ended_ms", Bounds::Number(1_000, 30 * DAY_MS)),
    live("kavach.session.max_sessions", Bounds::Number(1, 10_000_000)),
    live("kavach.drift.geo", Bounds::Free),
    live("kavach.drift.geo_database", Bounds::Free),
    live("kavach.drift.geo_speed_km_h", Bounds::Number(1, 100_000)),
    live("kavach.drift.device", Bounds::Free),
    live("kavach.drift.session_age", Bounds::Free),
    live("kavach.drift.session_age_ms", Bounds::Number(1_000, 365 * DAY_MS)),
    live("kavach.drift.behaviour", Bounds::Free),
    live("kavach.drift.max_keys", Bounds::Number(1, 1_000_000)),
    live("kavach.permits.send_to", Bounds::Free),
    live("kavach.permits.header", Bounds::Free),
    live("kavach.permits.ttl_ms", Bounds::Number(1_000, DAY_MS)),
    live("kavach.permits.audience", Bounds::Free),
    live("kavach.permits.caller_audience", Bounds::Free),
    live("kavach.permits.algorithms", Bounds::Items(2)),
    live("kavach.permits.key", Bounds::Free),
    live("kavach.permits.extra_keys", Bounds::Free),
    restart("audit.enabled", Bounds::Free),
    live("audit.mode", Bounds::Free),
    restart("audit.interval_ms", Bounds::Number(10, 60_000)),
    restart("audit.origin", Bounds::Free),
    restart("audit.folder", Bounds::Free),
    restart("audit.key", Bounds::Free),
    restart("audit.next_key", Bounds::Free),
    restart("audit.passphrase", Bounds::Free),
    live("audit.retention_days", Bounds::Number(0, 36_500)),
    live("audit.content", Bounds::Free),
    live("audit.text_limit_bytes", Bounds::Number(1_024, 16_777_216)),
    live("audit.text_retention_days", Bounds::Number(0, 36_500)),
    live("audit.salt_retention_days", Bounds::Number(0, 36_500)),
    restart("audit.witnesses", Bounds::Items(64)),
    restart("audit.quorum", Bounds::Number(0, 64)),
    live("audit.open_tiles", Bounds::Free),
    live("audit.witness_peers", Bounds::Items(256)),
    restart("audit.witness_key", Bounds::Free),
    live("providers", Bounds::Items(1000)),
    live("providers.*.preset", Bounds::Free),
    live("providers.*.base_url", Bounds::Free),
    live("providers.*.credentials", Bounds::Items(256)),
    live("providers.*.auth", Bounds::Free),
    live("providers.*.enabled", Bounds::Free),
    live("providers.*.models", Bounds::Items(1000)),
    live("providers.*.headers", Bounds::Items(64)),
    live("providers.*.connect_timeout_ms", Bounds::Number(1, DAY_MS)),
    live("providers.*.first_byte_timeout_ms", Bounds::Number(1, DAY_MS)),
    live("providers.*.idle_timeout_ms", Bounds::Number(1, DAY_MS)),
    live("providers.*.http", Bounds::Free),
    live("providers.*.ca_file", Bounds::Free),
    live("providers.*.price_provider", Bounds::Free),
    live("providers.*.region", Bounds::Free),
    live("providers.*.stream_usage", Bounds::Free),
    live("providers.*.output_ceiling", Bounds::Free),
    live("default_provider", Bounds::Free),
    live("routes", Bounds::Items(1000)),
    live("routes[].name", Bounds::Free),
    live("routes[].match.model", Bounds::Free),
    live("routes[].match.team", Bounds::Free),
    live("routes[].to", Bounds::Free),
    live("routes[].split", Bounds::Items(16)),
    live("routes[].split[].to", Bounds::Free),
    live("routes[].split[].weight", Bounds::Number(0, 1_000_000)),
    live("routes[].fallback", Bounds::Items(15)),
];

/// The row of a key, or `None` for a part that only holds other keys.
pub fn key(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

const fn live(path: &'static str, bounds: Bounds) -> Key {
    Key { path, bounds, restart: false }
}

const fn restart(path: &'static str, bounds: Bounds) -> Key {
    Key { path, bounds, restart: true }
}
