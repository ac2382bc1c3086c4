//! Assembly.

use std::path::Path;
use std::process::ExitCode;

/// Runs a gateway until it is told to stop.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: &Path) -> anyhow::Result<ExitCode> {
    anyhow::bail!("{} cannot be run: this build has no gateway", config.display())
}

/// Runs a gateway with embedded defaults and the simulated provider, keeping its data in that folder.
///
/// # Errors
/// What kept it from starting.
pub fn demo(data_dir: &Path) -> anyhow::Result<ExitCode> {
    anyhow::bail!("{} cannot be used: this build has no gateway", data_dir.display())
}
