//! The admin side without a gateway: what commands work with when they go to the store directly.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::admin::State;
use crate::admin::control::{
    Control, Explanation, ProviderStatus, Question, Readiness, ReadyStatus, ReloadProblem, ReloadReport, RouteView,
};
use crate::cli::failure::{Failure, Result};
use crate::config::load::{self, Loaded};
use crate::error::{Error, Kind};
use crate::key::ring::Ring;
use crate::route::config::RouteConfig;
use crate::store::Store;
use crate::store::folder::Folder;

/// Loads the configuration file.
///
/// # Errors
/// Every problem of the file, one a line.
pub fn configuration(path: &Path) -> Result<Loaded> {
    load::load(path).map_err(|problems| {
        if !path.exists() {
            let shown = path.display();
            return Failure::failed(format!(
                "There is no configuration at {shown}; make one with `marg init`, or name one with --config."
            ));
        }
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::failed(format!("The configuration has errors.\n{}", lines.join("\n")))
    })
}

/// The state of an admin side over the store that a configuration names.
///
/// # Errors
/// When the configuration does not load, or the store cannot be opened.
pub async fn state(config: &Path) -> Result<State> {
    let loaded = configuration(config)?;
    let folder = Folder::open(&loaded.config.data_dir)?;
    let hash_key = folder.hash_key(loaded.hash_key.as_ref())?;
    let store = Store::open(folder.database()).await.map_err(Failure::from)?;
    let mut state = State::new(Arc::new(store), Arc::new(Ring::new(hash_key.clone())), hash_key, Arc::new(Nobody));
    state.prefix_style = loaded.config.keys.prefix_style;
    Ok(state)
}

/// Stands where a running gateway would be. Commands ask it nothing; were they to, it would say that it is not there.
struct Nobody;

const ABSENT: &str = "No gateway runs in this process; ask a running one with --server.";

#[async_trait]
impl Control for Nobody {
    async fn reload(&self) -> ReloadReport {
        let problem = ReloadProblem { line: 0, column: 0, path: String::new(), text: ABSENT.to_owned() };
        ReloadReport { errors: vec![problem], ..ReloadReport::default() }
    }

    fn providers(&self) -> Vec<ProviderStatus> {
        Vec::new()
    }

    fn routes(&self) -> Vec<RouteView> {
        Vec::new()
    }

    fn check_route(&self, _: &RouteConfig) -> crate::error::Result<()> {
        Err(Error::new(Kind::Unavailable, ABSENT))
    }

    async fn routes_changed(&self) -> crate::error::Result<()> {
        Err(Error::new(Kind::Unavailable, ABSENT))
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
