//! What a reload replaces as a whole, built from a checked configuration.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::prices::Catalog;
use crate::config::load::Loaded;
use crate::config::{LogFormat, LogLevel, ServerConfig};
use crate::pipeline::{Live, Settings};
use crate::provider::Provider;
use crate::route::Table;
use crate::route::config::RouteConfig;
use crate::route::store::StoredRoute;
use crate::telemetry::log;

/// Builds everything anew. Providers whose settings are as before are carried over, with their health and their rests.
///
/// # Errors
/// Every fault, as a sentence.
pub fn build(loaded: &Loaded, stored: &[StoredRoute], before: Option<&Live>) -> Result<Live, Vec<String>> {
    let catalog = Catalog::load(loaded.config.prices.overlay.as_deref())?;
    let mut faults = Vec::new();
    let mut providers = HashMap::new();
    for settings in &loaded.providers {
        let same = before
            .and_then(|live| live.providers.get(settings.name.as_str()))
            .filter(|provider| provider.settings == *settings);
        match same.cloned().map_or_else(|| Provider::new(settings.clone()).map(Arc::new), Ok) {
            Ok(provider) => {
                providers.insert(provider.name.clone(), provider);
            }
            Err(fault) => faults.push(format!("providers.{}: {fault}", settings.name)),
        }
    }
    let table = table(loaded, stored, &providers).map_err(|more| faults.extend(more));
    match table {
        Ok(table) if faults.is_empty() => {
            Ok(Live { settings: settings(&loaded.config.server), providers, table, catalog: Arc::new(catalog) })
        }
        _ => Err(faults),
    }
}

/// The same, with another table: for a change of stored routes.
///
/// # Errors
/// Every fault of the routes.
pub fn with_routes(loaded: &Loaded, stored: &[StoredRoute], before: &Live) -> Result<Live, Vec<String>> {
    Ok(Live {
        settings: before.settings.clone(),
        providers: before.providers.clone(),
        table: table(loaded, stored, &before.providers)?,
        catalog: before.catalog.clone(),
    })
}

/// Every route in matching order: the configuration's first, then the stored ones.
pub fn routes(loaded: &Loaded, stored: &[StoredRoute]) -> Vec<RouteConfig> {
    loaded.config.routes.iter().cloned().chain(stored.iter().map(|route| route.config.clone())).collect()
}

fn table(
    loaded: &Loaded,
    stored: &[StoredRoute],
    providers: &HashMap<Arc<str>, Arc<Provider>>,
) -> Result<Table, Vec<String>> {
    let names: HashSet<Arc<str>> = providers.keys().cloned().collect();
    Table::build(&routes(loaded, stored), loaded.config.default_provider.as_deref(), &names)
}

fn settings(server: &ServerConfig) -> Settings {
    let ServerConfig {
        listen: _,
        tls: _,
        h2c: _,
        threads: _,
        trusted_proxies,
        max_body_bytes,
        max_header_bytes,
        max_exchanges,
        max_buffered_bytes,
        max_connections: _,
        header_timeout_ms,
        body_idle_timeout_ms,
        body_timeout_ms,
        keepalive_ms,
        write_timeout_ms,
        drain_timeout_ms: _,
        provider_header,
    } = server;
    Settings {
        trusted_proxies: trusted_proxies.clone(),
        max_body_bytes: *max_body_bytes,
        max_header_bytes: *max_header_bytes,
        max_exchanges: *max_exchanges,
        max_buffered_bytes: *max_buffered_bytes,
        body_idle_timeout: Duration::from_millis(*body_idle_timeout_ms),
        body_timeout: Duration::from_millis(*body_timeout_ms),
        header_timeout: Duration::from_millis(*header_timeout_ms),
        keepalive: Duration::from_millis(*keepalive_ms),
        write_timeout: Duration::from_millis(*write_timeout_ms),
        provider_header: *provider_header,
    }
}

impl From<LogLevel> for tracing::level_filters::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

impl From<LogFormat> for log::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Auto => Self::Auto,
            LogFormat::Json => Self::Json,
            LogFormat::Text => Self::Text,
        }
    }
}
