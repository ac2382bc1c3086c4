//! Configuration → stores → rooms → Pingora services; the only place that knows every concrete type.
//!
//! Three kinds of threads: Pingora's, one runtime for each of its services; the core runtime, which carries the ledger's
//! feeder, the watch on the store and the signals; and the threads of the log and of token counting. The process ends in
//! that order: no new exchange, running ones end or reach the deadline, tokens are counted, the feeder empties the journal,
//! the process exits 0.

mod alarm;
pub mod audit;
mod banner;
mod changes;
mod connector;
mod control;
pub mod core;
mod descriptors;
mod discovery;
mod doors;
mod events;
pub mod fetch;
pub mod house;
pub mod limits;
pub mod live;
mod peers;
pub mod permits;
mod protection;
mod servers;
mod signals;
mod standby;
mod watch;
pub mod webhook;
mod witnesses;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config;
use crate::config::load::Loaded;
use crate::config::problem::Problem;
use crate::provider::simulated;
use crate::telemetry::log;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file; a reload reads it again.
    File(PathBuf),
    /// The embedded defaults with the simulated provider; the folder is the data folder, if not the default.
    Demo(Option<PathBuf>),
}

/// What keeps a gateway from starting.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is wrong; every fault of it.
    Config(Vec<Problem>),
    /// Something else; a sentence that says what to do.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for StartError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Runs a gateway until a signal ends it.
///
/// # Errors
/// What keeps it from starting. After it has started it ends with 0, or with 1 if records could not be written to the disk.
pub fn run(source: Source) -> Result<ExitCode, StartError> {
    descriptors::raise();
    let start = core::Start::new()?;
    let simulated = match &source {
        Source::Demo(_) => Some(simulated::bind().map_err(anyhow::Error::from)?),
        Source::File(_) => None,
    };
    let address = simulated.as_ref().map(simulated::Listener::base_url);
    let loaded = load(&source, address.as_deref()).map_err(StartError::Config)?;
    log::start(loaded.config.log.level.into(), loaded.config.log.format.into());
    tell_warnings(&loaded);
    let doors = doors::Doors::take(&loaded.config)?;
    let core = core::Core::start(start, loaded, source, address, simulated)?;
    let clean = servers::serve(&core, doors)?;
    log::flush();
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Logs what a configuration that is in force now probably does not mean, with its places.
fn tell_warnings(loaded: &Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "configuration");
    }
}

/// Reads the configuration from its source.
fn load(source: &Source, simulated: Option<&str>) -> Result<Loaded, Vec<Problem>> {
    match source {
        Source::File(path) => config::load::load(path),
        Source::Demo(folder) => config::demo::demo(folder.clone(), simulated.unwrap_or_default()),
    }
}
