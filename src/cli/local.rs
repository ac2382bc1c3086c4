//! The admin side without a gateway: what commands work with when they go to the store directly.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::admin::State;
use crate::admin::control::{
    Control, Explanation, LimitState, ProviderStatus, Question, Readiness, ReadyStatus, ReloadProblem, ReloadReport,
    RouteView,
};
use crate::assemble::{core, house, limits, live};
use crate::budget::authority::Authority;
use crate::budget::limit::Limit;
use crate::budget::store::LimitStore;
use crate::catalog::Pricing;
use crate::catalog::stored::StoredPrice;
use crate::cli::failure::{Failure, Result};
use crate::config::load::{self, Loaded};
use crate::config::problem::Problem;
use crate::error::{Error, Kind, StoreError};
use crate::kavach::config::SessionConfig;
use crate::key::draft::KeyDefaults;
use crate::key::ring::Ring;
use crate::ledger::reprice::Adjust;
use crate::route::Table;
use crate::route::config::RouteConfig;
use crate::route::store::{RouteStore, StoredRoute};
use crate::unit::charge::CounterId;

/// Loads the configuration file, as far as the store needs it.
///
/// # Errors
/// Every problem of the file, one a line.
pub fn configuration(path: &Path) -> Result<Loaded> {
    load::load_for_store(path).map_err(|problems| misconfigured(path, &problems))
}

/// The failure that the problems of a configuration are.
pub fn misconfigured(path: &Path, problems: &[Problem]) -> Failure {
    if !path.as_os_str().is_empty() && !path.exists() {
        let shown = path.display();
        return Failure::failed(format!(
            "There is no configuration at {shown}; make one with `marg init`, or name one with --config."
        ));
    }
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Failure::failed(format!("The configuration has errors.\n{}", lines.join("\n")))
}

/// The state of an admin side over the store that a configuration names.
///
/// # Errors
/// When the configuration does not load, or the store cannot be opened.
pub async fn state(config: &Path) -> Result<State> {
    let loaded = configuration(config)?;
    let house = house::open(&loaded).await.map_err(|error| failure(&error))?;
    let ring = Arc::new(Ring::new((*house.hash_key).clone()));
    house.keep_suspensions(&ring).map_err(|error| failure(&error))?;
    let journal = core::open_journal(&loaded.config, house.folder.join("journal")).map_err(|error| failure(&error))?;
    let prices = house.store.prices().await?;
    let stored = LimitStore::list(&*house.store).await?;
    let money = limits::money(loaded.config.limits.iter().chain(stored.iter()));
    let (routes, table) = routes(&loaded, &*house.store).await?;
    let nobody = Nobody { loaded: loaded.clone(), prices, routes, table, authority: house.store.counters() };
    let mut state = State::new(house.store, ring, house.hash_key, Arc::new(nobody));
    state.journal = Some(Arc::new(journal));
    state.adjust = Arc::new(NotHere(money));
    state.prefix_style = loaded.config.keys.prefix_style;
    Ok(state)
}

/// The stored routes, and the table that a gateway with this configuration would make of them.
async fn routes(loaded: &Loaded, store: &dyn RouteStore) -> Result<(Vec<StoredRoute>, Table)> {
    let stored = store.list().await?;
    let providers = loaded.price_providers.keys().map(|name| Arc::from(name.as_str())).collect();
    let table = Table::build(&loaded.config.routes, &stored, loaded.config.default_provider.as_deref(), &providers);
    Ok((stored, table.map_err(|faults| Failure::failed(faults.join("\n")))?))
}

/// A failure with its chain of causes in one sentence.
pub fn failure(error: &anyhow::Error) -> Failure {
    Failure::failed(format!("{error:#}"))
}

/// Stands where a running gateway would be. Commands ask it nothing; were they to, it would say that it is not there.
struct Nobody {
    loaded: Loaded,
    prices: Vec<StoredPrice>,
    routes: Vec<StoredRoute>,
    table: Table,
    /// Whoever owns the counters of limits: the database itself.
    authority: Arc<dyn Authority>,
}

/// Counters belong to the running gateway; here is only known which of them count dollars.
struct NotHere(HashSet<Arc<str>>);

#[async_trait]
impl Adjust for NotHere {
    async fn money_limits(&self) -> std::result::Result<HashSet<Arc<str>>, StoreError> {
        Ok(self.0.clone())
    }

    async fn ready(&self) -> std::result::Result<(), StoreError> {
        let text = "There are limits in dollars, whose counters only a running gateway can move: use --server.";
        if self.0.is_empty() { Ok(()) } else { Err(StoreError::Conflict(text.into())) }
    }

    async fn adjust(&self, _: &CounterId, _: i64) -> std::result::Result<(), StoreError> {
        self.ready().await
    }
}

const ABSENT: &str = "No gateway runs in this process; ask a running one with --server.";

#[async_trait]
impl Control for Nobody {
    async fn reload(&self, _: &str) -> ReloadReport {
        let problem = ReloadProblem { line: 0, column: 0, path: String::new(), text: ABSENT.to_owned() };
        ReloadReport { errors: vec![problem], ..ReloadReport::default() }
    }

    fn providers(&self) -> Vec<ProviderStatus> {
        Vec::new()
    }

    fn routes(&self) -> Vec<RouteView> {
        live::routes(&self.loaded.config, &self.routes, &self.table)
    }

    fn check_route(&self, _: &RouteConfig) -> crate::error::Result<()> {
        Err(Error::new(Kind::Unavailable, ABSENT))
    }

    /// A running gateway notices by itself.
    async fn routes_changed(&self) -> crate::error::Result<()> {
        Ok(())
    }

    fn key_defaults(&self) -> KeyDefaults {
        self.loaded.config.keys.defaults.clone()
    }

    fn session_config(&self) -> SessionConfig {
        self.loaded.config.kavach.session
    }

    fn config_limits(&self) -> Vec<Limit> {
        self.loaded.config.limits.clone()
    }

    /// A running gateway notices by itself.
    async fn limits_changed(&self) -> crate::error::Result<()> {
        Ok(())
    }

    async fn limit_states(&self, limit: Option<&str>, most: usize) -> crate::error::Result<Vec<LimitState>> {
        let standings = limits::states(&*self.authority, limit, most).await?;
        Ok(standings.into_iter().map(|standing| LimitState { standing, reserved_here: 0, held_ahead: 0 }).collect())
    }

    async fn reset_limit(&self, limit: &str, subject: Option<&str>) -> crate::error::Result<u64> {
        limits::reset(&*self.authority, limit, subject).await
    }

    fn pricing(&self) -> crate::error::Result<Pricing> {
        let catalog = live::catalog(&self.loaded, &self.prices)
            .map_err(|faults| Error::new(Kind::InvalidRequest, faults.join("\n")))?;
        Ok(Pricing { catalog: Arc::new(catalog), providers: self.loaded.price_providers.clone() })
    }

    /// A running gateway notices by itself.
    async fn prices_changed(&self) -> crate::error::Result<()> {
        Ok(())
    }

    fn explain(&self, _: &Question) -> crate::error::Result<Explanation> {
        Err(Error::new(Kind::Unavailable, ABSENT))
    }

    fn readiness(&self) -> Readiness {
        Readiness { status: ReadyStatus::Degraded, parts: Vec::new() }
    }

    fn metrics(&self) -> String {
        String::new()
    }

    fn open_metrics(&self) -> bool {
        false
    }
}
