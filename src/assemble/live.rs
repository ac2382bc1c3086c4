//! What a reload replaces as a whole, built from a checked configuration.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::control::{RouteOrigin, RouteView};
use crate::assemble::permits;
use crate::catalog::prices::Catalog;
use crate::catalog::stored::StoredPrice;
use crate::config::load::Loaded;
use crate::config::{AuditConfig, Config, ContentConfig, LogFormat, LogLevel, RunningCalls, ServerConfig};
use crate::kavach::Gate;
use crate::kavach::config::KavachConfig;
use crate::kavach::drift::geo::Places;
use crate::kavach::policy::Problem;
use crate::pipeline::commit::ContentPolicy;
use crate::pipeline::{Live, Settings};
use crate::provider::Provider;
use crate::route::config::{RouteConfig, TargetConfig};
use crate::route::store::StoredRoute;
use crate::route::{LeftOut, Table, name_of};
use crate::telemetry::log;
use crate::unit::clock::Timestamp;

/// Builds everything anew, with what lies in that data folder. Providers whose settings and authorities are as before are
/// carried over, with their health and their rests.
///
/// # Errors
/// Every fault, as a sentence.
pub fn build(
    loaded: &Loaded,
    folder: &Path,
    stored: &[StoredRoute],
    prices: &[StoredPrice],
    before: Option<&Live>,
) -> Result<Live, Vec<String>> {
    let catalog = catalog(loaded, prices)?;
    let mut faults = Vec::new();
    let mut providers = HashMap::new();
    for settings in &loaded.providers {
        let same = before
            .and_then(|live| live.providers.get(settings.name.as_str()))
            .filter(|provider| provider.is_like(settings));
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
            let (gate, places) = gate(&loaded.config.kavach, before)?;
            let catalog = Arc::new(catalog);
            // Last, because it may write to the data folder, and nothing may fail after that.
            let permits =
                permits::build(loaded, folder, Timestamp::now()).map(Arc::new).map_err(|fault| vec![fault])?;
            tell_left_out(&table, before.map(|live| &live.table));
            Ok(Live { settings: settings(&loaded.config), providers, table, catalog, gate, places, permits })
        }
        _ => Err(faults),
    }
}

/// The same, with another table: for a change of stored routes.
///
/// # Errors
/// Every fault of the configuration's routes.
pub fn with_routes(loaded: &Loaded, stored: &[StoredRoute], before: &Live) -> Result<Live, Vec<String>> {
    let table = table(loaded, stored, &before.providers)?;
    tell_left_out(&table, Some(&before.table));
    Ok(Live {
        settings: before.settings.clone(),
        providers: before.providers.clone(),
        table,
        catalog: before.catalog.clone(),
        gate: before.gate.clone(),
        places: before.places.clone(),
        permits: before.permits.clone(),
    })
}

/// The same, with other prices: for a change of stored prices. The file of prices stays as it was read at the last reload.
///
/// # Errors
/// Every fault of the stored prices.
pub fn with_prices(
    loaded: &Loaded,
    stored: &[StoredRoute],
    prices: &[StoredPrice],
    before: &Live,
) -> Result<Live, Vec<String>> {
    Ok(Live {
        settings: before.settings.clone(),
        providers: before.providers.clone(),
        table: table(loaded, stored, &before.providers)?,
        catalog: Arc::new(before.catalog.restored(prices)?),
        gate: before.gate.clone(),
        places: before.places.clone(),
        permits: before.permits.clone(),
    })
}

/// The gate and the database of addresses. One that would be the same is carried over, with what it keeps.
fn gate(config: &KavachConfig, before: Option<&Live>) -> Result<Protection, Vec<String>> {
    let told = |problems: Vec<Problem>| problems.iter().map(|fault| format!("kavach.policy: {fault}")).collect();
    let gate = config.gate().map_err(|problems| -> Vec<String> { told(problems) })?;
    let open = |path: &std::path::PathBuf| Places::open(path).map(Arc::new);
    let places = config.drift.geo_database.as_ref().filter(|_| config.drift.geo).map(open).transpose();
    let places = places.map_err(|fault| vec![format!("kavach.drift.geo_database: {fault}")])?;
    let same = before.map(|live| &live.gate).filter(|other| other.is_like(&gate));
    Ok((same.cloned().unwrap_or_else(|| Arc::new(gate)), places))
}

type Protection = (Arc<Gate>, Option<Arc<Places>>);

/// The prices that a configuration and the store make.
///
/// # Errors
/// Every fault of the overlay file and of the stored prices.
pub fn catalog(loaded: &Loaded, prices: &[StoredPrice]) -> Result<Catalog, Vec<String>> {
    let config = &loaded.config.prices;
    let catalog = Catalog::load(config.overlay.as_deref())?.with_stored(prices)?;
    Ok(match config.default {
        Some(default) => catalog.with_default(default.input, default.output),
        None => catalog,
    })
}

/// Every route as operators see it, in matching order: the configuration's first, then the stored ones, the default provider
/// last.
pub fn routes(config: &Config, stored: &[StoredRoute], table: &Table) -> Vec<RouteView> {
    let configured = config.routes.iter().enumerate().map(|(index, route)| RouteView {
        id: None,
        origin: RouteOrigin::Config,
        name: name_of(route, index),
        route: route.clone(),
        problem: None,
    });
    let kept = (config.routes.len()..).zip(stored).map(|(index, route)| RouteView {
        id: Some(route.id.to_string()),
        origin: RouteOrigin::Stored,
        name: name_of(&route.config, index),
        route: route.config.clone(),
        problem: table.problem_of(&route.id).map(str::to_owned),
    });
    let default = config.default_provider.iter().map(|provider| RouteView {
        id: None,
        origin: RouteOrigin::Default,
        name: "default".to_owned(),
        route: RouteConfig { to: TargetConfig::parse(provider).ok(), ..RouteConfig::default() },
        problem: None,
    });
    configured.chain(kept).chain(default).collect()
}

/// Logs which stored routes are not in force, as far as that was not so before.
fn tell_left_out(table: &Table, before: Option<&Table>) {
    for route in table.left_out() {
        if before.and_then(|before| before.problem_of(&route.id)) != Some(&route.problem) {
            let LeftOut { id, name, problem } = route;
            tracing::warn!(problem, "the stored route {id} ({name}) is kept, but not in force here");
        }
    }
}

fn table(
    loaded: &Loaded,
    stored: &[StoredRoute],
    providers: &HashMap<Arc<str>, Arc<Provider>>,
) -> Result<Table, Vec<String>> {
    let names: HashSet<Arc<str>> = providers.keys().cloned().collect();
    Table::build(&loaded.config.routes, stored, loaded.config.default_provider.as_deref(), &names)
}

fn settings(config: &Config) -> Settings {
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
    } = &config.server;
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
        default_max_output_tokens: config.budget.default_max_output_tokens,
        unseen_input: config.budget.unseen_input,
        cut_running: config.keys.running_calls == RunningCalls::Cut,
        default_caps: config.budget.default_caps,
        content: content(&config.audit),
    }
}

fn content(config: &AuditConfig) -> ContentPolicy {
    match config.content {
        ContentConfig::None => ContentPolicy::None,
        ContentConfig::Commitments => ContentPolicy::Commitments,
        ContentConfig::FullText => ContentPolicy::FullText { limit_bytes: config.text_limit_bytes },
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
