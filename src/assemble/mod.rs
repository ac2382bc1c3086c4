//! Configuration → stores → rooms → Pingora services; the only place that knows every concrete type.
//!
//! Three kinds of threads: Pingora's, one runtime for each of its services; the core runtime, which carries the ledger's
//! feeder, the watch on the store and the signals; and the threads of the log and of token counting. The process ends in
//! that order: no new exchange, running ones end or reach the deadline, tokens are counted, the feeder empties the journal,
//! the process exits 0.

mod banner;
mod control;
mod core;
pub mod house;
mod live;
mod servers;
mod signals;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

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
    /// The embedded defaults with the simulated provider, and the data folder.
    Demo(PathBuf),
}

/// Runs the gateway of a configuration file until a signal ends it.
///
/// # Errors
/// What keeps it from starting: every fault of the file, one a line, or a sentence that says what to do. After it has started
/// it ends with 0, or with 1 if records could not be forced to the disk.
pub fn run(config: &Path) -> anyhow::Result<ExitCode> {
    start(Source::File(config.to_owned()), None)
}

/// Runs a gateway with the embedded defaults and the simulated provider, its data in that folder unless the environment
/// names another.
///
/// # Errors
/// As [`run`].
pub fn demo(data_dir: &Path) -> anyhow::Result<ExitCode> {
    start(Source::Demo(data_dir.to_owned()), Some(simulated::bind().context("cannot start the simulated provider")?))
}

fn start(source: Source, simulated: Option<simulated::Listener>) -> anyhow::Result<ExitCode> {
    let address = simulated.as_ref().map(simulated::Listener::base_url);
    let loaded = load(&source, address.as_deref()).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("the configuration is wrong:\n{}", lines.join("\n"))
    })?;
    log::start(loaded.config.log.level.into(), loaded.config.log.format.into());
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "configuration");
    }
    servers::check_addresses(&loaded.config)?;
    let core = core::Core::start(loaded, source, address, simulated)?;
    let clean = servers::serve(&core)?;
    log::flush();
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the configuration from its source.
fn load(source: &Source, simulated: Option<&str>) -> Result<Loaded, Vec<Problem>> {
    match source {
        Source::File(path) => config::load::load(path),
        Source::Demo(folder) => config::demo::demo(folder.clone(), simulated.unwrap_or_default()),
    }
}
