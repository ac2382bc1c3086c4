//! The shape of the file: which keys there are, of which type, with which default.
//!
//! One function for each structure. Every field of a structure is named in its literal, so a field that is not read does
//! not compile; defaults come from the structures' own `Default`.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::budget::limit::Limit;
use crate::config::decode::Table;
use crate::config::{
    AdminConfig, AwayAtStart, Config, DatabaseConfig, DefaultPrice, KeysConfig, LedgerConfig, LogConfig, LogFormat,
    LogLevel, PrefixStyle, PricesConfig, RunningCalls, ServerConfig, TlsConfig,
};
use crate::config::{audit, budget, kavach, redis, suggest, url};
use crate::dialect::CeilingField;
use crate::provider::config::{Auth, HeaderRef, HttpVersion, ProviderConfig, UrlRef};
use crate::provider::preset::{self, Preset};
use crate::route::config::{RouteConfig, RouteMatch, SplitConfig, TargetConfig};
use crate::unit::glob::Glob;
use crate::unit::net;
use crate::unit::secret::SecretRef;

/// The whole file.
pub(super) fn config(table: &mut Table<'_, '_>) -> Config {
    let default = Config::default();
    Config {
        data_dir: table.text_or("data_dir", default.data_dir, path),
        database: table.section("database", database),
        server: table.section("server", server),
        admin: table.section("admin", admin),
        log: table.section("log", log),
        keys: table.section("keys", keys),
        ledger: table.section("ledger", ledger),
        prices: table.section("prices", prices),
        budget: table.section("budget", budget::budget),
        kavach: table.section("kavach", kavach::kavach),
        audit: table.section("audit", audit::audit),
        limits: limits(table),
        redis: table.section("redis", redis::redis),
        providers: table.named("providers", provider),
        default_provider: table.text("default_provider", |text| Ok(text.to_owned())),
        routes: table.tables("routes", |table| Some(route(table))),
    }
}

fn limits(table: &mut Table<'_, '_>) -> Vec<Limit> {
    let mut limits = table.tables("limits", budget::limit);
    budget::name_limits(&mut limits);
    limits
}

fn database(table: &mut Table<'_, '_>) -> DatabaseConfig {
    const AWAY: &[(&str, AwayAtStart)] =
        &[("snapshot", AwayAtStart::Snapshot), ("wait", AwayAtStart::Wait), ("refuse", AwayAtStart::Refuse)];
    let default = DatabaseConfig::default();
    DatabaseConfig {
        url: table.text("url", url::database),
        listen_url: table.text("listen_url", url::database),
        pooler: table.flag("pooler", default.pooler),
        connections: table.number("connections", default.connections),
        connect_timeout_ms: table.number("connect_timeout_ms", default.connect_timeout_ms),
        call_timeout_ms: table.number("call_timeout_ms", default.call_timeout_ms),
        away_at_start: table.text_or("away_at_start", default.away_at_start, |text| word(text, AWAY)),
    }
}

fn server(table: &mut Table<'_, '_>) -> ServerConfig {
    let default = ServerConfig::default();
    ServerConfig {
        listen: table.text_or("listen", default.listen, address),
        tls: table.optional("tls", tls).flatten(),
        h2c: table.flag("h2c", default.h2c),
        threads: table.number("threads", default.threads),
        trusted_proxies: table.texts("trusted_proxies", network),
        max_body_bytes: table.number("max_body_bytes", default.max_body_bytes),
        max_header_bytes: table.number("max_header_bytes", default.max_header_bytes),
        max_exchanges: table.number("max_exchanges", default.max_exchanges),
        max_buffered_bytes: table.number("max_buffered_bytes", default.max_buffered_bytes),
        max_connections: table.number("max_connections", default.max_connections),
        header_timeout_ms: table.number("header_timeout_ms", default.header_timeout_ms),
        body_idle_timeout_ms: table.number("body_idle_timeout_ms", default.body_idle_timeout_ms),
        body_timeout_ms: table.number("body_timeout_ms", default.body_timeout_ms),
        keepalive_ms: table.number("keepalive_ms", default.keepalive_ms),
        write_timeout_ms: table.number("write_timeout_ms", default.write_timeout_ms),
        drain_timeout_ms: table.number("drain_timeout_ms", default.drain_timeout_ms),
        provider_header: table.flag("provider_header", default.provider_header),
    }
}

fn tls(table: &mut Table<'_, '_>) -> Option<TlsConfig> {
    let certificate = table.required("certificate", path);
    let key = table.required("key", path);
    Some(TlsConfig { certificate: certificate?, key: key? })
}

fn admin(table: &mut Table<'_, '_>) -> AdminConfig {
    let default = AdminConfig::default();
    AdminConfig {
        enabled: table.flag("enabled", default.enabled),
        listen: table.text_or("listen", default.listen, address),
        open_metrics: table.flag("open_metrics", default.open_metrics),
    }
}

fn log(table: &mut Table<'_, '_>) -> LogConfig {
    const LEVELS: &[(&str, LogLevel)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    const FORMATS: &[(&str, LogFormat)] =
        &[("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];
    let default = LogConfig::default();
    LogConfig {
        level: table.text_or("level", default.level, |text| word(text, LEVELS)),
        format: table.text_or("format", default.format, |text| word(text, FORMATS)),
    }
}

fn keys(table: &mut Table<'_, '_>) -> KeysConfig {
    const STYLES: &[(&str, PrefixStyle)] =
        &[("marg", PrefixStyle::Marg), ("openai", PrefixStyle::OpenAi), ("anthropic", PrefixStyle::Anthropic)];
    const RUNNING: &[(&str, RunningCalls)] = &[("finish", RunningCalls::Finish), ("cut", RunningCalls::Cut)];
    let default = KeysConfig::default();
    KeysConfig {
        prefix_style: table.text_or("prefix_style", default.prefix_style, |text| word(text, STYLES)),
        hash_key: table.text("hash_key", SecretRef::parse),
        defaults: table.section("defaults", budget::key_defaults),
        running_calls: table.text_or("running_calls", default.running_calls, |text| word(text, RUNNING)),
    }
}

fn ledger(table: &mut Table<'_, '_>) -> LedgerConfig {
    let default = LedgerConfig::default();
    LedgerConfig {
        retention_days: table.number("retention_days", default.retention_days),
        journal_segment_bytes: table.number("journal_segment_bytes", default.journal_segment_bytes),
        journal_max_bytes: table.number("journal_max_bytes", default.journal_max_bytes),
        sync_interval_ms: table.number("sync_interval_ms", default.sync_interval_ms),
        strict_sync: table.flag("strict_sync", default.strict_sync),
        batch_rows: table.number("batch_rows", default.batch_rows),
        batch_delay_ms: table.number("batch_delay_ms", default.batch_delay_ms),
    }
}

fn prices(table: &mut Table<'_, '_>) -> PricesConfig {
    let default = table.optional("default", |table| {
        let (input, output) = (table.required("input", dollars), table.required("output", dollars));
        input.zip(output).map(|(input, output)| DefaultPrice { input, output })
    });
    PricesConfig { overlay: table.text("overlay", path), default: default.flatten() }
}

/// A price in dollars per million tokens.
fn dollars(text: &str) -> Result<f64, String> {
    let found = text.parse::<f64>().ok().filter(|usd| (0.0..=100_000.0).contains(usd));
    found.ok_or_else(|| "expected dollars per million tokens, a number from 0 to 100000".to_owned())
}

fn provider(table: &mut Table<'_, '_>) -> ProviderConfig {
    const AUTHS: &[(&str, Auth)] = &[
        ("bearer", Auth::Bearer),
        ("api-key", Auth::ApiKey),
        ("x-api-key", Auth::XApiKey),
        ("x-goog-api-key", Auth::XGoogApiKey),
        ("none", Auth::None),
    ];
    const CEILINGS: &[(&str, CeilingField)] =
        &[("max_tokens", CeilingField::MaxTokens), ("max_completion_tokens", CeilingField::MaxCompletionTokens)];
    const VERSIONS: &[(&str, HttpVersion)] = &[("1.1", HttpVersion::Http1), ("2", HttpVersion::Http2)];
    let default = ProviderConfig::default();
    ProviderConfig {
        preset: table.text("preset", preset),
        base_url: table.text("base_url", UrlRef::parse),
        credentials: table.texts("credentials", SecretRef::parse),
        auth: table.text("auth", |text| word(text, AUTHS)),
        enabled: table.flag("enabled", default.enabled),
        models: table.texts("models", Glob::new),
        headers: table.named_texts("headers", HeaderRef::parse),
        connect_timeout_ms: table.number("connect_timeout_ms", default.connect_timeout_ms),
        first_byte_timeout_ms: table.number("first_byte_timeout_ms", default.first_byte_timeout_ms),
        idle_timeout_ms: table.number("idle_timeout_ms", default.idle_timeout_ms),
        http: table.text_or("http", default.http, |text| word(text, VERSIONS)),
        ca_file: table.text("ca_file", path),
        price_provider: table.text("price_provider", |text| Ok(text.to_owned())),
        region: table.text("region", region),
        stream_usage: table.optional_flag("stream_usage"),
        output_ceiling: table.text("output_ceiling", |text| word(text, CEILINGS)),
    }
}

fn route(table: &mut Table<'_, '_>) -> RouteConfig {
    RouteConfig {
        name: table.text("name", |text| Ok(text.to_owned())),
        matches: table.section("match", |table| RouteMatch {
            model: table.text("model", Glob::new),
            team: table.text("team", Glob::new),
        }),
        to: table.text("to", TargetConfig::parse),
        split: table.tables("split", split),
        fallback: table.texts("fallback", TargetConfig::parse),
    }
}

fn split(table: &mut Table<'_, '_>) -> Option<SplitConfig> {
    let to = table.required("to", TargetConfig::parse);
    let weight = table.required_number("weight");
    Some(SplitConfig { to: to?, weight: weight? })
}

pub(super) fn word<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
        suggest::unknown_word(text, &words)
    })
}

fn preset(text: &str) -> Result<Preset, String> {
    Preset::named(text).ok_or_else(|| {
        let names: Vec<&'static str> = preset::TABLE.iter().map(|row| row.name).collect();
        format!("there is no preset of this name; {}", suggest::unknown_word(text, &names))
    })
}

fn region(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=64).contains(&text.len()) || !text.bytes().all(is_plain) {
        return Err("expected 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("expected the path of a file or folder".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let shown = suggest::shorten(text);
        format!("{shown:?} is not an address; write ADDRESS:PORT such as 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080")
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    net::network(text).map_err(|_| {
        let shown = suggest::shorten(text);
        format!("{shown:?} is not a network; write one such as 10.0.0.0/8, 192.0.2.7 or fd00::/8")
    })
}
