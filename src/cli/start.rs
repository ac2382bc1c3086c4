//! `marg start` and `marg demo`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::assemble;
use crate::cli::failure::Result;
use crate::cli::local;

/// Where the demonstration keeps its data.
#[derive(Debug, Args)]
pub struct Demo {
    /// The data folder; made if it is not there. MARG_DATA_DIR takes its place.
    #[arg(long, default_value = "./data", value_name = "FOLDER")]
    data_dir: PathBuf,
}

/// Runs the gateway until it is told to stop.
pub fn start(config: &Path) -> Result<ExitCode> {
    if !config.exists() {
        return Err(local::misconfigured(config, &[]));
    }
    assemble::run(config).map_err(|error| local::failure(&error))
}

/// Runs the gateway with embedded defaults.
pub fn demo(demo: Demo) -> Result<ExitCode> {
    assemble::demo(&demo.data_dir).map_err(|error| local::failure(&error))
}
